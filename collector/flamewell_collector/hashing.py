"""Content hashes: the same frame, stack or label set has the same 64-bit id on every machine.

They are signed where they are ids in tables, unsigned where they are added up.

Label sets: BLAKE2b cut to 8 bytes, keyed by nothing. Frames and stacks are hashed by the thousand,
by sums modulo 2⁶⁴ that NumPy makes of all at once: a text's is over its 64-bit words, counted from
1, of ``mix(word + number * GOLDEN)``, mixed again with its length; a frame's nests those of its
function, file and line; a stack's id is over its frames, outermost first and counted from 1, of
``mix(frame_hash + depth * GOLDEN)``, so that the ids of all its prefixes are one cumulative sum.
With 10⁷ distinct stacks the chance of any collision is 3·10⁻⁶ (birthday bound n²/2⁶⁵). Whoever
wants two to collide can have that, among a tenant's own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
EMPTY_STACK_ID: Final = 0
_WORD_BYTES: Final = 8


def text_hashes(texts: Sequence[bytes]) -> UInt64s:
    """Hash texts, shape (n,)."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    words = (sizes + (_WORD_BYTES - 1)) // _WORD_BYTES
    ends = np.cumsum(words)
    before = ends - words
    number = np.arange(int(words.sum())) - np.repeat(before, words)
    data = b"".join((*texts, bytes(_WORD_BYTES)))
    # A word begins at any byte; the last one of a text reaches into what stands behind it.
    view = np.ndarray((len(data) - _WORD_BYTES + 1,), "<u8", data, strides=(1,))
    word = view[np.repeat(np.cumsum(sizes) - sizes, words) + number * _WORD_BYTES]
    some = np.flatnonzero(words)
    beyond = (8 * (words * _WORD_BYTES - sizes))[some].astype(np.uint64)
    last = ends[some] - 1
    word[last] = word[last] << beyond >> beyond
    sums = np.zeros(len(word) + 1, dtype=np.uint64)
    np.cumsum(mix(word + (number + 1).astype(np.uint64) * GOLDEN), out=sums[1:])
    return mix(sums[ends] - sums[before] + sizes.astype(np.uint64) * GOLDEN)


def frame_hashes(functions: UInt64s, files: UInt64s, lines: Int64s) -> UInt64s:
    """Hash frames.

    Args:
        functions: Hashes of their names, shape (n,).
        files: Hashes of their files, shape (n,).
        lines: Shape (n,).
    """
    return mix(functions + mix(files + mix(lines.astype(np.uint64) + GOLDEN)))


def frame_hash(function: str, file: str, line: int) -> int:
    """Hash of a frame alone, unsigned."""
    texts = text_hashes([each.encode("utf-8", "surrogatepass") for each in (function, file)])
    return int(frame_hashes(texts[:1], texts[1:], np.array([line]))[0])


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
