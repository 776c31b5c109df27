"""The agent's loop. Read ``run_cycle`` first: it is the drawing in ARCHITECTURE.md.

Stages know the model and never each other; only this module joins them. A stage that fails is
logged and counted here, and the cycle goes on with what the others gave.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from flamewell_agent import governor, ledger, otlp
from flamewell_agent.clock_watch import ClockWatch
from flamewell_agent.governor import Decision
from flamewell_agent.metrics import agent_cpu_seconds, own_memory_bytes
from flamewell_agent.model import (
    NOT_LOOKED_AT,
    Batch,
    Coverage,
    Frame,
    MemoryReading,
    Process,
    ProcessKey,
    Profile,
    Resource,
    Subject,
    Wanted,
    WindowResult,
)
from flamewell_agent.samplers.memory import memory_profiles
from flamewell_agent.sampling import PythonSampling, Room
from flamewell_agent.stages import Policy, Stages
from flamewell_wire.profile_types import GROWTH, LIVE_BYTES, LIVE_OBJECTS

log = logging.getLogger(__name__)

FIRST_CYCLE_SECONDS = 8
"""The first cycle is short, so that a page opened after the start has something to show."""
PRIMING_SECONDS = 1.0
"""Between the first two looks at the CPU clocks: without it nobody is known to be busy."""
LOOK_SHARE, GO_SHARE = 0.25, 0.3
"""Shares of the budget for closer looks at new processes, and of what the loop leaves of it for Go
profiles where there are any; what they do not use is left to the windows."""
HEAP_SHARE = 0.6
"""Of a minute's budget, what a census of a heap may take at once."""
MARK_SECONDS = 2.0
_OWN_CPU_SMOOTHING = 0.3
_FIRST_OWN_CPU_SECONDS = 0.05
T = TypeVar("T")


class Agent:
    """One node's agent."""

    def __init__(
        self,
        stages: Stages,
        policy: Policy,
        *,
        own_pid: int = 0,
        cpu_seconds: Callable[[], float] = agent_cpu_seconds,
        memory_bytes: Callable[[], int] = own_memory_bytes,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._stages = stages
        self._policy = policy
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._clock = ClockWatch()
        self._budget = governor.Budget(policy.overhead_budget, policy.cores)
        self._sampling = PythonSampling(
            self._subject, stages.metrics, policy.rules, own_pid=own_pid, uniform=uniform
        )
        self._processes: Sequence[Process] = ()
        self._subjects: dict[Process, Subject] = {}
        self._go_cpu_seconds = self._go_cpu_per_second = self._cpu_at_cycle = 0.0
        self._heap_cpu_seconds = 0.0
        self._own_cpu_per_second = _FIRST_OWN_CPU_SECONDS / policy.cycle_seconds
        self._stretch = 1
        self._primed = False
        self._sequence = 0
        stages.metrics.set_budget(policy.overhead_budget, policy.memory_ceiling_bytes)

    def run(self, stop: threading.Event) -> None:
        """Cycle until told to stop; what the last cycle has by then is spooled."""
        seconds = self._policy.cycle_seconds * self._stretch
        if not self._primed:
            self._primed = True
            self._stage("discovery", self._prime)
            stop.wait(PRIMING_SECONDS)
            # What the imports cost is not known to repeat: the budget counts from here.
            self._cpu_at_cycle = self._cpu_seconds()
            self._budget.record(time.monotonic(), self._cpu_at_cycle)
            seconds = min(FIRST_CYCLE_SECONDS, self._policy.cycle_seconds)
        with self._marks():
            while not stop.is_set():
                self.run_cycle(seconds, stop)
                seconds = self._policy.cycle_seconds * self._stretch

    def run_cycle(self, seconds: int, stop: threading.Event) -> list[Coverage]:
        """Look, decide, sample, account, spool."""
        began = time.monotonic()
        stages, sampling = self._stages, self._sampling
        self._stage("clock", self._watch_clock)
        everybody = self._scan(seconds)
        processes, refused = self._admit(everybody)
        self._stage("go", lambda: self._hand_to_go(processes))
        profiles = self._stage("memory", lambda: self._read_memory(processes)) or []
        left_alone = [process for process, _ in refused]
        profiles += (
            self._stage("accounts", lambda: sampling.observe(processes, began, refused=left_alone))
            or []
        )
        # After the accounts, which name processes that have ended: they can't be looked at again.
        self._stage("identity", lambda: stages.identity.keep_only(everybody))
        wanted = self._stage("captures", lambda: stages.captures.wanted(processes)) or {}
        decision = self._stage("governor", lambda: self._decide(processes, seconds, wanted))
        decision = decision or Decision()
        results = self._stage("python", lambda: stages.python.run(decision.windows, stop)) or []
        profiles += self._stage("heap", self._heap_profiles) or []
        profiles += self._stage("weighting", lambda: self._weigh(results, began)) or []
        self._stage("captures", lambda: stages.captures.ran(decision, results))
        stop.wait(max(0.0, began + seconds - time.monotonic()))
        profiles += self._stage("overdue", lambda: sampling.tell_overdue(time.monotonic())) or []
        profiles += self._stage("go", stages.go.drain) or []
        skipped = (*decision.skipped, *refused)
        walls = decision.wall_skipped
        coverage = self._stage("ledger", lambda: self._cover(everybody, skipped, walls, results))
        coverage = coverage or []
        self._stage("spool", lambda: self._spool(profiles))
        stages.metrics.publish(coverage)
        self._stage("learn", lambda: self._learn(decision, results, time.monotonic() - began))
        return coverage

    def reconfigure(self, stages: Stages, policy: Policy) -> None:
        """Go on with other parts and another policy; what was learned and not yet told is kept."""
        self._stages = stages
        self._policy = policy
        self._budget.ratio = policy.overhead_budget
        self._subjects = {}
        self._go_cpu_seconds = 0.0
        self._sampling.reconfigure(policy.rules)
        stages.metrics.set_budget(policy.overhead_budget, policy.memory_ceiling_bytes)

    def finish(self, *, last: bool) -> None:
        """Spool what is still in hand, before the parts are let go.

        Args:
            last: The agent ends: CPU time that waits for a window is told without one.
        """
        self._stage("go", self._stages.go.stop)
        profiles = self._stage("go", self._stages.go.drain) or []
        if last:
            now = time.monotonic()
            profiles += self._stage("overdue", lambda: self._sampling.tell_overdue(now, 0.0)) or []
        self._stage("spool", lambda: self._spool(profiles))

    @contextlib.contextmanager
    def _marks(self) -> Iterator[None]:
        """Note what is used all the time, from a thread: the finer, the less is set aside twice."""
        done = threading.Event()

        def mark() -> None:
            while not done.wait(MARK_SECONDS):
                self._budget.record(time.monotonic(), self._cpu_seconds())

        thread = threading.Thread(target=mark, name="budget-marks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _prime(self) -> None:
        began = time.monotonic()
        processes, refused = self._admit(self._scan(self._policy.cycle_seconds))
        self._sampling.observe(processes, began, refused=[each for each, _ in refused])

    def _watch_clock(self) -> None:
        jump = self._clock.look()
        if jump is not None:
            for kind in jump.kinds:
                self._stages.metrics.add_clock_jump(kind)
            log.warning(
                "the clock jumped: set by %.1f s, asleep for %.1f s",
                jump.wall_step_seconds,
                jump.suspended_seconds,
            )

    def _scan(self, seconds: int) -> Sequence[Process]:
        """Find all processes; a scan that fails must not look as if all had ended."""
        looks = self._policy.overhead_budget * self._policy.cores * seconds * LOOK_SHARE
        scanned = self._stage("discovery", lambda: self._stages.discovery.scan(looks))
        if scanned is not None:
            self._processes = scanned
        return self._processes

    def _admit(
        self, everybody: Sequence[Process]
    ) -> tuple[list[Process], list[tuple[Process, str]]]:
        """Tell whom nobody wants left alone from those that are, before anything else is done."""
        self._stage("identity", lambda: self._stages.identity.meet(everybody))
        admitted, refused = [], []
        # One name for a whole cycle, whatever is learned of the process meanwhile.
        self._subjects = {}
        for process in everybody:
            if process.unreadable == NOT_LOOKED_AT:
                # To name it is to look at it, which did not fit into this cycle.
                refused.append((process, NOT_LOOKED_AT))
                continue
            subject = self._stage("identity", lambda each=process: self._name(each))  # type: ignore[misc]  # mypy can't infer a lambda with a default
            reason = "identity_failed" if subject is None else subject.refused
            if reason:
                refused.append((process, reason))
            else:
                admitted.append(process)
        return admitted, refused

    def _name(self, process: Process) -> Subject:
        subject = self._subjects[process] = self._stages.identity.subject(process)
        return subject

    def _subject(self, process: Process) -> Subject:
        return self._subjects.get(process) or self._stages.identity.subject(process)

    def _hand_to_go(self, processes: Sequence[Process]) -> None:
        left = self._policy.overhead_budget * self._policy.cores - self._loop_cpu_per_second
        self._stages.go.allow(max(0.0, left) * GO_SHARE)
        self._stages.go.observe(processes)

    def _read_memory(self, processes: Sequence[Process]) -> list[Profile]:
        now = time.time_ns()
        readings: dict[Resource, list[MemoryReading]] = {}
        for process in processes:
            reading = self._stages.memory.read(process)
            if reading is not None:
                resource = self._subject(process).resource
                readings.setdefault(resource, []).append(reading)
        return memory_profiles(readings, now)

    def _heap_profiles(self) -> list[Profile]:
        """Tell censuses as profiles: of live objects, and of what has grown between two."""
        now = time.time_ns()
        profiles = []
        for taken in self._stages.heap.drain():
            resource, types = self._subject(taken.process).resource, taken.census.types
            objects = tuple(((Frame(each.name),), each.count) for each in types)
            sizes = tuple(((Frame(each.name),), each.size_bytes) for each in types)
            grown = tuple(((Frame(each.name),), each.size_bytes) for each in taken.grown)
            nanos = int(taken.seconds * 1e9)
            profiles += [
                Profile(resource, LIVE_OBJECTS.id, now, 0, 1, objects),
                Profile(resource, LIVE_BYTES.id, now, 0, 1, sizes),
                Profile(resource, GROWTH.id, now - nanos, nanos, 1, grown),
            ]
        return [each for each in profiles if each.samples]

    def _decide(
        self, processes: Sequence[Process], seconds: int, wanted: Mapping[ProcessKey, Wanted]
    ) -> Decision:
        own_memory = self._memory_bytes()
        ceiling = self._policy.memory_ceiling_bytes
        if own_memory > ceiling:
            self._sampling.shed()
        allowance = self._budget.allowance(
            seconds, self._loop_cpu_per_second * seconds, self._go_cpu_per_second
        )
        left = self._policy.overhead_budget * self._policy.cores - self._loop_cpu_per_second
        minute, _ = governor.HORIZONS_SECONDS
        allowance -= self._stages.heap.grant(allowance, at_once_seconds=HEAP_SHARE * left * minute)
        room = Room(seconds, allowance, max(0, ceiling - own_memory))
        return self._sampling.decide(
            processes,
            room,
            wanted=wanted,
            service_nodes=self._stages.captures.service_nodes(),
            now=time.monotonic(),
        )

    def _weigh(self, results: Sequence[WindowResult], began: float) -> list[Profile]:
        now = time.monotonic()
        # Reckoned from now, so that a clock that was set meanwhile makes no window of the future.
        start_unix_nanos = time.time_ns() - int((now - began) * 1e9)
        return self._sampling.weigh(results, start_unix_nanos, now)

    def _cover(
        self,
        processes: Sequence[Process],
        skipped: Sequence[tuple[Process, str]],
        wall_skipped: Sequence[tuple[Process, str]],
        results: Sequence[WindowResult],
    ) -> list[Coverage]:
        return ledger.account(
            processes,
            results=results,
            skipped=skipped,
            go=self._stages.go.coverage(),
            service_of=self._service_name,
            wall_skipped=wall_skipped,
        )

    def _service_name(self, process: Process) -> str:
        subject = self._subjects.get(process)
        return process.executable if subject is None else subject.service_name

    def _spool(self, profiles: Sequence[Profile]) -> None:
        if profiles:
            self._sequence += 1
            batch = Batch(self._sequence, tuple(profiles))
            self._stages.outbox.put(otlp.encode(batch, agent_id=self._policy.agent_id))

    def _learn(
        self, decision: Decision, results: Sequence[WindowResult], wall_seconds: float
    ) -> None:
        """Note what the cycle has cost, for the next decision and for the metrics."""
        now = time.monotonic()
        before, self._cpu_at_cycle = self._cpu_at_cycle, self._cpu_seconds()
        self._budget.record(now, self._cpu_at_cycle)
        self._sampling.learn(results, now)
        used = self._cpu_at_cycle - before
        windows_cpu = sum(each.cpu_seconds for each in results)
        self._sampling.experience.adapt(
            reserved_cpu_seconds=decision.reserved_cpu_seconds
            + self._own_cpu_per_second * wall_seconds,
            used_cpu_seconds=used,
            share_cpu_seconds=self._policy.overhead_budget * self._policy.cores * wall_seconds,
        )
        heap_before, self._heap_cpu_seconds = (
            self._heap_cpu_seconds,
            self._stages.heap.cpu_seconds(),
        )
        windows_cpu += self._heap_cpu_seconds - heap_before
        own = max(0.0, used - windows_cpu) / wall_seconds
        self._own_cpu_per_second += _OWN_CPU_SMOOTHING * (own - self._own_cpu_per_second)
        go_before, self._go_cpu_seconds = self._go_cpu_seconds, self._stages.go.cpu_seconds()
        go = max(0.0, self._go_cpu_seconds - go_before) / wall_seconds
        self._go_cpu_per_second += _OWN_CPU_SMOOTHING * (go - self._go_cpu_per_second)
        budget = self._policy.overhead_budget * self._policy.cores
        self._stretch = governor.stretch(self._stretch, self._loop_cpu_per_second / budget)
        minute, ten_minutes = governor.HORIZONS_SECONDS
        self._stages.metrics.set_overhead(
            self._budget.used_ratio(minute), self._budget.used_ratio(ten_minutes)
        )

    @property
    def _loop_cpu_per_second(self) -> float:
        """What the agent itself uses without its Go pulls, which do not depend on cycles."""
        return max(0.0, self._own_cpu_per_second - self._go_cpu_per_second)

    def _stage(self, name: str, work: Callable[[], T]) -> T | None:
        """Run a stage: its failure is logged, counted, and costs only what it would have given."""
        try:
            return work()
        except Exception:
            log.exception("the stage %s failed; the cycle goes on without it", name)
            self._stages.metrics.add_stage_failure(name)
            return None
