"""The agent's loop. Read ``run_cycle`` first: it is the drawing in ARCHITECTURE.md.

Stages know the model and never each other; only this module joins them. A stage that fails is
logged and counted here, and the cycle goes on with what the others gave.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from flamewell_agent import governor, ledger, otlp, weighting
from flamewell_agent.accounts import CpuAccounts, Untold
from flamewell_agent.cpu_clock import process_cpu_nanos, ticks_since_boot
from flamewell_agent.discovery import Discovery
from flamewell_agent.governor import Decision
from flamewell_agent.identity.host import Identity
from flamewell_agent.metrics import AgentMetrics, agent_cpu_seconds
from flamewell_agent.model import (
    Batch,
    Coverage,
    MemoryReading,
    Process,
    ProcessKey,
    Profile,
    Resource,
    Window,
    WindowResult,
)
from flamewell_agent.samplers.memory import MemoryReader, memory_profiles

log = logging.getLogger(__name__)

FIRST_CYCLE_SECONDS = 8
"""The first cycle is short, so that a page opened after the start has something to show."""
PRIMING_SECONDS = 1.0
"""Between the first two looks at the CPU clocks: without it nobody is known to be busy."""
_NANOS = 1_000_000_000
_OWN_CPU_SMOOTHING = 0.3
_FIRST_OWN_CPU_SECONDS = 0.05
T = TypeVar("T")


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

    def drain(self) -> list[Profile]:
        """Give what has come in."""
        ...

    def coverage(self) -> list[Coverage]:
        """Account for each Go process."""
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
    identity: Identity
    memory: MemoryReader
    python: WindowRunner
    go: GoPuller
    outbox: Outbox
    metrics: AgentMetrics


@dataclass(frozen=True, slots=True)
class Policy:
    """How the loop runs.

    Attributes:
        agent_id: Names this run of the agent; with a batch's number it names the batch for good.
        cycle_seconds: Length of a cycle and of its windows.
        overhead_budget: Share of the node's CPU for agent and children.
        cores: Of the node.
        max_rate_hz: Highest sampling rate of one process.
    """

    agent_id: str
    cycle_seconds: int
    overhead_budget: float
    cores: int
    max_rate_hz: int


@dataclass(slots=True)
class _Target:
    """What is remembered of a Python process from cycle to cycle."""

    waited_cycles: int = 0
    cost: governor.Cost | None = None
    evidence: weighting.Evidence | None = None
    setback: governor.Setback | None = None

    def rest(self) -> str:
        """Give why it is left alone in this cycle, empty where it is not."""
        if self.setback is None or self.setback.cycles_left == 0:
            return ""
        self.setback = replace(self.setback, cycles_left=self.setback.cycles_left - 1)
        return self.setback.reason


class Agent:
    """One node's agent."""

    def __init__(
        self,
        stages: Stages,
        policy: Policy,
        *,
        own_pid: int = 0,
        cpu_seconds: Callable[[], float] = agent_cpu_seconds,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._stages = stages
        self._policy = policy
        self._own_pid = own_pid
        self._cpu_seconds = cpu_seconds
        self._uniform = uniform
        self._accounts = CpuAccounts(since_ticks=ticks_since_boot())
        self._budget = governor.Budget(policy.overhead_budget, policy.cores)
        self._targets: dict[ProcessKey, _Target] = {}
        self._processes: Sequence[Process] = ()
        self._own_cpu_per_second = _FIRST_OWN_CPU_SECONDS / policy.cycle_seconds
        self._sequence = 0
        stages.metrics.set_budget(policy.overhead_budget)

    def run(self, stop: threading.Event) -> None:
        """Cycle until told to stop; what the last cycle has by then is spooled."""
        self._stage("discovery", self._prime)
        stop.wait(PRIMING_SECONDS)
        # What the imports cost is not known to repeat: the budget counts from here.
        self._budget.record(time.monotonic(), self._cpu_seconds())
        seconds = min(FIRST_CYCLE_SECONDS, self._policy.cycle_seconds)
        while not stop.is_set():
            self.run_cycle(seconds, stop)
            seconds = self._policy.cycle_seconds

    def run_cycle(self, seconds: int, stop: threading.Event) -> list[Coverage]:
        """Look, decide, sample, account, spool."""
        began, began_unix_nanos = time.monotonic(), time.time_ns()
        stages = self._stages
        scanned = self._stage("discovery", stages.discovery.scan)
        # A scan that fails must not look as if all processes had ended.
        processes = self._processes = self._processes if scanned is None else scanned
        self._stage("go", lambda: stages.go.observe(processes))
        profiles = self._stage("memory", lambda: self._read_memory(processes)) or []
        profiles += self._stage("accounts", lambda: self._observe(processes)) or []
        # After the accounts, which name processes that have ended: they can't be looked at again.
        self._stage("identity", lambda: stages.identity.keep_only(processes))
        decision = self._stage("governor", lambda: self._decide(processes, seconds)) or Decision()
        results = self._stage("python", lambda: stages.python.run(decision.windows, stop)) or []
        profiles += self._stage("weighting", lambda: self._weigh(results, began_unix_nanos)) or []
        stop.wait(max(0.0, began + seconds - time.monotonic()))
        profiles += self._stage("overdue", self._tell_overdue) or []
        profiles += self._stage("go", stages.go.drain) or []
        coverage = self._stage("ledger", lambda: self._cover(processes, decision, results)) or []
        self._stage("spool", lambda: self._spool(profiles))
        stages.metrics.publish(coverage)
        self._stage("learn", lambda: self._learn(results, time.monotonic() - began))
        return coverage

    def _prime(self) -> None:
        self._observe(self._stages.discovery.scan())

    def _read_memory(self, processes: Sequence[Process]) -> list[Profile]:
        now = time.time_ns()
        readings: dict[Resource, list[MemoryReading]] = {}
        for process in processes:
            reading = self._stages.memory.read(process)
            if reading is not None:
                readings.setdefault(self._stages.identity.resource(process), []).append(reading)
        return memory_profiles(readings, now)

    def _observe(self, processes: Sequence[Process]) -> list[Profile]:
        """Read the CPU clocks; gives what processes that have ended used and had not told."""
        readings = []
        for process in processes:
            if process.runtime == "cpython":
                nanos = process_cpu_nanos(process.key.pid)
                if nanos is not None:
                    readings.append((process, nanos))
        ended = self._accounts.observe(readings, time.monotonic())
        return self._unsampled(ended)

    def _decide(self, processes: Sequence[Process], seconds: int) -> Decision:
        candidates, excluded = [], []
        targets: dict[ProcessKey, _Target] = {}
        for process in processes:
            # The agent waits in C while its windows run: a window on itself would find nothing.
            own = process.key.pid == self._own_pid
            reason = "agent_itself" if own else weighting.can_be_sampled(process)
            if not reason:
                target = self._targets.get(process.key) or _Target()
                targets[process.key] = target
                candidates.append(
                    governor.Candidate(
                        process,
                        self._accounts.nanos_per_second(process.key),
                        target.waited_cycles,
                        target.cost,
                        target.rest(),
                    )
                )
            elif process.runtime == "cpython":
                excluded.append((process, process.unreadable or reason))
        decision = governor.decide(
            governor.Inputs(
                candidates,
                window_seconds=seconds,
                allowance_cpu_seconds=self._budget.allowance(
                    seconds, self._own_cpu_per_second * seconds
                ),
                max_rate_hz=self._policy.max_rate_hz,
                phase=self._uniform(),
            )
        )
        chosen = {each.process.key for each in decision.windows}
        for key, target in targets.items():
            target.waited_cycles = 0 if key in chosen else target.waited_cycles + 1
        self._targets = targets
        return Decision(decision.windows, (*decision.skipped, *excluded))

    def _weigh(self, results: Sequence[WindowResult], start_unix_nanos: int) -> list[Profile]:
        """Make profiles of windows; one that tells nothing leaves its CPU time to the next."""
        metrics = self._stages.metrics
        profiles: list[Profile] = []
        for result in results:
            process = result.window.process
            metrics.add_samples("cpython", "ok", sum(count for _, count in result.samples))
            metrics.add_samples("cpython", "error", result.errors)
            if result.failure:
                continue
            target = self._targets[process.key]
            target.evidence = weighting.add_evidence(target.evidence, result)
            if weighting.can_be_told(result, target.evidence):
                profiles += weighting.cpu_profiles(
                    result,
                    self._stages.identity.resource(process),
                    cpu_nanos=self._accounts.settle(
                        process.key, result.target_clock_nanos, time.monotonic()
                    ),
                    python_share=target.evidence.python_share,
                    start_unix_nanos=start_unix_nanos,
                )
        return profiles

    def _tell_overdue(self) -> list[Profile]:
        return self._unsampled(self._accounts.overdue(time.monotonic()))

    def _unsampled(self, untold: Iterable[Untold]) -> list[Profile]:
        now = time.time_ns()
        return [
            weighting.unsampled_profile(
                self._stages.identity.resource(each.process),
                cpu_nanos=each.cpu_nanos,
                start_unix_nanos=now - int(each.seconds * _NANOS),
                duration_nanos=int(each.seconds * _NANOS),
            )
            for each in untold
        ]

    def _cover(
        self,
        processes: Sequence[Process],
        decision: Decision,
        results: Sequence[WindowResult],
    ) -> list[Coverage]:
        return ledger.account(
            processes,
            results=results,
            skipped=decision.skipped,
            go=self._stages.go.coverage(),
            service_of=self._stages.identity.service_name,
        )

    def _spool(self, profiles: Sequence[Profile]) -> None:
        if profiles:
            self._sequence += 1
            batch = Batch(self._sequence, tuple(profiles))
            self._stages.outbox.put(otlp.encode(batch, agent_id=self._policy.agent_id))

    def _learn(self, results: Sequence[WindowResult], wall_seconds: float) -> None:
        """Note what the cycle has cost, for the next decision and for the metrics."""
        for result in results:
            target = self._targets[result.window.process.key]
            if result.failure:
                target.setback = governor.set_back(target.setback, result.failure)
            else:
                target.setback = None
                target.cost = governor.learn(target.cost, result)
        before = self._budget.last_cpu_seconds
        self._budget.record(time.monotonic(), self._cpu_seconds())
        windows_cpu = sum(each.cpu_seconds for each in results)
        own = max(0.0, self._budget.last_cpu_seconds - before - windows_cpu) / wall_seconds
        self._own_cpu_per_second += _OWN_CPU_SMOOTHING * (own - self._own_cpu_per_second)
        self._stages.metrics.set_overhead(self._budget.used_ratio(governor.HORIZONS_SECONDS[0]))

    def _stage(self, name: str, work: Callable[[], T]) -> T | None:
        """Run a stage: its failure is logged, counted, and costs only what it would have given."""
        try:
            return work()
        except Exception:
            log.exception("the stage %s failed; the cycle goes on without it", name)
            self._stages.metrics.add_stage_failure(name)
            return None
