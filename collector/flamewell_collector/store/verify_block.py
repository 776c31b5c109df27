"""Checks one block: every page, the order of rows, and that its tables agree with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flamewell_collector.errors import StorageError
from flamewell_collector.store.changes import Block
from flamewell_collector.store.reader import BlockReader
from flamewell_collector.store.sample_rows import SampleRows, int64s
from flamewell_collector.store.schema import BLOCK_TABLES, ROLLUP_TABLES, TABLES
from flamewell_collector.store.tiers import HOUR_MS, RAW
from flamewell_collector.store.writer import block_id
from flamewell_wire import profile_types

_ORDER: dict[str, tuple[str, ...]] = {
    "series": ("service_name", "series_id"),
    "profiles": ("service_name", "profile_type", "time", "series_id"),
    "samples": ("service_name", "profile_type", "time", "series_id", "stack"),
    "rollups": ("service_name", "profile_type", "time", "stack", "readings"),
    "slots": ("service_name", "profile_type", "time"),
    "stacks": ("service_name", "node"),
    "frames": ("service_name", "frame"),
}
"""See schema.py."""
_SAFE = float(1 << 62)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        where: Path in the data folder.
        what: In words.
    """

    where: str
    what: str


def check_block(block: Block, data_dir: Path) -> Iterator[Problem]:
    """Read all of a block; gives what is wrong with it."""
    folder = data_dir / block.path
    tables = BLOCK_TABLES if block.tier == RAW else ROLLUP_TABLES
    problems = [Problem(block.path, each) for each in _check_files(block, folder, tables)]
    for table in tables:
        where = f"{block.path}/{table}.parquet"
        problems.extend(Problem(where, each) for each in _check_table(folder, table))
    yield from problems
    if problems:
        return  # what follows would say the same in other words
    try:
        with BlockReader(folder) as reader:
            yield from (Problem(block.path, each) for each in _check_rows(block, reader, folder))
    except (StorageError, ValueError) as error:
        yield Problem(block.path, str(error))


def _check_files(block: Block, folder: Path, tables: dict[str, pa.Schema]) -> Iterator[str]:
    try:
        found = {each.name: each.stat().st_size for each in folder.iterdir()}
    except OSError as error:
        yield f"its files can't be looked at: {error.strerror}"
        return
    wanted = {f"{table}.parquet" for table in tables}
    for name in sorted(wanted - found.keys()):
        yield f"{name} is missing"
    for name in sorted(found.keys() - wanted):
        yield f"{name} is no part of a block"
    if sum(found.values()) != block.bytes:
        yield f"its files have {sum(found.values())} bytes, {block.bytes} were written"
    if f"tenant={quote(block.tenant, safe='')}" not in Path(block.path).parts:
        yield f"it is registered for the tenant {block.tenant!r}, its folder is another's"


def _check_table(folder: Path, table: str) -> Iterator[str]:
    """Read a file whole: its checksums, its schema, the order of its rows."""
    path = folder / f"{table}.parquet"
    if not path.exists():
        return
    schema, keys = TABLES[table], _ORDER[table]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.remove_metadata().equals(schema):
                yield f"its schema is {_names(file.schema_arrow)}, {_names(schema)} is expected"
                return
            last: pa.Table | None = None
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number).replace_schema_metadata(None)
                mine = rows.select(list(keys))
                ordered = mine if last is None else pa.concat_tables([last, mine])
                if not _in_order(ordered):
                    yield f"row group {number} is not sorted by {', '.join(keys)}"
                last = mine.slice(mine.num_rows - 1)
                if "block_id" in schema.names:
                    numbers = rows.column("block_id").unique().to_pylist()
                    if numbers != [block_id(folder.name.removeprefix("block="))]:
                        yield f"row group {number} has rows of another block"
    except (OSError, ValueError, pa.ArrowException) as error:
        yield f"it can't be read: {error}"


def _check_rows(block: Block, reader: BlockReader, folder: Path) -> Iterator[str]:
    """Compare the tables of a block with each other and with the catalog."""
    table = "samples" if block.tier == RAW else "rollups"
    counted = Counter({"series": 0, "profiles": 0, "stacks": 0, "frames": 0, table: 0})
    times: list[int] = []
    for service in reader.services():
        time = int64s(reader.rows("profiles", service), "time")
        times += [int(time.min()), int(time.max())]
        for each in _check_service(service, reader, table, counted):
            yield f"service {service!r}: {each}"
    for name, count in counted.items():
        stored = pq.read_metadata(folder / f"{name}.parquet").num_rows
        if stored != count:
            yield f"{stored - count} rows of {name} belong to no service with profiles"
    if counted[table] != block.rows:
        yield f"it has {counted[table]} rows, {block.rows} were written"
    if times and (min(times), max(times)) != (block.start_ms, block.end_ms):
        yield f"its rows are from {min(times)} to {max(times)} ms, the catalog says otherwise"
    yield from _check_folder(block)


def _check_service(
    service: str, reader: BlockReader, table: str, counted: Counter[str]
) -> Iterator[str]:
    rows = {name: reader.rows(name, service) for name in ("series", "profiles", "stacks", "frames")}
    counted.update({name: each.num_rows for name, each in rows.items()})
    if not np.isin(
        int64s(rows["profiles"], "series_id"), int64s(rows["series"], "series_id")
    ).all():
        yield "profiles of a series that is not there"
    yield from _check_series(service, rows["series"])
    stacks = reader.stacks(service)
    if (stacks.tree().find(stacks.ids) < 0).any():
        yield "stacks whose id is not that of their frames"
    for kind in reader.types(service):
        found = reader.rows(table, service, kind)
        counted[table] += found.num_rows
        try:
            stacks.ids_of(found.column("stack").to_numpy())
        except StorageError as error:
            yield f"{kind}: {error}"
        if table == "samples":
            profiles = reader.rows("profiles", service, kind)
            yield from (f"{kind}: {each}" for each in _check_totals(kind, profiles, found))


def _check_series(service: str, series: pa.Table) -> Iterator[str]:
    for labels in series.column("labels").to_pylist():
        if dict(labels).get("service_name") != service:
            yield "a series has the labels of another service"
            return


def _check_totals(kind: str, profiles: pa.Table, samples: pa.Table) -> Iterator[str]:
    """Compare each profile's total with its samples."""
    rows = SampleRows.of(samples)
    profile_key = _keys(int64s(profiles, "time"), int64s(profiles, "series_id"))
    sample_key = _keys(rows.time, rows.series_id)
    if not np.isin(sample_key, profile_key).all():
        yield "samples of a profile that is not there"
        return
    totals = int64s(profiles, "total")
    # Sums beyond 64 bits were cut when they came. A gauge's total need not be a sum.
    huge = max(float(np.abs(each.astype(np.float64)).sum()) for each in (totals, rows.value))
    if huge >= _SAFE or profile_types.parse_id(kind).kind == "gauge":
        return
    keys, place = np.unique(profile_key, return_inverse=True)
    left = np.zeros(len(keys), np.int64)
    np.add.at(left, place, totals)
    np.subtract.at(left, np.searchsorted(keys, sample_key), rows.value)
    if wrong := int(np.count_nonzero(left)):
        yield f"{wrong} profiles have another total than their samples"


def _check_folder(block: Block) -> Iterator[str]:
    """Compare a raw block's rows with the hour that its folder names."""
    if block.tier != RAW:
        return
    at = datetime.fromtimestamp(block.start_ms / 1_000, UTC)
    named = f"date={at:%Y-%m-%d}/hour={at:%H}"
    if named not in block.path or block.start_ms // HOUR_MS != block.end_ms // HOUR_MS:
        yield "it has rows of another hour than its folder's"


def _keys(*columns: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    stacked = np.ascontiguousarray(np.stack(columns, axis=1))
    return stacked.view([(f"k{at}", np.int64) for at in range(len(columns))]).reshape(-1)


def _in_order(rows: pa.Table) -> bool:
    """Tell whether rows are in the order of their columns."""
    less = np.zeros(max(rows.num_rows - 1, 0), dtype=bool)
    equal = np.ones_like(less)
    for column in rows.columns:
        here, following = column.slice(0, len(less)), column.slice(1)
        less |= equal & pc.call_function("less", [here, following]).to_numpy()
        equal &= pc.call_function("equal", [here, following]).to_numpy()
    return bool((less | equal).all())


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
