"""Sums of samples by stack, a row group at a time with NumPy.

Blocks number their stacks, so that a sum by stack is one addition a row into an array that fits a
core's cache: a third of the work of a hash table over ids. Sums of blocks meet on the nodes of one
tree a service.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flamewell_collector.engine import statements
from flamewell_collector.engine.grid import BUCKET_MS, minutes_with_data
from flamewell_collector.engine.scan import Engine, Scan, ServiceSums, StacksOf
from flamewell_collector.errors import QueryTimeoutError, StorageError
from flamewell_collector.store.exact_sums import add_by
from flamewell_collector.store.head import by_service
from flamewell_collector.store.prefix_tree import nodes_of_ids
from flamewell_collector.store.row_groups import RowGroup, RowGroups
from flamewell_collector.store.sample_rows import run_starts
from flamewell_collector.store.stack_cache import ServiceStacks

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer]
Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class SeriesReadings:
    """How often series were read in each bucket of time. Shape (n,), sorted by both.

    Attributes:
        bucket_ms: Length of a bucket.
        series_id: Of each.
        bucket: Its number since the epoch.
        readings: At least 1.
    """

    bucket_ms: int
    series_id: Numbers
    bucket: Int64s
    readings: Int64s

    def of(self, series_id: Numbers, time_ms: Numbers) -> Int64s:
        """Give the readings of each (series, time); 0 where there are none."""
        series, place = np.unique(self.series_id, return_inverse=True)
        bucket = time_ms // self.bucket_ms
        if not len(series) or not len(bucket):
            return np.zeros(len(bucket), np.int64)
        base = int(min(self.bucket.min(), bucket.min()))
        width = int(max(self.bucket.max(), bucket.max())) - base + 1
        at = np.minimum(np.searchsorted(series, series_id), len(series) - 1)
        keys = place * width + (self.bucket - base)
        wanted = at * width + (bucket - base)
        row = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = (series[at] == series_id) & (keys[row] == wanted)
        return np.where(known, self.readings[row], 0)


@dataclass(slots=True)
class _Service:
    """What comes together for one service."""

    name: str
    stacks: ServiceStacks
    lock: threading.Lock = field(default_factory=threading.Lock)
    by_readings: dict[int, Int64s] = field(default_factory=dict)

    def add(self, readings: int, nodes: Numbers, sums: Numbers) -> None:
        with self.lock:
            own = self.by_readings.get(readings)
            if own is None:
                own = self.by_readings[readings] = np.zeros(len(self.stacks.tree), np.int64)
            add_by(own, nodes, sums)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one profile type that count.

    Attributes:
        profile_type: Their type.
        ranges: Their times, half open.
        series_ids: Their series, sorted; None for all.
        readings: Where values are to be kept apart by it.
    """

    profile_type: str
    ranges: Ranges
    series_ids: Int64s | None
    readings: SeriesReadings | None

    def holds_all_times(self, first_ms: int, last_ms: int) -> bool:
        return any(start <= first_ms and last_ms < end for start, end in self.ranges)

    def overlaps(self, first_ms: int, last_ms: int) -> bool:
        return any(start <= last_ms and first_ms < end for start, end in self.ranges)

    def chosen_times(self, time_ms: Numbers) -> Bools:
        chosen = np.zeros(len(time_ms), bool)
        for start, end in self.ranges:
            chosen |= (time_ms >= start) & (time_ms < end)
        return chosen

    def chosen_series(self, series_id: Numbers) -> Bools:
        wanted = self.series_ids
        if wanted is None:
            return np.ones(len(series_id), bool)
        at = np.minimum(np.searchsorted(wanted, series_id), max(0, len(wanted) - 1))
        return wanted[at] == series_id if len(wanted) else np.zeros(len(series_id), bool)


def readings_of(engine: Engine, scan: Scan) -> tuple[SeriesReadings, int]:
    """Ask how often each series of gauges was read, and how many buckets have a reading."""
    found = engine.run(statements.SERIES_READINGS, scan, bucket_ms=BUCKET_MS)
    names = ("series_id", "bucket", "readings")
    readings = SeriesReadings(BUCKET_MS, *(found[name] for name in names))
    buckets = len(np.unique(readings.bucket))
    if scan.sums:
        buckets += minutes_with_data(engine.run(statements.SLOT_MINUTES, scan))
    return readings, buckets


class StackSummer:
    """Sums up scans; safe to use from several threads."""

    def __init__(
        self, *, threads: int, timeout_seconds: float, report_damage: Callable[[Path, str], None]
    ) -> None:
        """Take bounds.

        Args:
            threads: Cores that one scan may use.
            timeout_seconds: A longer scan is stopped.
            report_damage: Told of each block that can't be read, and why; the scan goes on.
        """
        self._timeout_seconds = timeout_seconds
        self._report_damage = report_damage
        self._groups = RowGroups()
        self._threads = threads

    def sums(
        self, scan: Scan, stacks_of: StacksOf, readings: SeriesReadings | None
    ) -> list[ServiceSums]:
        """Sum a scan's samples by service and stack; services without any are left out.

        Args:
            scan: Of one profile type.
            stacks_of: Gives stacks.
            readings: Where samples are to be summed apart by readings: of every series.

        Raises:
            QueryTimeoutError: It took longer than it may.
        """
        (profile_type,) = scan.type_ids
        deadline = time.monotonic() + self._timeout_seconds
        series = None if scan.series_ids is None else np.sort(scan.series_ids)
        rows = _Rows(profile_type, ((scan.start_ms, scan.end_ms),), series, readings)
        files = [(block / "samples.parquet", rows) for block in scan.blocks]
        for each in scan.sums:
            of_sums = _Rows(profile_type, each.ranges, None, readings)
            files.append((each.block / "rollups.parquet", of_sums))
        head = _of_type(scan.head_samples, profile_type)
        services: list[_Service] = []
        work: deque[Callable[[], None]] = deque()
        for name in scan.services or ():
            found = [
                (path, group, mine)
                for path, mine in files
                for group in self._find(path, name, mine)
            ]
            if not found and name not in head:
                continue
            folders = dict.fromkeys(path.parent for path, _, _ in found)
            service = _Service(name, stacks_of(name, list(folders)))
            services.append(service)
            if name in head:
                work.append(partial(_add_head, service, head[name], rows))
            for path, group, mine in found:
                work.append(partial(self._add_group, service, path, group, mine, deadline))
        self._do(work)
        return [
            ServiceSums(each.name, each.stacks.tree, each.by_readings)
            for each in services
            if each.by_readings
        ]

    def _find(self, path: Path, service: str, rows: _Rows) -> list[RowGroup]:
        """Give the row groups of a file that may have rows that count."""
        with _Damage(path.parent, self._report_damage):
            found = self._groups.find(path, service, rows.profile_type)
            return [each for each in found if rows.overlaps(each.first_ms, each.last_ms)]
        return []

    def _do(self, work: deque[Callable[[], None]]) -> None:
        """Do all of it, in this thread and in some that live as long as the call."""

        def take() -> None:
            while True:
                try:
                    task = work.popleft()
                except IndexError:
                    return
                task()

        helpers = min(self._threads, len(work)) - 1
        if helpers < 1:
            take()
            return
        with ThreadPoolExecutor(helpers, thread_name_prefix="stack-sums") as pool:
            helping = [pool.submit(take) for _ in range(helpers)]
            try:
                take()
            finally:
                work.clear()
        for each in helping:
            each.result()

    def _add_group(
        self, service: _Service, path: Path, group: RowGroup, rows: _Rows, deadline: float
    ) -> None:
        """Add the rows of a row group that count."""
        nodes = service.stacks.nodes.get(path.parent)
        if nodes is None:
            return  # its stacks can't be read, which has been told
        summed = path.name == "rollups.parquet"
        parts = _summed_parts if summed else _parts
        columns = _columns(group, rows, summed=summed)
        totals: dict[int, Int64s] = {}
        with _Damage(path.parent, self._report_damage):
            for batch in self._groups.batches(path, group, columns):
                if time.monotonic() > deadline:
                    raise _too_long(self._timeout_seconds)
                for readings, stack, value in parts(_arrays(batch), rows):
                    _check_numbers(stack, len(nodes))
                    if readings not in totals:
                        totals[readings] = np.zeros(len(nodes), np.int64)
                    add_by(totals[readings], stack, value)
        for readings, sums in totals.items():
            service.add(readings, nodes, sums)


class _Damage:
    """A context: a block that can't be read is told of, and left out."""

    def __init__(self, block: Path, report: Callable[[Path, str], None]) -> None:
        self._block = block
        self._report = report

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, StorageError):
            return False
        self._report(self._block, str(error))
        return True


def _columns(group: RowGroup, rows: _Rows, *, summed: bool) -> list[str]:
    """Give the columns that have to be read to choose the rows that count."""
    columns = ["stack", "value"]
    gauge = rows.readings is not None
    if (gauge and not summed) or not rows.holds_all_times(group.first_ms, group.last_ms):
        columns.append("time")
    if summed:
        columns += ["readings"] if gauge else []
    elif gauge or rows.series_ids is not None:
        columns.append("series_id")
    return columns


def _parts(found: dict[str, Numbers], rows: _Rows) -> Iterator[tuple[int, Numbers, Numbers]]:
    """Give (readings, stack, value) of the rows that count; those of a profile count together."""
    stack, value = found["stack"], found["value"]
    keys = [found[name] for name in ("time", "series_id") if name in found]
    if not keys:
        yield 1, stack, value
        return
    starts = run_starts(*keys)
    firsts = {name: found[name][starts] for name in ("time", "series_id") if name in found}
    chosen = np.ones(len(starts), bool)
    if "time" in firsts:
        chosen &= rows.chosen_times(firsts["time"])
    if "series_id" in firsts:
        chosen &= rows.chosen_series(firsts["series_id"])
    readings = np.ones(len(starts), np.int64)
    if rows.readings is not None:
        readings = rows.readings.of(firsts["series_id"], firsts["time"])
    lengths = np.diff(starts, append=len(stack))
    for each in np.unique(readings[chosen & (readings > 0)]).tolist():
        mine = chosen & (readings == each)
        if mine.all():
            yield each, stack, value
        else:
            of_rows = np.repeat(mine, lengths)
            yield each, stack[of_rows], value[of_rows]


def _summed_parts(found: dict[str, Numbers], rows: _Rows) -> Iterator[tuple[int, Numbers, Numbers]]:
    """Give (readings, stack, value) of the sums that count."""
    chosen = np.ones(len(found["stack"]), bool)
    if "time" in found:
        starts = run_starts(found["time"])
        lengths = np.diff(starts, append=len(chosen))
        chosen = np.repeat(rows.chosen_times(found["time"][starts]), lengths)
    readings = found.get("readings", np.ones(1, np.int64))
    least, most = int(readings.min(initial=1)), int(readings.max(initial=1))
    for each in range(least, most + 1):
        mine = chosen if least == most else chosen & (readings == each)
        if mine.all():
            yield each, found["stack"], found["value"]
        elif mine.any():
            yield each, found["stack"][mine], found["value"][mine]


def _of_type(samples: pa.Table, profile_type: str) -> dict[str, pa.Table]:
    """Give the rows of each service that has some of a type."""
    wanted = pc.call_function("equal", [samples.column("profile_type"), profile_type])
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    for service, rows in by_service(samples.filter(wanted)):
        parts[service].append(rows)
    return {service: pa.concat_tables(found) for service, found in parts.items()}


def _add_head(service: _Service, samples: pa.Table, rows: _Rows) -> None:
    """Add what is in no block yet."""
    found = {each: samples.column(each).to_numpy() for each in ("time", "series_id", "value")}
    found["stack"] = nodes_of_ids(service.stacks.tree, samples.column("stack_id"))
    for readings, nodes, values in _parts(found, rows):
        service.add(readings, nodes, values)


def _arrays(batch: pa.RecordBatch) -> dict[str, Numbers]:
    return {name: batch.column(name).to_numpy() for name in batch.schema.names}


def _check_numbers(stack: Numbers, count: int) -> None:
    if len(stack) and (int(stack.min()) < 0 or int(stack.max()) >= count):
        raise StorageError("samples of a stack that is not there")


def _too_long(seconds: float) -> QueryTimeoutError:
    return QueryTimeoutError(
        f"the query took longer than {seconds:g} s: choose a shorter range or a narrower selector"
    )
