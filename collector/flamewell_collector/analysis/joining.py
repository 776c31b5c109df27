"""Joins the profiles of many services into trees that have just what a flame graph shows.

A flame graph of all services shows some hundred thousand of their millions of nodes. Every node has
an id, a hash of the functions on its path, so that nodes of different services meet without being
sorted; those that cannot be among the heaviest are left out before anything is put together. What
is shown, and every number in it, is as if all had been merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from flamewell_collector.analysis.calltree import MergedShape, Names, shape_of, subtree_sums
from flamewell_collector.hashing import path_ids
from flamewell_collector.model import Frames, Shape, StackTree

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_MIN_CELL_BITS, _MAX_CELL_BITS = 12, 22
_SLACK = 1 - 1e-9
"""Sums of weights are rounded: a cell may have that much less than its nodes."""
_SAFE = float(1 << 62)


@dataclass(frozen=True, slots=True)
class _Paths:
    """What does not depend on values: of a service's call tree.

    Attributes:
        ids: Of each node, shape (n,): equal for equal paths of functions. The root's is 0.
        names: Hash of each function and file, shape (names,).
    """

    ids: UInt64s
    names: UInt64s


class _Service:
    """One service's call tree with its values."""

    def __init__(self, tree: StackTree, column: int) -> None:
        self.column = column
        self.shape: MergedShape = shape_of((tree,))
        self.paths = _paths_of(tree, self.shape)
        own = np.zeros(self.shape.name.size, np.int64)
        np.add.at(own, self.shape.place[0], tree.value)
        self.own = own
        self.total = subtree_sums(own, self.shape.size)

    def cells(self, bits: int) -> Int64s:
        """Give the cell of each node in a table of 2^bits."""
        return (self.paths.ids >> np.uint64(64 - bits)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Joined:
    """Nodes of all services, equal paths put together. Shape (n,), ascending by id.

    Attributes:
        ids: Of their paths.
        own: Own values, shape (columns, n).
        total: With all that is below, shape (columns, n).
        service: One that has the node.
        node: The node there.
    """

    ids: UInt64s
    own: Int64s
    total: Int64s
    service: Int64s
    node: Int64s

    @property
    def weight(self) -> Int64s:
        """What a node weighs: the totals of all columns."""
        weight: Int64s = self.total.sum(axis=0)
        return weight

    def only(self, kept: Bools) -> _Joined:
        """Leave nodes out."""
        return _Joined(
            self.ids[kept],
            self.own[:, kept],
            self.total[:, kept],
            self.service[kept],
            self.node[kept],
        )


@dataclass(frozen=True, slots=True)
class _Places:
    """Of nodes. Shape (n,).

    Attributes:
        parents: Ids of their parents' paths.
        depths: 0 for the root.
        names: Number of the service and of its name, as one.
    """

    parents: UInt64s
    depths: Int64s
    names: Int64s


def joined(columns: Sequence[Sequence[StackTree]], max_nodes: int) -> tuple[StackTree, ...] | None:
    """Give trees of which a flame graph of so many nodes is that of all trees together.

    Args:
        columns: What is added up, a tree a service: of one profile, or of each that is compared.
        max_nodes: Of the flame graph.

    Returns:
        A tree a column, all of one shape; None where values are negative or so large that sums of
        them would not fit.
    """
    every = [each for trees in columns for each in trees]
    amount = sum(float(np.abs(each.value.astype(np.float64)).sum()) for each in every)
    if amount >= _SAFE or any((each.value < 0).any() for each in every):
        return None
    services = [_Service(each, at) for at, trees in enumerate(columns) for each in trees]
    shown, flags = _heaviest(services, max(1, max_nodes))
    below = [
        np.flatnonzero((each.total > 0) & ~mine & mine[np.maximum(each.shape.parent, 0)])
        for each, mine in zip(services, flags, strict=True)
    ]
    return _put_together(services, shown, _join(services, below))


def side_by_side(trees: Sequence[StackTree]) -> StackTree:
    """Put whole trees below one root; equal paths stay apart."""
    parents, frames, values = [np.full(1, -1)], [np.full(1, -1)], [np.zeros(1, np.int64)]
    function: list[str] = []
    file: list[str] = []
    lines: list[Any] = []
    nodes = 1
    for each in trees:
        values[0] = values[0] + each.value[:1]
        parents.append(np.where(each.parent[1:] == 0, 0, each.parent[1:] + nodes - 1))
        frames.append(each.frame[1:] + len(function))
        values.append(each.value[1:])
        nodes += len(each.parent) - 1
        function += each.frames.function
        file += each.frames.file
        lines.append(each.frames.line)
    return StackTree(
        parent=np.concatenate(parents).astype(np.int32),
        frame=np.concatenate(frames).astype(np.int32),
        value=np.concatenate(values),
        frames=Frames(function, file, np.concatenate(lines).astype(np.int32)),
    )


def _heaviest(services: Sequence[_Service], count: int) -> tuple[_Joined, list[Bools]]:
    """Find the ``count`` heaviest paths, and all that weigh as much as the last of them.

    Nodes are added up in the cells of a table, by their ids: no path weighs more than its cell. The
    nodes of as many cells have at least so many paths, whose lightest tells what is enough; all
    that weigh enough are in cells that do.
    """
    nodes = sum(each.total.size for each in services)
    bits = int(np.clip(int(nodes).bit_length(), _MIN_CELL_BITS, _MAX_CELL_BITS))
    cells: Floats = np.zeros(1 << bits)
    for each in services:
        np.add.at(cells, each.cells(bits), each.total.astype(np.float64))
    enough = float(_nth_largest(cells, count))
    rows = [_rows_in_cells(each, cells, bits, enough) for each in services]
    found = _join(services, rows)
    lightest = float(_nth_largest(found.weight, count))
    if lightest < enough:
        rows = [_rows_in_cells(each, cells, bits, lightest) for each in services]
        found = _join(services, rows)
    kept = found.weight >= max(1, _nth_largest(found.weight, count))
    kept[0] = True  # the root
    shown = found.only(kept)
    flags = [_flags(each, mine, shown.ids) for each, mine in zip(services, rows, strict=True)]
    return shown, flags


def _rows_in_cells(service: _Service, cells: Floats, bits: int, least: float) -> Int64s:
    """Give the nodes in cells that weigh enough, and the root."""
    chosen = (cells[service.cells(bits)] >= least * _SLACK) & (service.total > 0)
    chosen[0] = True
    return np.flatnonzero(chosen)


def _flags(service: _Service, rows: Int64s, shown: UInt64s) -> Bools:
    """Mark those of some nodes whose paths are shown; ``shown`` ascends."""
    ids = service.paths.ids[rows]
    place = np.minimum(np.searchsorted(shown, ids), len(shown) - 1)
    flags = np.zeros(service.total.size, bool)
    flags[rows[shown[place] == ids]] = True
    return flags


def _nth_largest(values: npt.NDArray[Any], count: int) -> Any:
    """Give the count-th largest value; 0 where there are fewer."""
    if values.size < count:
        return 0
    return np.partition(values, values.size - count)[values.size - count]


def _join(services: Sequence[_Service], rows: Sequence[Int64s]) -> _Joined:
    """Put nodes of equal paths together."""
    both = list(zip(services, rows, strict=True))
    ids = np.concatenate([each.paths.ids[mine] for each, mine in both])
    found, first, place = np.unique(ids, return_index=True, return_inverse=True)
    count = max(each.column for each in services) + 1
    own, total = np.zeros((count, len(found)), np.int64), np.zeros((count, len(found)), np.int64)
    lengths = [len(mine) for mine in rows]
    column = np.repeat([each.column for each in services], lengths)
    np.add.at(own, (column, place), np.concatenate([each.own[mine] for each, mine in both]))
    np.add.at(total, (column, place), np.concatenate([each.total[mine] for each, mine in both]))
    service = np.repeat(np.arange(len(rows)), lengths)[first]
    return _Joined(found, own, total, service, np.concatenate(rows)[first])


def _put_together(
    services: Sequence[_Service], shown: _Joined, below: _Joined
) -> tuple[StackTree, ...]:
    """Make trees of what is shown and of what is cut right below it.

    What is further below is one node under the one that is cut, which has its value: whether a
    cut node calls anything decides how it is folded.
    """
    places = (_places(services, shown), _places(services, below))
    parents = np.concatenate([each.parents for each in places])
    depths = np.concatenate([each.depths for each in places])
    names = np.concatenate([each.names for each in places])
    own = np.concatenate([shown.own, below.own], axis=1)
    rest = below.total - below.own
    deeper = np.flatnonzero(rest.any(axis=0))
    order = np.argsort(depths, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    up = number[np.searchsorted(shown.ids, parents[order])]
    up[0] = -1
    frames, frame = _frames(services, names[order])
    frame[0] = -1
    hidden = number[len(shown.ids) + deeper]
    parent = np.concatenate([up, hidden]).astype(np.int32)
    frames_of = np.concatenate([frame, frame[hidden]]).astype(np.int32)
    values = np.concatenate([own[:, order], rest[:, deeper]], axis=1)
    shape = Shape()
    return tuple(StackTree(parent, frames_of, each, frames, shape) for each in values)


def _places(services: Sequence[_Service], nodes: _Joined) -> _Places:
    """Look up where nodes are and what they are called."""
    parents = np.zeros(len(nodes.ids), np.uint64)
    depths, names = np.zeros(len(nodes.ids), np.int64), np.zeros(len(nodes.ids), np.int64)
    for at, each in enumerate(services):
        mine = np.flatnonzero(nodes.service == at)
        node = nodes.node[mine]
        parents[mine] = each.paths.ids[np.maximum(each.shape.parent[node], 0)]
        depths[mine] = each.shape.depth[node]
        names[mine] = (at << 32) + each.shape.name[node].astype(np.int64)
    return _Places(parents, depths, names)


def _frames(services: Sequence[_Service], names: Int64s) -> tuple[Frames, Int64s]:
    """Give the functions, and the row of each node's."""
    used, place = np.unique(names, return_inverse=True)
    owners, numbers = used >> 32, used & 0xFFFFFFFF
    function: list[str] = []
    file: list[str] = []
    line: list[int] = []
    for owner, number in zip(owners.tolist(), numbers.tolist(), strict=True):
        known: Names = services[owner].shape.names
        function.append(known.functions[number])
        file.append(known.files[number])
        line.append(known.lines[number])
    return Frames(function, file, np.array(line, np.int32)), place.astype(np.int64)


def name_hashes(tree: StackTree, shape: MergedShape) -> UInt64s:
    """Give a hash of each function and file of a tree's shape."""
    return _paths_of(tree, shape).names


def _paths_of(tree: StackTree, shape: MergedShape) -> _Paths:
    """Work the ids of paths out, or take those that trees of this shape have already."""
    known = tree.shape.paths
    if isinstance(known, _Paths):
        return known
    names = np.array(
        [_hash(*each) for each in zip(shape.names.functions, shape.names.files, strict=True)],
        np.uint64,
    )
    caller = np.maximum(shape.parent, 0).astype(np.int64)
    ids, _ = path_ids(caller, names[shape.name])
    found = _Paths(ids.view(np.uint64), names)
    tree.shape.paths = found
    return found


def _hash(function: str, file: str) -> int:
    key = f"{function}\0{file}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
