"""The model workload: batches as a fleet of services would send them, the same for the same seed.

200 services of 10 pods, 5 profile types, a profile each 15 s with about 150 stacks, drawn by Zipf
from 20,000 stacks a service; depth 23, 43 and 66 at the 10th, 50th and 90th percentile. Whole it is
100,000 samples a second; everything can be made smaller. What is made up, and why:

* **Call trees.** Stacks stand in the order in which a walk down the tree meets them; each keeps its
  predecessor's path but for the last few frames. Depths wander slowly around their mean, so that
  neighbours are alike and branches stand at all depths: 4 to 5 nodes a stack, 44 without shared
  paths. (CPU profiles: 5.8 of gofmt's 590 stacks, 1.7 of 316 stacks of a Python program.)
* **Frames.** What a frame calls depends on the frame and on how deep it is, and is one of few
  frames more often than not, as with wrappers and loops. A service has 4,000 frames, 30 % of them
  of libraries that other services use too; a function is seen with three lines on average.
* **Samples.** Ranks by Zipf with exponent 1, so that nearly all 20,000 stacks come in an hour. They
  are shuffled anew for each type, differ a little a pod, and drift from hour to hour. A profile's
  rows come in an order of its own: senders have none in common.
* **Values.** Hits times what a hit stands for: of CPU time a weight that differs from profile to
  profile, of allocations what the stack allocates, scaled up as Go does for one sample in 512 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from model_stacks import OWN_FRAMES, CallTree, call_tree, symbol_tables
from model_symbols import Symbols, library_symbols, service_name, service_symbols

from flamewell_collector.batch_columns import ProfileColumns, profile_table, series_table
from flamewell_collector.hashing import label_set_hash
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store.schema import BATCH_SAMPLES
from flamewell_wire.profile_types import ALLOC_OBJECTS, ALLOC_SPACE, CPU, INUSE_SPACE, WALL

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
WhichStacks = Literal["all", "used", "none"]
"""All of the services' stacks, those of the batch's samples, or none (the log has them)."""

TYPES = (CPU, INUSE_SPACE, ALLOC_SPACE, ALLOC_OBJECTS, WALL)
"""A fleet with fewer types has the first ones; INUSE_SPACE is the gauge."""

HOUR_MS = 3_600_000
_TABLE_BITS = 20
_JITTER_MS = 40
_CPU_PERIOD, _WALL_PERIOD = 20_408_163, 10_101_010  # ns
_HEAP_RATE = 512 << 10  # bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the fleet is.

    Attributes:
        services: How many; each has its own stacks.
        pods: Of each service.
        types: The first so many of TYPES.
        stacks: That a service has altogether, at most 65,536.
        stacks_a_profile: On average.
        period_ms: Time between two profiles of a pod and type.
        seed: Everything follows from it.
    """

    services: int = 200
    pods: int = 10
    types: int = 5
    stacks: int = 20_000
    stacks_a_profile: int = 150
    period_ms: int = 15_000
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Service:
    """What stays the same of a service.

    Attributes:
        name: service_name.
        tree: Its stacks.
        symbols: Its own frames.
        stack_ids: Of stack i.
        by_rank: For each type the stacks by rank.
        block_bytes: What stack i allocates at once.
        series_ids: Of its pods.
        labels: Of its pods.
        phases_ms: When after the full period each pod's profile begins.
    """

    name: str
    tree: CallTree
    symbols: Symbols
    stack_ids: Ints
    by_rank: list[npt.NDArray[np.uint16]]
    block_bytes: Floats
    series_ids: Ints
    labels: list[dict[str, str]]
    phases_ms: Ints


class Workload:
    """Makes batches. Any slot of time can be asked for, in any order, and is always the same."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._library = library_symbols()
        self._services: dict[int, _Service] = {}
        self._orders: tuple[int, dict[tuple[int, int], npt.NDArray[np.uint16]]] = (-1, {})
        chances = 1.0 / np.arange(1, shape.stacks + 1)
        chances /= chances.sum()
        middles = (np.arange(1 << _TABLE_BITS) + 0.5) / (1 << _TABLE_BITS)
        self._rank_of = np.searchsorted(np.cumsum(chances), middles).astype(np.uint16)
        self._draws = _draws_for(shape.stacks_a_profile, chances)

    def batches(
        self, first_ms: int, hours: float, *, batch_ms: int = 300_000, slice_ms: int = HOUR_MS
    ) -> Iterator[DecodedBatch]:
        """Give the fleet's batches in order of time.

        Args:
            first_ms: Start; a multiple of ``slice_ms``.
            hours: How long.
            batch_ms: Time that a batch covers; a divisor of ``slice_ms``, a multiple of the period.
            slice_ms: The first batch of each slice holds all stacks, the others none: whoever
                stores them flushes no more often than once a slice, at its end.
        """
        for start_ms in range(first_ms, first_ms + round(hours * HOUR_MS), batch_ms):
            first = start_ms % slice_ms == 0
            yield self.batch(start_ms, batch_ms, stacks="all" if first else "none")

    def batch(
        self,
        start_ms: int,
        length_ms: int,
        *,
        fleet: Mapping[int, int] | None = None,
        stacks: WhichStacks = "used",
    ) -> DecodedBatch:
        """Give all profiles that begin in [start_ms, start_ms + length_ms), of one hour.

        Args:
            start_ms: A multiple of the period.
            length_ms: A multiple of the period.
            fleet: Service → how many types; None for the whole fleet.
            stacks: Which stacks it holds.
        """
        fleet = (
            dict.fromkeys(range(self.shape.services), self.shape.types) if fleet is None else fleet
        )
        parts: list[_Part] = []
        for number, types in fleet.items():
            parts.extend(self._part(number, kind, start_ms, length_ms) for kind in range(types))
        services = [self._service(number) for number in fleet]
        used: dict[str, list[Ints]] | None = None
        if stacks == "used":
            used = {each.name: [] for each in services}
            for part in parts:
                used[part.service.name].append(part.stack)
        held = [] if stacks == "none" else services
        rows, frames = symbol_tables(held, used, self._library)
        series = {
            int(series_id): labels
            for each in services
            for series_id, labels in zip(each.series_ids, each.labels, strict=True)
        }
        profiles = _profiles(parts, self.shape.period_ms)
        return DecodedBatch(
            tenant="default",
            batch_ids=(f"model-{self.shape.seed}-{start_ms}-{min(fleet, default=0)}",),
            series=series_table(series),
            profiles=profiles,
            samples=_sample_table(parts),
            stacks=rows,
            frames=frames,
        )

    def call_tree(self, service: int) -> CallTree:
        """Give a service's stacks."""
        return self._service(service).tree

    def _part(self, number: int, kind: int, start_ms: int, length_ms: int) -> _Part:
        """Draw the samples of a service and type: profiles by time, then pod."""
        shape, service = self.shape, self._service(number)
        chance = np.random.default_rng([shape.seed, 2, number, kind, start_ms])
        count = length_ms // shape.period_ms * shape.pods
        draws = np.maximum(chance.normal(1, 0.2, count) * self._draws, 1).astype(np.int64)
        profile = np.repeat(np.arange(count, dtype=np.uint32), draws)
        bits = chance.integers(0, 1 << _TABLE_BITS, len(profile), dtype=np.uint32)
        orders = np.stack([self._order(number, pod, start_ms) for pod in range(shape.pods)])
        pod = np.tile(np.arange(shape.pods, dtype=np.uint32), count // shape.pods)
        rank = orders.ravel()[self._rank_of[bits] + np.repeat(pod * np.uint32(shape.stacks), draws)]
        # Each profile's stacks in an order of its own, equal ones behind each other.
        bound = np.uint32(1 << (shape.stacks - 1).bit_length())
        masks = chance.integers(0, int(bound), count, dtype=np.uint32)
        keys = profile * bound + (service.by_rank[kind][rank] ^ np.repeat(masks, draws))
        keys.sort()
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        hits = np.diff(starts, append=len(keys))
        keys = keys[starts]
        profile = keys // bound
        stack = ((keys % bound) ^ masks[profile]).astype(np.int64)
        jitter = np.random.default_rng([shape.seed, 3, number, start_ms])
        late = np.tile(service.phases_ms, count // shape.pods)
        late = late + jitter.integers(0, _JITTER_MS, count)
        times = start_ms + np.arange(count) // shape.pods * shape.period_ms + late
        return _Part(
            service=service,
            kind=kind,
            profile=profile.astype(np.int64),
            stack=stack,
            value=_values(chance, kind, hits, service.block_bytes[stack], profile, count),
            times_ms=times,
            hits=np.add.reduceat(hits, np.searchsorted(profile, np.arange(count))),
        )

    def _order(self, service: int, pod: int, start_ms: int) -> npt.NDArray[np.uint16]:
        """Give a pod's place → rank in its service, in this hour."""
        hour = start_ms // HOUR_MS
        if self._orders[0] != hour:
            self._orders = (hour, {})
        found = self._orders[1].get((service, pod))
        if found is None:
            ranks = np.log(np.arange(1, self.shape.stacks + 1))
            own = np.random.default_rng([self.shape.seed, 4, service, pod])
            ranks += own.normal(0, 0.3, len(ranks))
            drift = np.random.default_rng([self.shape.seed, 5, service, pod, hour])
            ranks += drift.normal(0, 0.1, len(ranks))
            found = np.argsort(ranks).astype(np.uint16)
            self._orders[1][service, pod] = found
        return found

    def _service(self, number: int) -> _Service:
        found = self._services.get(number)
        if found is None:
            found = self._services[number] = self._make_service(number)
        return found

    def _make_service(self, number: int) -> _Service:
        shape, name = self.shape, service_name(number)
        chance = np.random.default_rng([shape.seed, 1, number])
        symbols = service_symbols(name, OWN_FRAMES)
        tree = call_tree(chance, shape.stacks, Symbols.joined((self._library, symbols)))
        labels = [series_labels(number, pod) for pod in range(shape.pods)]
        return _Service(
            name=name,
            tree=tree,
            symbols=symbols,
            stack_ids=tree.path[tree.ends],
            by_rank=[chance.permutation(shape.stacks).astype(np.uint16) for _ in TYPES],
            block_bytes=np.rint(np.exp(chance.normal(6, 2, shape.stacks))) * 8 + 8,
            series_ids=np.array([label_set_hash(each.items()) for each in labels], np.int64),
            labels=labels,
            phases_ms=chance.integers(0, shape.period_ms - _JITTER_MS, shape.pods),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Samples of one service and type: ``profile`` ascending, each row's stack once a profile.

    ``times_ms`` and ``hits`` have an entry a profile: pod after pod, again and again.
    """

    service: _Service
    kind: int
    profile: Ints
    stack: Ints
    value: Ints
    times_ms: Ints
    hits: Ints


def _values(
    chance: np.random.Generator,
    kind: int,
    hits: Ints,
    block_bytes: Floats,
    profile: Any,
    count: int,
) -> Ints:
    """Give what hits amount to, in the type's unit."""
    if TYPES[kind] is CPU:
        weights = np.exp(chance.normal(0, 0.1, count)) * _CPU_PERIOD
        return np.asarray(hits * np.rint(weights).astype(np.int64)[profile])
    if TYPES[kind] is WALL:
        return hits * _WALL_PERIOD
    blocks = hits / -np.expm1(-block_bytes / _HEAP_RATE)
    amounts = blocks if TYPES[kind] is ALLOC_OBJECTS else blocks * block_bytes
    return np.rint(amounts).astype(np.int64)


def _profiles(parts: list[_Part], period_ms: int) -> pa.Table:
    columns: dict[str, list[Any]] = {"services": [], "types": [], "ids": []}
    for each in parts:
        count = len(each.times_ms)
        columns["services"] += [each.service.name] * count
        columns["types"] += [TYPES[each.kind].id] * count
        columns["ids"].append(np.tile(each.service.series_ids, count // len(each.service.labels)))
    starts = [np.searchsorted(each.profile, np.arange(len(each.times_ms))) for each in parts]
    totals = [np.add.reduceat(each.value, at) for each, at in zip(parts, starts, strict=True)]
    times = np.concatenate([each.times_ms for each in parts])
    return profile_table(
        ProfileColumns(
            services=columns["services"],
            type_ids=columns["types"],
            series_ids=np.concatenate(columns["ids"]).tolist(),
            times_ms=times,
            durations_ms=np.full(len(times), period_ms),
            totals=np.concatenate(totals),
            sample_counts=np.concatenate([each.hits for each in parts]),
        )
    )


def _sample_table(parts: list[_Part]) -> pa.Table:
    sizes = [len(each.profile) for each in parts]
    ids = [np.tile(p.service.series_ids, len(p.times_ms) // len(p.service.labels)) for p in parts]
    columns = (
        _names([each.service.name for each in parts], sizes),
        _names([TYPES[each.kind].id for each in parts], sizes),
        np.concatenate([each.times_ms[each.profile] for each in parts]),
        np.concatenate([each[part.profile] for each, part in zip(ids, parts, strict=True)]),
        np.concatenate([each.service.stack_ids[each.stack] for each in parts]),
        np.concatenate([each.value for each in parts]),
    )
    return pa.table(dict(zip(BATCH_SAMPLES.names, columns, strict=True)), schema=BATCH_SAMPLES)


def _names(names: list[str], sizes: list[int]) -> pa.Array:
    numbers = pa.array(np.repeat(np.arange(len(names), dtype=np.int32), sizes))
    return pa.DictionaryArray.from_arrays(numbers, pa.array(names, pa.string())).cast(pa.string())


def _draws_for(distinct: int, chances: Floats) -> int:
    """Give how many draws make so many distinct stacks, on average."""
    low, high = 1, 1 << 24
    while low < high:
        middle = (low + high) // 2
        if -np.expm1(middle * np.log1p(-chances)).sum() < distinct:
            low = middle + 1
        else:
            high = middle
    return low


def series_labels(number: int, pod: int) -> dict[str, str]:
    """Give the labels of a pod of a service."""
    service = service_name(number)
    token = f"{(number * 1_000 + pod) * 2_654_435_761 % 2**32:08x}"
    return {
        "service_name": service,
        "namespace": f"team-{number % 12}",
        "cluster": "production-1",
        "node": f"node-{(number * 7 + pod * 13) % 100}",
        "pod": f"{service}-6f8d9c7b5-{token[:5]}",
        "container": "app",
        "version": f"1.{number % 9}.{pod % 2}",
    }
