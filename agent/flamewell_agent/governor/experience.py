"""What the agent has learned of its targets: costs, waits, setbacks, pauses. One object, no clock.

The daemon makes candidates with it, tells it what was decided and what came of it. It remembers no
process that has ended, and no service longer than its CPU time would be asked about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from flamewell_agent.governor.budget import FIRST_HEADROOM, adapt_headroom
from flamewell_agent.governor.costs import Cost, cost_key, learn, learn_attach, learn_memory
from flamewell_agent.governor.inputs import AS_USUAL, Candidate, Decision, GroupHistory, Ordered
from flamewell_agent.governor.reactions import (
    FIRST_PAUSE_SECONDS,
    PAUSE_SPANS_SECONDS,
    PauseHistory,
    Setback,
    learn_pause,
    reaction,
)
from flamewell_agent.model import (
    ATTACH_TOO_DEAR,
    Process,
    ProcessKey,
    SamplingOptions,
    WindowKind,
    WindowResult,
)

FIRST_CHILD_MEMORY_BYTES = 16 << 20
"""py-spy took 5 to 15 MB."""
GROUPS_AT_MOST = 5_000
FORGET_GROUP_CYCLES = 240
"""An hour of cycles: a service that ran nothing for so long is new again."""
_PAUSES_AT_MOST = 700
_Costs = dict[tuple[WindowKind, bool], Cost]
_Group = tuple[int, _Costs]
"""Cycles since its last window, and costs."""


@dataclass(slots=True)
class _Target:
    """What is remembered of a process."""

    program: tuple[str, tuple[str, ...], str]
    waited_cycles: int = 0
    costs: _Costs = field(default_factory=dict)
    setback: Setback | None = None
    pauses: deque[tuple[float, float]] = field(default_factory=deque)
    pause_sample_seconds: float = FIRST_PAUSE_SECONDS
    group: str = ""


@dataclass(slots=True)
class Experience:
    """Learned from windows. Times are monotonic seconds.

    Attributes:
        headroom: Share of an allowance that should be given out.
        child_memory_bytes: What one sampler child takes.
    """

    headroom: float = FIRST_HEADROOM
    child_memory_bytes: int = FIRST_CHILD_MEMORY_BYTES
    _targets: dict[ProcessKey, _Target] = field(default_factory=dict)
    _groups: dict[str, _Group] = field(default_factory=dict)

    def candidate(
        self,
        process: Process,
        *,
        cpu_nanos_per_second: float,
        now: float,
        group: str = "",
        options: SamplingOptions = AS_USUAL,
        ordered: Ordered | None = None,
    ) -> Candidate:
        """Make a candidate of a process, with all that is known of it.

        Args:
            process: Whom.
            cpu_nanos_per_second: What it used lately.
            now: When.
            group: Its service.
            options: What its owner asked for.
            ordered: What somebody asked for.
        """
        program = (process.executable, process.cmdline, process.runtime_version)
        target = self._targets.get(process.key)
        if target is None:
            target = self._targets[process.key] = _Target(program)
        elif target.program != program:
            # It became another program: what is known of the old one is worth nothing. How long
            # it was stopped still counts.
            target.program, target.costs, target.setback = program, {}, None
        target.group = group
        key: tuple[WindowKind, bool] = ("cpu", options.native)
        setback = target.setback
        known = self._groups.get(group) if group else None
        return Candidate(
            process,
            cpu_nanos_per_second,
            target.waited_cycles,
            target.costs.get(key),
            setback.reason if setback is not None and setback.cycles_left > 0 else "",
            group=group,
            siblings=GroupHistory(known[0], known[1].get(key)) if known else None,
            options=options,
            wall_cost=target.costs.get(("wall", False)) or _of(known, ("wall", False)),
            pause=_pauses(target, now),
            ordered=ordered,
        )

    def decided(self, candidates: Collection[Candidate], decision: Decision) -> None:
        """Count who waits, once a cycle; forget who was no candidate."""
        chosen = {each.process.key for each in decision.windows}
        targets: dict[ProcessKey, _Target] = {}
        served: set[str] = set()
        for each in candidates:
            key = each.process.key
            target = targets[key] = self._targets[key]
            if key in chosen:
                target.waited_cycles = 0
                served.add(target.group)
            else:
                target.waited_cycles += 1
            setback = target.setback
            if setback is not None and setback.cycles_left > 0:
                target.setback = replace(setback, cycles_left=setback.cycles_left - 1)
        self._targets = targets
        self._groups = {
            group: (waited + 1, costs)
            for group, (waited, costs) in self._groups.items()
            if group not in served and waited < FORGET_GROUP_CYCLES
        } | {group: (0, _of_all(self._groups.get(group))) for group in served if group}
        while len(self._groups) > GROUPS_AT_MOST:
            del self._groups[next(iter(self._groups))]

    def learn(self, results: Iterable[WindowResult], now: float) -> None:
        """Take in what windows cost and how their targets took it."""
        setbacks: dict[ProcessKey, tuple[Setback | None, Setback | None]] = {}
        for result in results:
            self.child_memory_bytes = learn_memory(self.child_memory_bytes, result)
            target = self._targets.get(result.window.process.key)
            if target is None:
                continue
            # Two windows of one target (CPU and wall clock) make one step of its setback.
            before, so_far = setbacks.get(result.window.process.key, (target.setback, None))
            target.setback = so_far or reaction(before, result)
            setbacks[result.window.process.key] = (before, target.setback)
            if result.window.native:
                target.pauses.append((now, result.pause_seconds))
                if len(target.pauses) > _PAUSES_AT_MOST:
                    target.pauses.popleft()
                target.pause_sample_seconds = learn_pause(target.pause_sample_seconds, result)
            too_dear = result.failure == ATTACH_TOO_DEAR
            if result.failure and not result.intervals and not too_dear:
                continue
            correct = learn_attach if too_dear else learn
            key = cost_key(result.window)
            target.costs[key] = correct(target.costs.get(key), result)
            known = self._groups.get(target.group)
            if known is not None:
                known[1][key] = correct(known[1].get(key), result)

    def adapt(
        self, *, reserved_cpu_seconds: float, used_cpu_seconds: float, share_cpu_seconds: float
    ) -> None:
        """Correct the headroom by a cycle.

        Args:
            reserved_cpu_seconds: Set aside for it: the decision's, and the agent's own.
            used_cpu_seconds: What it used.
            share_cpu_seconds: Its part of the budget.
        """
        self.headroom = adapt_headroom(
            self.headroom,
            reserved=reserved_cpu_seconds,
            used=used_cpu_seconds,
            share=share_cpu_seconds,
        )


def _pauses(target: _Target, now: float) -> PauseHistory:
    if not target.pauses:
        return PauseHistory(sample_seconds=target.pause_sample_seconds)
    short, long = PAUSE_SPANS_SECONDS
    while target.pauses and target.pauses[0][0] <= now - long:
        target.pauses.popleft()
    return PauseHistory(
        sum(paused for at, paused in target.pauses if at > now - short),
        sum(paused for _, paused in target.pauses),
        target.pause_sample_seconds,
    )


def _of(known: _Group | None, key: tuple[WindowKind, bool]) -> Cost | None:
    return known[1].get(key) if known else None


def _of_all(
    known: _Group | None,
) -> _Costs:
    return known[1] if known else {}
