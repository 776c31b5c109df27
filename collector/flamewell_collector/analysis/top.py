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


def top(trees: Sequence[StackTree], *, limit: int | None = None) -> TopTable:
    """Sum up self and total by (function, file).

    Args:
        trees: The merged profile of each service; or one of all.
        limit: Rows at most; None for all.
    """
    shapes = [shape_of((each,)) for each in trees]
    owns, totals, whole = [], [], 0
    for tree in trees:
        merged = merge(tree)
        if not isinstance(tree.shape.outermost, np.ndarray):
            tree.shape.outermost = outermost(merged).astype(np.int32)
        (own,), (total,) = sums_by_name(merged, tree.shape.outermost)
        owns.append(own)
        totals.append(total)
        whole += int(merged.total[0][0])
    keys = [name_hashes(tree, shape) for tree, shape in zip(trees, shapes, strict=True)]
    found, first, place = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    own, total = np.zeros(len(found), np.int64), np.zeros(len(found), np.int64)
    np.add.at(own, place, np.concatenate(owns))
    np.add.at(total, place, np.concatenate(totals))
    shown = np.flatnonzero((own != 0) | (total != 0))
    ends = np.cumsum([len(each) for each in keys])
    rows = []
    for at in _largest(own, total, shown, limit).tolist():
        service = int(np.searchsorted(ends, first[at], side="right"))
        names = shapes[service].names
        number = int(first[at] - ends[service])  # from the end, as negative ones count
        name = (names.functions[number], names.files[number], names.lines[number])
        rows.append(TopRow(*name, int(own[at]), int(total[at])))
    rows.sort(key=lambda row: (-row.self, -row.total, row.function, row.file))
    return TopTable(rows[:limit], len(shown), whole)


def _largest(own: Int64s, total: Int64s, shown: Int64s, limit: int | None) -> Int64s:
    """Give the first of some functions, and those that are level with the last of them."""
    order = shown[np.lexsort((-total[shown], -own[shown]))]
    if limit is None or len(order) <= limit:
        return order
    last = order[max(0, limit - 1)]
    level = (own[order] == own[last]) & (total[order] == total[last])
    end = max(limit, int(np.flatnonzero(level)[-1]) + 1)
    return order[:end]


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
