"""Numbers of one service's stacks in one block, and the rows that say what they are (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.schema import FRAMES, STACKS

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


class StackNumbers:
    """Numbers stacks from 0 as they come; of those that come together, frequent ones first.

    Small numbers are thus the frequent ones: a byte or so of a compressed row, where an id of 64
    bits takes two by a dictionary.

    Attributes:
        tree: Where the stacks are.
    """

    def __init__(self, tree: PrefixTree) -> None:
        self.tree = tree
        self._number = np.full(len(tree), -1, dtype=np.int32)
        self._nodes: list[Int64s] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nodes(self) -> Int64s:
        """Give the node of each number."""
        return np.concatenate([np.zeros(0, np.int64), *self._nodes])

    def of(self, nodes: npt.NDArray[np.integer]) -> Int32s:
        """Give the number of each node; may repeat."""
        found: Int32s = self._number[nodes]
        new = nodes[found < 0]
        if not len(new):
            return found
        rows = np.bincount(new, minlength=len(self.tree))
        fresh = np.flatnonzero(rows)
        fresh = fresh[np.argsort(-rows[fresh], kind="stable")]
        self._number[fresh] = np.arange(self._count, self._count + len(fresh), dtype=np.int32)
        self._nodes.append(fresh)
        self._count += len(fresh)
        numbers: Int32s = self._number[nodes]
        return numbers


@dataclass(frozen=True, slots=True)
class StackRows:
    """One service's stacks as rows.

    Attributes:
        stacks: STACKS without the block, nodes and frames numbered from 0.
        frames: FRAMES without the block, numbered from 0.
    """

    stacks: pa.Table
    frames: pa.Table

    @classmethod
    def of(cls, service: str, numbers: StackNumbers) -> StackRows:
        """Give the rows of all stacks that have a number, and of what leads to them."""
        nodes = numbers.nodes
        ids = numbers.tree.path[nodes]
        own = numbers.tree.restricted(ids)
        order = own.preorder()
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        parent = place[own.parent[order]]
        parent[0] = -1
        frame, frames = _numbered_frames(service, own, order)
        number = np.full(len(order), -1, dtype=np.int32)
        number[place[own.find(ids)]] = np.arange(len(nodes), dtype=np.int32)
        ended = number >= 0
        with_id = ended.copy()
        with_id[0] = True
        stacks = pa.table(
            {
                "service_name": pa.repeat(pa.scalar(service, pa.string()), len(order)),
                "node": np.arange(len(order), dtype=np.int32),
                "parent": parent,
                "frame": frame,
                "stack_id": pa.array(own.path[order], pa.int64(), mask=~with_id),
                "stack": pa.array(number, pa.int32(), mask=~ended),
            },
            schema=STACKS.remove(6),
        )
        return cls(stacks, frames)

    def after(self, nodes: int, frames: int) -> StackRows:
        """Number from behind other services' rows."""
        stacks = _shifted(self.stacks, {"node": nodes, "parent": nodes, "frame": frames})
        return StackRows(stacks, _shifted(self.frames, {"frame": frames}))


def _shifted(rows: pa.Table, offsets: dict[str, int]) -> pa.Table:
    for name, offset in offsets.items():
        column = np.asarray(rows.column(name).to_numpy(), dtype=np.int32)
        moved = np.where(column < 0, column, column + np.int32(offset))
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(moved))
    return rows


def _numbered_frames(service: str, tree: PrefixTree, order: Int64s) -> tuple[Int32s, pa.Table]:
    """Number frames as they come in the order of the nodes: neighbours have near numbers."""
    called = tree.frame[order][1:]
    found, first, inverse = np.unique(called, return_index=True, return_inverse=True)
    by_first = np.argsort(first)
    number = np.empty(len(found), dtype=np.int32)
    number[by_first] = np.arange(len(found), dtype=np.int32)
    numbers = found[by_first]
    rows = tree.frames.rows.take(pa.array(numbers))
    frames = pa.table(
        {
            "service_name": pa.repeat(pa.scalar(service, pa.string()), len(numbers)),
            "frame": np.arange(len(numbers), dtype=np.int32),
            "frame_id": tree.frames.ids[numbers],
            "function": rows.column("function"),
            "file": rows.column("file"),
            "line": rows.column("line"),
        },
        schema=FRAMES.remove(6),
    )
    return np.concatenate((np.full(1, -1), number[inverse])).astype(np.int32), frames
