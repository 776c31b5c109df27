"""The functions of a profile by self and total, exact whatever the size of the flame graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flamewell_collector.analysis.calltree import CallTree, Int64s, merge
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
        rows: All functions with a value.
        total: The whole profile's value; the rows' self values add up to it, but for what has no
            stack at all.
    """

    rows: list[TopRow]
    total: int


def top(tree: StackTree) -> TopTable:
    """Sum up self and total by (function, file)."""
    merged = merge(tree)
    (own,), (total,) = sums_by_name(merged)
    shown = np.flatnonzero((own != 0) | (total != 0))
    shown = shown[np.lexsort((shown, -total[shown], -own[shown]))]
    names = merged.names
    rows = [
        TopRow(names.functions[at], names.files[at], names.lines[at], own_value, total_value)
        for at, own_value, total_value in zip(
            shown.tolist(), own[shown].tolist(), total[shown].tolist(), strict=True
        )
    ]
    return TopTable(rows, int(merged.total[0][0]))


def sums_by_name(tree: CallTree) -> tuple[list[Int64s], list[Int64s]]:
    """Sum own values and totals by name; the root's own row stays 0.

    Returns:
        For each column of values: own and total, both of shape (number of names,).
    """
    count = len(tree.names.functions)
    outermost = _outermost(tree)
    own, total = [], []
    for own_values, total_values in zip(tree.own, tree.total, strict=True):
        own_sums, total_sums = np.zeros(count, np.int64), np.zeros(count, np.int64)
        np.add.at(own_sums, tree.name[1:], own_values[1:])
        np.add.at(total_sums, tree.name[outermost], total_values[outermost])
        own.append(own_sums)
        total.append(total_sums)
    return own, total


def _outermost(tree: CallTree) -> Int64s:
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
