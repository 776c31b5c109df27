"""The read path, and the place to start reading: a question, and each step to its answer.

``merge`` gives the tree that every flame graph, table, diff and export is made of; ``timeline`` the
points of a time line; the rest tells what there is to ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flamewell_collector.engine import Columns, Engine, Scan, statements
from flamewell_collector.engine.grid import (
    BUCKET_MS,
    amounts_grid,
    averages,
    rates,
    readings_grid,
)
from flamewell_collector.errors import StorageError
from flamewell_collector.model import Selection, Series, StackTree, Timeline
from flamewell_collector.services import (
    LAST_READINGS_MS,
    LastReading,
    ServiceRow,
    dict_rows,
    service_of,
    service_rows,
)
from flamewell_collector.store.storage import Snapshot, Storage
from flamewell_wire import profile_types

ALL_TYPES = ""
"""The type id of selections that ask for every profile type."""

_MEMORY_TYPES = (profile_types.PROCESS_RSS.id, profile_types.PROCESS_LIMIT.id)


class Query:
    """Answers questions about what is stored."""

    def __init__(
        self,
        storage: Storage,
        engine: Engine,
        *,
        clock: Callable[[], int],
        observe: Callable[[str, float], None],
    ) -> None:
        """Take the parts it works with.

        Args:
            storage: Where blocks and head are.
            engine: What aggregates them.
            clock: Gives ms since the epoch.
            observe: Told the name and the seconds of each question.
        """
        self._storage = storage
        self._engine = engine
        self._clock = clock
        self._observe = observe

    def merge(self, selection: Selection) -> StackTree:
        """Merge all profiles of a selection: deltas are summed, gauges averaged over time."""
        with self._timed("merge"), self._snapshot(selection) as snapshot:
            scan = self._load_symbols(snapshot, _scan(snapshot, selection))
            merge_stacks = self._average_stacks if _is_gauge(selection) else self._sum_stacks
            stack_ids, values = merge_stacks(scan)
            return snapshot.stacks.tree(stack_ids, values)

    def timeline(self, selection: Selection, *, step_ms: int) -> Timeline:
        """Give a selection's totals over time, without reading a sample.

        Deltas are amounts per second, each spread over the time that its profile covers; gauges
        are averages of the sum over series.
        """
        gauge = _is_gauge(selection)
        make_grid = readings_grid if gauge else amounts_grid
        grid = make_grid(selection.start_ms, selection.end_ms, step_ms)
        with_lead = replace(selection, start_ms=grid.read_from_ms)
        with self._timed("timeline"), self._snapshot(with_lead) as snapshot:
            rows = self._engine.run(
                statements.READINGS if gauge else statements.AMOUNTS,
                _scan(snapshot, with_lead),
                read_from_ms=grid.read_from_ms,
                cell_ms=grid.cell_ms,
            )
        points = averages(rows, grid) if gauge else rates(rows, grid)
        return Timeline(selection.start_ms, step_ms, points)

    def services(self, tenant: str, start_ms: int, end_ms: int) -> list[ServiceRow]:
        """Give the services that sent anything, those with most CPU time first."""
        everything = Selection(tenant, ALL_TYPES, (), start_ms, end_ms)
        with self._timed("services"), self._snapshot(everything) as snapshot:
            scan = _scan(snapshot, everything)
            totals = self._engine.run(statements.SERVICE_TOTALS, scan)
            active = self._active_series(snapshot, scan)
            readings = self._last_readings(snapshot, scan)
        return service_rows(totals, active, readings)

    def series(self, selection: Selection) -> list[Series]:
        """Give the series of a selection that sent anything in its range."""
        with self._timed("series"), self._snapshot(selection) as snapshot:
            return self._active_series(snapshot, _scan(snapshot, selection))

    def label_names(self, selection: Selection) -> list[str]:
        """Give the names of all labels of a selection's series."""
        return sorted({name for series in self.series(selection) for name in series.labels})

    def label_values(self, selection: Selection, name: str) -> list[str]:
        """Give the values that a label has in a selection's series."""
        return sorted({each.labels[name] for each in self.series(selection) if name in each.labels})

    def type_ids(self, selection: Selection) -> list[str]:
        """Give the ids of the profile types that a selection's series sent in its range."""
        with self._timed("profile_types"), self._snapshot(selection) as snapshot:
            rows = self._engine.run(statements.ACTIVE_TYPES, _scan(snapshot, selection))
        return [str(each) for each in rows["profile_type"]]

    def memory_readings(self, tenant: str) -> list[LastReading]:
        """Give the newest memory readings of the series that are still there."""
        now = self._clock()
        recent = Selection(tenant, ALL_TYPES, (), now - LAST_READINGS_MS, now + LAST_READINGS_MS)
        with self._timed("memory_readings"), self._snapshot(recent) as snapshot:
            return self._last_readings(snapshot, _scan(snapshot, recent))

    def now_ms(self) -> int:
        """Read the clock."""
        return self._clock()

    def _sum_stacks(self, scan: Scan) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        rows = self._engine.run(statements.STACK_SUMS, scan)
        return rows["stack_id"], rows["value"]

    def _average_stacks(self, scan: Scan) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Average each series in each bucket, sum the series, average the buckets with data."""
        rows = self._engine.run(
            statements.STACK_READINGS, scan, start_ms=scan.start_ms, bucket_ms=BUCKET_MS
        )
        return _weighted(rows)

    def _load_symbols(self, snapshot: Snapshot, scan: Scan) -> Scan:
        """Make the stacks of the scan's blocks known; blocks that can't be read are left out."""
        readable = []
        for block in scan.blocks:
            try:
                snapshot.stacks.load_block(block)
            except StorageError as error:
                self._storage.set_aside(block, str(error))
            else:
                readable.append(block)
        return replace(scan, blocks=tuple(readable))

    def _active_series(self, snapshot: Snapshot, scan: Scan) -> list[Series]:
        rows = self._engine.run(statements.ACTIVE_SERIES, scan)
        found = (snapshot.series.get(series_id) for series_id in rows["series_id"].tolist())
        return [each for each in found if each is not None]

    def _last_readings(self, snapshot: Snapshot, scan: Scan) -> list[LastReading]:
        rows = self._engine.run(statements.LAST_READINGS, replace(scan, type_ids=_MEMORY_TYPES))
        found = []
        for row in dict_rows(rows):
            series = snapshot.series.get(row["series_id"])
            if series is not None:
                found.append(LastReading(series, row["profile_type"], row["time"], row["total"]))
        return found

    @contextmanager
    def _snapshot(self, selection: Selection) -> Iterator[Snapshot]:
        with self._storage.snapshot(
            selection.tenant, selection.start_ms, selection.end_ms
        ) as snapshot:
            yield snapshot

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._observe(name, time.perf_counter() - begin)


def _scan(snapshot: Snapshot, selection: Selection) -> Scan:
    """Turn label matchers into services and series, so that other rows are never read."""
    services: tuple[str, ...] | None = None
    series_ids: npt.NDArray[np.uint64] | None = None
    if selection.matchers:
        chosen = snapshot.series.select(selection.matchers)
        services = tuple(sorted({service_of(each) for each in chosen}))
        if any(matcher.name != "service_name" for matcher in selection.matchers):
            series_ids = np.fromiter((each.series_id for each in chosen), np.uint64, len(chosen))
    return Scan(
        blocks=snapshot.blocks,
        head_profiles=snapshot.head_profiles,
        head_samples=snapshot.head_samples,
        start_ms=selection.start_ms,
        end_ms=selection.end_ms,
        type_ids=(selection.type_id,) if selection.type_id else (),
        services=services,
        series_ids=series_ids,
    )


def _is_gauge(selection: Selection) -> bool:
    return profile_types.parse_id(selection.type_id).kind == "gauge"


def _weighted(rows: Columns) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Add up each stack's sums over their readings; rows come sorted, so always in one order."""
    stack_ids, first = np.unique(rows["stack_id"], return_index=True)
    if not len(stack_ids):
        return stack_ids, np.zeros(0, np.int64)
    sums = np.add.reduceat(rows["value"] / rows["readings"], first)
    return stack_ids, np.rint(sums / rows["buckets"][0]).astype(np.int64)
