"""What is durable in the log but not yet in Parquet: Arrow tables in memory, queryable at once."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from flamewell_collector.model import DecodedBatch, Series
from flamewell_collector.store.schema import PROFILES, SAMPLES

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


@dataclass(slots=True)
class TenantHead:
    """The unflushed rows of one tenant."""

    profiles: Chunks = field(default_factory=lambda: Chunks(PROFILES))
    samples: Chunks = field(default_factory=lambda: Chunks(SAMPLES))


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
        tenant.samples.add(batch.samples)
        self.batch_ids.extend((batch.tenant, each, received_ms) for each in batch.batch_ids)
        self.rows += batch.samples.num_rows
        ids = batch.profiles.column("series_id").to_pylist()
        for series_id, time_ms in zip(ids, batch.profiles.column("time").to_pylist(), strict=True):
            key = (batch.tenant, series_id)
            self.active[key] = max(self.active.get(key, 0), time_ms)
        if self.oldest_monotonic is None:
            self.oldest_monotonic = time.monotonic()

    def absorb(self, later: Head) -> None:
        """Take over what came after this head was frozen, because its flush failed."""
        for name, theirs in later.tenants.items():
            ours = self.tenants.setdefault(name, TenantHead())
            ours.profiles.extend(theirs.profiles)
            ours.samples.extend(theirs.samples)
        self.batch_ids.extend(later.batch_ids)
        self.new_series.extend(later.new_series)
        for key, time_ms in later.active.items():
            self.active[key] = max(self.active.get(key, 0), time_ms)
        self.rows += later.rows

    def profiles_of(self, tenant: str) -> pa.Table:
        """Give the tenant's PROFILES rows."""
        found = self.tenants.get(tenant)
        return found.profiles.table() if found else PROFILES.empty_table()

    def samples_of(self, tenant: str) -> pa.Table:
        """Give the tenant's SAMPLES rows."""
        found = self.tenants.get(tenant)
        return found.samples.table() if found else SAMPLES.empty_table()


def concatenated(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Put tables of one schema behind each other, without copying."""
    found = list(tables)
    return pa.concat_tables(found) if found else schema.empty_table()
