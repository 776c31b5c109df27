"""Times as clients write them, ranges, and steps of time lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from flamewell_collector.errors import QueryError

_RELATIVE = re.compile(r"now(?:\s*([+-])\s*(\d{1,9})(ms|s|m|h|d|w))?")
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000,
                   "w": 604_800_000}  # fmt: skip
_MAX_DIGITS: Final = 19
_MAX_SECONDS: Final = 10**11
"""Larger numbers are milliseconds, from 1973 on; seconds last until the year 5138."""

MAX_POINTS: Final = 11_000
"""Most points of one time line; Prometheus has the same limit."""
_NICE_STEPS_SECONDS: Final = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800,
    3_600, 7_200, 14_400, 21_600, 43_200, 86_400,
)  # fmt: skip
_WANTED_POINTS: Final = 200


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Milliseconds since the epoch, half open [start_ms, end_ms)."""

    start_ms: int
    end_ms: int


def parse_time(text: str, *, now_ms: int) -> int:
    """Read a time: seconds, ms, µs or ns since the epoch by size, ``now``, or ``now-30m``.

    Returns:
        Milliseconds since the epoch.

    Raises:
        QueryError: It is none of these.
    """
    cleaned = text.strip()
    if cleaned.isascii() and cleaned.isdigit() and len(cleaned) <= _MAX_DIGITS:
        return scale_to_ms(int(cleaned))
    relative = _RELATIVE.fullmatch(cleaned)
    if relative is None:
        raise QueryError(
            f"{text[:60]!r} is not a time: give seconds or milliseconds since the epoch, "
            "now, or now-30m (units s, m, h, d, w)"
        )
    sign, amount, unit = relative.groups()
    if sign is None:
        return now_ms
    shift = int(amount) * _UNIT_MS[unit]
    return max(0, now_ms + shift if sign == "+" else now_ms - shift)


def scale_to_ms(number: int) -> int:
    """Turn seconds, ms, µs or ns since the epoch into ms; the size tells which it is."""
    if number < _MAX_SECONDS:
        return number * 1_000
    for factor in (1, 1_000):
        if number < _MAX_SECONDS * 1_000 * factor:
            return number // factor
    return number // 1_000_000


def make_range(start_ms: int, end_ms: int) -> TimeRange:
    """Check that a range is not empty.

    Raises:
        QueryError: Its start is not before its end.
    """
    if start_ms >= end_ms:
        raise QueryError(
            f"the range is empty: it starts at {start_ms} ms and ends at {end_ms} ms; "
            "`from` must be before `until`"
        )
    return TimeRange(start_ms, end_ms)


def choose_step_ms(span: TimeRange) -> int:
    """Give a round step for about 200 points."""
    wanted = (span.end_ms - span.start_ms) / 1_000 / _WANTED_POINTS
    fitting = (each for each in _NICE_STEPS_SECONDS if each >= wanted)
    longest = _NICE_STEPS_SECONDS[-1]
    seconds = next(fitting, longest * -(-int(wanted) // longest))
    return seconds * 1_000


def check_step(span: TimeRange, step_ms: int) -> int:
    """Check that a step gives at least one and not too many points; give it back.

    Raises:
        QueryError: It does not.
    """
    if step_ms < 1:
        raise QueryError("the step must be longer than 0 seconds")
    points = -(-(span.end_ms - span.start_ms) // step_ms)
    if points > MAX_POINTS:
        raise QueryError(
            f"a step of {step_ms / 1_000:g} s gives {points} points, at most {MAX_POINTS} are "
            "given: make the step longer or the range shorter"
        )
    return step_ms
