"""What the agent would decide in its first cycle, without sampling anybody: ``targets``."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from flamewell_agent.app import make_agent_id, make_go, make_identity, make_policy
from flamewell_agent.capture_windows import NoOrders
from flamewell_agent.config import AgentConfig
from flamewell_agent.daemon import Agent
from flamewell_agent.discovery import Discovery
from flamewell_agent.identity.kubernetes_setup import make_directory
from flamewell_agent.identity.pods import NoPods, Pods
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import Coverage, Frame, Process, Profile, Window, WindowResult
from flamewell_agent.samplers.gopprof import GoSampler
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_agent.stages import Stages

_PODS_SECONDS = 5.0
"""How long the names of pods are waited for."""


def preview(config: AgentConfig) -> Sequence[Coverage]:
    """Decide about every process as the agent would in its first cycle, and sample nobody."""
    metrics = AgentMetrics()
    with contextlib.ExitStack() as held:
        identity = make_identity(config, _pods(config, held))
        stages = Stages(
            discovery=_Thorough(Path(config.proc_root)),
            identity=identity,
            memory=MemoryReader(Path(config.proc_root), Path(config.cgroup_root)),
            python=_WindowsOnPaper(),
            go=_GoOnPaper(make_go(config, identity, metrics, pull=False)),
            captures=NoOrders(),
            outbox=_Nowhere(),
            metrics=metrics,
        )
        agent = Agent(stages, make_policy(config, make_agent_id(config)), own_pid=os.getpid())
        agent.run(threading.Event())
        return metrics.coverage


def _pods(config: AgentConfig, held: contextlib.ExitStack) -> Pods:
    if config.kubernetes != "on":
        return NoPods()
    directory = make_directory(config, snapshot=False)
    directory.start()
    held.callback(directory.stop)
    deadline = time.monotonic() + _PODS_SECONDS
    while not directory.status.up and time.monotonic() < deadline:
        time.sleep(0.05)
    return directory


class _Thorough(Discovery):
    """Looks closely at everybody at once, whatever it costs: nobody waits for a next scan."""

    def scan(self, look_cpu_seconds: float = math.inf) -> list[Process]:  # noqa: ARG002 - see above
        return super().scan()


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

    def allow(self, cpu_seconds_per_second: float) -> None:
        self._go.allow(cpu_seconds_per_second)

    def cpu_seconds(self) -> float:
        return self._go.cpu_seconds()

    def drain(self) -> list[Profile]:
        return []

    def coverage(self) -> list[Coverage]:
        return self._go.coverage()

    def stop(self) -> None:
        self._go.stop()


class _Nowhere:
    """Takes a batch nowhere."""

    def put(self, payload: bytes) -> bool:
        return bool(payload)
