"""How targets take it: failures and bad reactions are answered with rest, pauses counted. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flamewell_agent.model import INTERRUPTED, WindowResult

FIRST_PAUSE_SECONDS = 0.005
"""One stopped look, before it is known: py-spy took 0.7 to 18 ms to unwind what it had stopped."""
LONGEST_PAUSE_SECONDS = 0.02
"""Where one look held its target for longer, the next is taken to be no worse: three of these fit
into a minute of the default budget, so that one bad moment does not end such windows for good. Each
window ends at its limit anyway."""
PAUSE_SPANS_SECONDS = (60.0, 600.0)
REACTS_BADLY = "reacts_badly"
_REST_CYCLES_AT_MOST = 64
_ERRORS_THAT_TELL = 10
_OVERRUN = 1.1
_SMOOTHING = 0.3


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
class PauseHistory:
    """For how long a target was stopped.

    Attributes:
        minute_seconds: In the last 60 s.
        ten_minutes_seconds: In the last 600 s.
        sample_seconds: For one look.
    """

    minute_seconds: float = 0.0
    ten_minutes_seconds: float = 0.0
    sample_seconds: float = FIRST_PAUSE_SECONDS

    def left(self, budget: float) -> float:
        """Give the seconds for which it may still be stopped.

        Args:
            budget: Share of its time for which it may be stopped, over a minute and over ten.
        """
        used = (self.minute_seconds, self.ten_minutes_seconds)
        lefts = (
            budget * span - paused for span, paused in zip(PAUSE_SPANS_SECONDS, used, strict=True)
        )
        return max(0.0, min(lefts))

    def looks(self, budget: float) -> int:
        """Give how many looks fit into that."""
        return math.floor(self.left(budget) / max(self.sample_seconds, 1e-6))


def set_back(known: Setback | None, reason: str) -> Setback:
    """Leave a target alone for twice as long as after its last failure."""
    times = known.times + 1 if known else 1
    return Setback(times, min(2**times, _REST_CYCLES_AT_MOST), reason)


def reaction(known: Setback | None, result: WindowResult) -> Setback | None:
    """Give the setback after a window: none where all went well.

    Args:
        known: The one before it.
        result: Of the window.

    Returns:
        One with the window's failure; with ``reacts_badly`` where more than half of the looks
        failed (the target changes faster than it can be read), or where it was stopped for longer
        than it might be. One that the agent interrupted itself changes nothing.
    """
    if result.failure == INTERRUPTED:
        return known
    if result.failure:
        return set_back(known, result.failure)
    torn = result.errors >= _ERRORS_THAT_TELL and result.errors * 2 > result.intervals
    overran = result.pause_seconds > result.window.pause_limit_seconds * _OVERRUN
    return set_back(known, REACTS_BADLY) if torn or overran else None


def learn_pause(known_seconds: float, result: WindowResult) -> float:
    """Correct for how long one look stops a target: longer at once, shorter slowly."""
    if not result.window.native or result.pause_seconds <= 0:
        return known_seconds
    seen = min(LONGEST_PAUSE_SECONDS, result.pause_seconds / max(1, result.intervals))
    return seen if seen > known_seconds else known_seconds + _SMOOTHING * (seen - known_seconds)
