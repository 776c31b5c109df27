"""Damaged tables of every tier, torn and flipped logs at every place, catalogs that are lost."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from collector.batches import P, batch
from collector.faults.checks import (
    MIDNIGHT_MS,
    assert_sound,
    merged,
    merged_raw,
    metric,
    query_over,
    stacks_of,
)
from collector.stored import HOUR_MS, block_folders, cpu_batch, expected, let_go, totals

from flamewell_collector.app import now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_collector.store.schema import BLOCK_TABLES, ROLLUP_TABLES
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS
from flamewell_wire.profile_types import INUSE_SPACE

Open = Callable[..., Storage]
GAUGE = {"type_id": INUSE_SPACE.id}


def a_day(open_storage: Open) -> Storage:
    """Two compacted hours whose sums are merged, and a gauge."""
    storage = open_storage()
    for number in range(6):
        time_ms = MIDNIGHT_MS + (1 + number // 3) * HOUR_MS
        storage.append(cpu_batch(number, time_ms=time_ms))
        reading = P({"service_name": "payments", "pod": "p0"}, time_ms, {"main g": 6}, **GAUGE)
        storage.append(batch([reading], batch_id=f"g{number}"))
    storage.flush()
    storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
    return storage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    first = column.dictionary_page_offset or column.data_page_offset
    data[first + column.total_compressed_size - 2] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("tier", ["10m", "1h"])
@pytest.mark.parametrize("table", ROLLUP_TABLES)
def test_a_damaged_table_of_sums_costs_nothing(
    open_storage: Open, tmp_path: Path, tier: str, table: str
) -> None:
    storage = a_day(open_storage)
    data = tmp_path / "data"
    (block,) = data.glob(f"rollups/tenant=*/tier={tier}/date=*/block=*")
    flip(block / f"{table}.parquet")
    for _ in range(2):
        assert merged(storage) == merged_raw(storage) == stacks_of(range(6))
        assert merged(storage, **GAUGE) == merged_raw(storage, **GAUGE)
        # The next round of compaction makes sums anew where they were set aside.
        storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
    assert storage.state.writable


@pytest.mark.parametrize("table", [each for each in BLOCK_TABLES if each != "series"])
def test_a_damaged_table_of_rows_costs_its_block_only(
    open_storage: Open, tmp_path: Path, table: str
) -> None:
    """Labels come from the catalog, so ``series`` is not read but when a block is merged.

    DuckDB does not compare the checksums of pages: a flipped bit that still decodes is found by
    compaction and ``verify`` (test_storage_damage.py, test_verify.py), other harm by any reader.
    """
    storage = a_day(open_storage)
    first, _ = block_folders(tmp_path / "data")
    path = first / f"{table}.parquet"
    path.write_bytes(b"no table" * (path.stat().st_size // 8))
    with query_over(storage) as query:
        span = (MIDNIGHT_MS, MIDNIGHT_MS + 3 * DAY_MS)
        assert [each.service_name for each in query.services("default", *span)] == ["payments"]
    assert merged_raw(storage) == stacks_of(range(3, 6))
    assert storage.state.damaged_blocks == 1
    assert merged(storage) == stacks_of(range(6)), "their sums are still there"
    storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
    assert merged(storage) == stacks_of(range(6))
    storage.append(cpu_batch(6, time_ms=MIDNIGHT_MS + HOUR_MS + 1))
    storage.flush()
    storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
    assert merged(storage) == stacks_of(range(7))
    assert (tmp_path / "data/damaged" / first.name).exists()
    let_go(storage)
    assert_sound(tmp_path / "data")


def log_of(open_storage: Open, tmp_path: Path) -> tuple[Path, bytes, list[int]]:
    """A log of six batches: its file, its bytes, and where each frame ends."""
    storage = open_storage(tmp_path / "source")
    ends = []
    for number in range(6):
        storage.append(cpu_batch(number))
        ends.append(storage.state.wal_bytes)
    let_go(storage)
    (path,) = (tmp_path / "source/wal").glob("*.wal")
    return path, path.read_bytes(), ends


def test_a_log_torn_anywhere(open_storage: Open, tmp_path: Path) -> None:
    path, whole, ends = log_of(open_storage, tmp_path)
    places = sorted({0, 1, len(whole), *(end + by for end in ends[:-1] for by in (-1, 0, 1, 12))})
    for place in places:
        folder = tmp_path / f"torn-{place}"
        shutil.copytree(path.parent, folder / "wal")
        (folder / "wal" / path.name).write_bytes(whole[:place])
        storage = open_storage(folder)
        assert totals(storage) == expected(sum(end <= place for end in ends))
        let_go(storage)


def test_a_log_flipped_anywhere_costs_one_batch_at_most(open_storage: Open, tmp_path: Path) -> None:
    path, whole, ends = log_of(open_storage, tmp_path)
    for place in range(3, len(whole), len(whole) // 24):
        folder = tmp_path / f"flipped-{place}"
        shutil.copytree(path.parent, folder / "wal")
        harmed = bytearray(whole)
        harmed[place] ^= 0x40
        (folder / "wal" / path.name).write_bytes(bytes(harmed))
        storage = open_storage(folder)
        lost = sum(end <= place for end in ends)
        assert totals(storage) == expected(6) - totals_of(lost)
        assert storage.state.wal_skipped_bytes > 0
        let_go(storage)


def totals_of(number: int) -> Counter[int]:
    return expected(number + 1) - expected(number)


@pytest.mark.parametrize("harm", ["lost", "shorter", "other"])
def test_without_a_catalog_sums_are_still_used(
    open_storage: Open, tmp_path: Path, harm: str
) -> None:
    storage = a_day(open_storage)
    storage.append(cpu_batch(6, time_ms=MIDNIGHT_MS + HOUR_MS + 1))
    storage.flush()
    before = storage.state
    let_go(storage)
    data = tmp_path / "data"
    (data / "catalog.sqlite-wal").unlink(missing_ok=True)
    catalog = data / "catalog.sqlite"
    content = catalog.read_bytes()
    if harm == "lost":
        catalog.unlink()
    else:
        catalog.write_bytes(content[:6000] if harm == "shorter" else b"no database" * 999)
    storage = open_storage()
    assert (storage.state.blocks, storage.state.rollup_blocks) == (
        before.blocks,
        before.rollup_blocks,
    )
    assert merged(storage) == merged_raw(storage) == stacks_of(range(7))
    assert merged(storage, **GAUGE) == merged_raw(storage, **GAUGE)
    let_go(storage)
    assert_sound(data)


def test_ready_and_metrics_tell_of_damage(tmp_path: Path) -> None:
    config = CollectorConfig(data_dir=str(tmp_path / "data"))
    with running_collector(config) as collector:
        for number in range(2):
            profile = P({"service_name": f"s{number}"}, now_ms() - 1_000, {"main f": 5})
            collector.storage.append(batch([profile], batch_id=str(number)))
            collector.storage.flush()
        (block_folders(tmp_path / "data")[0] / "samples.parquet").write_bytes(b"no table")
        assert metric(collector, "store_damaged_blocks") == 0
        client = collector.app.test_client()
        assert client.get("/api/v1/top?from=now-10m&until=now%2B1m").json["total"] == 5
        assert metric(collector, "store_damaged_blocks") == 1
        assert client.get("/api/v1/status").json["damaged_blocks"] == 1
        assert client.get("/ready").status_code == 200, "it takes and answers all else"
