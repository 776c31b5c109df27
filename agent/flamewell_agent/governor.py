"""Decides whom to sample and how often, inside the budget. ``decide`` is pure.

The budget is a ceiling on measured CPU: the allowance of a cycle is what is left of the budget in
the last minute and in the last ten, whichever is less (a high-water mark, not the present use).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from flamewell_agent.model import Process, Window, WindowResult

HORIZONS_SECONDS = (60.0, 600.0)
BURST_CYCLES = 2.0
"""A cycle may take up to this many times its share, where earlier ones took less."""
IDLE_NANOS_PER_SECOND = 1_000_000
"""0.1 % of a core: below it a window would find no sample."""
RATES_HZ = (7, 11, 13, 19, 23, 29, 37, 47, 61, 79, 97, 131, 197, 283, 397, 599, 997)
"""Primes: a rate that divides a program's own period would always see the same moment."""
UNKNOWN_RATE_HZ = 19
"""The highest rate of a first window: what a sample costs on this target is not known yet."""
ATTACH_CPU_SECONDS = 0.010
"""Start of py-spy and its search for the interpreter: 5 to 30 ms were measured. The low end, since
what it takes beyond is learned as cost of samples, and too dear a guess of those errs on the safe
side when a rate is raised."""
SAMPLE_CPU_SECONDS = 0.00025
"""First guess for one sample of a GIL holder: 0.11 ms at depth 6, 1.2 ms with 16 deep threads."""
HEADROOM = 0.8
"""Predictions are right on average; this share of the allowance leaves room for those that are
not, so that the ceiling holds."""
BREADTH, BREADTH_AT_MOST = 0.5, 0.75
"""Share of the allowance that goes to many targets first, and where that is not enough for all to
have their turn; the rest goes to samples."""
TURN_SECONDS = 60.0
"""How long CPU time is carried (accounts.CARRY_SECONDS): within it everybody should have a turn."""
FORGET_CYCLES = 20
"""A cost that kept a target out for so many cycles is forgotten: the target may have changed."""
LIMIT_FACTOR, LIMIT_SLACK_SECONDS = 1.5, 0.025
"""A window that costs more than its prediction times this, and this more, is ended: what is not
known of a target can't break the ceiling."""
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
    """Choose windows: first whom, at the lowest rate, then higher rates, then more targets.

    Whom: those that use much CPU and have waited long (root of the CPU times cycles waited; the
    root, since errors shrink with the root of the number of samples). A process that is not chosen
    loses nothing but detail: its CPU time is carried to its next window.
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
    lowest = min(RATES_HZ[0], inputs.max_rate_hz)
    prices = {at: _price(each, lowest, inputs.window_seconds) for at, each in order}
    turns = math.ceil(count * inputs.window_seconds / TURN_SECONDS)
    rates: dict[int, int] = {}
    spent = 0.0
    for at, price in prices.items():
        share = BREADTH_AT_MOST if rates and len(rates) < turns else BREADTH if rates else 1.0
        if spent + price <= budget * share and len(rates) < inputs.max_windows:
            rates[at] = lowest
            spent += price
    spent += _raise_rates(rates, busy, inputs, budget - spent)
    for at, price in prices.items():
        if at in rates:
            continue
        if len(rates) >= inputs.max_windows:
            skipped.append((busy[at].process, "too_many_windows"))
        elif spent + price > budget:
            skipped.append((busy[at].process, "over_budget"))
        else:
            rates[at] = lowest
            spent += price
    windows = tuple(_window(busy[at], rate, inputs.window_seconds) for at, rate in rates.items())
    return Decision(windows, tuple(skipped))


def _window(candidate: Candidate, rate_hz: int, seconds: int) -> Window:
    predicted = _cost(candidate).of(rate_hz, seconds)
    return Window(candidate.process, rate_hz, seconds, predicted, _limit(predicted))


def _limit(predicted_cpu_seconds: float) -> float:
    return predicted_cpu_seconds * LIMIT_FACTOR + LIMIT_SLACK_SECONDS


def _price(candidate: Candidate, rate_hz: int, seconds: int) -> float:
    """Give what to set aside for a window: all it may cost where its cost is only a guess."""
    predicted = _cost(candidate).of(rate_hz, seconds)
    return predicted if _known_cost(candidate) else _limit(predicted)


def _raise_rates(
    rates: dict[int, int], busy: Sequence[Candidate], inputs: Inputs, budget: float
) -> float:
    """Raise rates step by step, always where a sample stands for the most CPU time.

    Returns:
        What that costs, in CPU seconds; the budget at most.
    """
    ladder = [rate for rate in RATES_HZ if rate <= inputs.max_rate_hz]
    spent = 0.0
    # A heap: with hundreds of targets a search for the best at each step would itself cost.
    waiting = [(-busy[at].cpu_nanos_per_second / rate, at) for at, rate in rates.items()]
    heapq.heapify(waiting)
    while waiting:
        _, at = heapq.heappop(waiting)
        limit = inputs.max_rate_hz if _known_cost(busy[at]) else UNKNOWN_RATE_HZ
        higher = next((rate for rate in ladder if rates[at] < rate <= limit), None)
        if higher is None:
            continue
        extra = _price(busy[at], higher, inputs.window_seconds) - _price(
            busy[at], rates[at], inputs.window_seconds
        )
        if spent + extra <= budget:
            spent += extra
            rates[at] = higher
            heapq.heappush(waiting, (-busy[at].cpu_nanos_per_second / higher, at))
    return spent


def _urgency(candidate: Candidate) -> float:
    never = 4 if candidate.cost is None else 1
    return math.sqrt(candidate.cpu_nanos_per_second) * (1 + candidate.waited_cycles) * never


def _cost(candidate: Candidate) -> Cost:
    return _known_cost(candidate) or Cost()


def _known_cost(candidate: Candidate) -> Cost | None:
    return candidate.cost if candidate.waited_cycles < FORGET_CYCLES else None


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
