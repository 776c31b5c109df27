"""Stacks of a request as columns: their ids, and the prefix trees of those that are new.

A stack's id is a sum over its frames (hashing.py), so that the ids of all its prefixes are
one cumulative sum and a tree is what is left of them once each: no Python loop a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.hashing import GOLDEN, mix
from flamewell_collector.store.schema import BATCH_FRAMES
from flamewell_collector.symbol_columns import Locations
from flamewell_collector.wire_columns import chunks, spread

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_CHUNK_FRAMES = 32 << 10
"""What is hashed at once: its columns fit the second-level cache."""
_TREE_CHUNK_FRAMES = 256 << 10


class Stacks:
    """The stacks of a request, numbered as they came.

    Attributes:
        ids: Content hash of each, shape (stacks,).
        bad: Which refer to something outside its table.
        cut: Which lost frames.
    """

    def __init__(self, references: Int32s, counts: Int64s, table: Locations, *, depth: int) -> None:
        """Hash them.

        Args:
            references: Locations of all stacks behind each other, leaf first.
            counts: How many each stack has, shape (stacks,).
            table: The locations.
            depth: Deeper stacks keep the outermost frames: those give the place in the tree, and
                runaway recursion, the usual cause, repeats the innermost ones anyway.
        """
        self._references = references
        self._counts = counts
        self._first = np.cumsum(counts) - counts
        self._table = table
        self._depth = depth
        self.bad = np.zeros(len(counts), dtype=bool)
        self.cut = np.zeros(len(counts), dtype=bool)
        self.ids = np.zeros(len(counts), dtype=np.uint64)
        any_bad = bool(table.bad.any())
        for first, last in chunks(counts, _CHUNK_FRAMES):
            numbers = np.arange(first, last)
            rows, sizes, cut = self._frames(numbers)
            self.cut[first:last] = cut
            self.ids[first:last] = _ids(table.hashes[rows], sizes)
            if any_bad:
                begin = int(self._first[first])
                end = begin + int(counts[first:last].sum())
                broken = np.flatnonzero(table.bad[references[begin:end]]) + begin
                at = np.searchsorted(self._first + counts, broken, side="right")
                self.bad[at] = True

    def __len__(self) -> int:
        return len(self.ids)

    def _frames(self, numbers: Int64s) -> tuple[Int64s, Int64s, Bools]:
        """Give frame rows of stacks, leaf first, how many each has, and which were cut."""
        sizes = self._counts[numbers]
        if len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1:
            begin = int(self._first[numbers[0]])
            places = self._references[begin : begin + int(sizes.sum())]
        else:
            places = self._references[spread(self._first[numbers], sizes)]
        if self._table.single:
            rows = self._table.first[places]
        else:
            inner = self._table.size[places]
            rows = spread(self._table.first[places], inner)
            before = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(inner)))
            ends = np.cumsum(sizes)
            sizes = before[ends] - before[ends - sizes]
        cut = sizes > self._depth
        if cut.any():
            kept = np.minimum(sizes, self._depth)
            rows = rows[spread(np.cumsum(sizes) - kept, kept)]
            sizes = kept
        return rows, sizes, cut

    def paths(self, numbers: Int64s) -> Iterator[Paths]:
        """Give the paths of all frames of stacks, some stacks at a time."""
        sizes = np.minimum(self._counts[numbers], self._depth) + 1
        for first, last in chunks(sizes, _TREE_CHUNK_FRAMES):
            rows, frames, _ = self._frames(numbers[first:last])
            yield _paths(self._table.hashes[rows], rows, frames, first)

    def frame_table(self, rows: Int64s) -> pa.Table:
        """Give BATCH_FRAMES of these rows, numbered in their order."""
        table = self._table
        return pa.table(
            {
                "frame": np.arange(len(rows), dtype=np.int32),
                "frame_id": table.hashes[rows].view(np.int64),
                "function": pa.array(table.texts(table.functions[rows]), pa.string()),
                "file": pa.array(table.texts(table.files[rows]), pa.string()),
                "line": table.lines[rows].astype(np.int32),
            },
            schema=BATCH_FRAMES,
        )

    def distinct_frames(self, rows: Int64s) -> tuple[Int64s, Int32s]:
        """Give frame rows with one content each, and row → place among them."""
        used = np.zeros(len(self._table.hashes), dtype=bool)
        used[rows] = True
        found = np.flatnonzero(used)
        _, firsts, inverse = np.unique(
            self._table.hashes[found], return_index=True, return_inverse=True
        )
        number = np.zeros(len(used), dtype=np.int32)
        number[found] = inverse
        return found[firsts], number


@dataclass(frozen=True, slots=True)
class Paths:
    """The frames of some stacks, leaf first, stacks behind each other. Shape (n,).

    Attributes:
        path: Stack id of the frames from the outermost one down to this one.
        depth: 1 for the outermost frame.
        row: Frame row.
        stack: Place of the stack in what was asked for, ascending.
    """

    path: UInt64s
    depth: Int64s
    row: Int64s
    stack: Int64s


def _sums(hashes: UInt64s, sizes: Int64s) -> tuple[UInt64s, Int64s, Int64s]:
    """Give cumulative sums of terms (one more than frames), ends of stacks, and depths."""
    ends = np.cumsum(sizes)
    depth = np.repeat(ends, sizes)
    depth -= np.arange(len(hashes))
    sums = np.zeros(len(hashes) + 1, dtype=np.uint64)
    terms = depth.astype(np.uint64)
    terms *= GOLDEN
    terms += hashes
    np.cumsum(mix(terms), out=sums[1:])
    return sums, ends, depth


def _ids(hashes: UInt64s, sizes: Int64s) -> UInt64s:
    sums, ends, _ = _sums(hashes, sizes)
    ids: UInt64s = sums[ends] - sums[ends - sizes]
    ids[(ids == 0) & (sizes > 0)] = 1
    return ids


def _paths(hashes: UInt64s, rows: Int64s, sizes: Int64s, first: int) -> Paths:
    sums, ends, depth = _sums(hashes, sizes)
    path = np.repeat(sums[ends], sizes)
    path -= sums[:-1]
    path[path == 0] = 1
    return Paths(path, depth, rows, np.repeat(np.arange(len(sizes)) + first, sizes))
