"""Feeds the model workload through the store, as a collector does, and counts the CPU it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc
from model_workload import HOUR_MS, WhichStacks, Workload

from flamewell_collector.model import DecodedBatch
from flamewell_collector.store.state import StorageOptions
from flamewell_collector.store.storage import Storage

Fleet = Mapping[int, int]
"""Service → how many types it sends."""

SLOT_MS = 300_000
_SERVICES_A_BATCH = 20
CLOSED_MS = 2 * HOUR_MS
"""So long after its end an hour is closed for sure."""
TABLES = ("samples", "profiles", "stacks", "frames", "series", "rollups", "slots")


@dataclass
class Costs:
    """What feeding took.

    Attributes:
        rows: Samples that went in.
        cpu_seconds: Of all threads, by stage.
        watched: Hour's start in ms → rows of the watched service and type.
    """

    rows: int = 0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    watched: dict[int, int] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the CPU of what is inside."""
        began = time.process_time()
        try:
            yield
        finally:
            used = time.process_time() - began
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + used

    def rows_a_second(self, name: str) -> float:
        """Give rows a second of CPU."""
        return self.rows / max(self.cpu_seconds.get(name, 0.0), 1e-9)


def open_store(folder: Path) -> Storage:
    """Open a store that flushes when it is told to."""
    return Storage.open(folder, StorageOptions(flush_seconds=1e9, flush_rows=1 << 40,
                                               max_head_rows=1 << 40))  # fmt: skip


def feed_hour(
    storage: Storage,
    workload: Workload,
    hour_ms: int,
    fleet: Fleet,
    costs: Costs,
    *,
    slice_ms: int = SLOT_MS,
    watch: tuple[str, str] | None = None,
) -> None:
    """Append an hour in batches of 5 minutes and few services, and flush in between.

    Args:
        storage: Takes it.
        workload: Makes it.
        hour_ms: Its start.
        fleet: Who sends.
        costs: What is counted on.
        slice_ms: Time between two flushes.
        watch: Service and type to count the rows of.
    """
    for start_ms in range(hour_ms, hour_ms + HOUR_MS, SLOT_MS):
        stacks: WhichStacks = "all" if start_ms % slice_ms == 0 else "none"
        for some in parts(fleet):
            with costs.stage("generate"):
                batch = workload.batch(start_ms, SLOT_MS, fleet=some, stacks=stacks)
            with costs.stage("append"):
                storage.append(batch)
            costs.rows += batch.samples.num_rows
            if watch is not None:
                costs.watched[hour_ms] = costs.watched.get(hour_ms, 0) + _count(batch, *watch)
        if (start_ms + SLOT_MS) % slice_ms == 0:
            with costs.stage("flush"):
                storage.flush()


def compact(storage: Storage, hour_ms: int, costs: Costs) -> None:
    """Do what is due once an hour is over."""
    with costs.stage("compact"):
        storage.maintain(hour_ms + CLOSED_MS)


def parts(fleet: Fleet) -> Iterator[Fleet]:
    """Divide a fleet into what one batch is of."""
    services = list(fleet.items())
    for at in range(0, len(services), _SERVICES_A_BATCH):
        yield dict(services[at : at + _SERVICES_A_BATCH])


def table_bytes(folder: Path) -> dict[tuple[str, str], int]:
    """Give the size of all files by (``blocks`` or ``rollups``, table)."""
    found: dict[tuple[str, str], int] = {}
    for kind in ("blocks", "rollups"):
        for path in (folder / kind).rglob("*.parquet"):
            key = kind, path.stem
            found[key] = found.get(key, 0) + path.stat().st_size
    return found


def _count(batch: DecodedBatch, service: str, profile_type: str) -> int:
    samples = batch.samples
    chosen = pc.and_(
        pc.equal(samples.column("service_name"), service),
        pc.equal(samples.column("profile_type"), profile_type),
    )
    return int(pc.sum(chosen).as_py() or 0)
