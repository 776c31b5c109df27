"""Opens the catalog; where it is lost or damaged, makes it anew from the blocks themselves.

Known batches are lost with a catalog: what agents send again from before is then stored again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.model import Series
from flamewell_collector.store import recovery, wal
from flamewell_collector.store.catalog import Block, Catalog, CatalogDamaged
from flamewell_collector.store.reader import read_table
from flamewell_collector.store.schema import PROFILES, SERIES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.writer import BLOCKS_FOLDER, Origin, read_origin

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
    )


def _blocks(data_dir: Path) -> Iterator[_Found]:
    for folder in sorted((data_dir / BLOCKS_FOLDER).glob("tenant=*/date=*/hour=*/block=*")):
        try:
            yield _read(folder, data_dir)
        except (OSError, ValueError, pa.ArrowException) as error:
            log.error("block %s is damaged and set aside: %s", folder.name, error)
            recovery.set_aside(folder, data_dir)


def _read(folder: Path, data_dir: Path) -> _Found:
    relative = folder.relative_to(data_dir)
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
            rows=pq.read_metadata(folder / "samples.parquet").num_rows,
            bytes=sum(each.stat().st_size for each in folder.iterdir()),
            compacted=bool(origin.replaces),
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
