"""The functions of a profile by self and total, exact whatever the size of the flame graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flamewell_collector.analysis.calltree import CallTree, Int64s, merge, shape_of
from flamewell_collector.analysis.joining import name_hashes
from flamewell_collector.model import StackTree


@dataclass(frozen=True, slots=True)
class TopRow:
    """A function's share.

    Attributes:
        function: Its name.
        file: Its file, or empty.
        line: Its first line seen, 1-based; 0 where not known.
        self: Value in the function itself.
        total: Value in it and all that it calls; a recursive function counts once a stack.
    """

    function: str
    file: str
    line: int
    self: int
    total: int


@dataclass(frozen=True, slots=True)
class TopTable:
    """Functions, largest self first, then largest total.

    Attributes:
        rows: The first of them.
        functions: How many functions have a value.
        total: The whole profile's value; the self values of all functions add up to it, but for
            what has no stack at all.
    """

    rows: list[TopRow]
    functions: int
    total: int


class FunctionSums:
    """Own values and totals of functions over several services.

    Attributes:
        keys: Hashes of function and file, ascending, shape (n,).
        own: int64, shape (n,).
        total: With all that they call; a recursive function counts once a stack. Shape (n,).
        whole: The value of all profiles.
    """

    def __init__(self, trees: Sequence[StackTree]) -> None:
        self._shapes = [shape_of((each,)) for each in trees]
        owns, totals, self.whole = [], [], 0
        for tree in trees:
            merged = merge(tree)
            if not isinstance(tree.shape.outermost, np.ndarray):
                tree.shape.outermost = outermost(merged).astype(np.int32)
            (own,), (total,) = sums_by_name(merged, tree.shape.outermost)
            # Without the root's row, which a function may have the name of.
            owns.append(own[1:])
            totals.append(total[1:])
            self.whole += int(merged.total[0][0])
        hashes = [name_hashes(*each)[1:] for each in zip(trees, self._shapes, strict=True)]
        self._ends = np.cumsum([len(each) for each in hashes])
        self.keys, self._first, place = np.unique(
            np.concatenate(hashes), return_index=True, return_inverse=True
        )
        self.own, self.total = (np.zeros(len(self.keys), np.int64) for _ in range(2))
        np.add.at(self.own, place, np.concatenate(owns))
        np.add.at(self.total, place, np.concatenate(totals))

    def name(self, at: int) -> tuple[str, str, int]:
        """Give function, file and line of a row."""
        service = int(np.searchsorted(self._ends, self._first[at], side="right"))
        names = self._shapes[service].names
        number = int(self._first[at] - self._ends[service])  # from the end, as negative ones count
        return names.functions[number], names.files[number], names.lines[number]


def top(trees: Sequence[StackTree], *, limit: int | None = None) -> TopTable:
    """Sum up self and total by (function, file).

    Args:
        trees: The merged profile of each service; or one of all.
        limit: Rows at most; None for all.
    """
    sums = FunctionSums(trees)
    own, total = sums.own, sums.total
    shown = np.flatnonzero((own != 0) | (total != 0))
    rows = [
        TopRow(*sums.name(at), int(own[at]), int(total[at]))
        for at in first_rows(own[shown], total[shown], shown, limit).tolist()
    ]
    rows.sort(key=lambda row: (-row.self, -row.total, row.function, row.file))
    return TopTable(rows[:limit], len(shown), sums.whole)


def first_rows(one: Int64s, other: Int64s, rows: Int64s, limit: int | None) -> Int64s:
    """Give those of some rows with the largest values, and all level with the last of them.

    Args:
        one: What they are ordered by, shape (n,).
        other: What rows level by that are ordered by, shape (n,).
        rows: Shape (n,).
        limit: How many are wanted at least; None for all.
    """
    order = np.lexsort((-other, -one))
    if limit is not None and len(order) > limit:
        last = order[max(0, limit - 1)]
        level = (one[order] == one[last]) & (other[order] == other[last])
        order = order[: max(limit, int(np.flatnonzero(level)[-1]) + 1)]
    return rows[order]


def sums_by_name(
    tree: CallTree, first: npt.NDArray[np.integer] | None = None
) -> tuple[list[Int64s], list[Int64s]]:
    """Sum own values and totals by name; the root's own row stays 0.

    Args:
        tree: The call tree.
        first: Its outermost nodes, where they are known.

    Returns:
        For each column of values: own and total, both of shape (number of names,).
    """
    count = len(tree.names.functions)
    if first is None:
        first = outermost(tree)
    own, total = [], []
    for own_values, total_values in zip(tree.own, tree.total, strict=True):
        own_sums, total_sums = np.zeros(count, np.int64), np.zeros(count, np.int64)
        np.add.at(own_sums, tree.name[1:], own_values[1:])
        np.add.at(total_sums, tree.name[first], total_values[first])
        own.append(own_sums)
        total.append(total_sums)
    return own, total


def outermost(tree: CallTree) -> Int64s:
    """Give the nodes, root left out, that no node of the same name stands above.

    Subtrees are intervals in preorder, and two either nest or are apart. So a node is inside
    another of its name exactly if one of those, earlier in preorder, ends behind it: a running
    maximum over the nodes of each name. An offset a name keeps the maxima of names apart.
    """
    nodes = 1 + np.argsort(tree.name[1:], kind="stable")
    offset = tree.name[nodes].astype(np.int64) * (tree.name.size + 1)
    ends = np.maximum.accumulate(nodes + tree.size[nodes] + offset)
    before = np.concatenate([np.zeros(1, np.int64), ends])[: nodes.size]
    return nodes[before <= nodes + offset]
