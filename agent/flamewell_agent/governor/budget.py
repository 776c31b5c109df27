"""The ceiling: what may still be used of the node's CPU, by the minute and by ten. No clock inside.

The allowance of a cycle is what is left of the budget in the last minute and in the last ten,
whichever is less: a high-water mark, not the present use.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

HORIZONS_SECONDS = (60.0, 600.0)
BURST_CYCLES = 3.0
"""A cycle may set aside up to this many times its share, where earlier ones took less. What is set
aside is what windows cost at most; they use about half of it."""
HEADROOM_AT_LEAST, HEADROOM_AT_MOST = 0.4, 0.97
FIRST_HEADROOM = 0.85
"""Share of an allowance that is given out as long as nothing is known of the errors."""
_RECOVERY = 0.05
STRETCH_ABOVE, RELAX_BELOW, STRETCH_AT_MOST = 0.3, 0.12, 4
"""Where the loop itself takes this share of its budget, cycles get longer (they cost the same,
whatever their length), down to this share shorter again. A span of a minute holds the cost of n + 1
cycles that take a part of a minute each, so windows may use n / (n + 1) of the budget less the
loop's share x: 0.80 - x of cycles of 15 s, 0.67 - x / 2 of 30 s, 0.50 - x / 4 of 60 s."""


@dataclass(slots=True)
class Budget:
    """The ceiling, and what was used of it. Times are monotonic seconds; safe from two threads.

    Attributes:
        ratio: Share of the node's CPU.
        cores: Of the node.
    """

    ratio: float
    cores: int
    _times: list[float] = field(default_factory=list)
    _used: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, now: float, cpu_seconds: float) -> None:
        """Note the CPU that agent and children have used so far: the more often, the better."""
        with self._lock:
            # Between the end of a child and its reaping a reading may be too low.
            used = max(cpu_seconds, self._used[-1]) if self._used else cpu_seconds
            self._times.append(now)
            self._used.append(used)
            old = bisect.bisect_right(self._times, now - HORIZONS_SECONDS[-1]) - 1
            if old > 0:
                del self._times[:old], self._used[:old]

    @property
    def last_cpu_seconds(self) -> float:
        """The CPU that was noted last."""
        return self._used[-1] if self._used else 0.0

    def used_ratio(self, horizon_seconds: float) -> float:
        """Give the share of the node's CPU that was used over the last so many seconds.

        Of the first minute's seconds those before the start count as well: nothing was used.
        """
        with self._lock:
            if len(self._times) < 2:  # noqa: PLR2004 - two marks make a span
                return 0.0
            at = self._before(self._times[-1] - horizon_seconds)
            used = self._used[-1] - self._used[at]
            span = max(self._times[-1] - self._times[at], HORIZONS_SECONDS[0])
        return used / span / self.cores

    def allowance(
        self, cycle_seconds: float, own_cpu_seconds: float, per_second: float = 0.0
    ) -> float:
        """Give the CPU seconds that the windows of the coming cycle may use.

        All of it, and what the loop itself uses, may be used right at the start of the cycle: a
        span that ends there holds all that was used in the minute before. What ends later holds
        less of that, as the marks tell, and more of what threads use evenly.

        Args:
            cycle_seconds: Its length.
            own_cpu_seconds: What the loop itself will use in it.
            per_second: CPU seconds a second that other threads of the agent will use.
        """
        share = self.ratio * self.cores
        left = BURST_CYCLES * share * cycle_seconds
        with self._lock:
            # The minute before the start counts as quiet: the first windows, whose price is not
            # known, then fit in, and a page that is opened after the start has something to show.
            for horizon in HORIZONS_SECONDS if self._times else ():
                for later, used in self._leaving(horizon, cycle_seconds):
                    even = per_second * min(later, horizon)
                    left = min(left, share * horizon - used - even)
        return max(0.0, left - own_cpu_seconds)

    def _leaving(self, horizon: float, cycle_seconds: float) -> Iterator[tuple[float, float]]:
        """Give (seconds into the cycle, what was used before it and within the horizon then)."""
        began = self._times[-1] - horizon
        at = self._before(began)
        later = 0.0
        while later < cycle_seconds and at < len(self._times):
            used = self._used[-1] - self._used[at]
            at += 1
            # Until the next mark leaves the span, all that came after this one is in it.
            leaves = self._times[at] - began if at < len(self._times) else cycle_seconds
            later = min(cycle_seconds, leaves)
            yield later, used

    def _before(self, moment: float) -> int:
        """Give the last mark that is not later, or the first there is."""
        return max(0, bisect.bisect_right(self._times, moment) - 1)


def adapt_headroom(headroom: float, *, reserved: float, used: float, share: float) -> float:
    """Correct the share of allowances that is given out by what a cycle has really used.

    Args:
        headroom: The present share.
        reserved: CPU seconds set aside for the cycle: windows at most, and the agent itself.
        used: CPU seconds that agent and children have used.
        share: CPU seconds that are a cycle's part of the budget.

    Returns:
        Less at once where more was used than set aside; more, slowly, where all was well.
    """
    if used > reserved:
        return max(HEADROOM_AT_LEAST, headroom / (1 + (used - reserved) / max(share, 1e-9)))
    return headroom + _RECOVERY * (HEADROOM_AT_MOST - headroom)


def stretch(factor: int, own_share: float) -> int:
    """Give by how much cycles are longer than configured. Pure.

    Args:
        factor: At present.
        own_share: What the agent's own work takes of the budget.
    """
    if own_share > STRETCH_ABOVE:
        return min(STRETCH_AT_MOST, factor * 2)
    return max(1, math.ceil(factor / 2)) if own_share < RELAX_BELOW else factor
