"""Censuses as tables: what is there, and what has come between two of them. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from flamewell_agent.heap.census import Census
from flamewell_agent.heap.estimates import estimate, gained

ROWS = 30
_MIB = 1 << 20
_HOUR = 3_600.0
_SURE = 3.0
"""Growth below so many standard errors may be chance."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What one type has gained.

    Attributes:
        name: Of the type.
        count: Objects more.
        size_bytes: Of their blocks.
        error: Standard error of ``count``.
    """

    name: str
    count: int
    size_bytes: int
    error: int

    @property
    def is_sure(self) -> bool:
        """Whether it is more than chance."""
        return abs(self.count) > _SURE * self.error


def growth(before: Census, after: Census) -> list[Growth]:
    """Compare a census with the one it was made with; most bytes gained first."""
    found = estimate(gained(before.sample, after.sample)).values()
    rows = (Growth(each.name, each.count, each.size_bytes, each.count_error) for each in found)
    return sorted(rows, key=lambda each: (-each.size_bytes, each.name))


def as_dict(census: Census) -> dict[str, Any]:
    """Give a census for JSON."""
    names = (each.name for each in fields(census) if each.name not in {"types", "sample"})
    return {
        **{name: getattr(census, name) for name in names},
        "types": [asdict(each) for each in census.types],
    }


def table(census: Census, *, rows: int = ROWS) -> str:
    """Show a census."""
    lines = [_summary(census), f"{'OBJECTS':>12} {'± ':>9} {'SIZE':>12}  TYPE"]
    lines += [
        f"{each.count:>12,} {_error(each.count_error):>9} {_size(each.size_bytes):>12}  {each.name}"
        for each in census.types[:rows]
    ]
    if len(census.types) > rows:
        lines.append(f"and {len(census.types) - rows:,} more types")
    return "\n".join(lines) + "\n"


def growth_table(before: Census, after: Census, seconds: float, *, rows: int = ROWS) -> str:
    """Show what has come between two censuses, an hour."""
    hourly = _HOUR / seconds
    lines = [
        _summary(after),
        f"gained in {seconds:.0f} s, scaled to an hour; * is more than chance",
        f"{'OBJECTS/H':>13} {'± ':>10} {'SIZE/H':>13} {'OBJECTS':>12}  TYPE",
    ]
    now = {each.name: each.count for each in after.types}
    grown = [each for each in growth(before, after) if each.count > 0]
    lines += [
        f"{round(each.count * hourly):>+13,} {_error(round(each.error * hourly)):>10} "
        f"{_size(round(each.size_bytes * hourly)):>13} {now.get(each.name, 0):>12,}  "
        f"{each.name}{' *' if each.is_sure else ''}"
        for each in grown[:rows]
    ]
    if not grown:
        lines.append("nothing has grown")
    return "\n".join(lines) + "\n"


def _summary(census: Census) -> str:
    looked = "all" if census.pools_read >= census.pools else f"{census.pools_read:,} of them"
    rest = max(0, census.anonymous_bytes - census.pool_bytes)
    return (
        f"{census.pools:,} pools of small objects, {_size(census.pool_bytes)}, "
        f"{census.occupancy:.0%} in use; {looked} read; {_size(rest)} of address space is "
        "elsewhere (objects above 512 bytes, C code)"
    )


def _size(value: int) -> str:
    return f"{value / _MIB:,.1f} MiB"


def _error(value: int) -> str:
    return f"± {value:,}" if value else ""
