"""Stacks of one service as a prefix tree: arrays that never change, built without a loop a frame.

A stack's id is a sum over its frames (hashing.py), so that every node has an id, the sum down to
it. Trees of different batches and blocks are one once equal ids are put together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.hashing import path_ids
from flamewell_collector.model import Frames, Shape, StackTree
from flamewell_collector.store.schema import BATCH_FRAMES

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """Frames, each once. Shape (n,).

    Attributes:
        ids: Content hash, ascending.
        rows: BATCH_FRAMES without the numbers: function, file, line.
    """

    ids: Int64s
    rows: pa.Table

    @classmethod
    def of(cls, rows: pa.Table) -> tuple[FrameTable, Int32s]:
        """Sort frames and put equal ones together.

        Args:
            rows: frame_id, function, file, line, in any order.

        Returns:
            The table, and row → place in it.
        """
        ids = np.asarray(rows.column("frame_id").to_numpy(), dtype=np.int64)
        found, first, place = np.unique(ids, return_index=True, return_inverse=True)
        kept = rows.select(_CONTENT).take(pa.array(first))
        return cls(found, kept.combine_chunks()), place.astype(np.int32)

    def take(self, numbers: npt.NDArray[np.integer]) -> Frames:
        """Give these frames, in their order."""
        chosen = self.rows.take(pa.array(numbers))
        return Frames(
            function=chosen.column("function").to_pylist(),
            file=chosen.column("file").to_pylist(),
            line=np.asarray(chosen.column("line").to_numpy(), dtype=np.int32),
        )

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.ids.nbytes + self.rows.nbytes)


_SHAPE_BYTES = 64
"""What analysis keeps for each node of a tree that was asked for: 60 bytes, as measured."""
_CONTENT = ("function", "file", "line")


class PrefixTree:
    """Stacks by node. Node 0 is the root, the empty stack; callers come before what they call.

    Attributes:
        path: Stack id of each node, int64, shape (n,).
        parent: int32, shape (n,); -1 for the root.
        frame: Row in ``frames``, int32, shape (n,); -1 for the root.
        starts: First node of each depth and n at the end, shape (depths + 1,).
        frames: What the nodes call.
    """

    __slots__ = (
        "_frames",
        "_order",
        "_shape",
        "_sorted",
        "frame",
        "frames",
        "parent",
        "path",
        "starts",
    )

    def __init__(
        self,
        path: Int64s,
        parent: Int32s,
        frame: Int32s,
        *,
        depth: Int64s,
        frames: FrameTable,
        by_path: Int32s | None = None,
    ) -> None:
        """Take nodes that are in order of their depth, each path once.

        Args:
            path: As the attribute, and so are the next two.
            parent: See there.
            frame: See there.
            depth: Of each node, ascending.
            frames: What the nodes call.
            by_path: The nodes in order of their paths, where that is known.
        """
        self.path = path
        self.parent = parent
        self.frame = frame
        self.frames = frames
        self.starts: Int64s = np.searchsorted(depth, np.arange(int(depth[-1]) + 2)).astype(np.int64)
        self._order: Int32s = np.argsort(path).astype(np.int32) if by_path is None else by_path
        self._sorted: Int64s = path[self._order]
        self._frames: Frames | None = None
        self._shape = Shape()

    @classmethod
    def empty(cls) -> PrefixTree:
        """Give the tree of the empty stack."""
        frames, _ = FrameTable.of(BATCH_FRAMES.empty_table())
        nothing = np.zeros(1, np.int64)
        none = np.full(1, -1, np.int32)
        return cls(nothing, none, none, depth=nothing, frames=frames)

    @classmethod
    def built(cls, parent: Int32s, frame: Int32s, frames: pa.Table) -> PrefixTree:
        """Make a tree from nodes as they are stored.

        Args:
            parent: Row of each node's caller, before its own; -1 for roots, of which there may be
                many.
            frame: Row in ``frames``; anything for roots.
            frames: frame_id, function, file, line.

        Raises:
            StorageError: A row is outside of its table.
        """
        check_rows(parent, frame, frames.num_rows)
        if not len(parent):
            return cls.empty()
        node = parent >= 0
        table, place = FrameTable.of(frames)
        mapped = np.full(len(parent), -1, dtype=np.int32)
        mapped[node] = place[frame[node]]
        caller = np.where(node, parent, np.arange(len(parent)))
        hashes = np.zeros(len(parent), dtype=np.uint64)
        hashes[node] = table.ids[mapped[node]].view(np.uint64)
        path, depth = path_ids(caller, hashes)
        return _in_order(path, caller, mapped, depth, table)

    @classmethod
    def merged(cls, trees: Sequence[PrefixTree]) -> PrefixTree:
        """Put trees together."""
        trees = [each for each in trees if len(each) > 1] or list(trees[:1])
        if len(trees) == 1:
            return trees[0]
        if not trees:
            return cls.empty()
        rows = pa.concat_tables(
            each.frames.rows.append_column("frame_id", pa.array(each.frames.ids)) for each in trees
        )
        table, place = FrameTable.of(rows)
        frames, callers = [], []
        node = row = 0
        for each in trees:
            mapped = np.full(len(each), -1, dtype=np.int32)
            mapped[1:] = place[each.frame[1:] + row]
            frames.append(mapped)
            callers.append(np.maximum(each.parent, 0) + node)
            node += len(each)
            row += len(each.frames.ids)
        return _in_order(
            np.concatenate([each.path for each in trees]),
            np.concatenate(callers),
            np.concatenate(frames),
            np.concatenate([each.depths() for each in trees]),
            table,
        )

    def __len__(self) -> int:
        return len(self.path)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        arrays = (self.path, self.parent, self.frame, self._order, self._sorted)
        return _SHAPE_BYTES * len(self) + sum(each.nbytes for each in arrays) + self.frames.nbytes

    def depths(self) -> Int64s:
        """Give the depth of each node, 0 for the root."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def find(self, stack_ids: Int64s) -> Int64s:
        """Give the node of each stack, -1 where it is not there."""
        place = np.searchsorted(self._sorted, stack_ids)
        place[place == len(self._sorted)] = 0
        return np.where(self._sorted[place] == stack_ids, self._order[place], -1).astype(np.int64)

    def moved(self, other: PrefixTree) -> Int32s:
        """Give the node here of each node of a tree that was merged into this one."""
        if other is self:
            return np.arange(len(self), dtype=np.int32)
        return np.maximum(self.find(other.path), 0).astype(np.int32)

    def tree(self, stack_ids: Int64s, values: Int64s) -> StackTree:
        """Put values on their stacks; gives only nodes on the paths of these stacks.

        Args:
            stack_ids: Shape (n,); may repeat. An id that is not known counts at the root, so that
                totals stay right.
            values: Shape (n,).
        """
        nodes = np.maximum(self.find(stack_ids), 0)
        used = self._callers_too(nodes)
        own = np.zeros(len(self.path), dtype=np.int64)
        np.add.at(own, nodes, values)
        number = np.cumsum(used, dtype=np.int32) - np.int32(1)
        parent = number[self.parent[used]]
        parent[0] = -1
        frame_used = np.zeros(len(self.frames.ids) + 1, dtype=bool)
        frame_used[self.frame[used]] = True
        frame_used[-1] = False  # the root's
        frame_number = np.cumsum(frame_used, dtype=np.int32) - np.int32(1)
        frame = frame_number[self.frame[used]]
        frame[0] = -1
        return StackTree(
            parent=parent,
            frame=frame,
            value=own[used],
            frames=self.frames.take(np.flatnonzero(frame_used)),
        )

    def with_values(self, values: Int64s) -> StackTree:
        """Put a value on each node; gives all nodes, which is cheaper than choosing some.

        Args:
            values: Shape (nodes,).
        """
        if self._frames is None:
            self._frames = self.frames.take(np.arange(len(self.frames.ids)))
        return StackTree(self.parent, self.frame, values, self._frames, self._shape)

    def restricted(self, stack_ids: Int64s) -> PrefixTree:
        """Give the tree of just these stacks; ids that are not known are left out."""
        nodes = self.find(stack_ids)
        used = self._callers_too(nodes[nodes >= 0])
        if used.all():
            return self
        number = np.cumsum(used, dtype=np.int32) - np.int32(1)
        parent = number[self.parent[used]]
        parent[0] = -1
        numbers, frame = np.unique(self.frame[used][1:], return_inverse=True)
        frames = FrameTable(self.frames.ids[numbers], self.frames.rows.take(pa.array(numbers)))
        return PrefixTree(
            self.path[used],
            parent,
            np.concatenate((np.full(1, -1, np.int32), frame.astype(np.int32))),
            depth=self.depths()[used],
            frames=frames,
            by_path=number[self._order[used[self._order]]],
        )

    def preorder(self) -> Int64s:
        """Give the nodes so that each is followed by all that it leads to.

        Neighbours then differ little: such columns compress to a third of those by depth.
        """
        size = np.ones(len(self.path), dtype=np.int64)
        for first, last in self._levels(reverse=True):
            np.add.at(size, self.parent[first:last], size[first:last])
        place = np.zeros(len(self.path), dtype=np.int64)
        for first, last in self._levels():
            by_parent = np.argsort(self.parent[first:last], kind="stable") + first
            caller = self.parent[by_parent]
            before = np.cumsum(size[by_parent]) - size[by_parent]
            eldest = np.ones(len(caller), dtype=bool)
            eldest[1:] = caller[1:] != caller[:-1]
            family = np.cumsum(eldest) - 1
            place[by_parent] = place[caller] + 1 + before - before[eldest][family]
        order = np.empty(len(place), dtype=np.int64)
        order[place] = np.arange(len(place))
        return order

    def _callers_too(self, nodes: Int64s) -> Bools:
        """Mark nodes, all that leads to them, and the root."""
        used = np.zeros(len(self.path), dtype=bool)
        used[0] = True
        used[nodes] = True
        for first, last in self._levels(reverse=True):
            used[self.parent[first:last][used[first:last]]] = True
        return used

    def _levels(self, *, reverse: bool = False) -> list[tuple[int, int]]:
        """Give (first, last) of the nodes of each depth below the root."""
        bounds = self.starts[1:].tolist()
        levels = list(itertools.pairwise(bounds))
        return levels[::-1] if reverse else levels


def check_rows(parent: Int32s, frame: Int32s, frame_count: int) -> None:
    """Look at rows of a tree as they are stored.

    Raises:
        StorageError: One points to a caller that does not come before it, or to no frame.
    """
    outside = ((frame < 0) | (frame >= frame_count))[parent >= 0]
    if (parent >= np.arange(len(parent))).any() or outside.any():
        raise StorageError("a stack points to a caller or frame that is not there")


def nodes_of_ids(tree: PrefixTree, stack_ids: pa.ChunkedArray) -> Int32s:
    """Give the node of each stack; those that are not there count as the empty one.

    For many rows of few stacks: each stack is looked up once.
    """
    encoded = stack_ids.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    ids = np.asarray(encoded.dictionary.to_numpy(zero_copy_only=False), dtype=np.int64)
    nodes = np.maximum(tree.find(ids), 0).astype(np.int32)
    found: Int32s = nodes[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _in_order(
    path: Int64s,
    caller: npt.NDArray[np.integer],
    frame: Int32s,
    depth: Int64s,
    frames: FrameTable,
) -> PrefixTree:
    """Put equal paths together and order what is left by depth; ``caller`` is a row."""
    _, first, place = np.unique(path, return_index=True, return_inverse=True)
    by_depth = np.argsort(depth[first], kind="stable")
    rows = first[by_depth]
    number = np.empty(len(rows), dtype=np.int32)
    number[by_depth] = np.arange(len(rows), dtype=np.int32)
    parent = number[place[caller[rows]]]
    ordered = depth[rows]
    # Two paths with one id, which a sender may make on purpose, must not break the tree.
    parent[ordered[parent] >= ordered] = 0
    parent[0] = -1
    return PrefixTree(path[rows], parent, frame[rows], depth=ordered, frames=frames, by_path=number)
