"""Flame graphs: columns in preorder for our page and command, bars by level for Pyroscope's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flamewell_collector.analysis.calltree import Int32s, Int64s, merge
from flamewell_collector.analysis.joining import joined, side_by_side
from flamewell_collector.analysis.pruning import prune
from flamewell_collector.model import StackTree

DEFAULT_MAX_NODES = 200_000
"""As many as our page draws in 4 ms a frame."""

FOLD_NAME = "other"
"""What Pyroscope's clients call bars that stand for those that were cut."""


@dataclass(frozen=True, slots=True)
class FlameColumns:
    """A flame graph: one row a node, in preorder; row 0 is "total" at depth 0.

    Siblings are sorted by function name, then file, so that two graphs line up; an "(n smaller)"
    entry for n children that were cut is the last of its siblings.

    Attributes:
        functions: What ``name`` points into; row 0 is "total".
        files: The file of each function, or empty.
        lines: The first line seen of each function, 1-based; 0 where not known.
        name: int32, shape (n,).
        depth: int32, shape (n,).
        self: int64, shape (n,): the node's own value.
        total: int64, shape (n,): with all that is below.
        first_fold: Names from here on are "(n smaller)" entries.
    """

    functions: list[str]
    files: list[str]
    lines: list[int]
    name: Int32s
    depth: Int32s
    self: Int64s
    total: Int64s
    first_fold: int

    @property
    def pruned(self) -> bool:
        """Whether nodes were cut."""
        return self.first_fold < len(self.functions)


@dataclass(frozen=True, slots=True)
class DiffColumns:
    """A flame graph of two merged profiles: as ``FlameColumns``, with the earlier one's values.

    Attributes:
        functions: What ``name`` points into; row 0 is "total".
        files: The file of each function, or empty.
        lines: The first line seen of each function, 1-based; 0 where not known.
        name: int32, shape (n,).
        depth: int32, shape (n,).
        self: int64, shape (n,): own values of the later profile.
        total: int64, shape (n,): with all that is below.
        base_self: int64, shape (n,): own values of the earlier profile.
        base_total: int64, shape (n,): with all that is below.
        first_fold: Names from here on are "(n smaller)" entries.
    """

    functions: list[str]
    files: list[str]
    lines: list[int]
    name: Int32s
    depth: Int32s
    self: Int64s
    total: Int64s
    base_self: Int64s
    base_total: Int64s
    first_fold: int

    @property
    def pruned(self) -> bool:
        """Whether nodes were cut."""
        return self.first_fold < len(self.functions)


@dataclass(frozen=True, slots=True)
class Levels:
    """Pyroscope's flame bearer.

    Attributes:
        names: Function names.
        levels: int64 arrays, one a depth, bars from left to right. A bar of a single profile is x,
            total, self, name; of a diff x, total, self of the base, then of the later profile,
            then name. x counts from the end of the bar before it.
        total: The root's total; of a diff the sum of both.
        max_self: The largest self value.
        left_total: Of a diff: the base's total. 0 otherwise.
        right_total: Of a diff: the later profile's total. 0 otherwise.
    """

    names: list[str]
    levels: list[Int64s]
    total: int
    max_self: int
    left_total: int = 0
    right_total: int = 0


def build(tree: StackTree, *, max_nodes: int = DEFAULT_MAX_NODES) -> FlameColumns:
    """Merge a profile's stacks by (function, file) into a flame graph.

    Args:
        tree: The merged profile.
        max_nodes: Beyond it the smallest are folded into "(n smaller)"; totals stay exact.
    """
    cut = prune(merge(tree), max_nodes)
    return FlameColumns(
        functions=cut.names.functions,
        files=cut.names.files,
        lines=cut.names.lines,
        name=cut.name,
        depth=cut.depth,
        self=cut.own[0],
        total=cut.total[0],
        first_fold=cut.first_fold,
    )


def build_together(
    trees: Sequence[StackTree], *, max_nodes: int = DEFAULT_MAX_NODES
) -> FlameColumns:
    """Merge the stacks of several services: as ``build`` of all of them in one tree, but faster.

    Args:
        trees: The merged profile of each service, at least one.
        max_nodes: As for ``build``.
    """
    if len(trees) == 1:
        return build(trees[0], max_nodes=max_nodes)
    (together,) = joined([trees], max_nodes) or (side_by_side(trees),)
    return build(together, max_nodes=max_nodes)


def build_diff_together(
    base: Sequence[StackTree], trees: Sequence[StackTree], *, max_nodes: int = DEFAULT_MAX_NODES
) -> DiffColumns:
    """Compare the stacks of several services: as ``build_diff`` of all of them, but faster.

    Args:
        base: The earlier profile of each service, at least one.
        trees: The later ones, of the same services or others.
        max_nodes: As for ``build_diff``.
    """
    both = (base, trees)
    if len(base) == len(trees) == 1:
        return build_diff(base[0], trees[0], max_nodes=max_nodes)
    one, other = joined(both, max_nodes) or tuple(side_by_side(each) for each in both)
    return build_diff(one, other, max_nodes=max_nodes)


def build_diff(
    base: StackTree, tree: StackTree, *, max_nodes: int = DEFAULT_MAX_NODES
) -> DiffColumns:
    """Merge two profiles into one shape that carries both profiles' values.

    Args:
        base: The earlier profile.
        tree: The later one.
        max_nodes: Beyond it those with the smallest sums of both are folded.
    """
    cut = prune(merge(base, tree), max_nodes)
    return DiffColumns(
        functions=cut.names.functions,
        files=cut.names.files,
        lines=cut.names.lines,
        name=cut.name,
        depth=cut.depth,
        self=cut.own[1],
        total=cut.total[1],
        base_self=cut.own[0],
        base_total=cut.total[0],
        first_fold=cut.first_fold,
    )


def levels(columns: FlameColumns) -> Levels:
    """Lay a flame graph out as Pyroscope's levels; build it with the wanted ``max_nodes``."""
    order, starts = _by_level(columns.depth)
    x, total = _bars(columns.self, columns.total, order, starts)
    name = columns.name[order].astype(np.int64)
    bars = np.stack([x, total, columns.self[order], name], axis=1)
    return Levels(
        names=_bearer_names(columns),
        levels=[each.ravel() for each in np.split(bars, starts[1:-1])],
        total=int(columns.total[0]),
        max_self=int(columns.self.max()),
    )


def diff_levels(columns: DiffColumns) -> Levels:
    """Lay a diff out as Pyroscope's levels of seven numbers a bar."""
    order, starts = _by_level(columns.depth)
    left_x, left = _bars(columns.base_self, columns.base_total, order, starts)
    right_x, right = _bars(columns.self, columns.total, order, starts)
    bars = np.stack(
        [
            *(left_x, left, columns.base_self[order]),
            *(right_x, right, columns.self[order]),
            columns.name[order].astype(np.int64),
        ],
        axis=1,
    )
    return Levels(
        names=_bearer_names(columns),
        levels=[each.ravel() for each in np.split(bars, starts[1:-1])],
        total=int(columns.base_total[0] + columns.total[0]),
        max_self=int(max(columns.base_self.max(), columns.self.max())),
        left_total=int(columns.base_total[0]),
        right_total=int(columns.total[0]),
    )


def _by_level(depth: Int32s) -> tuple[Int64s, Int64s]:
    """Give nodes by depth, left to right, and where each depth starts (and the end)."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(depth))])
    return np.argsort(depth, kind="stable"), starts


def _bars(own: Int64s, total: Int64s, order: Int64s, starts: Int64s) -> tuple[Int64s, Int64s]:
    """Give x, counted from the end of the bar before, and width of each bar.

    Children start behind their parent's own value, as in Pyroscope: a bar starts where the own
    values of all nodes before it in preorder end.
    """
    x = (np.cumsum(own) - own)[order]
    width = total[order]
    before = np.concatenate([np.zeros(1, np.int64), (x + width)[:-1]])
    before[starts[:-1]] = 0
    return x - before, width


def _bearer_names(columns: FlameColumns | DiffColumns) -> list[str]:
    folds = len(columns.functions) - columns.first_fold
    return [*columns.functions[: columns.first_fold], *([FOLD_NAME] * folds)]
