"""A service's stacks as a block has them, and how those of many blocks become one tree (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.store.prefix_tree import PrefixTree, check_rows

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class BlockStacks:
    """Rows of STACKS and FRAMES of one service, numbered from 0.

    Attributes:
        parent: Row of each node's caller, before its own; -1 for the root. Int32, shape (n,).
        frame: Row in ``frames``; -1 for the root. Int32, shape (n,).
        frames: frame_id, function, file, line.
        ended: Number of a stack → its row, int32, shape (stacks,).
        ids: Number of a stack → its id, as it is stored, shape (stacks,).
    """

    parent: Int32s
    frame: Int32s
    frames: pa.Table
    ended: Int32s
    ids: Int64s

    @classmethod
    def of(cls, stacks: pa.Table, frames: pa.Table) -> BlockStacks:
        """Take a service's rows.

        Raises:
            StorageError: They point to what is not there, or do not number the stacks.
        """
        first_frame = frames.column("frame")[0].as_py() if frames.num_rows else 0
        node, parent = _int32(stacks, "node"), _int32(stacks, "parent")
        if len(node):
            parent = np.where(parent < 0, parent, parent - node[0]).astype(np.int32)
        frame = _int32(stacks, "frame") - np.int32(first_frame)
        check_rows(parent, frame, frames.num_rows)
        ended = _numbered(stacks)
        ids = stacks.column("stack_id").fill_null(0).to_numpy()[ended]
        return cls(parent, frame, frames, ended, ids)

    def tree(self, rows: Int32s | None = None) -> PrefixTree:
        """Give the tree of all rows, or of some and of what leads to them."""
        if rows is None:
            return PrefixTree.built(self.parent, self.frame, self.frames)
        used = self._callers_too(rows)
        number = np.cumsum(used, dtype=np.int32) - np.int32(1)
        parent = self.parent[used]
        parent = np.where(parent < 0, parent, number[parent]).astype(np.int32)
        called = parent >= 0
        frame = np.full(len(parent), -1, dtype=np.int32)
        found, frame[called] = np.unique(self.frame[used][called], return_inverse=True)
        return PrefixTree.built(parent, frame, self.frames.take(pa.array(found)))

    def ids_of(self, stack: npt.NDArray[np.integer]) -> Int64s:
        """Give the id of each row's stack.

        Raises:
            StorageError: One is not there.
        """
        return self.ids[nodes_of(np.arange(len(self.ids), dtype=np.int32), stack)]

    def _callers_too(self, rows: Int32s) -> Bools:
        used = np.zeros(len(self.parent), dtype=bool)
        used[rows] = True
        used[:1] = True
        new = rows
        while len(new):
            callers = self.parent[new]
            callers = callers[callers >= 0]
            new = np.unique(callers[~used[callers]])
            used[new] = True
        return used


def joined(
    tree: PrefixTree, blocks: Sequence[BlockStacks], heads: Sequence[PrefixTree] = ()
) -> tuple[PrefixTree, list[Int32s]]:
    """Add the stacks of blocks to a tree; most of them are there already, as a rule.

    Args:
        tree: What they are added to; it stays as it is.
        blocks: Of blocks.
        heads: Trees to be added as well.

    Returns:
        The tree of all, and for each block number → node.
    """
    if len(tree) == 1 and blocks:
        tree = max(blocks, key=lambda each: len(each.parent)).tree()
    more = []
    for each in blocks:
        # Where a stack is, all that leads to it is there as well.
        missing = tree.find(each.ids) < 0
        if missing.any():
            more.append(each.tree(each.ended[missing]))
    tree = PrefixTree.merged([tree, *more, *heads])
    return tree, [np.maximum(tree.find(each.ids), 0).astype(np.int32) for each in blocks]


def nodes_of(nodes: Int32s, stack: npt.NDArray[np.integer]) -> Int32s:
    """Give the node, or row, of each number.

    Raises:
        StorageError: One is not there.
    """
    if len(stack) and (int(stack.min()) < 0 or int(stack.max()) >= len(nodes)):
        raise StorageError("samples of a stack that is not there")
    found: Int32s = nodes[stack]
    return found


def _numbered(stacks: pa.Table) -> Int32s:
    """Give the row of each number."""
    number = stacks.column("stack").fill_null(-1).to_numpy()
    ended = np.flatnonzero(number >= 0)
    if (number[ended] >= len(ended)).any():
        raise StorageError("numbers of stacks have gaps")
    rows = np.full(len(ended), -1, dtype=np.int32)
    rows[number[ended]] = ended
    if (rows < 0).any():
        raise StorageError("two stacks have one number")
    return rows


def _int32(table: pa.Table, column: str) -> Int32s:
    return np.asarray(table.column(column).to_numpy(), dtype=np.int32)
