"""What changed between two profiles, by function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flamewell_collector.analysis.calltree import merge
from flamewell_collector.analysis.top import sums_by_name
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
        rows: All functions with a value in either profile.
        total: The later profile's value.
        base_total: The earlier profile's value.
    """

    rows: list[DiffRow]
    total: int
    base_total: int


def top_diff(base: StackTree, tree: StackTree) -> DiffTable:
    """Compare self and total by (function, file); values are amounts as they are, not scaled."""
    merged = merge(base, tree)
    (base_own, own), (base_total, total) = sums_by_name(merged)
    shown = np.flatnonzero((own != 0) | (total != 0) | (base_own != 0) | (base_total != 0))
    own_change, total_change = np.abs(own - base_own), np.abs(total - base_total)
    shown = shown[np.lexsort((shown, -total_change[shown], -own_change[shown]))]
    names = merged.names
    values = np.stack([own, total, base_own, base_total], axis=1)[shown].tolist()
    rows = [
        DiffRow(names.functions[at], names.files[at], names.lines[at], *row)
        for at, row in zip(shown.tolist(), values, strict=True)
    ]
    return DiffTable(rows, int(merged.total[1][0]), int(merged.total[0][0]))
