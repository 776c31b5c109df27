"""What is durable in the log but not yet in Parquet: Arrow tables in memory, queryable at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from flamewell_collector.model import DecodedBatch, Series
from flamewell_collector.store.head_stacks import HeadStacks
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES
from flamewell_collector.store.tiers import HOUR_MS

_CHUNKS = 64
"""So many small tables are copied into one: a scan pays for each table, a copy costs less."""


class Chunks:
    """Tables of one schema, behind each other; few of them, however many were added."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._small: list[pa.Table] = []
        self._large: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Add a table."""
        self._small.append(table)
        if len(self._small) >= _CHUNKS:
            self._large.append(pa.concat_tables(self._small).combine_chunks())
            self._small = []
        if len(self._large) >= _CHUNKS:
            self._large = [pa.concat_tables(self._large).combine_chunks()]

    def extend(self, other: Chunks) -> None:
        """Add all tables of another one."""
        for table in (*other._large, *other._small):
            self.add(table)

    def table(self) -> pa.Table:
        """Give all as one, without copying."""
        return concatenated((*self._large, *self._small), self._schema)


@dataclass(frozen=True, slots=True)
class HeadView:
    """One tenant's unflushed rows at one time; later ones are not in it, but for stacks.

    Attributes:
        profiles: PROFILES.
        samples: BATCH_SAMPLES, of the services that were asked for.
        stacks: At least those of the samples.
    """

    profiles: pa.Table
    samples: pa.Table
    stacks: HeadStacks


@dataclass(slots=True)
class TenantHead:
    """The unflushed rows of one tenant.

    Attributes:
        hours: Starts of the hours that they are of.
    """

    profiles: Chunks = field(default_factory=lambda: Chunks(PROFILES))
    samples: dict[str, Chunks] = field(default_factory=dict)
    stacks: HeadStacks = field(default_factory=HeadStacks)
    hours: set[int] = field(default_factory=set)

    def view(self, services: Sequence[str] | None = None) -> HeadView:
        """Give the rows that are there now; samples of these services only, but for None."""
        names = self.samples if services is None else services
        samples = [self.samples[each].table() for each in names if each in self.samples]
        return HeadView(self.profiles.table(), concatenated(samples, BATCH_SAMPLES), self.stacks)


class Head:
    """Unflushed batches. Its owner serialises changes; readers take tables, which never change.

    Attributes:
        tenants: Rows by tenant.
        batch_ids: (tenant, batch id, when received) of all batches.
        new_series: Series that are not in the catalog yet, with their tenants.
        active: (tenant, series id) → time of its last row.
        rows: Of samples.
        oldest_monotonic: When the first batch came, ``time.monotonic()``.
    """

    def __init__(self) -> None:
        self.tenants: dict[str, TenantHead] = {}
        self.batch_ids: list[tuple[str, str, int]] = []
        self.new_series: list[tuple[str, Series]] = []
        self.active: dict[tuple[str, int], int] = {}
        self.rows = 0
        self.oldest_monotonic: float | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing came yet; a batch may have ids and no rows."""
        return not self.tenants

    def add(self, batch: DecodedBatch, *, received_ms: int) -> None:
        """Add a batch that is on disk."""
        tenant = self.tenants.setdefault(batch.tenant, TenantHead())
        tenant.profiles.add(batch.profiles)
        for service, rows in by_service(batch.samples):
            if service not in tenant.samples:
                tenant.samples[service] = Chunks(BATCH_SAMPLES)
            tenant.samples[service].add(rows)
        tenant.stacks.add(batch.stacks, batch.frames)
        self.batch_ids.extend((batch.tenant, each, received_ms) for each in batch.batch_ids)
        self.rows += batch.samples.num_rows
        times = batch.profiles.column("time").to_pylist()
        tenant.hours.update(time_ms // HOUR_MS * HOUR_MS for time_ms in times)
        ids = batch.profiles.column("series_id").to_pylist()
        for series_id, time_ms in zip(ids, times, strict=True):
            key = (batch.tenant, series_id)
            self.active[key] = max(self.active.get(key, 0), time_ms)
        if self.oldest_monotonic is None:
            self.oldest_monotonic = time.monotonic()

    def absorb(self, later: Head) -> None:
        """Take over what came after this head was frozen, because its flush failed."""
        for name, theirs in later.tenants.items():
            ours = self.tenants.setdefault(name, TenantHead())
            ours.profiles.extend(theirs.profiles)
            for service, chunks in theirs.samples.items():
                ours.samples.setdefault(service, Chunks(BATCH_SAMPLES)).extend(chunks)
            ours.stacks.extend(theirs.stacks)
            ours.hours |= theirs.hours
        self.batch_ids.extend(later.batch_ids)
        self.new_series.extend(later.new_series)
        for key, time_ms in later.active.items():
            self.active[key] = max(self.active.get(key, 0), time_ms)
        self.rows += later.rows


class Heads:
    """The head that takes batches, and the one that is being flushed. Its owner serialises changes.

    Attributes:
        taking: Where batches go.
        frozen: What is being flushed, None while nothing is.
        others: Of a shared store: (log, number of its file) → what other collectors have in theirs.
    """

    def __init__(self) -> None:
        self.taking = Head()
        self.frozen: Head | None = None
        self.others: dict[tuple[str, int], Head] = {}

    @property
    def rows(self) -> int:
        """Samples of both of this collector."""
        return self.taking.rows + (self.frozen.rows if self.frozen else 0)

    def of(self, tenant: str) -> list[TenantHead]:
        """Give a tenant's rows."""
        return [each.tenants[tenant] for each in self._all() if tenant in each.tenants]

    def active(self, series: tuple[str, int]) -> bool:
        """Tell whether there is a row of a series (tenant, id)."""
        return any(series in each.active for each in self._all())

    def drop(self, log: str, number: int) -> None:
        """Let go of what another collector's log files up to a number hold: it is in blocks."""
        for key in [key for key in self.others if key[0] == log and key[1] <= number]:
            del self.others[key]

    def give_up(self) -> None:
        """Begin anew: another collector writes what this one has as blocks."""
        self.frozen, self.taking = None, Head()

    def freeze(self) -> None:
        """Begin a new head; the former one is to be flushed."""
        self.frozen, self.taking = self.taking, Head()

    def thaw(self, *, keep: bool) -> None:
        """Let go of what was frozen, or go on with it where it could not be flushed."""
        if keep and self.frozen is not None:
            self.frozen.absorb(self.taking)
            self.taking = self.frozen
        self.frozen = None

    def _all(self) -> list[Head]:
        own = [self.taking] if self.frozen is None else [self.frozen, self.taking]
        return [*self.others.values(), *own]


def by_service(samples: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Split rows where the service changes, without copying; a service may come again."""
    if not samples.num_rows:
        return
    encoded = samples.column("service_name").combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    names = encoded.dictionary.to_pylist()
    starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    for at, first in enumerate(starts[:-1]):
        yield names[codes[first]], samples.slice(first, starts[at + 1] - first)


def each_once(batches: Iterable[DecodedBatch]) -> Iterator[DecodedBatch]:
    """Leave out batches of a log that came before: whoever wrote them was not sure.

    Whole ids are compared, not watermarks of agents: the order of a log need not be that of taking.
    """
    known: set[tuple[str, str]] = set()
    for batch in batches:
        keys = {(batch.tenant, each) for each in batch.batch_ids}
        if not keys or not keys <= known:
            known |= keys
            yield batch


def trees_of(service: str, heads: Iterable[HeadView]) -> list[PrefixTree]:
    """Give the stacks of a service that are in memory only."""
    found = (each.stacks.tree(service) for each in heads)
    return [each for each in found if each is not None]


def concatenated(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Put tables of one schema behind each other, without copying."""
    found = list(tables)
    return pa.concat_tables(found) if found else schema.empty_table()
