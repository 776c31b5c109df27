"""Makes the agent's parts out of the options and joins them: the only wiring."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from flamewell_agent import __version__, otlp
from flamewell_agent.config import AgentConfig, parse_go_endpoint
from flamewell_agent.daemon import Agent, Policy, Stages
from flamewell_agent.discovery import Discovery
from flamewell_agent.identity.host import Identity
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import Coverage, Frame, Process, Profile, Window, WindowResult
from flamewell_agent.samplers.gopprof import GoSampler
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy
from flamewell_agent.shipper import Destination, Shipper
from flamewell_agent.spool import Spool
from flamewell_agent.status_server import StatusServer

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 8.0
"""Inside the 10 s that container runtimes and supervisors commonly give after SIGTERM."""
_STALE_CYCLES, _STALE_AT_LEAST_SECONDS = 10, 120.0


def run_agent(config: AgentConfig) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        AgentError: It cannot begin; the message says what to change.
    """
    metrics = AgentMetrics()
    py_spy = find_py_spy(config.py_spy)
    with contextlib.ExitStack() as parts:
        spool = Spool(
            Path(config.state_dir) / "spool",
            config.spool_max_bytes,
            encoding="gzip" if config.compression == "gzip" else "zstd",
            on_drop=metrics.add_dropped,
        )
        parts.callback(spool.close)
        # After the spool, whose lock keeps two agents apart: this clears its folder.
        python = PySpy(py_spy, Path(config.state_dir) / "windows")
        identity = _make_identity(config)
        go = _make_go(config, identity, metrics)
        stages = Stages(
            discovery=Discovery(Path(config.proc_root), excluded=lambda: tuple(python.children())),
            identity=identity,
            memory=MemoryReader(Path(config.proc_root), Path(config.cgroup_root)),
            python=python,
            go=go,
            outbox=spool,
            metrics=metrics,
        )
        agent = Agent(stages, make_policy(config), own_pid=os.getpid())
        if config.metrics_address is not None:
            stale = max(_STALE_AT_LEAST_SECONDS, float(_STALE_CYCLES * config.cycle_seconds))
            server = StatusServer(config.metrics_address, metrics, stale_after_seconds=stale)
            server.start()
            parts.callback(server.stop)
        shipper = Shipper(spool, _make_destination(config), metrics)
        shipper.start()
        parts.callback(shipper.stop, _FLUSH_SECONDS)
        go.start()
        parts.callback(go.stop)
        with stop_on_signals() as stop:
            _log.info(
                "flamewell-agent %s runs",
                __version__,
                extra={"node": config.node_name, "collector": ",".join(config.collector_url)},
            )
            agent.run(stop)
        _log.info("stopping: what waits is sent for up to %.0f s", _FLUSH_SECONDS)


def preview(config: AgentConfig) -> Sequence[Coverage]:
    """Decide about every process as the agent would in its first cycle, and sample nobody."""
    metrics = AgentMetrics()
    identity = _make_identity(config)
    stop = threading.Event()
    stages = Stages(
        discovery=Discovery(Path(config.proc_root)),
        identity=identity,
        memory=MemoryReader(Path(config.proc_root), Path(config.cgroup_root)),
        python=_WindowsOnPaper(),
        go=_GoOnPaper(_make_go(config, identity, metrics, pull=False)),
        outbox=_Nowhere(),
        metrics=metrics,
    )
    Agent(stages, make_policy(config)).run(stop)
    return metrics.coverage


def make_policy(config: AgentConfig) -> Policy:
    """Give the loop's policy; each call names a new run of the agent."""
    boot_id = (Path(config.proc_root) / "sys/kernel/random/boot_id").read_text(encoding="ascii")
    return Policy(
        agent_id=otlp.make_agent_id(config.node_name, boot_id),
        cycle_seconds=config.cycle_seconds,
        overhead_budget=config.overhead_budget,
        cores=os.cpu_count() or 1,
        max_rate_hz=config.max_rate_hz,
    )


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that the first SIGTERM or SIGINT sets; a second one ends the program."""
    stop = threading.Event()
    former = {}

    def request_stop(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        former[number] = signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _make_identity(config: AgentConfig) -> Identity:
    return Identity(config.node_name, Path(config.proc_root), config.extra_attributes)


def _make_go(
    config: AgentConfig, identity: Identity, metrics: AgentMetrics, *, pull: bool = True
) -> GoSampler:
    return GoSampler(
        endpoints=[parse_go_endpoint(text) for text in config.go_endpoints],
        detect=config.go_detect,
        cycle_seconds=config.go_cycle_seconds,
        resource_of=identity.resource,
        base_attributes={"host.name": config.node_name, **config.extra_attributes},
        proc_root=Path(config.proc_root),
        pull=pull,
        count=lambda result, count: metrics.add_samples("go", result, count),
    )


def _make_destination(config: AgentConfig) -> Destination:
    return Destination(
        urls=tuple(url.rstrip("/") + config.ingest_path for url in config.collector_url),
        token_file=Path(config.token_file) if config.token_file else None,
        ca_file=Path(config.tls_ca_file) if config.tls_ca_file else None,
        verify=not config.tls_insecure,
    )


class _WindowsOnPaper:
    """Pretends that every window brought a sample, so that the ledger shows its rate."""

    def run(self, windows: Sequence[Window], stop: threading.Event) -> list[WindowResult]:
        stop.set()
        sample = ((Frame("on paper"),), 1)
        return [WindowResult(each, samples=(sample,), intervals=1) for each in windows]


class _GoOnPaper:
    """Finds Go endpoints and pulls from none."""

    def __init__(self, go: GoSampler) -> None:
        self._go = go

    def observe(self, processes: Sequence[Process]) -> None:
        self._go.look(processes)

    def drain(self) -> list[Profile]:
        return []

    def coverage(self) -> list[Coverage]:
        return self._go.coverage()


class _Nowhere:
    """Takes a batch nowhere."""

    def put(self, payload: bytes) -> bool:
        return bool(payload)
