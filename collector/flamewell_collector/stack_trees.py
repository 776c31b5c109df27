"""Prefix trees of stacks, a service at a time: the BATCH_STACKS and FRAMES tables of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.stack_columns import Paths, Stacks
from flamewell_collector.store.key_table import KeyTable
from flamewell_collector.store.schema import BATCH_FRAMES, BATCH_STACKS

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_NOTHING = BATCH_STACKS.empty_table(), BATCH_FRAMES.empty_table()


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of a tree without its root, in any order. Shape (n,).

    Attributes:
        path: Stack id down to the node.
        parent: Number of the node's caller, -1 for the root.
        depth: 1 below the root.
        row: Frame row.
        ended: Whether a sample ends here.
    """

    path: UInt64s
    parent: Int64s
    depth: Int64s
    row: Int64s
    ended: Bools


class TreeBuilder:
    """Makes the BATCH_STACKS and FRAMES tables of a batch.

    Attributes:
        nodes: How many there are so far, without roots.
    """

    def __init__(self, stacks: Stacks, *, max_nodes: int) -> None:
        self._stacks = stacks
        self._max_nodes = max_nodes
        self._services: list[tuple[str, _Nodes]] = []
        self.nodes = 0

    def add(self, service: str, numbers: Int64s) -> Bools:
        """Add stacks of a service; gives which of them there was no room for.

        Args:
            service: Whose.
            numbers: Stacks, each once.
        """
        tree = _Tree(len(numbers))
        for paths in self._stacks.paths(numbers):
            tree.add(paths, room=self._max_nodes - self.nodes)
        found = tree.nodes()
        self.nodes += len(found.path)
        self._services.append((service, found))
        return tree.refused

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Give BATCH_STACKS and FRAMES."""
        if not self._services:
            return _NOTHING
        rows = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(nodes.row for _, nodes in self._services)]
        )
        distinct, number = self._stacks.distinct_frames(rows)
        parts: list[pa.Table] = []
        first = 0
        for service, nodes in self._services:
            parts.append(_table(service, nodes, number, first=first))
            first += len(nodes.path) + 1
        return pa.concat_tables(parts), self._stacks.frame_table(distinct)


class _Tree:
    """One service's nodes, each path once.

    Attributes:
        refused: Stacks that there was no room for, shape (stacks,).
    """

    def __init__(self, stacks: int) -> None:
        self.refused = np.zeros(stacks, dtype=bool)
        self._known = KeyTable()
        self._ended: Bools = np.zeros(0, dtype=bool)
        self._parts: list[tuple[Int64s, Int64s, Int64s]] = []

    def add(self, paths: Paths, *, room: int) -> None:
        """Add the frames of some stacks, leaf first."""
        if len(self._known) + len(paths.path) > room:
            paths = self._within(paths, room)
        number, first = self._known.add(paths.path)
        number = number.astype(np.int64)
        # The frame behind is the caller's, but behind the outermost one.
        caller = np.append(number[1:], -1)
        caller[paths.depth == 1] = -1
        leaf = np.ones(len(paths.stack), dtype=bool)
        leaf[1:] = paths.stack[1:] != paths.stack[:-1]
        self._ended = np.append(self._ended, np.zeros(len(first), dtype=bool))
        self._ended[number[leaf]] = True
        self._parts.append((caller[first], paths.depth[first], paths.row[first]))

    def _within(self, paths: Paths, room: int) -> Paths:
        """Leave out the stacks that need more than there is; in their order the first ones stay."""
        trial = KeyTable()
        trial.add(self._known.keys)
        _, first = trial.add(paths.path)
        new = np.bincount(paths.stack[first], minlength=len(self.refused))
        over = np.cumsum(new) > room - len(self._known)
        self.refused[paths.stack[over[paths.stack]]] = True
        kept = ~self.refused[paths.stack]
        return Paths(paths.path[kept], paths.depth[kept], paths.row[kept], paths.stack[kept])

    def nodes(self) -> _Nodes:
        """Give all nodes."""
        nothing = np.zeros(0, dtype=np.int64)
        parents, depths, rows = zip((nothing, nothing, nothing), *self._parts, strict=True)
        return _Nodes(
            self._known.keys,
            np.concatenate(parents),
            np.concatenate(depths),
            np.concatenate(rows),
            self._ended,
        )


def _table(service: str, nodes: _Nodes, frame_number: Int32s, *, first: int) -> pa.Table:
    """Number the nodes of a service: its root is ``first``, parents come before their children."""
    count = len(nodes.path) + 1
    order = np.argsort(nodes.depth.astype(np.uint32), kind="stable")
    number = np.empty(count, dtype=np.int32)
    number[order] = np.arange(1, count, dtype=np.int32)
    number[-1] = 0  # what the parent -1 stands for
    parent = number[nodes.parent[order]]
    # Two paths with one id, which a sender may make on purpose, must not break the tree.
    parent[parent > np.arange(count - 1)] = 0
    nothing = np.array([-1], dtype=np.int32)
    unmarked = np.concatenate((np.zeros(1, dtype=bool), ~nodes.ended[order]))
    return pa.table(
        {
            "service_name": pa.repeat(service, count),
            "node": np.arange(first, first + count, dtype=np.int32),
            "parent": np.concatenate((nothing, parent + np.int32(first))),
            "frame": np.concatenate((nothing, frame_number[nodes.row[order]])),
            "stack_id": pa.array(
                np.concatenate((np.zeros(1, dtype=np.uint64), nodes.path[order])).view(np.int64),
                pa.int64(),
                mask=unmarked,
            ),
        },
        schema=BATCH_STACKS,
    )
