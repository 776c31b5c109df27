"""What a storage holds, read in the plainest way; and letting go of one as kill -9 does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from collector.batches import TENANT, P, batch

from flamewell_collector import query
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store.block_files import RAW_FILES
from flamewell_collector.store.plan import Plan, make_plan
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.reader import read_table
from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES, SAMPLES, STACKS
from flamewell_collector.store.storage import Snapshot, Storage

HOUR_MS = 3_600_000
NOON_MS = 1_800_000_000_000 // HOUR_MS * HOUR_MS
FOREVER_MS = 1 << 60


def cpu_batch(number: int, *, time_ms: int = NOON_MS, tenant: str = TENANT) -> DecodedBatch:
    """One profile of 10 + number."""
    stacks = {"main": 10, f"main f{number % 7}": number}
    return batch(
        [P({"service_name": "payments", "pod": f"p{number % 3}"}, time_ms, stacks)],
        batch_id=f"b{number}",
        tenant=tenant,
    )


def all_rows(snapshot: Snapshot) -> tuple[pa.Table, pa.Table]:
    blocks = raw_folders(snapshot)
    profiles = [read_table(each / "profiles.parquet", PROFILES) for each in blocks]
    samples = [samples_of(each) for each in blocks]
    return (
        pa.concat_tables([*profiles, snapshot.head_profiles]),
        pa.concat_tables([*samples, snapshot.head_samples]),
    )


def samples_of(block: Path) -> pa.Table:
    """A block's samples with the ids of their stacks, as they came."""
    samples = read_table(block / "samples.parquet", SAMPLES)
    rows = read_table(block / "stacks.parquet", STACKS).to_pylist()
    ids = {(row["service_name"], row["stack"]): row["stack_id"] for row in rows}
    numbers = zip(
        samples.column("service_name").to_pylist(), samples.column("stack").to_pylist(), strict=True
    )
    found = pa.array([ids[each] for each in numbers], pa.int64())
    return samples.set_column(4, BATCH_SAMPLES.field("stack_id"), found).drop_columns("block_id")


def raw_folders(snapshot: Snapshot) -> list[Path]:
    snapshot.fetch((each.path, RAW_FILES) for each in snapshot.stored.raw)
    return [snapshot.data_dir / each.path for each in snapshot.stored.raw]


@contextmanager
def from_raw_rows() -> Iterator[None]:
    """Let questions read each row as it came, although there are sums of it."""

    def without_sums(*arguments: Any, **options: Any) -> Plan:
        return make_plan(*arguments, **{**options, "sums_do": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "make_plan", without_sums)
        yield


def totals(storage: Storage, *, tenant: str = TENANT) -> Counter[int]:
    """Total of a profile → how often it is there; checked against its samples."""
    with storage.snapshot(tenant, 0, FOREVER_MS, services=None) as snapshot:
        profiles, samples = all_rows(snapshot)
    assert sum(profiles.column("total").to_pylist()) == sum(samples.column("value").to_pylist())
    return Counter(profiles.column("total").to_pylist())


def by_function(storage: Storage, *, tenant: str = TENANT) -> dict[str, int]:
    """Leaf function → value, through the stack table."""
    with storage.snapshot(tenant, 0, FOREVER_MS, services=None) as snapshot:
        _, samples = all_rows(snapshot)
        services = samples.column("service_name").unique().to_pylist()
        trees = [snapshot.stacks(each, raw_folders(snapshot)).tree for each in services]
        tree = PrefixTree.merged(trees).tree(
            samples.column("stack_id").to_numpy(), samples.column("value").to_numpy()
        )
    found: Counter[str] = Counter()
    for frame, value in zip(tree.frame.tolist(), tree.value.tolist(), strict=True):
        if value:
            found["" if frame < 0 else tree.frames.function[frame]] += value
    return dict(found)


def expected(count: int) -> Counter[int]:
    """What ``totals`` is after the batches 0 … count - 1."""
    return Counter(10 + number for number in range(count))


def let_go(storage: Storage) -> None:
    """Drop a storage without flush or close, as a kill does; its files stay as they are."""
    storage._wal.close()
    storage._catalog._db.close()
    os.close(storage._lock_fd)
    storage._lock_fd = -1


def block_folders(data: Path) -> list[Path]:
    return sorted(data.glob("blocks/tenant=*/date=*/hour=*/block=*"))
