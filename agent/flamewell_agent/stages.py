"""What the loop is made of: the parts it is given, as it sees them, and how it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flamewell_agent.discovery import Discovery
from flamewell_agent.governor import Decision
from flamewell_agent.heap_captures import NoHeap, Taken
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import (
    Coverage,
    Process,
    ProcessKey,
    Profile,
    Subject,
    Wanted,
    Window,
    WindowResult,
)
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_agent.sampling import Rules


class Naming(Protocol):
    """Says who processes are."""

    def subject(self, process: Process) -> Subject:
        """Name one."""
        ...

    def meet(self, processes: Sequence[Process]) -> None:
        """Take all processes there are, before one is named: workers are named by their parents."""
        ...

    def keep_only(self, processes: Sequence[Process]) -> None:
        """Forget all others."""
        ...


class WindowRunner(Protocol):
    """Samples Python processes."""

    def run(self, windows: Sequence[Window], stop: threading.Event) -> list[WindowResult]:
        """Run all windows at once."""
        ...


class GoPuller(Protocol):
    """Pulls Go profiles in threads of its own."""

    def observe(self, processes: Sequence[Process]) -> None:
        """Take the processes of this cycle."""
        ...

    def allow(self, cpu_seconds_per_second: float) -> None:
        """Say what its threads may use."""
        ...

    def cpu_seconds(self) -> float:
        """Give what its threads have used so far."""
        ...

    def drain(self) -> list[Profile]:
        """Give what has come in."""
        ...

    def coverage(self) -> list[Coverage]:
        """Account for each Go process."""
        ...

    def stop(self) -> None:
        """End its threads; what has come in can still be drained."""
        ...


class Captures(Protocol):
    """What the collector asks for: on-demand captures, and a node's part of the samples."""

    def wanted(self, processes: Sequence[Process]) -> Mapping[ProcessKey, Wanted]:
        """Say what is wanted in this cycle."""
        ...

    def ran(self, decision: Decision, results: Sequence[WindowResult]) -> None:
        """Take what became of it."""
        ...

    def service_nodes(self) -> Mapping[str, int]:
        """Give on how many nodes services are sampled."""
        ...


class Heap(Protocol):
    """Takes censuses of heaps for orders, in a thread of its own."""

    def grant(self, allowance_seconds: float, *, at_once_seconds: float = math.inf) -> float:
        """Give CPU for one, if one waits; gives what is spoken for."""
        ...

    def cpu_seconds(self) -> float:
        """Give what they have used so far."""
        ...

    def drain(self) -> list[Taken]:
        """Give those taken since the last call."""
        ...


class Outbox(Protocol):
    """Where encoded batches wait to be shipped."""

    def put(self, payload: bytes) -> bool:
        """Store one."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """All parts of the agent, made and wired elsewhere."""

    discovery: Discovery
    identity: Naming
    memory: MemoryReader
    python: WindowRunner
    go: GoPuller
    captures: Captures
    outbox: Outbox
    metrics: AgentMetrics
    heap: Heap = field(default_factory=NoHeap)


@dataclass(frozen=True, slots=True)
class Policy:
    """How the loop runs.

    Attributes:
        agent_id: Names this run of the agent; with a batch's number it names the batch for good.
        cycle_seconds: Length of a cycle and of its windows.
        overhead_budget: Share of the node's CPU for agent and children.
        cores: Of the node.
        memory_ceiling_bytes: For agent and children.
        rules: For the sampling of Python.
    """

    agent_id: str
    cycle_seconds: int
    overhead_budget: float
    cores: int
    memory_ceiling_bytes: int
    rules: Rules
