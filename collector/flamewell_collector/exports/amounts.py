"""Shows amounts to people, for exports that are read and not computed with."""

from __future__ import annotations

_TIMES = (("d", 86_400e9), ("h", 3_600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6), ("µs", 1e3))
_SIZES = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))


def amount_text(value: float, unit: str) -> str:
    """Show a value of a profile type's unit with three significant digits, e.g. ``12.3 ms``."""
    scales, smallest = {
        "nanoseconds": (_TIMES, " ns"),
        "bytes": (_SIZES, " B"),
    }.get(unit, ((), ""))
    for name, scale in scales:
        if abs(value) >= scale:
            return f"{_three_digits(value / scale)} {name}"
    return f"{value:,.0f}{smallest}"


def share_text(value: float, total: float) -> str:
    """Show a share of a total, e.g. ``12.3 %``."""
    return f"{100 * value / total:.1f} %" if total else "0.0 %"


def _three_digits(value: float) -> str:
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0  # noqa: PLR2004 - digits
    return f"{value:,.{decimals}f}"
