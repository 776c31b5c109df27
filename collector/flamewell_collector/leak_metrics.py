"""Memory growth and leaks for Prometheus: by workload, never by pod, and at most so many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlencode

from prometheus_client.core import GaugeMetricFamily, Metric

from flamewell_collector.investigation import Growing
from flamewell_collector.leaks import WORKLOAD_LABELS, Leaks, Suspect, WorkloadMemory
from flamewell_wire.profile_types import PROCESS_ANON

MAX_WORKLOADS: Final = 2_000
"""Those with suspects are kept first, then those that grow most; Prometheus pays for each."""
_LINK_HOURS_AT_LEAST: Final = 1
_BINS_SHOWN: Final = 48
"""The link shows the window of the verdict, and as much before it."""

_GAUGES: Final[tuple[tuple[str, str, Callable[[WorkloadMemory], float]], ...]] = (
    (
        "flamewell_memory_growth_bytes_per_second",
        "What anonymous memory gains, over the last 72 minutes, summed over containers.",
        lambda each: each.growth_bytes_per_second,
    ),
    (
        "flamewell_memory_time_to_limit_seconds",
        "Time until the first suspect is full, as it grows now; +Inf without one, or a limit.",
        lambda each: _finite_or_never(each.worst),
    ),
    (
        "flamewell_leak_suspected",
        "1 where growth of memory is held to be a leak (tier confirmed).",
        lambda each: float(each.worst is not None and each.worst.verdict.tier == "confirmed"),
    ),
    (
        "flamewell_leak_score",
        "Of the signs of a leak, the share that the worst container shows; 0 without a suspect.",
        lambda each: 0.0 if each.worst is None else each.worst.verdict.evidence.share,
    ),
)


class LeakGauges:
    """What was found last, at each scrape."""

    def __init__(
        self,
        found: Callable[[], Leaks],
        *,
        growing_of: Callable[[Suspect], Sequence[Growing]],
        url: str,
    ) -> None:
        """Take what gives it, what grows in a suspect, and where people reach this collector."""
        self._found = found
        self._growing_of = growing_of
        self._url = url

    def describe(self) -> list[Metric]:
        """Give nothing: registering must not read anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give one metric a gauge."""
        shown = _foremost(self._found().workloads)
        for name, text, value in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=WORKLOAD_LABELS)
            for each in shown:
                family.add_metric(each.labels, value(each))
            yield family
        yield self._info(shown)

    def _info(self, shown: list[WorkloadMemory]) -> Metric:
        family = GaugeMetricFamily(
            "flamewell_leak_info",
            "1 for the worst container of a workload with a leak: which pod, and where to look.",
            labels=(*WORKLOAD_LABELS, "pod", "frame", "file", "url"),
        )
        for each in shown:
            if each.worst is not None and each.worst.verdict.tier == "confirmed":
                pod = each.worst.labels.get("pod", "")
                frame = next((one.name for one in self._growing_of(each.worst)), "")
                family.add_metric((*each.labels, pod, frame, "", link(self._url, each.worst)), 1)
        return family


def link(url: str, suspect: Suspect) -> str:
    """Give the address of the page that shows a suspect's memory."""
    evidence = suspect.verdict.evidence
    hours = max(_LINK_HOURS_AT_LEAST, math.ceil(evidence.bin_minutes * _BINS_SHOWN / 60))
    fragment = {
        "service": suspect.labels.get("service_name", ""),
        "type": PROCESS_ANON.id,
        "from": f"now-{hours}h",
    }
    return f"{url.rstrip('/')}/#{urlencode(fragment)}"


def _foremost(workloads: tuple[WorkloadMemory, ...]) -> list[WorkloadMemory]:
    ordered = sorted(
        workloads, key=lambda each: (each.worst is None, -each.growth_bytes_per_second, each.labels)
    )
    return ordered[:MAX_WORKLOADS]


def _finite_or_never(worst: Suspect | None) -> float:
    seconds = math.inf if worst is None else worst.verdict.evidence.seconds_to_limit
    return math.inf if math.isnan(seconds) else seconds
