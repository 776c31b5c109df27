"""Content hashes: the same frame, stack or label set has the same 64-bit id on every machine.

They are signed where they are ids in tables, unsigned where they are added up.

Frames and label sets: BLAKE2b cut to 8 bytes, keyed by nothing. A stack's id is the sum over its
frames, outermost first and counted from 1, of ``mix(frame_hash + depth * GOLDEN)`` modulo 2⁶⁴: the
ids of all prefixes of a stack are one cumulative sum. With 10⁷ distinct stacks the chance of any
collision is 3·10⁻⁶ (birthday bound n²/2⁶⁵).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
EMPTY_STACK_ID: Final = 0


def frame_hash(function: str, file: str, line: int) -> int:
    """Hash of a frame alone, unsigned."""
    key = f"{function}\0{file}\0{line}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


def stack_hash(frames: Iterable[tuple[str, str, int]]) -> int:
    """Hash of a stack of (function, file, line), outermost first: what columns of them give."""
    hashes = np.array([frame_hash(*each) for each in frames], dtype=np.uint64)
    caller = np.maximum(np.arange(len(hashes) + 1) - 1, 0)
    path, _ = path_ids(caller, np.concatenate((np.zeros(1, np.uint64), hashes)))
    return int(path[-1])


def path_ids(caller: Int64s, hashes: UInt64s) -> tuple[Int64s, Int64s]:
    """Give the stack id and the depth of each node of prefix trees.

    Sums down all paths at once, over twice as many callers each time (pointer jumping,
    Wyllie 1979).

    Args:
        caller: Row of each node's caller; a root is its own.
        hashes: Hash of each node's frame; anything for roots.

    Returns:
        Ids, and depths: 0 for roots, 1 for what they call.
    """
    root = caller == np.arange(len(caller))
    depth = _sums_down(caller, root, (~root).astype(np.int64))
    terms = depth.astype(np.uint64) * GOLDEN + hashes
    path = _sums_down(caller, root, np.where(root, np.uint64(0), mix(terms)))
    # 0 is the empty stack's.
    path[(path == 0) & ~root] = 1
    return path.view(np.int64), depth


def _sums_down(
    caller: Int64s, root: npt.NDArray[np.bool_], terms: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    hop = caller
    while not root[hop].all():
        terms = terms + terms[hop]
        hop = hop[hop]
    return terms


def mix(numbers: UInt64s) -> UInt64s:
    """Mix the bits of numbers, in place (splitmix64's finaliser, public domain, Vigna 2015)."""
    numbers ^= numbers >> np.uint64(30)
    numbers *= _MULTIPLIERS[0]
    numbers ^= numbers >> np.uint64(27)
    numbers *= _MULTIPLIERS[1]
    numbers ^= numbers >> np.uint64(31)
    return numbers


def label_set_hash(labels: Iterable[tuple[str, str]]) -> int:
    """Hash of a label set; the order of the pairs does not matter."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(labels):
        digest.update(f"{name}\0{value}\0".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little", signed=True) or 1
