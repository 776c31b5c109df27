"""What is durable in the log but not yet in Parquet: Arrow tables in memory, queryable at once."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from flamewell_collector.model import DecodedBatch, Series
from flamewell_collector.store.schema import PROFILES, SAMPLES


@dataclass(slots=True)
class TenantHead:
    """The unflushed rows of one tenant."""

    profiles: list[pa.Table] = field(default_factory=list)
    samples: list[pa.Table] = field(default_factory=list)


class Head:
    """Unflushed batches. Its owner serialises changes; readers take tables, which never change."""

    def __init__(self) -> None:
        self.tenants: dict[str, TenantHead] = {}
        self.batch_ids: list[tuple[str, str, int]] = []
        self.new_series: list[tuple[str, Series]] = []
        self.rows = 0
        self.oldest_monotonic: float | None = None

    def add(self, batch: DecodedBatch, *, received_ms: int) -> None:
        """Add a batch that is on disk."""
        tenant = self.tenants.setdefault(batch.tenant, TenantHead())
        tenant.profiles.append(batch.profiles)
        tenant.samples.append(batch.samples)
        self.batch_ids.extend((batch.tenant, each, received_ms) for each in batch.batch_ids)
        self.rows += batch.samples.num_rows
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
        self.rows += later.rows

    def profiles_of(self, tenant: str) -> pa.Table:
        """Give the tenant's PROFILES rows."""
        found = self.tenants.get(tenant)
        return concatenated(found.profiles if found else (), PROFILES)

    def samples_of(self, tenant: str) -> pa.Table:
        """Give the tenant's SAMPLES rows."""
        found = self.tenants.get(tenant)
        return concatenated(found.samples if found else (), SAMPLES)


def concatenated(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Put tables of one schema behind each other, without copying."""
    found = list(tables)
    return pa.concat_tables(found) if found else schema.empty_table()
