"""Background work: a thread a job, so that a long or failing one keeps no other waiting."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from flamewell_collector.errors import CollectorError
from flamewell_collector.leak_readings import WORKLOAD_LABELS
from flamewell_collector.services import LastReading
from flamewell_wire import profile_types

log = logging.getLogger(__name__)

MAX_MEMORY_LABEL_SETS: Final = 2_000
"""The largest are kept; Prometheus pays for each."""
_MEMORY_GAUGES: Final = (
    (
        "flamewell_memory_working_set_bytes",
        "Newest resident memory, summed over processes.",
        profile_types.PROCESS_RSS.id,
    ),
    (
        "flamewell_memory_limit_bytes",
        "Newest memory limit, summed over processes.",
        profile_types.PROCESS_LIMIT.id,
    ),
)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do again and again.

    Attributes:
        name: For log and metrics.
        every_seconds: From the end of one run to the start of the next.
        run: Does it.
    """

    name: str
    every_seconds: float
    run: Callable[[], None]


class Jobs:
    """The threads that run jobs."""

    def __init__(self, jobs: Iterable[Job], *, failures: Counter) -> None:
        """Take the jobs.

        Args:
            jobs: What is to be done.
            failures: Counts failed runs by job.
        """
        self._failures = failures
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(job,), name=f"job-{job.name}", daemon=True)
            for job in jobs
        ]

    def start(self) -> None:
        """Start the threads."""
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Let the jobs that run come to their end, then stop."""
        self._stopping.set()
        for each in self._threads:
            each.join()

    def run(self, job: Job) -> None:
        """Run a job; what goes wrong is logged and counted here, and nowhere else."""
        try:
            job.run()
        except CollectorError as error:
            self._failures.labels(job.name).inc()
            log.warning("the job %s failed: %s", job.name, error)
        except Exception:
            # The boundary of a stage: the next run may find things in order again.
            self._failures.labels(job.name).inc()
            log.exception("the job %s failed", job.name)

    def _work(self, job: Job) -> None:
        while not self._stopping.wait(job.every_seconds):
            self.run(job)


class MemoryGauges:
    """Memory by workload for Prometheus, from the newest memory readings."""

    def __init__(self, read: Callable[[], list[LastReading]]) -> None:
        """Take what gives the readings."""
        self._read = read
        self._sums: dict[str, dict[tuple[str, ...], int]] = {}

    def refresh(self) -> None:
        """Read and sum up."""
        sums: dict[str, dict[tuple[str, ...], int]] = defaultdict(lambda: defaultdict(int))
        for reading in self._read():
            labels = reading.series.labels
            key = tuple(labels.get(name, "") for name in WORKLOAD_LABELS)
            sums[reading.type_id][key] += reading.value
        self._sums = {type_id: _largest(by_labels) for type_id, by_labels in sums.items()}

    def describe(self) -> list[Metric]:
        """Give nothing: registering must not ask the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give one metric a gauge."""
        sums = self._sums
        for name, text, type_id in _MEMORY_GAUGES:
            family = GaugeMetricFamily(name, text, labels=WORKLOAD_LABELS)
            for labels, value in sums.get(type_id, {}).items():
                family.add_metric(labels, float(value))
            yield family


def _largest(by_labels: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    chosen = sorted(by_labels.items(), key=lambda item: (-item[1], item[0]))
    return dict(chosen[:MAX_MEMORY_LABEL_SETS])
