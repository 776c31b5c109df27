"""Reads all that a data folder holds and tells what is not as it should be; changes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.store import batch_codec, folder_lock, rollups, wal
from flamewell_collector.store.block_stacks import BlockStacks
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import Block, RollupHour
from flamewell_collector.store.data_folder import CATALOG_FILE, WAL_FOLDER
from flamewell_collector.store.database_copy import copy_database
from flamewell_collector.store.reader import BlockReader
from flamewell_collector.store.recovery import DAMAGED_FOLDER
from flamewell_collector.store.sample_rows import SampleRows, int64s
from flamewell_collector.store.tiers import HOUR_MS, RAW, SLOT_MS, TEN_MINUTES
from flamewell_collector.store.verify_block import Problem, check_block
from flamewell_collector.store.writer import TEMPORARY_FOLDER, block_folders, read_origin
from flamewell_wire import profile_types

Progress = Callable[[int, int], None]
"""Told how many of how many bytes are checked."""


@dataclass(slots=True)
class Report:
    """What was read and what was found.

    Attributes:
        blocks: Registered ones, of all tiers.
        rows: Of samples and sums.
        bytes: Of all blocks.
        log_batches: Whole batches in the log that are in no block yet.
        problems: What is wrong.
        notes: What is in order but worth knowing: the next start clears it up.
    """

    blocks: int = 0
    rows: int = 0
    bytes: int = 0
    log_batches: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Registered:
    """What the catalog says."""

    blocks: list[Block]
    hours: list[RollupHour]
    damaged: list[tuple[str, str]]
    flushed_wal: int


def verify(data_dir: Path, *, progress: Progress) -> Report:
    """Check a data folder that no collector uses.

    Raises:
        FolderInUse: One does.
        StorageError: It is no data folder, or can't be read.
    """
    report = Report()
    with folder_lock.held(data_dir):
        registered = _read_catalog(data_dir, report)
        if registered is not None:
            _check_blocks(data_dir, registered, report, progress)
            report.problems.extend(_check_hours(data_dir, registered))
            _check_folders(data_dir, registered, report)
        _check_log(data_dir, registered.flushed_wal if registered else 0, report)
    return report


def _read_catalog(data_dir: Path, report: Report) -> _Registered | None:
    path = data_dir / CATALOG_FILE
    if not path.exists():
        what = "it is not there: the next start makes it anew from the blocks"
        report.problems.append(Problem(CATALOG_FILE, what))
        return None
    # A copy is opened: opening the file itself would write to it.
    with tempfile.TemporaryDirectory(prefix="flamewell-verify-") as folder:
        try:
            copy_database(path, Path(folder) / CATALOG_FILE)
            catalog = Catalog(Path(folder) / CATALOG_FILE)
        except (StorageError, OSError) as error:
            report.problems.append(Problem(CATALOG_FILE, str(error)))
            return None
        try:
            return _Registered(
                catalog.blocks(), catalog.rollup_hours(), catalog.damaged(), catalog.flushed_wal()
            )
        finally:
            catalog.close()


def _check_blocks(
    data_dir: Path, registered: _Registered, report: Report, progress: Progress
) -> None:
    total = sum(each.bytes for each in registered.blocks)
    for block in registered.blocks:
        report.problems.extend(check_block(block, data_dir))
        report.blocks += 1
        report.rows += block.rows
        report.bytes += block.bytes
        progress(report.bytes, total)


def _check_folders(data_dir: Path, registered: _Registered, report: Report) -> None:
    """Compare the catalog with what lies in the folders."""
    known = {each.path for each in registered.blocks}
    for folder in block_folders(data_dir):
        path = str(folder.relative_to(data_dir))
        if path not in known:
            report.notes.append(Problem(path, "not registered: the next start removes it"))
    temporary = data_dir / TEMPORARY_FOLDER
    if temporary.exists() and any(temporary.iterdir()):
        what = "left by a crash: the next start removes it"
        report.notes.append(Problem(TEMPORARY_FOLDER, what))
    for path, reason in registered.damaged:
        what = f"set aside earlier ({reason}); what is left of it is in {DAMAGED_FOLDER}/"
        report.notes.append(Problem(path, what))


def _check_log(data_dir: Path, flushed: int, report: Report) -> None:
    for number, path in wal.files(data_dir / WAL_FOLDER):
        where = f"{WAL_FOLDER}/{path.name}"
        if number <= flushed:
            report.notes.append(Problem(where, "is in blocks: the next start removes it"))
            continue
        try:
            replayed = wal.replay(path)
        except OSError as error:
            report.problems.append(Problem(where, f"it can't be read: {error}"))
            continue
        if replayed.damaged_bytes:
            what = f"{replayed.damaged_bytes} damaged bytes between its frames"
            report.problems.append(Problem(where, what))
        if replayed.torn_bytes:
            what = f"ends in {replayed.torn_bytes} bytes of a frame that was never acknowledged"
            report.notes.append(Problem(where, what))
        for payload in replayed.payloads:
            try:
                batch_codec.decode(payload)
                report.log_batches += 1
            except StorageError as error:
                report.problems.append(Problem(where, str(error)))


def _check_hours(data_dir: Path, registered: _Registered) -> Iterator[Problem]:
    """Compare the sums of each hour with its rows, as far as those are still there."""
    blocks = {each.path: each for each in registered.blocks}
    names = {Path(each.path).name: each for each in registered.blocks}
    for hour in registered.hours:
        if hour.path not in blocks:
            what = f"has the sums of hour {hour.hour_ms} ms, but is not registered"
            yield Problem(hour.path, what)
            continue
        try:
            raw = names.get(read_origin(data_dir / hour.path).hours.get(hour.hour_ms, ""))
            if raw is None:
                yield from _unless_retired(hour, registered.blocks)
            else:
                yield from (
                    Problem(hour.path, f"hour {hour.hour_ms} ms: {each}")
                    for each in _check_sums(data_dir, hour, raw)
                )
        except (StorageError, OSError, ValueError, pa.ArrowException) as error:
            # Damaged blocks were told of already, each under its own name.
            yield Problem(hour.path, f"hour {hour.hour_ms} ms can't be compared: {error}")


def _unless_retired(hour: RollupHour, blocks: Iterable[Block]) -> Iterator[Problem]:
    """Rows that are gone need no comparison; rows that others were summed up from do."""
    for block in blocks:
        same = block.tenant == hour.tenant and block.start_ms // HOUR_MS * HOUR_MS == hour.hour_ms
        if same and block.tier == RAW and block.compacted:
            what = f"has the sums of hour {hour.hour_ms} ms, but not of {block.path}"
            yield Problem(hour.path, what)


def _check_sums(data_dir: Path, hour: RollupHour, raw: Block) -> Iterator[str]:
    with BlockReader(data_dir / raw.path) as rows, BlockReader(data_dir / hour.path) as sums:
        services = set(rows.services())
        for service in sorted(services | set(sums.services())):
            profiles = _within(sums.rows("profiles", service), hour.hour_ms)
            kinds = set(profiles.column("profile_type").unique().to_pylist())
            raw_kinds = set(rows.types(service)) if service in services else set()
            for kind in sorted(kinds | raw_kinds):
                if kind not in raw_kinds:
                    yield f"sums of {kind} of {service!r}, of which there are no rows"
                elif not _sums_agree(rows, sums, service, kind, hour):
                    yield f"the sums of {kind} of {service!r} are not those of its rows"


def _sums_agree(
    rows: BlockReader, sums: BlockReader, service: str, kind: str, hour: RollupHour
) -> bool:
    """Sum up once more, as compactor.py does, and compare."""
    profiles, slot_ms = rows.rows("profiles", service, kind), SLOT_MS[hour.tier]
    samples = SampleRows.of(rows.rows("samples", service, kind))
    gauge = profile_types.parse_id(kind).kind == "gauge"
    ten = SLOT_MS[TEN_MINUTES]
    expected = (
        rollups.sums_of_gauge(samples, profiles, ten)
        if gauge
        else rollups.sums_of_deltas(samples, ten)
    )
    if hour.tier != TEN_MINUTES:
        expected = rollups.sums_of_sums(expected, slot_ms)
    found = _within(sums.rows("rollups", service, kind), hour.hour_ms)
    stored = {name: found.column(name).to_numpy() for name in expected}
    one, other = _by_id(expected, rows.stacks(service)), _by_id(stored, sums.stacks(service))
    if not all(np.array_equal(one[name], other[name]) for name in one):
        return False
    if gauge:
        slots = _within(sums.rows("slots", service, kind), hour.hour_ms)
        minutes = rollups.minutes_with_data(profiles, slot_ms)
        if not all(np.array_equal(int64s(slots, name), minutes[name]) for name in minutes):
            return False
    totals = rollups.profile_sums(profiles, slot_ms, gauge=gauge)
    kept = _within(sums.rows("profiles", service, kind), hour.hour_ms)
    columns = ("time", "series_id", "duration_ms", "total", "sample_count")
    return _same(kept, totals, columns)


def _by_id(sums: rollups.Columns, stacks: BlockStacks) -> rollups.Columns:
    """Put ids in the place of numbers, which differ from block to block."""
    return rollups.in_order({**sums, "stack": stacks.ids_of(sums["stack"])})


def _same(one: pa.Table, other: pa.Table, columns: Sequence[str]) -> bool:
    return all(np.array_equal(int64s(one, name), int64s(other, name)) for name in columns)


def _within(rows: pa.Table, hour_ms: int) -> pa.Table:
    time = int64s(rows, "time")
    return rows.filter(pa.array((time >= hour_ms) & (time < hour_ms + HOUR_MS)))
