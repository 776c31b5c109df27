"""A whole agent with a real sampler, that sees only a target and what the target starts."""

from __future__ import annotations

import math
from pathlib import Path

from flamewell_agent.capture_windows import NoOrders
from flamewell_agent.daemon import Agent
from flamewell_agent.discovery import Discovery
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import Coverage, Process, Profile
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_agent.samplers.pyspy import PySpy
from flamewell_agent.sampling import Rules
from flamewell_agent.stages import Policy, Stages

PROC = Path("/proc")


class NoGo:
    def observe(self, processes: object) -> None:
        pass

    def allow(self, cpu_seconds_per_second: float) -> None:
        pass

    def cpu_seconds(self) -> float:
        return 0.0

    def stop(self) -> None:
        pass

    def drain(self) -> list[Profile]:
        return []

    def coverage(self) -> list[Coverage]:
        return []


class Outbox:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def put(self, payload: bytes) -> bool:
        self.payloads.append(payload)
        return True


class FamilyScans(Discovery):
    """Sees processes and their children only."""

    def __init__(self, *pids: int) -> None:
        super().__init__(PROC)
        self.pids = set(pids)

    def scan(self, look_cpu_seconds: float = math.inf) -> list[Process]:
        found = super().scan(look_cpu_seconds)
        return [each for each in found if {each.key.pid, each.parent_pid} & self.pids]


class Setting:
    def __init__(self, spy: PySpy, discovery: Discovery) -> None:
        self.outbox = Outbox()
        self.metrics = AgentMetrics()
        self.discovery = discovery
        stages = Stages(
            discovery=discovery,
            identity=Identity("node", PROC, {}),
            memory=MemoryReader(PROC, Path("/sys/fs/cgroup")),
            python=spy,
            go=NoGo(),
            captures=NoOrders(),
            outbox=self.outbox,
            metrics=self.metrics,
        )
        policy = Policy("a", 1, 0.5, 2, 1 << 30, Rules(97, 10_000.0, 0.1))
        self.agent = Agent(stages, policy)

    def stage_failures(self) -> float:
        """How many stages failed, of whatever name."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name.endswith("stage_failures_total")
        )
