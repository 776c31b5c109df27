"""What changed between two profiles, by function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamewell_collector.analysis.top import FunctionSums, first_rows
from flamewell_collector.model import StackTree


@dataclass(frozen=True, slots=True)
class DiffRow:
    """A function in both profiles; 0 where it is not in one.

    Attributes:
        function: Its name.
        file: Its file, or empty.
        line: Its first line seen, 1-based; 0 where not known.
        self: Own value in the later profile.
        total: With all that it calls, in the later profile.
        base_self: Own value in the earlier profile.
        base_total: With all that it calls, in the earlier profile.
    """

    function: str
    file: str
    line: int
    self: int
    total: int
    base_self: int
    base_total: int


@dataclass(frozen=True, slots=True)
class DiffTable:
    """Functions, largest change of the self value first, up or down, then of the total.

    Attributes:
        rows: The first of the functions with a value in either profile.
        functions: How many these are.
        total: The later profile's value.
        base_total: The earlier profile's value.
    """

    rows: list[DiffRow]
    functions: int
    total: int
    base_total: int


def top_diff(
    base: Sequence[StackTree], trees: Sequence[StackTree], *, limit: int | None = None
) -> DiffTable:
    """Compare self and total by (function, file); values are amounts as they are, not scaled.

    Args:
        base: The earlier profile of each service; or one of all.
        trees: The later ones.
        limit: Rows at most; None for all.
    """
    sides = (FunctionSums(trees), FunctionSums(base))
    keys = np.union1d(sides[0].keys, sides[1].keys)
    values = np.zeros((len(keys), 4), np.int64)
    for side, sums in enumerate(sides):
        place = np.searchsorted(keys, sums.keys)
        values[place, 2 * side], values[place, 2 * side + 1] = sums.own, sums.total
    shown = np.flatnonzero(values.any(axis=1))
    change = np.abs(values[shown, :2] - values[shown, 2:])
    rows = [
        DiffRow(*_name(sides, keys[at]), *values[at].tolist())
        for at in first_rows(change[:, 0], change[:, 1], shown, limit).tolist()
    ]
    rows.sort(
        key=lambda row: (
            -abs(row.self - row.base_self),
            -abs(row.total - row.base_total),
            row.function,
            row.file,
        )
    )
    return DiffTable(rows[:limit], len(shown), sides[0].whole, sides[1].whole)


def _name(sides: Sequence[FunctionSums], key: Any) -> tuple[str, str, int]:
    """Give function, file and line, as they are where the function is: the later one first."""
    for sums in sides:
        at = int(np.searchsorted(sums.keys, key))
        if at < len(sums.keys) and sums.keys[at] == key:
            return sums.name(at)
    raise KeyError(key)
