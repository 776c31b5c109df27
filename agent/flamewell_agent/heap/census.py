"""Counts the objects of a Python process by type: headers of all pools, contents of some.

What is found are objects up to 512 bytes: CPython's own allocator has those in pools. Larger ones,
and what C code allocates by itself, are told as a rest. Where the pools are not as they should be
(no pymalloc, a debug or free-threaded build), nothing is said but that.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, compress

from flamewell_agent.errors import HeapRefusedError
from flamewell_agent.heap.estimates import PoolKey, Sample, Stratum, TypeCount, estimate, strata
from flamewell_agent.heap.pools import (
    HEADER_BYTES,
    WORD,
    Pool,
    free_blocks,
    parse_header,
    pool_bytes,
)
from flamewell_agent.heap.remote_memory import RemoteMemory
from flamewell_agent.heap.types import Types
from flamewell_wire.attributes import OTHER_BLOCKS_FRAME

VERSIONS = ((3, 8), (3, 14))
"""First and last CPython whose pools and types are known to be as they are read here."""
POOLS_AT_ONCE = 1_000
HEADERS_AT_MOST = 400_000
"""6 GiB of pools, or 1.6 of the smaller ones of 3.8 and 3.9; beyond, every n-th is looked at."""
_LEADS = (0, 2, 4)
_VERSION_PARTS = 2
_DEBUG_BYTES = 0xFDFDFDFDFDFDFD
_CREDIBLE_SHARE = 0.2
"""Of blocks that are objects; all that were seen had more than .5."""
_BROKEN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Census:
    """What a heap holds.

    Attributes:
        types: Largest first.
        pools: In use.
        pools_read: Of these, how many were looked into.
        pool_bytes: Size of all pools in use.
        used_bytes: Of the blocks in use in them, exact but for what changes meanwhile.
        occupancy: The share of the pools' room that is in use: low where memory is fragmented.
        anonymous_bytes: Of the process, for comparison; not all of it is resident.
        sample: What a later census is compared with.
    """

    types: tuple[TypeCount, ...]
    pools: int
    pools_read: int
    pool_bytes: int
    used_bytes: int
    occupancy: float
    anonymous_bytes: int
    sample: Sample


def take_census(
    memory: RemoteMemory,
    version: tuple[int, int],
    *,
    pools: int = POOLS_AT_ONCE,
    headers: int = HEADERS_AT_MOST,
    before: Census | None = None,
    redact: Sequence[str] = (),
    uniform: Callable[[], float] = random.random,
) -> Census:
    """Count the objects of a process.

    Args:
        memory: Of the process.
        version: Of its CPython.
        pools: Into how many pools to look, drawn at random; 0 for all.
        headers: How many places of pools to look at, at most; each stands for several beyond.
        before: An earlier census of the process: its pools are looked into again, and new ones as
            many as fit, so that what has grown in between is told from what is drawn otherwise.
        redact: Names of types like these (shell patterns) are told as ``(redacted)``.
        uniform: In [0, 1).

    Raises:
        HeapRefusedError: It would not be right; why is said.
        ProcessGoneError: The process has ended.
        ProcessUnreadableError: It may not be read.
    """
    first, last = VERSIONS
    if not first <= version <= last:
        raise HeapRefusedError(
            f"the heap of CPython {version[0]}.{version[1]} is not known: "
            f"{first[0]}.{first[1]} to {last[0]}.{last[1]} are"
        )
    size = pool_bytes(version)
    mappings = memory.mappings()
    anonymous = [each for each in mappings if each.anonymous]
    spans = [(each.start, each.end) for each in anonymous]
    places = sum(max(0, end - start) for start, end in spans) // size
    step = before.sample.step if before is not None else max(1, -(-places // headers))
    found = _pools(memory, spans, size, step)
    if not found:
        raise HeapRefusedError(
            "there are no pools of CPython's allocator: PYTHONMALLOC=malloc, a free-threaded "
            "build, or an allocator of its own"
        )
    drawn = _draw(found, pools, uniform) if before is None else _pair(found, pools, before, uniform)
    counted = _look_into(memory, Types(memory, version, mappings, redact), drawn, size)
    used = step * sum(each.used * each.block_bytes for each in found)
    room = step * sum(each.capacity * each.block_bytes for each in found)
    sample = Sample(frozenset(map(_key, found)), counted, step)
    return Census(
        types=_types(strata(sample, None if before is None else before.sample)),
        pools=step * len(found),
        pools_read=len(counted),
        pool_bytes=step * len(found) * size,
        used_bytes=used,
        occupancy=used / room,
        anonymous_bytes=sum(each.end - each.start for each in anonymous),
        sample=sample,
    )


def parse_version(text: str) -> tuple[int, int]:
    """Give major and minor out of ``3.11.7``.

    Raises:
        HeapRefusedError: It is not known, or of a free-threaded build.
    """
    parts = text.split(".")
    if len(parts) < _VERSION_PARTS or not all(each.isdecimal() for each in parts[:_VERSION_PARTS]):
        raise HeapRefusedError(
            f"the version of its CPython is {text or 'not known'}: the heap can't be read rightly"
        )
    return int(parts[0]), int(parts[1])


def _key(pool: Pool) -> PoolKey:
    return pool.address, pool.block_bytes


def _pools(
    memory: RemoteMemory, spans: Sequence[tuple[int, int]], size: int, step: int
) -> list[Pool]:
    """Find the pools in use, at every so many-th address: the same ones each time."""
    stride = size * step
    places = [
        address
        for start, end in spans
        for address in range(-(-start // stride) * stride, end - size + 1, stride)
    ]
    headers = memory.read_many(places, HEADER_BYTES)
    parsed = (
        parse_header(content, address, size)
        for address, content in zip(places, headers, strict=True)
        if content is not None
    )
    return [each for each in parsed if each is not None]


def _draw(found: Sequence[Pool], count: int, uniform: Callable[[], float]) -> list[Pool]:
    """Draw pools, of each size of block in proportion to its pools, two at least."""
    if not count or count >= len(found):
        return list(found)
    by_size: dict[int, list[Pool]] = defaultdict(list)
    for each in found:
        by_size[each.block_bytes].append(each)
    drawn: list[Pool] = []
    for members in by_size.values():
        wanted = min(len(members), max(2, round(count * len(members) / len(found))))
        shuffled = sorted(members, key=lambda _: uniform())
        drawn += shuffled[:wanted]
    return drawn


def _pair(
    found: Sequence[Pool], count: int, before: Census, uniform: Callable[[], float]
) -> list[Pool]:
    """Choose the pools of an earlier census again, and draw as many of the new ones."""
    old, read = before.sample.pools, before.sample.read
    new = [each for each in found if _key(each) not in old]
    return [each for each in found if _key(each) in read] + _draw(new, count, uniform)


_Counted = dict[PoolKey, Counter[str]]


def _look_into(memory: RemoteMemory, types: Types, drawn: Sequence[Pool], size: int) -> _Counted:
    contents = memory.read_many([each.address for each in drawn], size)
    blocks: list[tuple[Pool, memoryview, set[int]]] = []
    broken = 0
    for pool, content in zip(drawn, contents, strict=True):
        # Headers were read before: the pool may be another one by now.
        now = parse_header(content, pool.address, size) if content is not None else None
        words = memoryview(content).cast("Q") if content is not None else None
        free = free_blocks(now, words) if now is not None and words is not None else None
        if now is None or words is None or free is None or now.block_bytes != pool.block_bytes:
            broken += 1
        else:
            blocks.append((now, words, free))
    if broken > _BROKEN_SHARE * len(drawn):
        raise HeapRefusedError("most pools change while they are read: ask again when it is calm")
    _refuse_debug(blocks)
    seen = Counter(
        chain.from_iterable(
            _column(pool, words, lead) for pool, words, _ in blocks for lead in _LEADS
        )
    )
    # What else stands there, such as the collector's links, is another word in each block.
    types.resolve(address for address, count in seen.items() if count > 1)
    names = types.by_lead()
    counted = {_key(pool): _count(pool, words, free, names) for pool, words, free in blocks}
    _refuse_nonsense(counted)
    return counted


def _column(pool: Pool, words: memoryview, lead: int) -> memoryview:
    """Give the word of each block at which ``ob_type`` stands behind so many leading words."""
    step = pool.block_bytes // WORD
    first = HEADER_BYTES // WORD + lead + 1
    if lead + 2 > step:
        return words[0:0]
    return words[first : HEADER_BYTES // WORD + pool.blocks * step : step]


def _count(
    pool: Pool, words: memoryview, free: set[int], names: dict[int, dict[int, str]]
) -> Counter[str]:
    found: list[str | None] = [None] * pool.blocks
    for lead in _LEADS:
        known = names.get(lead)
        column = _column(pool, words, lead)
        if known and len(column):
            told = map(known.get, column)
            found = [one or other for one, other in zip(found, told, strict=True)]
    used = [number not in free for number in range(pool.blocks)] if free else [True] * pool.blocks
    return Counter(each or OTHER_BLOCKS_FRAME for each in compress(found, used))


def _refuse_debug(blocks: Sequence[tuple[Pool, memoryview, set[int]]]) -> None:
    """Notice the padding of PYTHONMALLOC=debug, which shifts everything."""
    seen = padded = 0
    for pool, words, _ in blocks[:100]:
        column = _column(pool, words, 0)
        seen += len(column)
        padded += sum(word >> 8 == _DEBUG_BYTES for word in column)
    if seen and padded > seen / 2:
        raise HeapRefusedError(
            "PYTHONMALLOC=debug, PYTHONDEVMODE or a debug build: blocks are not where they are "
            "otherwise"
        )


def _refuse_nonsense(counted: _Counted) -> None:
    total = sum(sum(each.values()) for each in counted.values())
    other = sum(each[OTHER_BLOCKS_FRAME] for each in counted.values())
    if total and total - other < _CREDIBLE_SHARE * total:
        raise HeapRefusedError(
            f"only {total - other} of {total} blocks look like objects: this build is not known"
        )


def _types(parts: Sequence[Stratum]) -> tuple[TypeCount, ...]:
    found = estimate(parts).values()
    return tuple(sorted(found, key=lambda each: (-each.size_bytes, each.name)))
