"""The agent's own numbers, for Prometheus. Names: docs on metrics; stages call the verbs here.

Counters grow where things happen; what is a state (targets, CPU, memory) is read or swapped in as
a whole when Prometheus asks, so that a scrape never sees half of a cycle.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flamewell_agent import __version__
from flamewell_agent.model import Coverage

_PREFIX = "flamewell_agent_"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def agent_cpu_seconds() -> float:
    """Give user and system CPU of this process and of the children that have been reaped."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def agent_memory_bytes(proc_root: Path = Path("/proc")) -> int:
    """Give the resident memory of this process and of its running children."""
    pids = ["self"]
    for task in (proc_root / "self/task").iterdir():
        try:
            pids += (task / "children").read_text(encoding="ascii").split()
        except OSError:  # the thread ended, or the kernel keeps no list of children
            continue
    return sum(_resident_bytes(proc_root / pid / "statm") for pid in pids)


def own_memory_bytes(proc_root: Path = Path("/proc")) -> int:
    """Give the resident memory of this process."""
    return _resident_bytes(proc_root / "self/statm")


class AgentMetrics:
    """Own registry with all of the agent's metrics; thread safe.

    Attributes:
        registry: Where they are registered, for tests and for exposition.
        last_cycle: ``clock()`` of the last ``publish``, None before the first.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._coverage: tuple[Coverage, ...] = ()
        self.last_cycle: float | None = None
        self.registry = CollectorRegistry()
        self._make_state_metrics()
        self._make_counters()
        self.registry.register(_ProcessCollector())
        self.registry.register(_TargetCollector(lambda: self._coverage))

    def publish(self, coverage: Sequence[Coverage]) -> None:
        """Take the coverage ledger of a finished cycle as the present state."""
        self._coverage = tuple(coverage)
        self.last_cycle = self._clock()

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """The ledger of the last finished cycle."""
        return self._coverage

    @property
    def seconds_since_cycle(self) -> float | None:
        """How long ago the last cycle finished, None before the first."""
        return None if self.last_cycle is None else self._clock() - self.last_cycle

    def set_overhead(self, minute_ratio: float, ten_minutes_ratio: float) -> None:
        """Set the share of the node's CPU that agent and children used lately."""
        self._overhead.set(minute_ratio)
        self._overhead_long.set(ten_minutes_ratio)

    def set_budget(self, ratio: float, memory_ceiling_bytes: int) -> None:
        """Set the share of the node's CPU that they may use, and the memory."""
        self._budget.set(ratio)
        self._ceiling.set(memory_ceiling_bytes)

    def set_given_up(self, counts: Mapping[str, int]) -> None:
        """Set what did not fit into budgets and limits in the last cycle, by what it was."""
        for what, count in counts.items():
            self._given_up.labels(what).set(count)

    def watch_spool(self, *, size_bytes: Callable[[], int], batches: Callable[[], int]) -> None:
        """Say where to read what waits on disk, at each scrape."""
        self._spool_bytes.set_function(size_bytes)
        self._spool_batches.set_function(batches)

    def watch_pods(self, *, count: Callable[[], int], up: Callable[[], bool]) -> None:
        """Say where to read the state of the pod directory; only where Kubernetes is on."""
        self._gauge("kubernetes_pods", "Pods of this node that are known.").set_function(count)
        self._gauge(
            "kubernetes_up", "1 while the pods of this node are listed and watched."
        ).set_function(up)

    def add_kubernetes_error(self, reason: str) -> None:
        """Count a failure with the Kubernetes API, or with what it says."""
        self._kubernetes_errors.labels(reason).inc()

    def add_samples(self, runtime: str, result: str, count: int = 1) -> None:
        """Count samples by what became of them: ``ok``, ``error``, or why they were not used."""
        self._samples.labels(runtime, result).inc(count)

    def add_pause(self, seconds: float) -> None:
        """Count time for which a target was stopped."""
        self._pause.inc(seconds)

    def add_dropped(self, reason: str, count: int = 1) -> None:
        """Count batches that will never arrive."""
        self._dropped.labels(reason).inc(count)

    def add_sent(self, size_bytes: int) -> None:
        """Count a batch that the collector has acknowledged."""
        self._sent.inc()
        self._sent_bytes.inc(size_bytes)

    def add_rejected_profiles(self, count: int) -> None:
        """Count profiles that the collector refused inside a batch it took."""
        self._rejected.inc(count)

    def add_send_failure(self, reason: str) -> None:
        """Count an attempt to send that will be repeated."""
        self._send_failures.labels(reason).inc()

    def add_capture(self, kind: str, result: str) -> None:
        """Count an on-demand capture by what became of it on this node."""
        self._captures.labels(kind, result).inc()

    def add_clock_jump(self, kind: str) -> None:
        """Count a clock that was set (``forward``, ``backward``) or a ``suspended`` machine."""
        self._clock_jumps.labels(kind).inc()

    def add_config_reload(self, *, successful: bool) -> None:
        """Count a configuration that was read anew, and whether it was taken."""
        self._config_reloads.labels("ok" if successful else "error").inc()
        self._last_reload.set(successful)

    def add_stage_failure(self, stage: str) -> None:
        """Count an unexpected error that a stage boundary caught."""
        self._stage_failures.labels(stage).inc()

    def render(self) -> bytes:
        """Give the text exposition of everything."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(_PREFIX + name, text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _make_state_metrics(self) -> None:
        self._overhead = self._gauge(
            "overhead_ratio",
            "CPU of agent and children over the node's, in the last minute, or in the last cycle "
            "where that was longer.",
        )
        self._overhead_long = self._gauge(
            "overhead_ten_minutes_ratio",
            "CPU of agent and children over the node's, in the last ten minutes.",
        )
        self._ceiling = self._gauge(
            "memory_ceiling_bytes", "What memory_bytes may be before windows are given up."
        )
        self._budget = self._gauge("overhead_budget_ratio", "What overhead_ratio may be at most.")
        self._spool_bytes = self._gauge("spool_bytes", "Disk taken by unsent batches.")
        self._spool_batches = self._gauge("spool_batches", "Unsent batches.")
        self._given_up = Gauge(
            _PREFIX + "given_up",
            "What did not fit in the last cycle: processes without a window, windows below the "
            "wanted rate.",
            ["what"],
            registry=self.registry,
        )
        self._last_reload = self._gauge(
            "config_last_reload_successful", "0 where the last configuration read was wrong."
        )
        self._last_reload.set(1)
        info = Gauge(
            _PREFIX + "build_info",
            "1, with the version as a label.",
            ["version"],
            registry=self.registry,
        )
        info.labels(__version__).set(1)

    def _make_counters(self) -> None:
        self._samples = self._counter(
            "samples", "Samples, by what became of them.", "runtime", "result"
        )
        self._pause = self._counter(
            "target_pause_seconds", "Time for which targets were stopped to be read."
        )
        self._dropped = self._counter("dropped_batches", "Batches that were given up.", "reason")
        self._sent = self._counter("sent_batches", "Batches that a collector acknowledged.")
        self._sent_bytes = self._counter("sent_bytes", "Compressed size of acknowledged batches.")
        self._rejected = self._counter(
            "rejected_profiles", "Profiles that a collector refused in batches it took."
        )
        self._send_failures = self._counter(
            "send_failures", "Attempts to send that are repeated.", "reason"
        )
        self._kubernetes_errors = self._counter(
            "kubernetes_errors", "Failures with the Kubernetes API and what it says.", "reason"
        )
        self._captures = self._counter(
            "captures",
            "On-demand captures that came to an end here: done, failed, refused, or ended by the "
            "collector.",
            "kind",
            "result",
        )
        self._clock_jumps = self._counter(
            "clock_jumps", "Wall clocks set, and machines that slept.", "kind"
        )
        self._config_reloads = self._counter(
            "config_reloads", "Configurations read anew, by result.", "result"
        )
        self._stage_failures = self._counter(
            "stage_failures", "Unexpected errors, caught at a stage's boundary.", "stage"
        )


class _ProcessCollector(Collector):
    """CPU and memory of the agent, read when asked."""

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            _PREFIX + "cpu_seconds",
            "CPU used by the agent and by the children it has reaped.",
            value=agent_cpu_seconds(),
        )
        yield GaugeMetricFamily(
            _PREFIX + "memory_bytes",
            "Resident memory of the agent and its running children.",
            value=agent_memory_bytes(),
        )


class _TargetCollector(Collector):
    """Processes by decision, out of the last coverage ledger."""

    def __init__(self, coverage: Callable[[], Sequence[Coverage]]) -> None:
        self._coverage = coverage

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            _PREFIX + "targets",
            "Processes seen in the last cycle, by what was decided and why.",
            labels=["runtime", "state", "reason"],
        )
        tally = Tally((each.process.runtime, each.state, each.reason) for each in self._coverage())
        for labels, count in sorted(tally.items()):
            family.add_metric(labels, count)
        yield family


def _resident_bytes(statm: Path) -> int:
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):  # the child ended in between
        return 0
