"""The only wiring: which part is given which others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from flask import Flask

from flamewell_collector.allocator import keep_freed_memory
from flamewell_collector.analysis.leaks.rule import CONFIRMED, Rule
from flamewell_collector.config import CollectorConfig
from flamewell_collector.dispatch import Dispatch
from flamewell_collector.engine.duckdb import DuckDBEngine, EngineOptions
from flamewell_collector.engine.spark import SparkEngine, SparkOptions
from flamewell_collector.ingest import Ingest
from flamewell_collector.investigation import Growing, Investigations, growing_types
from flamewell_collector.jobs import Job, Jobs, MemoryGauges
from flamewell_collector.leak_metrics import LeakGauges
from flamewell_collector.leak_readings import TYPES
from flamewell_collector.leak_state import STATE_FILE
from flamewell_collector.leaks import LeakWatch, Suspect
from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics, CounterSource, GaugeSource
from flamewell_collector.model import Selection
from flamewell_collector.query import Query
from flamewell_collector.service_nodes import ServiceNodes
from flamewell_collector.serving import ServingOptions
from flamewell_collector.store.captures import CAPTURES_FILE, CaptureStore
from flamewell_collector.store.opening import open_storage
from flamewell_collector.store.state import SharedOptions
from flamewell_collector.store.storage import Storage, StorageOptions
from flamewell_collector.web import errors, security
from flamewell_collector.web.agents import agents_blueprint
from flamewell_collector.web.api import api_blueprint
from flamewell_collector.web.captures import captures_blueprint
from flamewell_collector.web.leaks import leaks_blueprint
from flamewell_collector.web.ops import (
    ingest_gauges,
    ops_blueprint,
    store_counters,
    store_gauges,
)
from flamewell_collector.web.otlp import TENANT, otlp_blueprint
from flamewell_collector.web.pages import pages_blueprint
from flamewell_collector.web.pyroscope import pyroscope_blueprint
from flamewell_collector.web.pyroscope_connect import connect_blueprint
from flamewell_wire.profile_types import CPU

_MAINTAIN_SECONDS: Final = 5.0
_MEMORY_GAUGES_SECONDS: Final = 30.0
_CAPTURES_SECONDS: Final = 5.0
_LEAKS_SECONDS: Final = 20.0
_MINUTE_MS: Final = 60_000
_SERVICE_NODES_SECONDS: Final = 60.0
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_HEADERS_BYTES: Final = 1 << 20
_LOOKS_A_LEASE: Final = 4


@dataclass(frozen=True, slots=True)
class Orders:
    """What agents ask for.

    Attributes:
        dispatch: The captures.
        nodes: On how many nodes each service is.
    """

    dispatch: Dispatch
    nodes: ServiceNodes


@dataclass(frozen=True, slots=True)
class Watchers:
    """What is kept up to date in the background.

    Attributes:
        orders: What agents ask for.
        leaks: Which containers leak memory.
        investigations: What is asked about those.
        investigates: Whether anything is.
    """

    orders: Orders
    leaks: LeakWatch
    investigations: Investigations
    investigates: bool

    def refresh_leaks(self) -> None:
        """Take in what was read of memory, and look into what is suspected."""
        self.leaks.refresh()
        if self.investigates:
            self.investigations.look(self.leaks.found)

    def census_of(self, suspect: Suspect) -> tuple[str, tuple[Growing, ...]]:
        """Give the id of a suspect's census, empty without one, and what it has found to grow."""
        known = self.investigations
        return known.capture_of(suspect), known.growing_of(suspect)


@dataclass(frozen=True, slots=True)
class Collector:
    """The parts of a running collector.

    Attributes:
        storage: Where everything is kept.
        query: Answers questions.
        app: Answers requests.
        watchers: What is kept up to date in the background.
    """

    storage: Storage
    query: Query
    app: Flask
    watchers: Watchers

    @property
    def orders(self) -> Orders:
        """What agents ask for."""
        return self.watchers.orders

    @property
    def leaks(self) -> LeakWatch:
        """Which containers leak memory."""
        return self.watchers.leaks


@contextmanager
def running_collector(config: CollectorConfig) -> Iterator[Collector]:
    """Open the store, start the background jobs and make the app; close all in reverse order.

    Raises:
        CollectorError: The store can't be opened.
    """
    keep_freed_memory()
    metrics = CollectorMetrics()
    storage = open_storage(config.data_path, storage_options(config))
    try:
        engine = make_engine(config, storage)
        query = Query(
            storage,
            engine,
            clock=now_ms,
            observe=lambda name, seconds: metrics.query_seconds.labels(name).observe(seconds),
        )
        memory = MemoryGauges(lambda: query.memory_readings(TENANT))
        metrics.registry.register(memory)
        leaks = make_leak_watch(config, query)
        metrics.add_gauges(GaugeSource(lambda: store_gauges(storage.state)))
        metrics.registry.register(CounterSource(lambda: store_counters(storage.state)))
        maintain_seconds = min(_MAINTAIN_SECONDS, config.flush_seconds)
        captures = CaptureStore(config.data_path / CAPTURES_FILE)
        orders = _make_orders(config, captures, query, metrics)
        watchers = _make_watchers(config, orders, leaks, query)
        growing_of = watchers.investigations.growing_of
        metrics.registry.register(
            LeakGauges(lambda: leaks.found, growing_of=growing_of, url=config.url)
        )
        jobs = Jobs(
            (
                Job("flush", maintain_seconds, storage.flush_if_due),
                Job("maintain", maintain_seconds, lambda: storage.maintain(now_ms())),
                Job("memory_gauges", _MEMORY_GAUGES_SECONDS, memory.refresh),
                Job("leaks", _LEAKS_SECONDS, watchers.refresh_leaks),
                Job("captures", _CAPTURES_SECONDS, orders.dispatch.expire),
                Job("service_nodes", _SERVICE_NODES_SECONDS, orders.nodes.refresh),
                *_sharing(config, storage),
            ),
            failures=metrics.job_failures,
        )
        jobs.start()
        try:
            app = create_app(config, storage, query, metrics, watchers)
            yield Collector(storage, query, app, watchers)
        finally:
            storage.stop_upkeep()
            jobs.stop()
            leaks.save()
            captures.close()
            engine.close()
    finally:
        storage.close()


def _make_orders(
    config: CollectorConfig, captures: CaptureStore, query: Query, metrics: CollectorMetrics
) -> Orders:
    dispatch = Dispatch(
        captures,
        allow_tracing=config.allow_tracing_captures,
        clock=now_ms,
        count=lambda kind, result: metrics.captures.labels(kind, result).inc(),
    )
    nodes = ServiceNodes(lambda: query.series(_profiled_lately(query.now_ms())))
    return Orders(dispatch, nodes)


def _make_watchers(
    config: CollectorConfig, orders: Orders, leaks: LeakWatch, query: Query
) -> Watchers:
    investigations = Investigations(
        lambda who, wish: orders.dispatch.create(TENANT, who, wish),
        lambda capture_id: orders.dispatch.get(TENANT, capture_id),
        lambda suspect, since_ms: growing_types(query, TENANT, suspect, since_ms),
    )
    investigates = config.investigate_leaks and not config.read_only
    return Watchers(orders, leaks, investigations, investigates)


def create_app(
    config: CollectorConfig,
    storage: Storage,
    query: Query,
    metrics: CollectorMetrics,
    watchers: Watchers,
) -> Flask:
    """Make the Flask app with all its doors."""
    app = Flask("flamewell_collector")
    orders = watchers.orders
    limits = _limits(config)
    ingest = Ingest(storage, metrics, limits=limits, now_ms=now_ms)
    metrics.add_gauges(GaugeSource(lambda: ingest_gauges(ingest)))
    errors.register(app)
    security.register(app, hosts=config.allowed_hosts if config.is_loopback else None)
    for blueprint in (
        otlp_blueprint(ingest, metrics, limits=limits, path=config.ingest_path),
        api_blueprint(query, state=lambda: storage.state),
        leaks_blueprint(lambda: watchers.leaks.found, census_of=watchers.census_of, url=config.url),
        captures_blueprint(orders.dispatch),
        agents_blueprint(orders.dispatch, orders.nodes, poll_seconds=config.agent_poll_seconds),
        pyroscope_blueprint(query),
        connect_blueprint(query),
        ops_blueprint(metrics, state=lambda: storage.state),
        pages_blueprint(),
    ):
        app.register_blueprint(blueprint)
    return app


def storage_options(config: CollectorConfig) -> StorageOptions:
    """Give the store's share of the options."""
    return StorageOptions(
        flush_seconds=config.flush_seconds,
        flush_rows=config.flush_rows,
        max_head_rows=config.max_head_rows,
        keep_raw_ms=round(config.retention_days * _DAY_MS),
        keep_10m_ms=round(config.retention_10m_days * _DAY_MS),
        keep_1h_ms=round(config.retention_1h_days * _DAY_MS),
        keep_bytes=config.retention_bytes,
        min_free_bytes=config.min_free_bytes,
        stack_cache_bytes=config.stack_cache_bytes,
        shared=_shared_options(config) if config.store_url else None,
    )


def make_engine(config: CollectorConfig, storage: Storage) -> DuckDBEngine | SparkEngine:
    """Make the engine that the options name; whoever asks for it closes it.

    Raises:
        ConfigError: Its packages are not installed.
    """
    if config.engine == "spark":
        return SparkEngine(
            SparkOptions(
                url=config.engine_url,
                data_path=config.data_path,
                data_url=config.engine_data_url,
                timeout_seconds=config.query_timeout_seconds,
                head_bytes=config.engine_head_bytes,
            ),
            report_damage=storage.set_aside,
        )
    return DuckDBEngine(
        EngineOptions(
            memory_bytes=config.query_memory_bytes,
            threads=config.query_threads,
            timeout_seconds=config.query_timeout_seconds,
        ),
        report_damage=storage.set_aside,
    )


def make_leak_watch(
    config: CollectorConfig, query: Query, *, now: Callable[[], int] | None = None
) -> LeakWatch:
    """Make what watches memory; its state stands beside the store.

    Args:
        config: The options.
        query: Gives readings.
        now: In ms since the epoch; the query's where it is not given.
    """
    return LeakWatch(
        lambda start_ms, end_ms: query.series_bins(
            TENANT, TYPES, (start_ms, end_ms), bin_ms=_MINUTE_MS
        ),
        now_ms=now or query.now_ms,
        state_path=config.data_path / STATE_FILE,
        confirmed=leak_rule(config),
    )


def leak_rule(config: CollectorConfig) -> Rule:
    """Give the options' thresholds."""
    settled = replace(
        CONFIRMED.settled,
        order=config.leak_order,
        order_beside_cpu=config.leak_order_beside_cpu,
        rise_over_noise=config.leak_rise_over_noise,
        rise_of_limit=config.leak_rise_of_limit,
        bend=config.leak_bend,
        step=config.leak_step,
        drop=config.leak_drop,
        excess=config.leak_excess,
        windows_to_limit=config.leak_windows_to_limit,
        by_load=config.leak_by_load,
        cpu_ratio=config.leak_cpu_ratio,
        held_bins=config.leak_held_bins,
    )
    young = replace(
        settled,
        rise_of_limit=min(settled.rise_of_limit, CONFIRMED.young.rise_of_limit),
        bend=min(settled.bend, CONFIRMED.young.bend),
        life_bend=CONFIRMED.young.life_bend,
        windows_to_limit=config.leak_young_windows_to_limit,
        held_bins=config.leak_young_held_bins,
    )
    return replace(CONFIRMED, settled=settled, young=young)


def serving_options(config: CollectorConfig) -> ServingOptions:
    """Give the server's share of the options."""
    return ServingOptions(
        threads=config.http_threads,
        connections=config.max_connections,
        body_bytes=config.max_body_bytes + _HEADERS_BYTES,
    )


def now_ms() -> int:
    """Give ms since the epoch."""
    return time.time_ns() // 1_000_000


def _shared_options(config: CollectorConfig) -> SharedOptions:
    return SharedOptions(
        url=config.store_url,
        endpoint=config.store_endpoint,
        instance=config.instance_name,
        read_only=config.read_only,
        cache_bytes=config.cache_bytes,
        gather_seconds=config.store_gather_seconds,
        follow_seconds=config.store_follow_seconds,
        lease_seconds=config.store_lease_seconds,
    )


def _sharing(config: CollectorConfig, storage: Storage) -> tuple[Job, ...]:
    """Give the jobs that a shared store needs besides."""
    if not config.store_url:
        return ()
    return (
        Job("follow", config.store_follow_seconds, storage.follow),
        Job("watch_peers", config.store_lease_seconds / _LOOKS_A_LEASE, storage.watch_peers),
    )


def _profiled_lately(now: int) -> Selection:
    return Selection(TENANT, CPU.id, (), now - _HOUR_MS, now + _HOUR_MS)


def _limits(config: CollectorConfig) -> Limits:
    return Limits(
        body_bytes=config.max_body_bytes,
        profile_samples=config.max_profile_samples,
        profile_bytes=config.max_profile_bytes,
        stack_depth=config.max_stack_depth,
        symbol_bytes=config.max_symbol_bytes,
        label_names=config.max_label_names,
        label_name_bytes=config.max_label_name_bytes,
        label_value_bytes=config.max_label_value_bytes,
        series=config.max_series,
        max_age_ms=config.max_age_seconds * 1_000,
        max_spooled_age_ms=config.max_spooled_age_seconds * 1_000,
        max_ahead_ms=config.max_ahead_seconds * 1_000,
        batch_samples=config.max_batch_samples,
        memory_bytes=config.ingest_memory_bytes,
        tenant_bytes_per_second=config.tenant_bytes_per_second,
        tenant_samples_per_second=config.tenant_samples_per_second,
        burst_seconds=config.tenant_burst_seconds,
    )
