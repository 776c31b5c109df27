"""Notices a wall clock that was set, and a machine that slept.

CLOCK_MONOTONIC stands still while a machine is suspended, CLOCK_BOOTTIME does not
(clock_gettime(2)); the wall clock goes along with CLOCK_BOOTTIME except where somebody sets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STEP_AT_LEAST_SECONDS = 1.0
"""NTP slews by 500 ppm at most (adjtimex(2)): 0.15 s in a cycle of 300 s; more was a step."""
SUSPENDED_AT_LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Three clocks, read together; seconds."""

    wall: float
    monotonic: float
    boot: float


@dataclass(frozen=True, slots=True)
class Jump:
    """What happened between two looks.

    Attributes:
        wall_step_seconds: By how much the wall clock was set: negative backwards, 0.0 not at all.
        suspended_seconds: How long the machine slept, 0.0 not at all.
    """

    wall_step_seconds: float
    suspended_seconds: float

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it was, for the metric: ``forward``, ``backward``, ``suspended``."""
        kinds = []
        if self.wall_step_seconds:
            kinds.append("forward" if self.wall_step_seconds > 0 else "backward")
        if self.suspended_seconds:
            kinds.append("suspended")
        return tuple(kinds)


def compare(before: Reading, after: Reading) -> Jump | None:
    """Tell what happened between two readings, None where nothing did. Pure."""
    passed = after.boot - before.boot
    suspended = passed - (after.monotonic - before.monotonic)
    step = after.wall - before.wall - passed
    jump = Jump(
        step if abs(step) >= STEP_AT_LEAST_SECONDS else 0.0,
        suspended if suspended >= SUSPENDED_AT_LEAST_SECONDS else 0.0,
    )
    return jump if jump.kinds else None


def read_clocks() -> Reading:
    """Read the clocks; the three calls lie well below a millisecond apart."""
    return Reading(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))


class ClockWatch:
    """Compares the clocks with those of the last look.

    Args:
        read: Reads them.
    """

    def __init__(self, read: Callable[[], Reading] = read_clocks) -> None:
        self._read = read
        self._before = read()

    def look(self) -> Jump | None:
        """Tell what happened since the last look, None where nothing did."""
        before, self._before = self._before, self._read()
        return compare(before, self._before)
