"""pymalloc's pools: where small objects of CPython live. Pure.

A pool is an aligned piece of an arena; its header says for blocks of which size it is, how many are
in use, and where the list of free ones begins. Source: ``struct pool_header`` of
Objects/obmalloc.c (CPython 3.8 to 3.11) and Include/internal/pycore_obmalloc.h (3.12 and later),
the same in all of them on 64-bit machines; pools are 4 KiB to 3.9 and 16 KiB from 3.10 on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 48
WORD = 8
ALIGNMENT = 16
_HEADER = struct.Struct("<I4xQQQIIII")
_SIZE_CLASSES = 512 // ALIGNMENT
_ARENAS_AT_MOST = 1 << 24
_POOL_BYTES_BEFORE_3_10, _POOL_BYTES = 4 << 10, 16 << 10
_LARGE_POOLS_SINCE = (3, 10)


@dataclass(frozen=True, slots=True)
class Pool:
    """The header of a pool in use.

    Attributes:
        address: Where it is.
        used: Blocks in use.
        free: First block of the list of free ones, 0 for none.
        block_bytes: Size of its blocks.
        blocks: Those that were ever used: the others lie behind them.
        capacity: How many fit.
    """

    address: int
    used: int
    free: int
    block_bytes: int
    blocks: int
    capacity: int


def pool_bytes(version: tuple[int, int]) -> int:
    """Give the size of a pool in a CPython."""
    return _POOL_BYTES if version >= _LARGE_POOLS_SINCE else _POOL_BYTES_BEFORE_3_10


def parse_header(content: bytes, address: int, size: int) -> Pool | None:
    """Read a header; None where there is none, or of a pool without a block in use.

    All fields are held against each other: it is most unlikely that other memory looks so.

    Args:
        content: ``HEADER_BYTES`` at the pool's begin.
        address: Where they were.
        size: Of a pool.
    """
    used, free, following, before, arena, size_class, offset, last = _HEADER.unpack_from(content)
    if not used > 0 or size_class >= _SIZE_CLASSES or arena >= _ARENAS_AT_MOST:
        return None
    block = (size_class + 1) * ALIGNMENT
    capacity = (size - HEADER_BYTES) // block
    if used > capacity or last != size - block or not HEADER_BYTES < offset <= size:
        return None
    blocks, rest = divmod(offset - HEADER_BYTES, block)
    if rest or blocks < used or (following | before) % WORD:
        return None
    if free:
        inside = free - address - HEADER_BYTES
        if inside % block or not 0 <= inside < blocks * block:
            return None
    return Pool(address, used, free, block, blocks, capacity)


def free_blocks(pool: Pool, words: memoryview) -> set[int] | None:
    """Follow the list of free blocks; None where it is broken: the pool was changed meanwhile.

    Args:
        pool: Its header.
        words: The whole pool as 64-bit words.

    Returns:
        Numbers of the blocks, counted from the first.
    """
    found: set[int] = set()
    at = pool.free
    expected = pool.blocks - pool.used
    while at:
        inside = at - pool.address - HEADER_BYTES
        number, rest = divmod(inside, pool.block_bytes)
        if rest or not 0 <= number < pool.blocks or number in found or len(found) >= expected:
            return None
        found.add(number)
        at = words[(at - pool.address) // WORD]
    return found if len(found) == expected else None
