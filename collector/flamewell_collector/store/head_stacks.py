"""Stacks of unflushed batches: kept as they came, made a tree when somebody asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.prefix_tree import PrefixTree

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Part:
    """A service's nodes of one batch, numbered from 0; the batch's frames."""

    parent: Int32s
    frame: Int32s
    frames: pa.Table


class HeadStacks:
    """Stacks of one tenant by service. Its owner serialises changes; anybody may read meanwhile."""

    def __init__(self) -> None:
        self._parts: dict[str, list[_Part]] = {}
        # How many of the parts are in the tree.
        self._trees: dict[str, tuple[int, PrefixTree]] = {}

    def add(self, stacks: pa.Table, frames: pa.Table) -> None:
        """Add the stacks of a batch (BATCH_STACKS by service, BATCH_FRAMES)."""
        if not stacks.num_rows:
            return
        parent = _int32s(stacks, "parent")
        frame = _int32s(stacks, "frame")
        roots = np.flatnonzero(parent < 0)
        names = stacks.column("service_name").take(pa.array(roots)).to_pylist()
        bounds = [*roots.tolist(), len(parent)]
        for at, service in enumerate(names):
            first, last = bounds[at], bounds[at + 1]
            shifted = parent[first:last] - np.int32(first)
            shifted[0] = -1
            part = _Part(shifted, frame[first:last], frames)
            self._parts.setdefault(service, []).append(part)

    def extend(self, later: HeadStacks) -> None:
        """Add all stacks of another one."""
        for service, parts in later._parts.items():
            self._parts.setdefault(service, []).extend(parts)

    def tree(self, service: str) -> PrefixTree | None:
        """Give the stacks of a service, None where there are none.

        Raises:
            StorageError: They point to what is not there.
        """
        parts = self._parts.get(service)
        if parts is None:
            return None
        count = len(parts)
        done, tree = self._trees.get(service, (0, PrefixTree.empty()))
        if done < count:
            tree = PrefixTree.merged([tree, _built(parts[done:count])])
            self._trees[service] = (count, tree)
        return tree


def _built(parts: list[_Part]) -> PrefixTree:
    parents, frames, rows = [], [], []
    nodes = frame_rows = 0
    for each in parts:
        parents.append(np.where(each.parent < 0, each.parent, each.parent + np.int32(nodes)))
        frames.append(each.frame + np.int32(frame_rows))
        rows.append(each.frames)
        nodes += len(each.parent)
        frame_rows += each.frames.num_rows
    parent, frame = np.concatenate(parents), np.concatenate(frames)
    return PrefixTree.built(parent, frame, pa.concat_tables(rows))


def _int32s(table: pa.Table, column: str) -> Int32s:
    return np.asarray(table.column(column).to_numpy(), dtype=np.int32)
