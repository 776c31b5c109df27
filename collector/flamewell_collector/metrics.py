"""The collector's own metrics, in a registry of their own (tests run several collectors)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PREFIX = "flamewell_collector_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CollectorMetrics:
    """All counters and histograms; gauges of the store are read when scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.received_requests = self._counter(
            "ingest_requests", "Ingest requests by status code", ("status",)
        )
        self.received_bytes = self._counter(
            "ingest_bytes", "Bytes taken in, decompressed", ("tenant",)
        )
        self.stored_profiles = self._counter("ingest_profiles", "Profiles stored", ("tenant",))
        self.stored_samples = self._counter("ingest_samples", "Samples stored", ("tenant",))
        self.duplicate_resources = self._counter(
            "ingest_duplicates", "Resources that came again and were not stored twice", ("tenant",)
        )
        self.truncated = self._counter(
            "ingest_truncated", "Stacks and names that were cut", ("tenant", "what")
        )
        self.discarded_profiles = self._counter(
            "discarded_profiles", "Profiles that were not stored", ("reason", "tenant")
        )
        self.discarded_samples = self._counter(
            "discarded_samples", "Samples that were not stored", ("reason", "tenant")
        )
        self.discarded_bytes = self._counter(
            "discarded_bytes",
            "Bytes of profiles that were not stored, and of requests refused whole",
            ("reason", "tenant"),
        )
        self.ingest_seconds = self._histogram(
            "ingest_duration_seconds", "Time of an ingest request"
        )
        self.query_seconds = self._histogram(
            "query_duration_seconds", "Time of a query", ("endpoint",)
        )
        self.captures = self._counter(
            "captures", "On-demand captures that came to their end, by state", ("kind", "result")
        )
        self.job_failures = self._counter("job_failures", "Background jobs that failed", ("job",))

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, registry=self.registry, buckets=_SECONDS)

    def add_gauges(self, source: GaugeSource) -> None:
        """Register gauges that are read at each scrape."""
        self.registry.register(source)


class GaugeSource(Collector):
    """Gauges whose values a callable gives at each scrape."""

    def __init__(self, read: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        """Take ``read``: name → (help, value)."""
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Give one metric a gauge."""
        for name, (text, value) in self._read().items():
            yield GaugeMetricFamily(_PREFIX + name, text, value=value)

    def describe(self) -> Iterable[Metric]:
        """Give nothing: registering must not read the store."""
        return ()


Counts = Mapping[str, tuple[str, str, Mapping[str, int]]]
"""Name → (help, name of the label, its value → count)."""


class CounterSource(Collector):
    """Counters with one label, whose values a callable gives at each scrape."""

    def __init__(self, read: Callable[[], Counts]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Give one metric a counter."""
        for name, (text, label, counts) in self._read().items():
            metric = CounterMetricFamily(_PREFIX + name, text, labels=(label,))
            for value, count in counts.items():
                metric.add_metric((value,), count)
            yield metric

    def describe(self) -> Iterable[Metric]:
        """Give nothing: registering must not read the store."""
        return ()
