"""Which containers leak memory, kept up to date: the stored readings go through the detector.

``refresh`` reads like the way of a reading: fetch the minutes that are over, hand each to the
detector, and publish what it says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flamewell_collector import leak_state
from flamewell_collector.analysis.leaks.detector import Detector, Verdict
from flamewell_collector.analysis.leaks.lives import Minute
from flamewell_collector.analysis.leaks.rule import CONFIRMED, Rule
from flamewell_collector.engine import Columns
from flamewell_collector.errors import StorageError
from flamewell_collector.leak_readings import (
    WORKLOAD_LABELS,
    Container,
    Containers,
    Workload,
    minutes,
)
from flamewell_collector.leak_state import Watched
from flamewell_collector.model import Series

log = logging.getLogger(__name__)

Fetch = Callable[[int, int], tuple[Columns, Mapping[int, Series]]]
"""Gives what series have by the minute between two times in ms; see ``Query.series_bins``."""

LATE_MINUTES: Final = 1
"""A minute is taken in when this many more are over: readings come a cycle of the agent late."""
HISTORY_MINUTES: Final = 25 * 60
"""What is read of the store where there is no state: a day, so that nobody counts as young."""
_LOOKED_AT_MINUTES: Final = 120
"""Of that, the last are looked at as if they had just come, the rest is remembered."""
_CHUNK_MINUTES: Final = 60
_SAVE_SECONDS: Final = 600.0
_SEEN_MINUTES: Final = 10
"""A container without a reading for so long counts as gone."""
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Suspect:
    """A container that may leak.

    Attributes:
        labels: Of its series.
        verdict: Minutes since the epoch, bytes.
        replicas: Containers of the workload that are there.
        replicas_growing: Of these, how many are suspects as well, this one included.
    """

    labels: Mapping[str, str]
    verdict: Verdict
    replicas: int
    replicas_growing: int


@dataclass(frozen=True, slots=True)
class WorkloadMemory:
    """What is told to Prometheus of one workload.

    Attributes:
        labels: Values of ``WORKLOAD_LABELS``.
        growth_bytes_per_second: Over all its containers.
        worst: The suspect that will be full first; None where there is none.
    """

    labels: Workload
    growth_bytes_per_second: float
    worst: Suspect | None


@dataclass(frozen=True, slots=True)
class Leaks:
    """What was found, at one time.

    Attributes:
        minute: The last that was taken in; -1 before the first.
        containers: How many are watched.
        suspects: The surest and soonest first.
        workloads: All that have a container that is there.
    """

    minute: int = -1
    containers: int = 0
    suspects: tuple[Suspect, ...] = ()
    workloads: tuple[WorkloadMemory, ...] = ()


class LeakWatch:
    """Watches the memory of one tenant's containers."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        now_ms: Callable[[], int],
        state_path: Path | None = None,
        confirmed: Rule = CONFIRMED,
    ) -> None:
        """Take what gives readings, where to keep what is known of them, and the rule."""
        self._confirmed = confirmed
        self._fetch = fetch
        self._now_ms = now_ms
        self._path = state_path
        self._watched: Watched | None = None
        self._saved = time.monotonic()
        self._found = Leaks()
        self._lock = threading.Lock()

    @property
    def found(self) -> Leaks:
        """What was found last."""
        return self._found

    def refresh(self) -> None:
        """Take in all minutes that are over by now."""
        with self._lock:
            self._refresh(self._now_ms() // _MINUTE_MS - LATE_MINUTES)
            if time.monotonic() - self._saved >= _SAVE_SECONDS:
                self._save()

    def save(self) -> None:
        """Write down what is known; a failure is told, and costs a restart its memory only."""
        with self._lock:
            self._save()

    def _refresh(self, until: int) -> None:
        if self._watched is None:
            self._watched = self._begin(until)
        watched = self._watched
        if watched.next_minute < until - HISTORY_MINUTES or watched.next_minute > until + 1:
            # The collector was away for long, or the clock was set.
            self._watched = watched = self._empty(until)
        remembered = until - _LOOKED_AT_MINUTES
        while watched.next_minute < until:
            upto = min(watched.next_minute + _CHUNK_MINUTES, until)
            for minute in self._minutes(range(watched.next_minute, upto)):
                watched.next_minute = minute.at + 1
                if minute.at < remembered:
                    watched.detector.remember(minute)
                else:
                    watched.detector.step(minute)
            watched.next_minute = upto
            watched.containers.forget_gone(upto)
        self._found = leaks(watched)

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._path is None or self._watched is None:
            return
        try:
            leak_state.save(self._path, self._watched)
        except StorageError as error:
            log.warning("what is known of memory growth is not kept: %s", error)

    def _begin(self, until: int) -> Watched:
        found = None
        if self._path is not None:
            try:
                found = leak_state.load(self._path, Detector(confirmed=self._confirmed))
            except StorageError as error:
                log.warning("memory growth is watched from the store anew: %s", error)
        return found or self._empty(until)

    def _empty(self, until: int) -> Watched:
        detector = Detector(confirmed=self._confirmed)
        return Watched(detector, Containers(detector), until - HISTORY_MINUTES)

    def _minutes(self, span: range) -> list[Minute]:
        assert self._watched is not None  # noqa: S101 - for the type checker: refresh has set it
        rows, series = self._fetch(span.start * _MINUTE_MS, span.stop * _MINUTE_MS)
        return list(minutes(self._watched.containers, rows, series, span))


def leaks(watched: Watched) -> Leaks:
    """Give what a detector says, by container and by workload."""
    containers, verdicts = watched.containers, watched.detector.verdicts
    minute = watched.next_minute - 1
    there: dict[Workload, list[Container]] = defaultdict(list)
    for each in containers.by_place.values():
        if each.seen >= minute - _SEEN_MINUTES:
            there[each.workload].append(each)
    found: list[Suspect] = []
    workloads = []
    for workload, members in sorted(there.items()):
        growing = [each for each in members if each.place in verdicts]
        mine = [
            Suspect(dict(each.labels), verdicts[each.place], len(members), len(growing))
            for each in growing
        ]
        found += mine
        growth = watched.detector.growth[[each.place for each in members]]
        known = growth[growth == growth]  # noqa: PLR0124 - NaN is not equal to itself
        workloads.append(
            WorkloadMemory(workload, float(known.sum()), min(mine, key=_urgency, default=None))
        )
    return Leaks(
        minute,
        sum(len(each) for each in there.values()),
        tuple(sorted(found, key=_urgency)),
        tuple(workloads),
    )


def _urgency(suspect: Suspect) -> tuple[bool, float, float, str]:
    """Order confirmed ones first, then those full soonest."""
    evidence = suspect.verdict.evidence
    seconds = evidence.seconds_to_limit
    return (
        suspect.verdict.tier != "confirmed",
        seconds if seconds == seconds else float("inf"),  # noqa: PLR0124 - not a NaN
        -evidence.slope_per_second,
        str(sorted(suspect.labels.items())),
    )


__all__ = [
    "WORKLOAD_LABELS",
    "Fetch",
    "LeakWatch",
    "Leaks",
    "Suspect",
    "WorkloadMemory",
    "leaks",
]
