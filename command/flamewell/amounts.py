"""Amounts in units that people use: cores, ms, MiB."""

from __future__ import annotations

from flamewell_wire.profile_types import CPU, ProfileType

_MS_PER_SECOND = 1000
_TIMES = (("d", 86_400e9), ("h", 3_600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6), ("µs", 1e3))
_SIZES = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
_COUNTS = (("G", 1e9), ("M", 1e6))


def amount(value: float, unit: str) -> str:
    """Show a value of a profile type's unit, e.g. ``12.3 ms``, ``1.50 MiB``, ``1,234``."""
    if unit == "nanoseconds":
        return _scaled(value, _TIMES, "ns")
    if unit == "bytes":
        return _scaled(value, _SIZES, "B")
    return _scaled(value, _COUNTS, "")


def cores(value: float) -> str:
    """Show CPU seconds a second."""
    return f"{_digits(value)} cores" if value else "0 cores"


def rate_unit(kind: ProfileType) -> str:
    """Name what ``rate`` shows, for a table's head."""
    if kind.kind == "gauge":
        return {"bytes": "bytes, average"}.get(kind.sample_unit, "average")
    if kind.sample_unit == "nanoseconds":
        return "cores" if kind.id == CPU.id else "seconds a second"
    return "bytes a second" if kind.sample_unit == "bytes" else "a second"


def per_second(value: float, kind: ProfileType, range_ms: int) -> float:
    """Make amounts of ranges of different length comparable: a gauge is an average already."""
    if kind.kind == "gauge":
        return value
    return value * _MS_PER_SECOND / max(1, range_ms)


def rate(value: float, kind: ProfileType) -> str:
    """Show what ``per_second`` gave, without the words that the table's head says."""
    if kind.kind == "delta" and kind.sample_unit == "nanoseconds":
        return _digits(value / 1e9)
    if kind.sample_unit == "bytes":
        return _scaled(value, _SIZES, "B")
    return _digits(value)


def percent(value: float, total: float) -> str:
    """Show a share of a total."""
    return f"{100 * value / total:.1f} %" if total else "0.0 %"


def duration(milliseconds: int) -> str:
    """Show a length of time in at most two units, e.g. ``1 h 30 min``."""
    rest, parts = milliseconds // _MS_PER_SECOND, []
    for name, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if rest >= seconds:
            parts.append(f"{rest // seconds} {name}")
            rest %= seconds
    return " ".join(parts[:2]) or f"{milliseconds} ms"


def _scaled(value: float, scales: tuple[tuple[str, float], ...], smallest: str) -> str:
    for name, scale in scales:
        if abs(value) >= scale:
            return f"{_digits(value / scale)} {name}"
    return f"{value:,.0f} {smallest}".rstrip()


def _digits(value: float) -> str:
    """Show three significant digits, as whole numbers from 100 on, and no exponent."""
    size = abs(value)
    if size == 0:
        return "0"
    for decimals, limit in ((0, 99.95), (1, 9.995), (2, 0.9995), (3, 0.0995), (4, 0.00995)):
        if size >= limit:
            return f"{value:,.{decimals}f}"
    return f"{value:.5f}"
