"""From stored rows to what a detector takes in: readings of each container by the minute (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from flamewell_collector.analysis.leaks.detector import Detector
from flamewell_collector.analysis.leaks.lives import Minute
from flamewell_collector.engine import Columns
from flamewell_collector.model import Series
from flamewell_wire.attributes import CAPTURE_LABEL, EXTRAPOLATED_LABEL, THREAD_LABEL
from flamewell_wire.profile_types import CPU, PROCESS_ANON, PROCESS_LIMIT, PROCESS_START

TYPES: Final = (PROCESS_ANON.id, PROCESS_LIMIT.id, PROCESS_START.id, CPU.id)
WORKLOAD_LABELS: Final = ("cluster", "namespace", "workload", "container", "service_name")
"""What containers of one workload have in common; the labels of all metrics on memory."""

_OF_PROFILES_ONLY: Final = {EXTRAPOLATED_LABEL, THREAD_LABEL, CAPTURE_LABEL}
_NANOS_A_MINUTE: Final = 60e9
_GONE_MINUTES: Final = 2 * 1_440
"""A container that was silent for so long is forgotten; until then it tells those that come after
what is usual."""

Workload = tuple[str, ...]
Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Container:
    """One series of memory readings: the processes of one executable in one container.

    Attributes:
        labels: Of the series, sorted.
        place: Its row in the detector's arrays.
        seen: Minute of the newest reading.
        limit: Newest, bytes; NaN without one.
        born: Newest, minutes; -1 if not known.
    """

    labels: Labels
    place: int
    seen: int = -1
    limit: float = np.nan
    born: int = -1

    @property
    def workload(self) -> Workload:
        """Values of the workload's labels."""
        known = dict(self.labels)
        return tuple(known.get(name, "") for name in WORKLOAD_LABELS)


@dataclass(slots=True)
class Containers:
    """All containers that are watched, with their places in a detector."""

    detector: Detector
    by_labels: dict[Labels, Container] = field(default_factory=dict)
    by_place: dict[int, Container] = field(default_factory=dict)
    by_workload: dict[Workload, set[int]] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)

    def add(self, labels: Labels) -> Container:
        """Give a container its place."""
        if not self._free:
            room = len(self.detector)
            self.detector.grow(max(64, 2 * room))
            self._free = list(range(len(self.detector) - 1, room - 1, -1))
        made = Container(labels, self._free.pop())
        relatives = self.by_workload.get(made.workload)
        if relatives:
            self.detector.inherit(made.place, np.fromiter(relatives, np.int64))
        self.note(made)
        return made

    def note(self, made: Container) -> None:
        """Note a container that has its place."""
        self.by_workload.setdefault(made.workload, set()).add(made.place)
        self.by_labels[made.labels] = made
        self.by_place[made.place] = made

    def forget_gone(self, minute: int) -> None:
        """Let those go that were not seen for long."""
        gone = [each for each in self.by_place.values() if each.seen < minute - _GONE_MINUTES]
        if not gone:
            return
        for each in gone:
            del self.by_place[each.place], self.by_labels[each.labels]
            relatives = self.by_workload[each.workload]
            relatives.discard(each.place)
            if not relatives:
                del self.by_workload[each.workload]
        places = [each.place for each in gone]
        self.detector.forget(np.array(places, np.int64))
        self._free += places

    def places_free(self) -> None:
        """Reckon what places are free, after a restore."""
        taken = set(self.by_place)
        self._free = [each for each in range(len(self.detector)) if each not in taken]


def minutes(
    containers: Containers, rows: Columns, series: Mapping[int, Series], span: range
) -> Iterator[Minute]:
    """Give the minutes of a span in order, each with all containers.

    Args:
        containers: New ones are added.
        rows: As of ``Query.series_bins`` with bins of a minute and ``TYPES``.
        series: By id.
        span: Minutes since the epoch.
    """
    of_series = dict(_known(containers, rows, series))
    by_minute = _by_minute(rows, of_series, span)
    size = len(containers.detector)
    for at in span:
        found = by_minute.get(at, ())
        anon, peak, cpu = (np.full(size, np.nan, np.float32) for _ in range(3))
        for container, type_id, lowest, highest, total in found:
            if type_id == PROCESS_ANON.id:
                anon[container.place], peak[container.place] = lowest, highest
                container.seen = at
            elif type_id == PROCESS_LIMIT.id:
                container.limit = float(lowest)
            elif type_id == PROCESS_START.id:
                container.born = lowest // 60
            else:
                was = cpu[container.place]
                cpu[container.place] = total / _NANOS_A_MINUTE + (0 if np.isnan(was) else was)
        limit = np.full(size, np.nan, np.float32)
        born = np.full(size, -1, np.int64)
        for each in containers.by_place.values():
            limit[each.place], born[each.place] = each.limit, each.born
        yield Minute(at, anon, peak, cpu, limit, born)


def own_labels(labels: Mapping[str, str]) -> Labels:
    """Give the labels of the container that a series of whatever type is about."""
    return tuple(sorted(item for item in labels.items() if item[0] not in _OF_PROFILES_ONLY))


def _known(
    containers: Containers, rows: Columns, series: Mapping[int, Series]
) -> Iterator[tuple[int, Container]]:
    """Find the container of each series; only memory readings make one known."""
    anon = rows["profile_type"] == PROCESS_ANON.id
    ids = rows["series_id"]
    with_memory: Iterable[int] = set(ids[anon].tolist())
    for each in with_memory:
        if each in series:
            labels = own_labels(series[each].labels)
            yield each, containers.by_labels.get(labels) or containers.add(labels)
    for each in set(ids.tolist()) - set(with_memory):
        if each in series:
            container = containers.by_labels.get(own_labels(series[each].labels))
            if container is not None:
                yield each, container


_Row = tuple[Container, str, int, int, int]


def _by_minute(
    rows: Columns, of_series: Mapping[int, Container], span: range
) -> dict[int, list[_Row]]:
    found: dict[int, list[_Row]] = {}
    columns = (rows[name].tolist() for name in ("series_id", "profile_type", "bin"))
    values = (rows[name].tolist() for name in ("lowest", "highest", "total"))
    for key, type_id, at, *amounts in zip(*columns, *values, strict=True):
        container = of_series.get(key)
        if container is not None and at in span:
            found.setdefault(at, []).append((container, type_id, *amounts))
    return found
