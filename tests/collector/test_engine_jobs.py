"""Background jobs: a failure is counted and stops nothing; memory gauges are bounded."""

from __future__ import annotations

import logging
import threading

import pytest

from flamewell_collector import jobs as module
from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.jobs import Job, Jobs, MemoryGauges
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.model import Series
from flamewell_collector.services import LastReading
from flamewell_wire.profile_types import PROCESS_LIMIT, PROCESS_RSS


def test_a_failing_job_is_counted_and_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    metrics, healthy, failures = CollectorMetrics(), threading.Semaphore(0), []

    def fail() -> None:
        failures.append(1)
        raise StorageUnavailable("full") if len(failures) % 2 else ValueError("unforeseen")

    def work() -> None:
        healthy.release()

    made = Jobs((Job("bad", 0.01, fail), Job("good", 0.01, work)), failures=metrics.job_failures)
    with caplog.at_level(logging.WARNING):
        made.start()
        for _ in range(5):
            assert healthy.acquire(timeout=30)
        made.stop()
    counted = metrics.registry.get_sample_value(
        "flamewell_collector_job_failures_total", {"job": "bad"}
    )
    assert counted == len(failures) >= 2
    assert "the job bad failed: full" in caplog.text
    assert "ValueError: unforeseen" in caplog.text


def test_memory_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMORY_LABEL_SETS", 2)
    readings = [
        LastReading(Series(number, {"service_name": name, "pod": str(number)}), type_id, 0, value)
        for number, (name, type_id, value) in enumerate(
            [
                ("a", PROCESS_RSS.id, 10), ("a", PROCESS_RSS.id, 5), ("b", PROCESS_RSS.id, 7),
                ("small", PROCESS_RSS.id, 1), ("a", PROCESS_LIMIT.id, 100),
            ]
        )
    ]  # fmt: skip
    metrics = CollectorMetrics()
    gauges = MemoryGauges(lambda: readings)
    metrics.registry.register(gauges)
    gauges.refresh()

    def shown(name: str, service: str) -> float | None:
        labels = dict.fromkeys(module.WORKLOAD_LABELS, "") | {"service_name": service}
        return metrics.registry.get_sample_value(f"flamewell_memory_{name}_bytes", labels)

    assert (shown("working_set", "a"), shown("working_set", "b")) == (15, 7)
    assert shown("working_set", "small") is None
    assert shown("limit", "a") == 100
