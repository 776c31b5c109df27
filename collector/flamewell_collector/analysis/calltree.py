"""Merges prefix trees of stacks into one tree of functions, level by level with NumPy.

Everything else in ``analysis`` starts from here. There is no recursion and no Python loop over
nodes, so that a stack of 5,000 frames costs levels, not call depth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from flamewell_collector.model import StackTree

ROOT_NAME = "total"
"""What node 0 is called; its row in ``Names`` is 0, so that a function of that name differs."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Names:
    """Functions by (function, file), sorted by both; row 0 is the root's.

    Attributes:
        functions: Function names.
        files: Their files, empty where not known.
        lines: The first line seen of each, 1-based; 0 where not known.
    """

    functions: list[str]
    files: list[str]
    lines: list[int]


@dataclass(frozen=True, slots=True)
class CallTree:
    """A tree of functions in preorder; the children of a node are sorted by function, then file.

    Attributes:
        names: What ``name`` points into.
        name: int32, shape (n,).
        parent: int32, shape (n,); parent[0] == -1, parent[i] < i.
        depth: int32, shape (n,); 0 for the root.
        size: int32, shape (n,): nodes in the subtree, the node included; it ends before
            i + size[i].
        own: One int64 array of shape (n,) a merged tree: self values.
        total: The same, with all that is below.
    """

    names: Names
    name: Int32s
    parent: Int32s
    depth: Int32s
    size: Int32s
    own: tuple[Int64s, ...]
    total: tuple[Int64s, ...]


@dataclass(frozen=True, slots=True)
class _Breadth:
    """The merged tree in breadth-first order; siblings stand together, sorted."""

    parent: Int64s
    name: Int64s
    starts: Int64s  # of each level, and the end


@dataclass(frozen=True, slots=True)
class MergedShape:
    """The shape of a call tree: all that does not depend on values.

    Attributes:
        names: As in ``CallTree``, and so are the arrays but the last.
        place: For each tree, the place in preorder of each of its nodes.
    """

    names: Names
    name: Int32s
    parent: Int32s
    depth: Int32s
    size: Int32s
    place: tuple[Int64s, ...]


def merge(*trees: StackTree) -> CallTree:
    """Merge nodes of the same function and file under the same parent, over all given trees.

    Returns:
        A tree with one column of values for each given tree.
    """
    shape = shape_of(trees)
    own, total = [], []
    for place, tree in zip(shape.place, trees, strict=True):
        values = np.zeros(shape.name.size, np.int64)
        np.add.at(values, place, tree.value)
        own.append(values)
        total.append(subtree_sums(values, shape.size))
    return CallTree(
        names=shape.names,
        name=shape.name,
        parent=shape.parent,
        depth=shape.depth,
        size=shape.size,
        own=tuple(own),
        total=tuple(total),
    )


def shape_of(trees: tuple[StackTree, ...]) -> MergedShape:
    """Work the shape of merged trees out, or take the one that trees of one shape have already."""
    if any(each.shape is not trees[0].shape for each in trees):
        return _work_out(trees)
    known = trees[0].shape.found
    if not isinstance(known, MergedShape):
        known = trees[0].shape.found = _work_out(trees[:1])
    return replace(known, place=known.place * len(trees))


def _work_out(trees: tuple[StackTree, ...]) -> MergedShape:
    names, rows = _intern_names(trees)
    offsets = np.cumsum([0, *(tree.parent.size for tree in trees)])
    parent = np.concatenate(
        [
            np.where(tree.parent >= 0, tree.parent + offset, -1)
            for tree, offset in zip(trees, offsets[:-1], strict=True)
        ]
    )
    merged, breadth = _merge_levels(parent, np.concatenate(rows), len(names.functions))
    size, position = _preorder(breadth)
    upper = position[np.maximum(breadth.parent, 0)]
    upper[0] = -1
    depth = np.repeat(np.arange(breadth.starts.size - 1), np.diff(breadth.starts))
    return MergedShape(
        names=names,
        name=_scatter(position, breadth.name),
        parent=_scatter(position, upper),
        depth=_scatter(position, depth),
        size=size,
        place=tuple(position[merged[first:last]] for first, last in pairwise(offsets)),
    )


def subtree_sums(values: Int64s, size: Int32s) -> Int64s:
    """Sum values over each node's subtree; nodes in preorder. Exact in int64."""
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    at = np.arange(values.size)
    sums: Int64s = running[at + size] - running[at]
    return sums


def _intern_names(trees: tuple[StackTree, ...]) -> tuple[Names, list[Int64s]]:
    """Number the functions in sorted order from 1.

    Returns:
        The functions, and for each tree the function of each node (0 for its root).
    """
    line_of: dict[tuple[str, str], int] = {}
    used: list[list[int]] = []
    for tree in trees:
        table = tree.frames
        seen = np.zeros(len(table.function), bool)
        seen[tree.frame[tree.frame >= 0]] = True
        used.append(np.flatnonzero(seen).tolist())
        for frame in used[-1]:
            line_of.setdefault((table.function[frame], table.file[frame]), int(table.line[frame]))
    ordered = sorted(line_of)
    number = {pair: at for at, pair in enumerate(ordered, start=1)}
    rows = []
    for tree, frames in zip(trees, used, strict=True):
        table = tree.frames
        # One entry more, which frame -1 of the root reads: 0.
        number_of = np.zeros(len(table.function) + 1, np.int64)
        number_of[frames] = [number[table.function[frame], table.file[frame]] for frame in frames]
        rows.append(number_of[tree.frame])
    names = Names(
        [ROOT_NAME, *(function for function, _ in ordered)],
        ["", *(file for _, file in ordered)],
        [0, *(line_of[pair] for pair in ordered)],
    )
    return names, rows


def _depths(parent: Int64s) -> Int64s:
    """Count the steps to the root by pointer doubling: log2(depth) passes."""
    up = np.where(parent < 0, np.arange(parent.size), parent)
    depth = (parent >= 0).astype(np.int64)
    while True:
        step = depth[up]
        if not step.any():
            return depth
        depth += step
        up = up[up]


def _merge_levels(parent: Int64s, name: Int64s, name_count: int) -> tuple[Int64s, _Breadth]:
    """Merge equal names under equal parents from the root down.

    Returns:
        The merged node of each node, and the merged tree.
    """
    depth = _depths(parent)
    order = np.argsort(depth, kind="stable")
    ends = np.cumsum(np.bincount(depth))
    merged = np.zeros(parent.size, np.int64)  # the roots become node 0
    parents, names, starts = [np.full(1, -1)], [np.zeros(1, np.int64)], [0, 1]
    for start, end in pairwise(ends.tolist()):
        nodes = order[start:end]
        keys, inverse = np.unique(
            merged[parent[nodes]] * name_count + name[nodes], return_inverse=True
        )
        merged[nodes] = inverse + starts[-1]
        parents.append(keys // name_count)
        names.append(keys % name_count)
        starts.append(starts[-1] + keys.size)
    return merged, _Breadth(np.concatenate(parents), np.concatenate(names), np.array(starts))


def _preorder(tree: _Breadth) -> tuple[Int32s, Int64s]:
    """Give sizes of subtrees in preorder, and the place in preorder of each node."""
    size = np.ones(tree.parent.size, np.int64)
    levels = [slice(start, end) for start, end in pairwise(tree.starts[1:].tolist())]
    for level in reversed(levels):
        np.add.at(size, tree.parent[level], size[level])
    position = np.zeros(tree.parent.size, np.int64)
    for level in levels:
        parent, sizes = tree.parent[level], size[level]
        before = np.cumsum(sizes) - sizes
        first = np.concatenate([[True], parent[1:] != parent[:-1]])
        # ``before`` never falls, so the running maximum is the value at the first sibling.
        start = np.maximum.accumulate(np.where(first, before, 0))
        position[level] = position[parent] + 1 + before - start
    return _scatter(position, size), position


def _scatter(position: Int64s, values: Int64s) -> Int32s:
    ordered = np.empty(values.size, np.int32)
    ordered[position] = values
    return ordered
