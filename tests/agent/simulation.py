"""A node in simulation: a virtual clock, targets that cost what findings measured, no I/O.

What a look costs: 0.13 ms, 0.006 ms a thread and 0.0165 ms a frame; with ``wall`` the frames of all
threads. An attach takes 13 to 30 ms where a target says nothing else. Windows are cut by a runner
that looks at them as the real one does: the nearer the limit, the sooner, 20 ms at the least, and
it may wait for a core.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from flamewell_agent.governor import Budget, Decision, Experience, Inputs, decide
from flamewell_agent.model import (
    ATTACH_TOO_DEAR,
    Frame,
    Process,
    ProcessKey,
    SamplingOptions,
    Window,
    WindowResult,
)

CORE = 1_000_000_000
NODES = Path(__file__).parent / "nodes"
CHILD_MEMORY_BYTES = 12 << 20
_BIN_SECONDS = 1.0
MARK_SECONDS = 2.0
AS_USUAL = SamplingOptions()
_STACK = (Frame("work"),)


@dataclass(slots=True)
class Target:
    """A process of the simulated node."""

    pid: int
    cores: float
    threads: int = 1
    depth: int = 20
    service: str = ""
    born: float = 0.0
    dies: float = float("inf")
    options: SamplingOptions = AS_USUAL
    dearer: float = 1.0
    torn: bool = False
    attach_seconds: float = 0.0

    @property
    def process(self) -> Process:
        return Process(ProcessKey(self.pid, 1), "cpython", "3.11", "python", ())

    def look_seconds(self, kind: str) -> float:
        frames = self.depth * (self.threads if kind == "wall" else 1)
        return (0.13 + 0.006 * self.threads + 0.0165 * frames) * 1e-3 * self.dearer


@dataclass
class SimulatedNode:
    """Plays cycles: the governor decides, windows cost what they cost, the budget is told."""

    targets: list[Target]
    ratio: float = 0.01
    cores: int = 2
    seed: int = 1
    cycle_seconds: int = 15
    own_cycle_seconds: float = 0.03
    own_process_seconds: float = 15e-6
    max_rate_hz: int = 97
    memory_left_bytes: int = 2 << 30
    events: Callable[[SimulatedNode], None] = lambda _: None
    now: float = 0.0
    used: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    results: list[tuple[float, WindowResult]] = field(default_factory=list)
    turns: dict[str, list[float]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    _bins: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.budget = Budget(self.ratio, self.cores)
        self.experience = Experience()
        self.own_per_second = self._own_cpu() / self.cycle_seconds
        self.budget.record(0.0, 0.0)

    def play(self, seconds: float) -> SimulatedNode:
        until = self.now + seconds
        while self.now < until:
            self.cycle()
        return self

    def cycle(self) -> Decision:
        self.events(self)
        alive = [each for each in self.targets if each.born <= self.now < each.dies]
        self.targets = [each for each in self.targets if self.now < each.dies]
        by_pid = {each.pid: each for each in alive}
        dice, seconds, experience = self.dice, self.cycle_seconds, self.experience
        candidates = [
            experience.candidate(
                each.process,
                cpu_nanos_per_second=each.cores * CORE * dice.uniform(0.8, 1.2),
                now=self.now,
                group=each.service,
                options=each.options,
            )
            for each in alive
        ]
        began, held = self.now, self._bins[int(self.now / _BIN_SECONDS)]
        own_expected = self.own_per_second * seconds
        decision = decide(
            Inputs(
                candidates,
                window_seconds=seconds,
                allowance_cpu_seconds=self.budget.allowance(seconds, own_expected),
                max_rate_hz=self.max_rate_hz,
                phase=dice.random(),
                headroom=experience.headroom,
                memory_left_bytes=self.memory_left_bytes,
                child_memory_bytes=experience.child_memory_bytes,
            )
        )
        experience.decided(candidates, decision)
        results = [
            self._run(by_pid[each.process.key.pid], each, self.now) for each in decision.windows
        ]
        own = self._own_cpu() * dice.uniform(0.8, 1.25) * (2 if dice.random() < 0.01 else 1)
        self._use(self.now, 0.5, own / 2)
        self.now += seconds + dice.uniform(0.02, 0.3)
        self._use(self.now - 0.1, 0.1, own / 2)
        windows_cpu = sum(each.cpu_seconds for each in results)
        self._mark(began, self.used - held)
        self.used += windows_cpu + own
        self.budget.record(self.now, self.used)
        self.own_per_second += 0.3 * (own / seconds - self.own_per_second)
        experience.learn(results, self.now)
        experience.adapt(
            reserved_cpu_seconds=decision.reserved_cpu_seconds + own_expected,
            used_cpu_seconds=windows_cpu + own,
            share_cpu_seconds=self.ratio * self.cores * seconds,
        )
        self._note(by_pid, decision, results)
        return decision

    def _mark(self, began: float, used: float) -> None:
        """Note what was used in between, as the agent does every other second."""
        first, last = int(began / _BIN_SECONDS), int(self.now / _BIN_SECONDS)
        step = int(MARK_SECONDS / _BIN_SECONDS)
        for at in range(first, last):
            used += self._bins[at]
            if (at - first) % step == step - 1:
                self.budget.record((at + 1) * _BIN_SECONDS, used)

    def worst_ratio(self, span_seconds: int) -> float:
        """Give the highest share of the budget in any span of that length, second by second."""
        last = int(self.now / _BIN_SECONDS)
        bins = [self._bins[at] for at in range(last + 1)]
        length = int(span_seconds / _BIN_SECONDS)
        total = worst = sum(bins[:length])
        for at in range(length, len(bins)):
            total += bins[at] - bins[at - length]
            worst = max(worst, total)
        return worst / (self.ratio * self.cores * span_seconds)

    def share_used(self) -> float:
        """Give how much of the budget was used over all."""
        return self.used / (self.ratio * self.cores * self.now)

    def longest_wait(self, service: str, *, after: float = 0.0) -> float:
        """Give the longest time that a service was without a window."""
        at = [after, *(each for each in self.turns.get(service, []) if each >= after), self.now]
        return max(later - earlier for earlier, later in pairwise(at))

    def worst_pause(self, pid: int, span_seconds: float) -> float:
        """Give the longest stop of a target in any span, each taken at the end of its window."""
        paused = [
            (at, each.pause_seconds)
            for at, each in self.results
            if each.window.process.key.pid == pid
        ]
        return max(
            (
                sum(more for later, more in paused if at <= later < at + span_seconds)
                for at, _ in paused
            ),
            default=0.0,
        )

    def _own_cpu(self) -> float:
        return self.own_cycle_seconds + self.own_process_seconds * len(self.targets)

    def _use(self, began: float, seconds: float, cpu_seconds: float) -> None:
        """Spread CPU use evenly over a stretch of time."""
        if cpu_seconds <= 0:
            return
        left, at = max(seconds, 1e-6), began
        rate = cpu_seconds / left
        while left > 1e-9:
            index = int(at / _BIN_SECONDS)
            part = min(left, (index + 1) * _BIN_SECONDS - at) or left
            self._bins[index] += rate * part  # type: ignore[assignment]
            at, left = at + part, left - part

    def _run(self, target: Target, window: Window, began: float) -> WindowResult:
        dice = self.dice
        attach = dice.uniform(0.013, 0.030) * (5 if window.native else 1)
        attach = target.attach_seconds or attach
        look = target.look_seconds(window.kind) * dice.lognormvariate(0.0, 0.15)
        if dice.random() < 0.02:
            look *= 3
        burn = min(1.0, window.rate_hz * look)
        ends = min(float(window.seconds), max(0.3, target.dies - began))
        pause_look = look if window.native else 0.0
        if pause_look:
            ends = min(ends, window.pause_limit_seconds / pause_look / window.rate_hz)
        ends = self._cut(window.cpu_limit_seconds, attach, burn, ends)
        cpu = min(attach, ends) + burn * max(0.0, ends - attach)
        self._use(began, min(attach, ends), min(attach, ends))
        self._use(began + attach, ends - attach, cpu - attach)
        if ends <= attach:
            return WindowResult(window, cpu_seconds=cpu, wall_seconds=ends, failure=ATTACH_TOO_DEAR)
        looks = max(1, int(ends * window.rate_hz))
        held = sum(dice.random() < min(1.0, target.cores) for _ in range(looks))
        return WindowResult(
            window,
            samples=((_STACK, held),) if held and not target.torn else (),
            intervals=looks,
            errors=held if target.torn else 0,
            cpu_seconds=cpu,
            wall_seconds=ends,
            pause_seconds=pause_look * looks,
            memory_bytes=int(CHILD_MEMORY_BYTES * dice.uniform(0.8, 1.0)),
        )

    def _cut(self, limit: float, attach: float, burn: float, ends: float) -> float:
        """Give when the runner ends a window."""
        at = 0.0
        while at < ends:
            used = min(at, attach) + burn * max(0.0, at - attach)
            if used >= limit:
                return at
            at += min(0.5, max(0.02, limit - used)) + self.dice.uniform(0.0, 0.02)
        return ends

    def _note(
        self, by_pid: dict[int, Target], decision: Decision, results: Iterable[WindowResult]
    ) -> None:
        """Check what each decision has to keep, and note it for later."""
        cpu = [each.process.key.pid for each in decision.windows if each.kind == "cpu"]
        decided = Counter([*cpu, *(each.key.pid for each, _ in decision.skipped)])
        assert decided == Counter(by_pid.keys()), "each candidate is decided once"
        wall = [each.process.key.pid for each in decision.windows if each.kind == "wall"]
        wall_decided = Counter([*wall, *(each.key.pid for each, _ in decision.wall_skipped)])
        assert wall_decided == Counter(pid for pid, each in by_pid.items() if each.options.wall)
        services = Counter(by_pid[pid].service for pid in cpu)
        assert all(count <= 3 for service, count in services.items() if service)
        assert len(decision.windows) * CHILD_MEMORY_BYTES <= self.memory_left_bytes
        self.decisions.append(decision)
        self.results += [(self.now, each) for each in results]
        self.reasons.update(reason.partition(":")[0] for _, reason in decision.skipped)
        for pid in cpu:
            self.turns.setdefault(by_pid[pid].service or str(pid), []).append(self.now)


def recorded(path: Path) -> list[Target]:
    """Read a recorded node: processes with cores, threads, depth and the number of a service."""
    content = json.loads(path.read_text(encoding="ascii"))
    return [
        Target(
            pid + 1,
            each["cores"],
            threads=each["threads"],
            depth=each["depth"],
            service=f"service-{each['service']}" if each["service"] else "",
        )
        for pid, each in enumerate(content["processes"])
    ]
