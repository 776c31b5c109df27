"""Pools, maps and remote memory by their bytes."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.errors import ProcessGoneError
from flamewell_agent.heap.estimates import Sample, Stratum, estimate, gained, strata
from flamewell_agent.heap.pools import HEADER_BYTES, Pool, free_blocks, parse_header, pool_bytes
from flamewell_agent.heap.remote_memory import RemoteMemory, parse_maps

ADDRESS, SIZE = 0x7F0000004000, 16 << 10


def header(**changed: int) -> bytes:
    fields = {
        "used": 3, "free": ADDRESS + 48 + 64, "next": 0, "before": 0, "arena": 1, "size_class": 3,
        "offset": 48 + 64 * 5, "last": SIZE - 64,
    } | changed  # fmt: skip
    return struct.pack("<I4xQQQIIII", *fields.values())


def test_a_header() -> None:
    assert parse_header(header(), ADDRESS, SIZE) == Pool(ADDRESS, 3, ADDRESS + 112, 64, 5, 255)
    assert pool_bytes((3, 9)) == 4_096
    assert pool_bytes((3, 10)) == pool_bytes((3, 14)) == SIZE


@pytest.mark.parametrize(
    "changed",
    [
        {"used": 0}, {"used": 256}, {"used": 6}, {"size_class": 32}, {"last": SIZE - 48},
        {"offset": 48}, {"offset": 49}, {"offset": SIZE + 64}, {"free": ADDRESS},
        {"free": ADDRESS + 50}, {"free": ADDRESS + 48 + 64 * 5}, {"next": 3}, {"arena": 1 << 25},
    ],
)  # fmt: skip
def test_what_is_no_header(changed: dict[str, int]) -> None:
    assert parse_header(header(**changed), ADDRESS, SIZE) is None


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_other_memory_is_no_header(content: bytes) -> None:
    found = parse_header(content, ADDRESS, SIZE)
    assert found is None or found.used <= found.blocks <= found.capacity


def test_nothing_random_looks_like_a_header() -> None:
    rng = random.Random(1)
    assert not any(parse_header(rng.randbytes(48), ADDRESS, SIZE) for _ in range(20_000))


def words(links: dict[int, int]) -> memoryview:
    content = bytearray(SIZE)
    for block, target in links.items():
        struct.pack_into(
            "<Q", content, 48 + 64 * block, target and ADDRESS + 48 + 64 * (target - 1)
        )
    return memoryview(bytes(content)).cast("Q")


def test_the_list_of_free_blocks() -> None:
    pool = parse_header(header(), ADDRESS, SIZE)
    assert pool is not None
    assert free_blocks(pool, words({1: 4, 3: 0})) == {1, 3}


@pytest.mark.parametrize("links", [{1: 0}, {1: 2, 3: 1}, {1: 4, 3: 5, 4: 0}, {1: 9}, {1: 300}])
def test_a_list_that_is_broken(links: dict[int, int]) -> None:
    pool = parse_header(header(), ADDRESS, SIZE)
    assert pool is not None
    assert free_blocks(pool, words(links)) is None


MAPS = b"""\
00400000-00401000 r--p 00000000 fd:00 123 /usr/bin/python3.11
00b00000-00b10000 rw-p 00700000 fd:00 123 /usr/bin/python3.11
01c00000-01d00000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000200000-7f0000300000 rw-s 00000000 00:01 44                         /dev/zero (deleted)
7f0000400000-7f0000500000 ---p 00000000 00:00 0
7f0000600000-7f0000700000 rw-p 00000000 00:00 0                          [anon:cpython]
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
no line at all
"""


def test_maps() -> None:
    found = list(parse_maps(MAPS))
    assert [each.start for each in found if each.anonymous] == [
        0x1C00000, 0x7F0000000000, 0x7F0000600000,
    ]  # fmt: skip
    assert [each.start for each in found if each.writable and not each.anonymous] == [
        0xB00000, 0x7FFC00000000,
    ]  # fmt: skip


@given(st.binary(max_size=300))
def test_any_maps_are_survived(content: bytes) -> None:
    list(parse_maps(content))


def test_holes_are_told_and_cost_nothing_else() -> None:
    pages = mmap.mmap(-1, 4 * mmap.PAGESIZE)
    pages.write(bytes(range(256)) * (4 * mmap.PAGESIZE // 256))
    anchor = ctypes.c_char.from_buffer(pages)
    start = ctypes.addressof(anchor)
    libc = ctypes.CDLL(None)
    libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0)
    memory = RemoteMemory(os.getpid())
    places = [start, start + mmap.PAGESIZE, start + 2 * mmap.PAGESIZE, 8, start + 1]
    found = memory.read_many(places, 4)
    libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 3)
    assert found == [b"\0\1\2\3", None, b"\0\1\2\3", None, b"\1\2\3\4"]
    assert memory.read_many([start + each for each in range(3_000)], 1) == [
        bytes([each % 256]) for each in range(3_000)
    ]
    del anchor
    pages.close()


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(ProcessGoneError):
        RemoteMemory(1 << 22).read(4096, 8)
    with pytest.raises(ProcessGoneError):
        RemoteMemory(1 << 22).mappings()


class TestEstimates:
    def test_a_sample_is_scaled_up(self) -> None:
        parts = [Stratum(32, 100, [{"a": 2}, {"a": 4, "b": 1}]), Stratum(64, 1, [{"a": 5}])]
        found = estimate(parts)
        assert (found["a"].count, found["a"].size_bytes) == (305, 300 * 32 + 5 * 64)
        assert found["b"].count == 50
        # sqrt(100² (1 - 2/100) 2 / 2): Cochran 1977, (2.9) and (5.6).
        assert found["a"].count_error == 99

    def test_what_stayed_came_and_went(self) -> None:
        def sample(read: dict[int, Counter[str]], pools: int) -> Sample:
            keys = {(each, 32) for each in range(pools)}
            return Sample(frozenset(keys), {(each, 32): of for each, of in read.items()}, 1)

        before = sample({0: Counter(a=5), 1: Counter(a=5, b=2), 9: Counter(a=1)}, 10)
        after = sample({0: Counter(a=7), 1: Counter(a=7), 10: Counter(a=3)}, 12)
        gone = Sample(after.pools - {(9, 32)}, after.read, 1)
        found = estimate(gained(before, gone))
        # Nine stayed with two more each, two came with three each, one of one went.
        assert found["a"].count == 9 * 2 + 2 * 3 - 1
        assert found["b"].count == -9
        assert [each.whole for each in strata(after, before)] == [10, 2]
