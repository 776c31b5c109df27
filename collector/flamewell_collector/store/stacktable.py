"""All stacks of one tenant as one prefix tree in memory, interned from batches and blocks.

Numbers given out are never reused or changed, so readers need no lock for nodes they know.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.model import Frames, StackTree
from flamewell_collector.store.reader import read_table
from flamewell_collector.store.schema import EMPTY_STACK_ID, FRAMES, STACKS

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_FIRST_CAPACITY = 1024


class StackTable:
    """Stack id → node of a prefix tree. Node 0 is the root, the empty stack."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes = 1
        self._parent: Int32s = np.full(_FIRST_CAPACITY, -1, dtype=np.int32)
        self._frame: Int32s = np.full(_FIRST_CAPACITY, -1, dtype=np.int32)
        self._child: dict[int, int] = {}
        self._node_of_stack: dict[int, int] = {EMPTY_STACK_ID: 0}
        self._frame_of: dict[tuple[str, str, int], int] = {}
        self._function: list[str] = []
        self._file: list[str] = []
        self._line: list[int] = []
        self._loaded: set[Path] = set()

    def __len__(self) -> int:
        return self._nodes

    def intern(self, stacks: pa.Table, frames: pa.Table) -> None:
        """Add the stacks of a batch or block (STACKS and FRAMES, numbered within themselves).

        Raises:
            StorageError: A parent or frame number is out of its table.
        """
        stack_ids = stacks.column("stack_id").to_pylist()
        if all(each is None or each in self._node_of_stack for each in stack_ids):
            return
        parents = stacks.column("parent").to_pylist()
        frame_numbers = stacks.column("frame").to_pylist()
        with self._lock:
            frame_of = self._intern_frames(frames)
            node_of: list[int] = []
            for at, (parent, frame) in enumerate(zip(parents, frame_numbers, strict=True)):
                if parent < 0:
                    node_of.append(0)
                elif parent >= at or not 0 <= frame < len(frame_of):
                    raise StorageError(f"stack node {at} points to parent {parent}, frame {frame}")
                else:
                    node_of.append(self._child_node(node_of[parent], frame_of[frame]))
            for stack_id, node in zip(stack_ids, node_of, strict=True):
                if stack_id is not None:
                    self._node_of_stack[stack_id] = node

    def load_block(self, block: Path) -> None:
        """Intern a block's stack files, once.

        Raises:
            StorageError: They can't be read.
        """
        if block in self._loaded:
            return
        try:
            stacks = read_table(block / "stacks.parquet", STACKS)
            frames = read_table(block / "frames.parquet", FRAMES)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                f"the stacks of block {block.name} can't be read: {error}"
            ) from error
        self.intern(stacks, frames)
        self._loaded.add(block)

    def forget_block(self, block: Path) -> None:
        """Note that a block is gone; its stacks stay until the next start."""
        self._loaded.discard(block)

    def tree(self, stack_ids: UInt64s, values: Int64s) -> StackTree:
        """Put values on their stacks; gives only nodes on the paths of these stacks.

        Args:
            stack_ids: Shape (n,); may repeat. An id that is not known counts at the root, so that
                totals stay right.
            values: Shape (n,).
        """
        known = self._node_of_stack
        nodes = np.fromiter(
            (known.get(each, 0) for each in stack_ids.tolist()), np.int64, len(stack_ids)
        )
        used = self.paths(nodes)
        place = np.searchsorted(used, nodes)
        own = np.zeros(len(used), dtype=np.int64)
        np.add.at(own, place, values)
        parents = self._parent[used]
        parent = np.searchsorted(used, parents).astype(np.int32)
        parent[0] = -1
        frame_numbers, frame = np.unique(self._frame[used[1:]], return_inverse=True)
        return StackTree(
            parent=parent,
            frame=np.concatenate(([-1], frame)).astype(np.int32),
            value=own,
            frames=self.frames(frame_numbers),
        )

    def paths(self, nodes: Int64s) -> Int64s:
        """Give these nodes and all their ancestors, ascending; the root is always among them."""
        levels = [np.zeros(1, dtype=np.int64)]
        current = np.unique(nodes)
        while len(current) and current[-1] > 0:
            levels.append(current[current > 0])
            current = np.unique(self._parent[levels[-1]].astype(np.int64))
        return np.unique(np.concatenate(levels))

    def frames(self, numbers: npt.NDArray[np.integer]) -> Frames:
        """Give the frame table of these frame numbers, in their order."""
        wanted = numbers.tolist()
        return Frames(
            function=[self._function[each] for each in wanted],
            file=[self._file[each] for each in wanted],
            line=np.fromiter((self._line[each] for each in wanted), np.int32, len(wanted)),
        )

    def subset(self, stack_ids: UInt64s) -> tuple[pa.Table, pa.Table]:
        """Give STACKS and FRAMES tables that hold just these stacks and their ancestors."""
        known = self._node_of_stack
        found = sorted((known[each], each) for each in set(stack_ids.tolist()) if each in known)
        nodes = np.array([node for node, _ in found], dtype=np.int64)
        ids = np.array([stack_id for _, stack_id in found], dtype=np.uint64)
        tree = self.tree(ids, np.zeros(len(ids), dtype=np.int64))
        place = np.searchsorted(self.paths(nodes), nodes)
        marked: list[int | None] = [None] * len(tree.parent)
        marked[0] = EMPTY_STACK_ID
        for at, stack_id in zip(place.tolist(), ids.tolist(), strict=True):
            marked[at] = stack_id
        stacks = pa.table(
            {
                "node": np.arange(len(tree.parent), dtype=np.int32),
                "parent": tree.parent,
                "frame": tree.frame,
                "stack_id": pa.array(marked, pa.uint64()),
            },
            schema=STACKS,
        )
        frames = pa.table(
            {
                "frame": np.arange(len(tree.frames.function), dtype=np.int32),
                "function": pa.array(tree.frames.function, pa.string()),
                "file": pa.array(tree.frames.file, pa.string()),
                "line": tree.frames.line,
            },
            schema=FRAMES,
        )
        return stacks, frames

    def _intern_frames(self, frames: pa.Table) -> list[int]:
        columns = (frames.column(name).to_pylist() for name in ("function", "file", "line"))
        numbers: list[int] = []
        for key in zip(*columns, strict=True):
            number = self._frame_of.get(key)
            if number is None:
                number = self._frame_of[key] = len(self._function)
                self._function.append(key[0])
                self._file.append(key[1])
                self._line.append(key[2])
            numbers.append(number)
        return numbers

    def _child_node(self, parent: int, frame: int) -> int:
        key = parent << 32 | frame
        node = self._child.get(key)
        if node is None:
            node = self._nodes
            if node == len(self._parent):
                self._grow()
            self._parent[node] = parent
            self._frame[node] = frame
            self._nodes += 1
            self._child[key] = node
        return node

    def _grow(self) -> None:
        # A reader that holds the old arrays still finds every node that it knows in them.
        fresh = np.full(len(self._parent), -1, dtype=np.int32)
        self._parent = np.concatenate((self._parent, fresh))
        self._frame = np.concatenate((self._frame, fresh))
