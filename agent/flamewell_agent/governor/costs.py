"""What windows cost: predicted before they start, learned from what they took. Pure.

Two parameters a target: the attach (start of py-spy and its search for the interpreter, paid once
a window whatever its length) and the sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from flamewell_agent.model import Window, WindowKind, WindowResult

ATTACH_AT_LEAST, ATTACH_AT_MOST = 0.004, 0.040
"""CPU seconds: 13 to 30 ms were measured. With native frames symbols are read too: no bound there
but that of the window."""
DEAR_ATTACH_AT_MOST = 1.0
"""Of one that was seen to be dearer: slow cores, large static interpreters."""
_ATTACH_STEP = 1.5
SAMPLE_AT_MOST = 1.0
"""CPU seconds: a recursion 5,000 deep took 0.08; py-spy has one busy thread, so that at 1 Hz no
sample can take more."""
LIMIT_FACTORS = (1.2, 2.0)
"""A window is ended where it costs more than its prediction times a factor, that grows with the
errors seen, and a slack more: what is not known of a target can't break the ceiling."""
LIMIT_SLACK_SECONDS, UNKNOWN_SLACK_SECONDS = 0.010, 0.020
LAG_SECONDS = 0.03
"""The runner looks every 20 ms at a window that is near its limit, and may wait for a core."""
JUMP = 50.0
"""How many times dearer a known target may become between two windows: a deep recursion begins."""
WORST_SAMPLE_SECONDS = 0.15
"""What one sample of an unknown target takes at most, for the time the runner lags."""
FIRST_ERROR = 0.35
_SMOOTHING = 0.3
_ERROR_SMOOTHING = 0.15
_ATTACH_DOUBT = 0.006
_NATIVE_ATTACH_DOUBT = 0.1
_DEAR_ATTACH_DOUBT = 0.3
"""As a share: it was not measured to its end."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of py-spy on one target, for one kind of window.

    Attributes:
        attach_seconds: Once a window.
        sample_seconds: For each look.
        error: By how much windows cost more than predicted, as a share; the worst of late.
    """

    attach_seconds: float
    sample_seconds: float
    error: float = FIRST_ERROR

    def of(self, rate_hz: int, seconds: int) -> float:
        """Predict a window's cost in CPU seconds: py-spy has one busy thread."""
        return self.attach_seconds + min(1.0, self.sample_seconds * rate_hz) * seconds


FIRST_COST = Cost(0.020, 0.00025)
"""Before anything is known; a sample of a GIL holder took 0.11 ms at depth 6, 1.2 ms with 16 deep
threads."""
FIRST_WALL_COST = Cost(0.020, 0.001)
"""All threads are unwound: 0.68 ms with one thread at depth 20, 17 ms with 16 at depth 60."""
FIRST_NATIVE_COST = Cost(0.100, 0.002)
"""Native symbols are read at the start."""


def first_cost(kind: WindowKind, *, native: bool) -> Cost:
    """Give the guess for a kind of window on a target that is not known."""
    if native:
        return FIRST_NATIVE_COST
    return FIRST_WALL_COST if kind == "wall" else FIRST_COST


class Price(NamedTuple):
    """What a window costs. CPU seconds.

    Attributes:
        predicted: Most likely.
        limit: It is ended where it uses more.
        reserved: What it may have used when it has been ended: this is set aside for it.
    """

    predicted: float
    limit: float
    reserved: float


def price(cost: Cost | None, guess: Cost, rate_hz: int, seconds: int) -> Price:
    """Price a window.

    Args:
        cost: What is known, None where nothing is.
        guess: To use then.
        rate_hz: Looks a second.
        seconds: Its length.
    """
    used = cost or guess
    predicted = used.of(rate_hz, seconds)
    low, high = LIMIT_FACTORS
    factor = min(high, max(low, 1 + 2 * used.error))
    slack = LIMIT_SLACK_SECONDS if cost else UNKNOWN_SLACK_SECONDS
    limit = predicted * factor + slack
    worst = JUMP * used.sample_seconds if cost else WORST_SAMPLE_SECONDS
    reserved = limit + LAG_SECONDS * min(1.0, rate_hz * worst)
    return Price(predicted, limit, reserved)


def learn(known: Cost | None, result: WindowResult) -> Cost:
    """Correct a target's cost by what a window has cost.

    The difference is shared between attach and sample as each may be wrong: a window with few
    looks tells of the attach, one with many of the sample. A window that was dearer than thought
    is believed at once, a cheaper one slowly: the ceiling comes before the mean.
    """
    window = result.window
    before = known or first_cost(window.kind, native=window.native)
    looks = max(1, result.intervals)
    predicted = before.attach_seconds + before.sample_seconds * looks
    missed = result.cpu_seconds - predicted
    attach_doubt = _NATIVE_ATTACH_DOUBT if window.native else _ATTACH_DOUBT
    if before.attach_seconds > ATTACH_AT_MOST:
        attach_doubt = max(attach_doubt, before.attach_seconds * _DEAR_ATTACH_DOUBT)
    sample_doubt = looks * before.sample_seconds * 0.5
    part = attach_doubt**2 / (attach_doubt**2 + sample_doubt**2)
    step = 1.0 if missed > 0 or known is None else _SMOOTHING
    attach_at_most = DEAR_ATTACH_AT_MOST if window.native else ATTACH_AT_MOST
    # Deep stacks must not pass for an attach; only what was seen to be dear may stay so.
    attach_at_most = max(attach_at_most, before.attach_seconds)
    attach = _between(ATTACH_AT_LEAST, before.attach_seconds + part * step * missed, attach_at_most)
    # What the attach can't explain is the samples'.
    wanted = predicted + step * missed
    sample = _between(1e-6, (wanted - attach) / looks, SAMPLE_AT_MOST)
    seen = max(0.0, missed) / max(predicted, 1e-9)
    error = before.error + _ERROR_SMOOTHING * (seen - before.error)
    if known is not None:
        # A jump is no error that will come again: the next prediction knows it.
        error = max(error, min(seen, 0.5))
    return Cost(attach, sample, error)


def learn_attach(known: Cost | None, result: WindowResult) -> Cost:
    """Learn from a window whose CPU limit was over before it read a stack.

    Its attach takes more than it has used: the next one is given half as much again.
    """
    before = known or first_cost(result.window.kind, native=result.window.native)
    attach = max(before.attach_seconds, _ATTACH_STEP * result.cpu_seconds)
    return replace(before, attach_seconds=min(attach, DEAR_ATTACH_AT_MOST))


def learn_memory(known_bytes: int, result: WindowResult) -> int:
    """Correct what one sampler child takes of memory: more at once, less slowly."""
    seen = result.memory_bytes
    if seen <= 0:
        return known_bytes
    return seen if seen > known_bytes else int(known_bytes + _SMOOTHING * (seen - known_bytes))


def cost_key(window: Window) -> tuple[WindowKind, bool]:
    """Give what a cost belongs to beside its target: each kind of window has its own."""
    return window.kind, window.native


def _between(low: float, value: float, high: float) -> float:
    return min(high, max(low, value))
