"""The read path, and the place to start reading: a question, and each step to its answer.

``merge`` gives the tree that tables, diffs and exports are made of, ``merge_services`` those of
flame graphs; ``timeline`` gives the points of a time line; the rest tells what there is to ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flamewell_collector.engine import (
    Columns,
    Engine,
    Scan,
    ServiceSums,
    StackSums,
    Sums,
    statements,
)
from flamewell_collector.engine.grid import (
    amounts_grid,
    averages,
    rates,
    readings_grid,
)
from flamewell_collector.model import Selection, Series, StackTree, Timeline
from flamewell_collector.services import (
    LAST_READINGS_MS,
    LastReading,
    ServiceRow,
    dict_rows,
    service_of,
    service_rows,
)
from flamewell_collector.store.block_files import PROFILES_ONLY, RAW_FILES, SUMS_FILES, Wanted
from flamewell_collector.store.plan import Plan, RolledUp, make_plan
from flamewell_collector.store.prefix_tree import PrefixTree
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
        with self._timed("merge"):
            return _tree(self._sums(selection))

    def merge_services(self, selection: Selection) -> list[StackTree]:
        """Merge the profiles of each service: at least one tree, empty where there is nothing.

        Their nodes are all that the services have, with values or without: such trees are shared
        and keep what is worked out of their shape.
        """
        with self._timed("merge"):
            sums = self._sums(selection)
            trees = [each.tree.with_values(_values(each, sums.buckets)) for each in sums.services]
            return trees or [_tree(sums)]

    def _sums(self, selection: Selection) -> StackSums:
        gauge = _is_gauge(selection)
        while True:
            damaged = self._storage.set_aside_count
            with self._rows(selection, samples=True) as (snapshot, scan):
                sums = self._engine.sum_stacks(scan, snapshot.stacks, gauge=gauge)
            if self._storage.set_aside_count == damaged:
                return sums
            # Values that stand on no stack, or sums whose raw rows are still there: once more.

    def timeline(self, selection: Selection, *, step_ms: int) -> Timeline:
        """Give a selection's totals over time, without reading a sample.

        Deltas are amounts per second, each spread over the time that its profile covers; gauges
        are averages of the sum over series.
        """
        gauge = _is_gauge(selection)
        make_grid = readings_grid if gauge else amounts_grid
        grid = make_grid(selection.start_ms, selection.end_ms, step_ms)
        with_lead = replace(selection, start_ms=grid.read_from_ms)
        with self._timed("timeline"), self._rows(with_lead) as (_, scan):
            rows = self._engine.run(
                statements.READINGS if gauge else statements.AMOUNTS,
                scan,
                read_from_ms=grid.read_from_ms,
                cell_ms=grid.cell_ms,
            )
        points = averages(rows, grid) if gauge else rates(rows, grid)
        return Timeline(selection.start_ms, step_ms, points)

    def services(self, tenant: str, start_ms: int, end_ms: int) -> list[ServiceRow]:
        """Give the services that sent anything, those with most CPU time first."""
        everything = Selection(tenant, ALL_TYPES, (), start_ms, end_ms)
        with self._timed("services"), self._rows(everything) as (snapshot, scan):
            totals = self._engine.run(statements.SERVICE_TOTALS, scan)
            active = self._active_series(snapshot, scan)
            readings = self._last_readings(snapshot, scan)
        return service_rows(totals, active, readings)

    def series(self, selection: Selection) -> list[Series]:
        """Give the series of a selection that sent anything in its range."""
        with self._timed("series"), self._rows(selection) as (snapshot, scan):
            return self._active_series(snapshot, scan)

    def label_names(self, selection: Selection) -> list[str]:
        """Give the names of all labels of a selection's series."""
        return sorted({name for series in self.series(selection) for name in series.labels})

    def label_values(self, selection: Selection, name: str) -> list[str]:
        """Give the values that a label has in a selection's series."""
        return sorted({each.labels[name] for each in self.series(selection) if name in each.labels})

    def type_ids(self, selection: Selection) -> list[str]:
        """Give the ids of the profile types that a selection's series sent in its range."""
        with self._timed("profile_types"), self._rows(selection) as (_, scan):
            rows = self._engine.run(statements.ACTIVE_TYPES, scan)
        return [str(each) for each in rows["profile_type"]]

    def memory_readings(self, tenant: str) -> list[LastReading]:
        """Give the newest memory readings of the series that are still there."""
        now = self._clock()
        recent = Selection(tenant, ALL_TYPES, (), now - LAST_READINGS_MS, now + LAST_READINGS_MS)
        with self._timed("memory_readings"), self._rows(recent) as (snapshot, scan):
            return self._last_readings(snapshot, scan)

    def series_bins(
        self, tenant: str, type_ids: tuple[str, ...], span_ms: tuple[int, int], *, bin_ms: int
    ) -> tuple[Columns, dict[int, Series]]:
        """Give what each series has in each bin, from raw rows alone, and the series by id.

        Args:
            tenant: Whose.
            type_ids: Profile types.
            span_ms: From and until, in ms since the epoch.
            bin_ms: Length of a bin; its number is that of the bins since the epoch.

        Returns:
            series_id, profile_type, bin; lowest, highest and sum of its profiles' totals; sorted.
        """
        asked = Selection(tenant, ALL_TYPES, (), *span_ms)
        with self._timed("series_bins"), self._rows(asked) as (snapshot, scan):
            chosen = replace(scan, type_ids=type_ids)
            rows = self._engine.run(statements.SERIES_BINS, chosen, bin_ms=bin_ms)
            found = {each: snapshot.series.get(each) for each in set(rows["series_id"].tolist())}
        return rows, {key: each for key, each in found.items() if each is not None}

    def now_ms(self) -> int:
        """Read the clock."""
        return self._clock()

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
    def _rows(
        self, selection: Selection, *, samples: bool = False
    ) -> Iterator[tuple[Snapshot, Scan]]:
        """Choose the rows that a selection is about; they stay for as long as the context is open.

        Label matchers become services and series, so that other rows are never read.
        """
        tenant, start_ms, end_ms = selection.tenant, selection.start_ms, selection.end_ms
        index = self._storage.series(tenant)
        chosen = index.select(selection.matchers)
        services = tuple(sorted({service_of(each) for each in chosen}))
        # All series of these services, whatever the labels were: as good as their names alone.
        whole = len(chosen) == index.count(services)
        everything = not selection.matchers
        with self._storage.snapshot(
            tenant, start_ms, end_ms, services=(None if everything else services) if samples else ()
        ) as snapshot:
            gauge = bool(selection.type_id) and _is_gauge(selection)
            plan = make_plan(
                snapshot.stored,
                start_ms,
                end_ms,
                gauge=gauge,
                sums_do=samples and whole,
            )
            snapshot.fetch(_files(plan, samples=samples))
            ids = (each.series_id for each in chosen)
            yield (
                snapshot,
                Scan(
                    blocks=tuple(snapshot.data_dir / path for path in plan.raw),
                    head_profiles=snapshot.head_profiles,
                    head_samples=snapshot.head_samples,
                    start_ms=start_ms,
                    end_ms=end_ms,
                    type_ids=(selection.type_id,) if selection.type_id else (),
                    services=services,
                    every_service=everything,
                    series_ids=None if whole else np.fromiter(ids, np.int64, len(chosen)),
                    sums=_sums(snapshot, plan.sums),
                    totals=_sums(snapshot, plan.totals),
                ),
            )

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._observe(name, time.perf_counter() - begin)


def _tree(sums: StackSums) -> StackTree:
    """Put the values of all services on one tree."""
    values = [_values(each, sums.buckets) for each in sums.services]
    if not values:
        return PrefixTree.empty().with_values(np.zeros(1, np.int64))
    if len(values) == 1:
        return sums.services[0].tree.with_values(values[0])
    trees, ids, found = [], [], []
    for each, mine in zip(sums.services, values, strict=True):
        nodes = np.flatnonzero(mine)
        ids.append(each.tree.path[nodes])
        found.append(mine[nodes])
        trees.append(each.tree.restricted(ids[-1]))
    return PrefixTree.merged(trees).tree(np.concatenate(ids), np.concatenate(found))


def _values(sums: ServiceSums, buckets: int) -> npt.NDArray[np.int64]:
    """Average gauges: each series in each bucket, sum the series, average buckets with data.

    Sums are exact by readings, and added up in one order, so that the answer is always the same.
    """
    if set(sums.by_readings) == {1} and buckets == 1:
        return sums.by_readings[1]
    total = np.zeros(len(sums.tree))
    for readings, values in sorted(sums.by_readings.items()):
        total += values / readings
    return np.rint(total / max(1, buckets)).astype(np.int64)


def _sums(snapshot: Snapshot, found: Iterable[RolledUp]) -> tuple[Sums, ...]:
    return tuple(Sums(snapshot.data_dir / each.path, each.ranges) for each in found)


def _files(plan: Plan, *, samples: bool) -> Wanted:
    """Name the files that a plan reads."""
    yield from ((path, RAW_FILES if samples else PROFILES_ONLY) for path in plan.raw)
    yield from ((each.path, SUMS_FILES) for each in plan.sums)
    yield from ((each.path, PROFILES_ONLY) for each in plan.totals)


def _is_gauge(selection: Selection) -> bool:
    return profile_types.parse_id(selection.type_id).kind == "gauge"
