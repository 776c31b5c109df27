"""The ceiling: what may still be used of the node's CPU, by the minute and by ten. No clock inside.

The allowance of a cycle is what is left of the budget in the last minute and in the last ten,
whichever is less: a high-water mark, not the present use.
"""

from __future__ import annotations

import math
from collections import deque
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
        """Give the share of the node's CPU that was used over the last so many seconds.

        Of the first minute's seconds those before the start count as well: nothing was used.
        """
        if len(self._marks) < 2:  # noqa: PLR2004 - two marks make a span
            return 0.0
        now, cpu = self._marks[-1]
        at, earlier = self._mark_before(now - horizon_seconds)
        return (cpu - earlier) / max(now - at, HORIZONS_SECONDS[0]) / self.cores

    def allowance(self, cycle_seconds: float, own_cpu_seconds: float) -> float:
        """Give the CPU seconds that the windows of the coming cycle may use.

        Args:
            cycle_seconds: Its length.
            own_cpu_seconds: What the agent itself will use in it.
        """
        per_second = self.ratio * self.cores
        left = BURST_CYCLES * per_second * cycle_seconds
        if self._marks:
            # The minute before the start counts as quiet: the first windows, whose price is not
            # known, then fit in, and a page that is opened after the start has something to show.
            now, cpu = self._marks[-1]
            for horizon in HORIZONS_SECONDS:
                # All of it may be used right at the start of the cycle: a span that ends there
                # holds the whole of the last minute too, not only its later part.
                earlier = self._mark_before(now - horizon)[1]
                left = min(left, per_second * horizon - (cpu - earlier))
        return max(0.0, left - own_cpu_seconds)

    def _mark_before(self, moment: float) -> tuple[float, float]:
        found = self._marks[0]
        for mark in self._marks:
            if mark[0] > moment:
                break
            found = mark
        return found


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
