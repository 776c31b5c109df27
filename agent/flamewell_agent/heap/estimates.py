"""From pools that were read to all pools: what there is of each type, and what has come. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TypeCount:
    """One type.

    Attributes:
        name: ``tp_name``, or ``OTHER_BLOCKS_FRAME``.
        count: Objects, estimated.
        size_bytes: Of their blocks, estimated.
        count_error: Standard error of the count: 0 where all pools were read.
    """

    name: str
    count: int
    size_bytes: int
    count_error: int


PoolKey = tuple[int, int]
"""Address of a pool and size of its blocks: a pool that is given to another size is another one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was looked at.

    Attributes:
        pools: All pools in use.
        read: Those that were looked into, with the objects of each type.
        step: How many pools each stands for.
    """

    pools: frozenset[PoolKey]
    read: Mapping[PoolKey, Counter[str]]
    step: int


@dataclass(frozen=True, slots=True)
class Stratum:
    """Pools of one size of block that are alike.

    Attributes:
        block_bytes: Size of their blocks.
        whole: How many there are.
        read: Of those that were looked into: how many objects of each type, or what they gained.
    """

    block_bytes: int
    whole: int
    read: Sequence[Mapping[str, int]]


def strata(sample: Sample, before: Sample | None = None) -> list[Stratum]:
    """Divide pools by size of block, and into those that were there before and new ones."""
    old = before.pools if before is not None else frozenset()
    whole: Counter[tuple[int, bool]] = Counter(
        (size, (at, size) in old) for at, size in sample.pools
    )
    read: dict[tuple[int, bool], list[Counter[str]]] = defaultdict(list)
    for key, objects in sample.read.items():
        read[key[1], key in old].append(objects)
    return [Stratum(key[0], sample.step * whole[key], found) for key, found in read.items()]


def gained(before: Sample, after: Sample) -> list[Stratum]:
    """Divide what has come and gone: in pools that stayed, in new ones, in those that are gone."""
    stayed = before.pools & after.pools
    came, went = after.pools - before.pools, before.pools - after.pools
    lost = {key: _less(Counter(), each) for key, each in before.read.items()}
    return [
        *_strata(stayed, {key: _minus(after, before, key) for key in after.read}, after.step),
        *_strata(came, after.read, after.step),
        *_strata(went, lost, after.step),
    ]


def _strata(
    pools: frozenset[PoolKey], told: Mapping[PoolKey, Counter[str] | None], step: int
) -> list[Stratum]:
    whole = Counter(size for _, size in pools)
    read: dict[int, list[Counter[str]]] = defaultdict(list)
    for key, objects in told.items():
        if objects is not None and key in pools:
            read[key[1]].append(objects)
    return [Stratum(size, step * whole[size], each) for size, each in read.items()]


def _minus(after: Sample, before: Sample, key: PoolKey) -> Counter[str] | None:
    return _less(after.read[key], before.read[key]) if key in before.read else None


def _less(one: Counter[str], other: Counter[str]) -> Counter[str]:
    found = Counter(one)
    found.subtract(other)
    return found


def estimate(parts: Sequence[Stratum]) -> dict[str, TypeCount]:
    """Scale up each stratum; errors are those of a stratified sample (Cochran 1977, chapter 5)."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    variance: dict[str, float] = defaultdict(float)
    for part in parts:
        whole, read = part.whole, len(part.read)
        for name in set().union(*part.read):
            values = [each.get(name, 0) for each in part.read]
            scaled = round(whole * sum(values) / read)
            count[name] += scaled
            size[name] += scaled * part.block_bytes
            if read > 1:
                mean = sum(values) / read
                spread = sum((each - mean) ** 2 for each in values) / (read - 1)
                variance[name] += whole**2 * max(0.0, 1 - read / whole) * spread / read
    return {
        name: TypeCount(name, count[name], size[name], round(math.sqrt(variance[name])))
        for name in count
    }
