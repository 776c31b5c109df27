"""Makes the agent's parts out of the options and joins them: the only wiring."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from flamewell_agent import __version__, otlp
from flamewell_agent.capture_windows import CaptureWindows, NoOrders, Roster
from flamewell_agent.captures import Tracers
from flamewell_agent.collector_client import make_destination
from flamewell_agent.config import AgentConfig, parse_go_endpoint
from flamewell_agent.daemon import Agent
from flamewell_agent.discovery import Discovery
from flamewell_agent.errors import ConfigError
from flamewell_agent.heap_captures import HeapCaptures
from flamewell_agent.identity.kubernetes_setup import make_directory
from flamewell_agent.identity.pods import NoPods, Pods
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.metrics import AgentMetrics, agent_cpu_seconds
from flamewell_agent.order_client import OrderClient
from flamewell_agent.orders import Orders
from flamewell_agent.reload import Reload
from flamewell_agent.samplers.go_fetch import make_tls
from flamewell_agent.samplers.gopprof import GoOptions, GoSampler
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy
from flamewell_agent.sampling import Rules
from flamewell_agent.shipper import Shipper
from flamewell_agent.spool import Spool
from flamewell_agent.stages import Captures, Policy, Stages
from flamewell_agent.status_server import StatusServer

_log = logging.getLogger(__name__)
_STOP_SECONDS = 9.0
"""From SIGTERM on: inside the 10 s that container runtimes and supervisors commonly give."""
_GO_SECONDS = 2.0
_HAND_OVER_SECONDS = 1.0
"""At a reload the new parts go on with what waits."""
_LET_GO_SECONDS = 3.0
"""A tracer that has to end takes about one."""
_ORDER_OPTIONS = (
    "collector_url",
    "token_file",
    "tls_ca_file",
    "tls_insecure",
    "tls_cert_file",
    "tls_key_file",
    "proxy_url",
    "on_demand",
    "tracing_captures",
    "cluster",
)
"""What the serving of orders is made of."""
_STALE_CYCLES, _STALE_AT_LEAST_SECONDS = 10, 120.0
_STRETCH_AT_MOST = 4

Reread = Callable[[AgentConfig], Reload]
"""Reads the options anew, given those that hold."""


def run_agent(config: AgentConfig, reread: Reread) -> None:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reads the options anew.

    Raises:
        AgentError: It cannot begin; the message says what to change.
    """
    with contextlib.ExitStack() as held, Signals() as signals:
        lasting = _make_lasting(config, held)
        held.callback(_stop_serving, lasting)
        agent: Agent | None = None
        while agent is None or not signals.stopping:
            with contextlib.ExitStack() as parts:
                stages = _make_stages(config, lasting, parts, signals)
                # Before the others: whoever is traced is let go first.
                parts.callback(lambda: _stop_serving(lasting) if signals.stopping else None)
                policy = make_policy(config, lasting.agent_id)
                if agent is None:
                    agent = Agent(
                        stages,
                        policy,
                        own_pid=os.getpid(),
                        # In this order: one that is reaped in between is told too late, not twice.
                        cpu_seconds=lambda: agent_cpu_seconds() + lasting.python.cpu_seconds(),
                    )
                    _log.info(
                        "flamewell-agent %s runs",
                        __version__,
                        extra={"collector": ",".join(config.collector_url)},
                    )
                else:
                    agent.reconfigure(stages, policy)
                config = _run_until_changed(agent, config, lasting, signals, reread)
                agent.finish(last=signals.stopping)


def _run_until_changed(
    agent: Agent, config: AgentConfig, lasting: _Lasting, signals: Signals, reread: Reread
) -> AgentConfig:
    """Run until the end, or until SIGHUP has brought options that can be used: gives those."""
    while True:
        agent.run(signals.interrupt)
        signals.interrupt.clear()
        if signals.stopping:
            _log.info("stopping: what waits is sent for up to %.0f s", signals.left(_STOP_SECONDS))
            return config
        reload = reread(config)
        lasting.metrics.add_config_reload(successful=not reload.error)
        if not reload.error:
            return reload.config


def problem_of(config: AgentConfig) -> str:
    """Tell which file that options name cannot be used, empty for none."""
    try:
        make_tls(_path(config.go_tls_ca_file))
    except OSError as error:
        return f"go_tls_ca_file cannot be used: {error}"
    return ""


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def make_policy(config: AgentConfig, agent_id: str) -> Policy:
    """Give the loop's policy."""
    return Policy(
        agent_id=agent_id,
        cycle_seconds=config.cycle_seconds,
        overhead_budget=config.overhead_budget,
        cores=os.cpu_count() or 1,
        memory_ceiling_bytes=config.memory_ceiling_bytes,
        rules=Rules(
            config.max_rate_hz, config.service_samples_per_second, config.target_pause_budget
        ),
    )


def make_agent_id(config: AgentConfig) -> str:
    """Name a run of the agent; each call names a new one."""
    try:
        boot_id = (Path(config.proc_root) / "sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"proc_root is {config.proc_root}, which is no /proc: {error}") from error
    return otlp.make_agent_id(config.node_name, boot_id)


def make_identity(config: AgentConfig, pods: Pods) -> Identity:
    """Make what names processes."""
    return Identity(
        config.node_name,
        Path(config.proc_root),
        config.extra_attributes,
        pods=pods,
        rules=config.relabel_rules,
        pod_labels=config.pod_labels,
    )


def make_go(
    config: AgentConfig, identity: Identity, metrics: AgentMetrics, *, pull: bool = True
) -> GoSampler:
    """Make what pulls from Go programs."""
    try:
        return _make_go(config, identity, metrics, pull=pull)
    except OSError as error:
        raise ConfigError(f"go_tls_ca_file cannot be used: {error}") from error


def _make_go(
    config: AgentConfig, identity: Identity, metrics: AgentMetrics, *, pull: bool
) -> GoSampler:
    return GoSampler(
        GoOptions(
            tuple(parse_go_endpoint(text) for text in config.go_endpoints),
            config.go_detect,
            config.go_cycle_seconds,
            config.go_cpu_share,
            _path(config.go_tls_ca_file),
            config.go_tls_insecure,
        ),
        subject_of=identity.subject,
        base_attributes={"host.name": config.node_name, **config.extra_attributes},
        proc_root=Path(config.proc_root),
        pull=pull,
        count=lambda result, count: metrics.add_samples("go", result, count),
    )


class Signals:
    """SIGTERM and SIGINT stop (a second one ends the program at once), SIGHUP reloads.

    Attributes:
        interrupt: Set by each of them: whoever waits should look what is wanted.
        stopping: Whether the end is wanted.
    """

    def __init__(self) -> None:
        self.interrupt = threading.Event()
        self.stopping = False
        self._stopping_since = 0.0
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._former[number] = signal.signal(number, self._stop)
        self._former[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._reload)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal.signal gave it

    def left(self, seconds: float) -> float:
        """Give what is left of so many seconds since the end was wanted; a little at least."""
        return max(0.5, self._stopping_since + seconds - time.monotonic())

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping_since = time.monotonic()
        self.stopping = True
        self.interrupt.set()
        signal.signal(number, signal.SIG_DFL)

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupt.set()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM or SIGINT sets, for commands that do one thing."""
    with Signals() as signals:
        yield signals.interrupt


@dataclass(frozen=True, slots=True)
class _Serving:
    """The serving of on-demand orders, and the options that it was made of."""

    options: tuple[object, ...]
    orders: Orders
    roster: Roster
    captures: CaptureWindows


@dataclass(slots=True)
class _Lasting:
    """What a reload leaves alone: open files and ports, what is known of the node.

    Attributes:
        status: The agent's own HTTP server, where it is wanted.
        serving: Of orders, where they are wanted; None before the first.
    """

    metrics: AgentMetrics
    agent_id: str
    spool: Spool
    python: PySpy
    tracers: Tracers
    discovery: Discovery
    memory: MemoryReader
    pods: Pods
    status: StatusServer | None
    heap: HeapCaptures
    serving: _Serving | None = None


def _make_lasting(config: AgentConfig, held: contextlib.ExitStack) -> _Lasting:
    metrics = AgentMetrics()
    py_spy = find_py_spy(config.py_spy)
    spool = Spool(
        Path(config.state_dir) / "spool",
        config.spool_max_bytes,
        encoding="gzip" if config.compression == "gzip" else "zstd",
        max_age_seconds=config.spool_max_age_seconds,
        on_drop=metrics.add_dropped,
    )
    held.callback(spool.close)
    # After the spool, whose lock keeps two agents apart: this clears its folder.
    proc_root = Path(config.proc_root)
    python = PySpy(py_spy, Path(config.state_dir) / "windows", proc_root)
    tracers = Tracers(record=Path(config.state_dir) / "traced.json")
    tracers.rescue()
    status: StatusServer | None = None
    if config.metrics_address is not None:
        stale = _stale_after_seconds(config)
        status = StatusServer(config.metrics_address, metrics, stale_after_seconds=stale)
        status.start()
        held.callback(status.stop)
    pods: Pods = NoPods()
    if config.kubernetes == "on":
        pods = directory = make_directory(config, metrics.add_kubernetes_error)
        metrics.watch_pods(count=lambda: directory.pod_count, up=lambda: directory.status.up)
        directory.start()
        held.callback(directory.stop)
    return _Lasting(
        metrics,
        make_agent_id(config),
        spool,
        python,
        tracers,
        Discovery(proc_root, excluded=lambda: (*python.children(), *tracers.children())),
        MemoryReader(proc_root, Path(config.cgroup_root)),
        pods,
        status,
        HeapCaptures(proc_root),
    )


def _stale_after_seconds(config: AgentConfig) -> float:
    longest_cycle = config.cycle_seconds * _STRETCH_AT_MOST
    return max(_STALE_AT_LEAST_SECONDS, float(_STALE_CYCLES * longest_cycle))


def _make_stages(
    config: AgentConfig, lasting: _Lasting, parts: contextlib.ExitStack, signals: Signals
) -> Stages:
    if lasting.status is not None:
        lasting.status.stale_after_seconds = _stale_after_seconds(config)
    identity = make_identity(config, lasting.pods)
    lasting.heap.redact = config.heap_redact
    shipper = Shipper(lasting.spool, make_destination(config, config.ingest_path), lasting.metrics)
    shipper.start()

    def stop_sending() -> None:
        stopping = signals.stopping
        shipper.stop(signals.left(_STOP_SECONDS) if stopping else _HAND_OVER_SECONDS)

    parts.callback(stop_sending)
    go = make_go(config, identity, lasting.metrics)
    go.start()
    parts.callback(go.stop, _GO_SECONDS)
    return Stages(
        discovery=lasting.discovery,
        identity=identity,
        memory=lasting.memory,
        python=lasting.python,
        go=go,
        captures=_on_demand(config, lasting, identity),
        outbox=lasting.spool,
        metrics=lasting.metrics,
        heap=lasting.heap,
    )


def _on_demand(config: AgentConfig, lasting: _Lasting, identity: Identity) -> Captures:
    """Serve orders; those at work go on over a reload that leaves their options alone."""
    options = tuple(getattr(config, name) for name in _ORDER_OPTIONS)
    held = lasting.serving
    if held is not None and held.options != options:
        _stop_serving(lasting)
        held = None
    if held is None and config.on_demand:
        roster = Roster(identity.subject)
        orders = Orders(
            OrderClient(make_destination(config, "")),
            roster.match,
            lasting.tracers if config.tracing_captures else None,
            lasting.heap,
            node=config.node_name,
            cluster=config.cluster,
            agent_id=lasting.agent_id,
            count=lasting.metrics.add_capture,
        )
        orders.start()
        held = lasting.serving = _Serving(options, orders, roster, CaptureWindows(orders, roster))
    if held is None:
        return NoOrders()
    held.roster.rename(identity.subject)
    return held.captures


def _stop_serving(lasting: _Lasting) -> None:
    if lasting.serving is not None:
        lasting.serving.orders.stop(_LET_GO_SECONDS)
        lasting.serving = None
