"""Cuts a tree to a number of nodes; what is cut stays as "(n smaller)", totals stay exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flamewell_collector.analysis.calltree import CallTree, Int32s, Int64s, Names, subtree_sums


@dataclass(frozen=True, slots=True)
class Pruned:
    """A tree in preorder, cut to size.

    Attributes:
        names: Functions; those from ``first_fold`` on are "(n smaller)" entries.
        first_fold: Equals the number of names where nothing was cut.
        name: int32, shape (n,).
        depth: int32, shape (n,).
        own: One int64 array of shape (n,) a column of values.
        total: The same, with all that is below.
    """

    names: Names
    first_fold: int
    name: Int32s
    depth: Int32s
    own: tuple[Int64s, ...]
    total: tuple[Int64s, ...]


def prune(tree: CallTree, max_nodes: int) -> Pruned:
    """Keep the nodes with the largest totals, ``max_nodes`` at most (and at least the root).

    Children that are cut become one child "(n smaller)" of their parent, the last one, which holds
    their totals; n counts the children. A cut child without callees whose siblings are all
    kept stays as it is: it would not be shorter. Nodes without any value vanish.
    """
    weight = sum((subtree_sums(np.abs(each), tree.size) for each in tree.own), np.int64(0))
    alive = np.asarray(weight) > 0
    alive[0] = True
    if np.count_nonzero(alive) <= max_nodes:
        return _select(tree, np.flatnonzero(alive), np.empty(0, np.int64))
    order = _heaviest(np.asarray(weight), max(1, max_nodes))
    rank = np.full(tree.name.size, order.size)
    rank[order] = np.arange(order.size)
    last_child = np.full(tree.name.size, -1)  # the rank of the last child to be kept
    below = np.flatnonzero(alive)[1:]
    np.maximum.at(last_child, tree.parent[below], rank[below])
    has_children = last_child >= 0
    completes = np.zeros(order.size + 1, np.int64)
    completes[last_child[has_children]] = 1
    completes = completes[:-1]
    # A kept node costs its own row and a fold below it, until its last child is kept as well.
    # Each step is 0, 1 or 2, hence the sum never falls and can be searched.
    cost = np.cumsum(1 + has_children[order] - completes)
    kept = rank < max(1, int(np.searchsorted(cost, max_nodes, side="right")))
    cut = np.flatnonzero(alive & ~kept)
    cut = cut[kept[tree.parent[cut]]]
    siblings = np.bincount(tree.parent[cut], minlength=tree.name.size)
    lonely = (siblings[tree.parent[cut]] == 1) & ~has_children[cut]
    kept[cut[lonely]] = True
    return _select(tree, np.flatnonzero(kept), cut[~lonely])


def _heaviest(weight: Int64s, count: int) -> Int64s:
    """Give nodes by weight, those of at least the ``count`` heaviest ones.

    Of equal weights the one first in preorder comes first: parents before children. What is lighter
    need not be in order, since it is cut in any case.
    """
    least = np.partition(weight, weight.size - count)[weight.size - count]
    found = np.flatnonzero(weight >= max(least, 1))
    if not found.size or found[0] != 0:
        found = np.concatenate([np.zeros(1, np.int64), found])
    return found[np.argsort(-weight[found], kind="stable")]


def _select(tree: CallTree, kept: Int64s, cut: Int64s) -> Pruned:
    """Put the kept nodes and the folds in preorder.

    Args:
        tree: Where they come from.
        kept: Kept nodes, ascending.
        cut: Cut nodes whose parents are kept.
    """
    parents, fold_of = np.unique(tree.parent[cut], return_inverse=True)
    counts, name_of_fold = np.unique(np.bincount(fold_of).astype(np.int64), return_inverse=True)
    used = np.zeros(len(tree.names.functions), bool)
    used[tree.name[kept]] = True
    used[0] = True
    shown = np.flatnonzero(used).tolist()
    number = np.cumsum(used) - 1
    first_fold = len(shown)
    names = Names(
        [
            *(tree.names.functions[at] for at in shown),
            *(f"({count} smaller)" for count in counts.tolist()),
        ],
        [*(tree.names.files[at] for at in shown), *("" for _ in counts)],
        [*(tree.names.lines[at] for at in shown), *(0 for _ in counts)],
    )
    # A fold stands behind all that is below its parent; where several end there, deepest first.
    place = np.concatenate([kept, parents + tree.size[parents] - 1])
    behind = np.concatenate(
        [np.zeros(kept.size, np.int64), int(tree.depth.max()) + 1 - tree.depth[parents]]
    )
    order = np.lexsort((behind, place))
    own, total = [], []
    for own_values, total_values in zip(tree.own, tree.total, strict=True):
        folded = np.zeros(parents.size, np.int64)
        np.add.at(folded, fold_of, total_values[cut])
        own.append(np.concatenate([own_values[kept], folded])[order])
        total.append(np.concatenate([total_values[kept], folded])[order])
    return Pruned(
        names=names,
        first_fold=first_fold,
        name=np.concatenate([number[tree.name[kept]], name_of_fold + first_fold])[order].astype(
            np.int32
        ),
        depth=np.concatenate([tree.depth[kept], tree.depth[parents] + 1])[order].astype(np.int32),
        own=tuple(own),
        total=tuple(total),
    )
