"""On how many nodes each service runs, from the labels of series; agents share budgets by it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from flamewell_collector.model import Series
from flamewell_collector.services import service_of

MAX_SERVICES: Final = 1_000
"""In one answer: a node seldom runs more."""
_ASKED_SECONDS: Final = 300.0


class ServiceNodes:
    """Counts nodes now and then, as long as anybody asks.

    Args:
        read: Gives the series that sent samples in the last hour.
        clock: Seconds on any steady clock.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[Series]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._asked_at: float | None = None
        self._counts: Mapping[str, Mapping[str, int]] = {}

    def on(self, node: str) -> Mapping[str, int]:
        """Give service → number of nodes, for the services of a node."""
        # Counted by a job alone: an agent's question must not fail or wait on account of it.
        self._asked_at = self._clock()
        return self._counts.get(node, {})

    def refresh(self) -> None:
        """Count anew, if anybody has asked of late."""
        if self._asked_at is not None and self._clock() - self._asked_at < _ASKED_SECONDS:
            self._counts = nodes_of_services(self._read())


def nodes_of_services(series: Iterable[Series]) -> dict[str, dict[str, int]]:
    """Give node → service → on how many nodes that service is (pure)."""
    nodes: dict[str, set[str]] = defaultdict(set)
    for each in series:
        if each.labels.get("node"):
            nodes[service_of(each)].add(each.labels["node"])
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for service in sorted(nodes):
        for node in nodes[service]:
            if len(found[node]) < MAX_SERVICES:
                found[node][service] = len(nodes[service])
    return dict(found)
