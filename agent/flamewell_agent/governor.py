"""Decides whom to sample and how often, inside the budget. ``decide`` is pure.

The budget is a ceiling on measured CPU: the allowance of a cycle is what is left of the budget in
the last minute and in the last ten, whichever is less (a high-water mark, not the present use).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from flamewell_agent.model import Process, Window, WindowResult

HORIZONS_SECONDS = (60.0, 600.0)
BURST_CYCLES = 2.0
"""A cycle may take up to this many times its share, where earlier ones took less."""
IDLE_NANOS_PER_SECOND = 1_000_000
"""0.1 % of a core: below it a window would find no sample."""
RATES_HZ = (7, 11, 19, 29, 47, 97, 197, 397, 997)
"""Primes: a rate that divides a program's own period would always see the same moment."""
UNKNOWN_RATE_HZ = 19
"""The highest rate of a first window: what a sample costs on this target is not known yet."""
ATTACH_CPU_SECONDS = 0.025
"""Start of py-spy and its search for the interpreter; 13 to 30 ms were measured."""
SAMPLE_CPU_SECONDS = 0.0004
"""First guess for one sample of a GIL holder: 0.11 ms at depth 6, 1.2 ms with 16 deep threads."""
HEADROOM = 0.85
"""Predictions are right on average; this share of the allowance leaves room for those that are
not, so that the ceiling holds."""
_SMOOTHING = 0.3
_REST_CYCLES_AT_MOST = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that could be sampled.

    Attributes:
        process: Which.
        cpu_nanos_per_second: What it used lately.
        waited_cycles: Cycles since its last window (since it was first seen, where none was).
        cost: What its windows cost, None before the first.
        resting: Why its last windows failed, where it is left alone for a while; else empty.
    """

    process: Process
    cpu_nanos_per_second: float
    waited_cycles: int
    cost: Cost | None = None
    resting: str = ""


@dataclass(frozen=True, slots=True)
class Setback:
    """Windows of a target that failed one after the other.

    Attributes:
        times: How many.
        cycles_left: For how many cycles it is left alone: an attempt costs what a window does.
        reason: Of the last.
    """

    times: int
    cycles_left: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of py-spy on one target."""

    attach_seconds: float = ATTACH_CPU_SECONDS
    sample_seconds: float = SAMPLE_CPU_SECONDS

    def of(self, rate_hz: int, seconds: int) -> float:
        """Predict a window's cost in CPU seconds."""
        return self.attach_seconds + self.sample_seconds * rate_hz * seconds


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a decision depends on.

    Attributes:
        candidates: Python processes that can be sampled.
        window_seconds: Length of this cycle's windows.
        allowance_cpu_seconds: What they may cost together.
        max_rate_hz: Never more than this.
        max_windows: Never more at once.
        phase: Uniform in [0, 1): breaks ties, so that equals take turns.
    """

    candidates: Sequence[Candidate]
    window_seconds: int
    allowance_cpu_seconds: float
    max_rate_hz: int
    max_windows: int = 64
    phase: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Who gets a window, and why the others do not."""

    windows: tuple[Window, ...] = ()
    skipped: tuple[tuple[Process, str], ...] = ()

    @property
    def predicted_cpu_seconds(self) -> float:
        """What all windows should cost."""
        return sum(each.predicted_cpu_seconds for each in self.windows)


def decide(inputs: Inputs) -> Decision:
    """Choose windows: first whom, at the lowest rate, then higher rates while they fit.

    Whom: those that use most CPU and have waited longest (CPU times cycles waited). A process that
    is not chosen loses nothing but detail: its CPU time is carried to its next window.
    """
    busy: list[Candidate] = []
    skipped: list[tuple[Process, str]] = []
    for each in inputs.candidates:
        if each.resting:
            skipped.append((each.process, f"backing_off: {each.resting}"))
        elif each.cpu_nanos_per_second < IDLE_NANOS_PER_SECOND:
            skipped.append((each.process, "idle"))
        else:
            busy.append(each)
    count = len(busy)
    order = sorted(
        enumerate(busy),
        key=lambda item: (-_urgency(item[1]), (item[0] / max(count, 1) + inputs.phase) % 1.0),
    )
    budget = inputs.allowance_cpu_seconds * HEADROOM
    rates: dict[int, int] = {}
    for at, candidate in order:
        lowest = min(RATES_HZ[0], inputs.max_rate_hz)
        price = _cost(candidate).of(lowest, inputs.window_seconds)
        if len(rates) < inputs.max_windows and price <= budget:
            rates[at] = lowest
            budget -= price
        else:
            full = len(rates) >= inputs.max_windows
            skipped.append((candidate.process, "too_many_windows" if full else "over_budget"))
    _raise_rates(rates, busy, inputs, budget)
    windows = tuple(
        Window(
            busy[at].process,
            rate,
            inputs.window_seconds,
            _cost(busy[at]).of(rate, inputs.window_seconds),
        )
        for at, rate in rates.items()
    )
    return Decision(windows, tuple(skipped))


def _raise_rates(
    rates: dict[int, int], busy: Sequence[Candidate], inputs: Inputs, budget: float
) -> None:
    """Raise rates step by step, always where a sample stands for the most CPU time."""
    ladder = [rate for rate in RATES_HZ if rate <= inputs.max_rate_hz]
    open_ = set(rates)
    while open_:
        at = max(open_, key=lambda each: busy[each].cpu_nanos_per_second / rates[each])
        limit = inputs.max_rate_hz if busy[at].cost else min(UNKNOWN_RATE_HZ, inputs.max_rate_hz)
        higher = next((rate for rate in ladder if rates[at] < rate <= limit), None)
        extra = _cost(busy[at]).sample_seconds * inputs.window_seconds
        if higher is None or (higher - rates[at]) * extra > budget:
            open_.discard(at)
        else:
            budget -= (higher - rates[at]) * extra
            rates[at] = higher


def _urgency(candidate: Candidate) -> float:
    never = 4 if candidate.cost is None else 1
    return candidate.cpu_nanos_per_second * (1 + candidate.waited_cycles) * never


def _cost(candidate: Candidate) -> Cost:
    return candidate.cost or Cost()


def learn(known: Cost | None, result: WindowResult) -> Cost:
    """Correct a target's cost by what a window has cost."""
    looked = max(1, result.intervals)
    seen = max(0.0, result.cpu_seconds - ATTACH_CPU_SECONDS) / looked
    sample = (
        seen if known is None else known.sample_seconds + _SMOOTHING * (seen - known.sample_seconds)
    )
    # At once where it was dearer than thought: the ceiling comes before the mean.
    return Cost(ATTACH_CPU_SECONDS, max(sample, seen))


def set_back(known: Setback | None, reason: str) -> Setback:
    """Leave a target alone for twice as long as after its last failure."""
    times = known.times + 1 if known else 1
    return Setback(times, min(2**times, _REST_CYCLES_AT_MOST), reason)


@dataclass(slots=True)
class Budget:
    """The ceiling, and what was used of it. Times are monotonic seconds.

    Attributes:
        ratio: Share of the node's CPU.
        cores: Of the node.
    """

    ratio: float
    cores: int
    _marks: deque[tuple[float, float]] = field(default_factory=deque)

    def record(self, now: float, cpu_seconds: float) -> None:
        """Note the CPU that agent and children have used so far."""
        self._marks.append((now, cpu_seconds))
        while len(self._marks) > 1 and self._marks[1][0] <= now - HORIZONS_SECONDS[-1]:
            self._marks.popleft()

    @property
    def last_cpu_seconds(self) -> float:
        """The CPU that was noted last."""
        return self._marks[-1][1] if self._marks else 0.0

    def used_ratio(self, horizon_seconds: float) -> float:
        """Give the share of the node's CPU that was used over the last so many seconds."""
        if len(self._marks) < 2:  # noqa: PLR2004 - two marks make a span
            return 0.0
        now, cpu = self._marks[-1]
        at, earlier = self._mark_before(now - horizon_seconds)
        return (cpu - earlier) / max(now - at, 1e-9) / self.cores

    def allowance(self, cycle_seconds: float, own_cpu_seconds: float) -> float:
        """Give the CPU seconds that the windows of the coming cycle may use.

        Args:
            cycle_seconds: Its length.
            own_cpu_seconds: What the agent itself will use in it.
        """
        per_second = self.ratio * self.cores
        left = BURST_CYCLES * per_second * cycle_seconds
        if self._marks:
            now, cpu = self._marks[-1]
            for horizon in HORIZONS_SECONDS:
                _, earlier = self._mark_before(now + cycle_seconds - horizon)
                span = min(horizon, now - self._marks[0][0] + cycle_seconds)
                left = min(left, per_second * span - (cpu - earlier))
        return max(0.0, left - own_cpu_seconds)

    def _mark_before(self, moment: float) -> tuple[float, float]:
        found = self._marks[0]
        for mark in self._marks:
            if mark[0] > moment:
                break
            found = mark
        return found
