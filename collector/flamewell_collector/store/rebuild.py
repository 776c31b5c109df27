"""Opens the catalog; where it is lost or damaged, makes it anew from the blocks themselves.

Known batches are lost with a catalog: what agents send again from before is then stored again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.model import Series
from flamewell_collector.store import recovery, wal
from flamewell_collector.store.catalog import Catalog, CatalogDamaged
from flamewell_collector.store.changes import Block, RollupHour
from flamewell_collector.store.reader import read_table
from flamewell_collector.store.schema import PROFILES, SERIES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.tiers import HOUR_MS, RAW
from flamewell_collector.store.writer import Origin, block_folders, read_origin

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    block: Block
    origin: Origin
    series: list[Series]
    last_ms: dict[int, int]


def open_catalog(path: Path, data_dir: Path, wal_dir: Path) -> Catalog:
    """Open the catalog of a data folder, with the blocks that are there if it has to be made.

    Raises:
        StorageError: It can't be opened or written.
    """
    try:
        catalog = Catalog(path)
    except CatalogDamaged as error:
        log.error("%s: it is put aside and made anew from the blocks", error)
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(part.with_name(part.name + ".damaged"))
        catalog = Catalog(path)
    if catalog.created:
        _register_blocks(catalog, data_dir, unflushed={number for number, _ in wal.files(wal_dir)})
    return catalog


def _register_blocks(catalog: Catalog, data_dir: Path, *, unflushed: set[int]) -> None:
    # The rows of a flush whose last log file is still there come from the log: it was perhaps
    # killed before all its blocks were written.
    found = [each for each in _blocks(data_dir) if each.origin.wal_number not in unflushed]
    if not found:
        return
    # A compaction or a flush that was killed half-way may have left both old and new.
    replaced = {name for each in found for name in each.origin.replaces}
    kept = [each for each in found if Path(each.block.path).name not in replaced]
    hours = _valid_hours(kept)
    useful = {each.path for each in hours}
    kept = [each for each in kept if each.block.tier == RAW or each.block.path in useful]
    log.warning("the catalog was not there: %d blocks are registered again", len(kept))
    active: dict[tuple[str, int], int] = {}
    for each in kept:
        for series_id, last_ms in each.last_ms.items():
            key = (each.block.tenant, series_id)
            active[key] = max(active.get(key, 0), last_ms)
    catalog.register_flush(
        [each.block for each in kept],
        series=[(each.block.tenant, series) for each in kept for series in each.series],
        active=active,
        batch_ids=(),
        wal_number=max(each.origin.wal_number for each in found),
        hours=hours,
    )


def _valid_hours(found: list[_Found]) -> list[RollupHour]:
    """Give the hours whose sums are of the raw block that is there, or of one that was retired."""
    names: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in found:
        if each.block.tier == RAW and each.block.compacted:
            hour_ms = each.block.start_ms // HOUR_MS * HOUR_MS
            names[each.block.tenant, hour_ms].add(Path(each.block.path).name)
    return [
        RollupHour(each.block.tenant, each.block.tier, hour_ms, each.block.path)
        for each in found
        for hour_ms, raw in each.origin.hours.items()
        if raw in names.get((each.block.tenant, hour_ms), {raw})
    ]


def _blocks(data_dir: Path) -> Iterator[_Found]:
    for folder in block_folders(data_dir):
        try:
            yield _read(folder, data_dir)
        except (OSError, ValueError, pa.ArrowException) as error:
            log.error("block %s is damaged and set aside: %s", folder.name, error)
            recovery.set_aside(folder, data_dir)


def _read(folder: Path, data_dir: Path) -> _Found:
    relative = folder.relative_to(data_dir)
    tier = next((each[5:] for each in relative.parts if each.startswith("tier=")), RAW)
    rows = "samples" if tier == RAW else "rollups"
    profiles = read_table(folder / "profiles.parquet", PROFILES)
    times = profiles.column("time").to_numpy()
    last = profiles.group_by("series_id").aggregate([("time", "max")])
    index = SeriesIndex()
    index.add(read_table(folder / "series.parquet", SERIES))
    origin = read_origin(folder)
    return _Found(
        Block(
            path=str(relative),
            tenant=unquote(relative.parts[1].removeprefix("tenant=")),
            start_ms=int(times.min()),
            end_ms=int(times.max()),
            rows=pq.read_metadata(folder / f"{rows}.parquet").num_rows,
            bytes=sum(each.stat().st_size for each in folder.iterdir()),
            compacted=bool(origin.replaces) or tier != RAW,
            tier=tier,
        ),
        origin,
        index.all(),
        dict(
            zip(
                last.column("series_id").to_pylist(),
                last.column("time_max").to_pylist(),
                strict=True,
            )
        ),
    )
