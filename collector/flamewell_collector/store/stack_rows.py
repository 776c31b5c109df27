"""The STACKS and FRAMES rows of a block, numbered through all its services (pure)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.schema import FRAMES, STACKS

Int64s = npt.NDArray[np.int64]


class StackRows:
    """Turns prefix trees into rows; a service at a time."""

    def __init__(self) -> None:
        self._nodes = 0
        self._frames = 0
        self._used: list[Int64s] = []

    def use(self, stack_ids: Int64s) -> None:
        """Note stacks that samples of the service end on; may repeat."""
        self._used.append(np.unique(stack_ids))

    def end_service(self, service: str, tree: PrefixTree) -> tuple[pa.Table, pa.Table]:
        """Give STACKS and FRAMES of the stacks that were noted; later ones are another service's.

        Args:
            service: Whose.
            tree: Knows at least these stacks.
        """
        used = np.unique(np.concatenate(self._used)) if self._used else np.zeros(0, np.int64)
        self._used = []
        used = used[tree.find(used) >= 0]
        own = tree.restricted(used)
        order = own.preorder()
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        parent = place[own.parent[order]] + np.int32(self._nodes)
        parent[0] = -1
        frame, frames = self._number_frames(service, own, order)
        ended = np.zeros(len(order), dtype=bool)
        ended[place[own.find(used)]] = True
        ended[0] = True
        stacks = pa.table(
            {
                "service_name": pa.repeat(pa.scalar(service, pa.string()), len(order)),
                "node": np.arange(len(order), dtype=np.int32) + np.int32(self._nodes),
                "parent": parent,
                "frame": frame,
                "stack_id": pa.array(own.path[order], pa.int64(), mask=~ended),
            },
            schema=STACKS,
        )
        self._nodes += len(order)
        self._frames += frames.num_rows
        return stacks, frames

    def _number_frames(
        self, service: str, tree: PrefixTree, order: Int64s
    ) -> tuple[npt.NDArray[np.int32], pa.Table]:
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
                "frame": np.arange(len(numbers), dtype=np.int32) + np.int32(self._frames),
                "frame_id": tree.frames.ids[numbers],
                "function": rows.column("function"),
                "file": rows.column("file"),
                "line": rows.column("line"),
            },
            schema=FRAMES,
        )
        frame = np.concatenate((np.full(1, -1), number[inverse] + self._frames))
        return frame.astype(np.int32), frames
