from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from collector.stored import (
    FOREVER_MS,
    HOUR_MS,
    NOON_MS,
    block_folders,
    by_function,
    cpu_batch,
    expected,
    let_go,
    raw_folders,
    totals,
)

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store import retention
from flamewell_collector.store.changes import Block
from flamewell_collector.store.dedupe import REMEMBER_MS
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import ONE_HOUR, RAW, TEN_MINUTES

Open = Callable[..., Storage]
LATER_MS = NOON_MS + 2 * HOUR_MS


def fill(storage: Storage, numbers: range, **options: int) -> None:
    for number in numbers:
        assert storage.append(cpu_batch(number, **options))


def flushes(storage: Storage, count: int, **options: int) -> None:
    for at in range(count):
        fill(storage, range(at * 3, at * 3 + 3), **options)
        storage.flush()


def test_a_closed_hour_becomes_one_block(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    flushes(storage, 4)
    functions = by_function(storage)
    storage.maintain(NOON_MS + HOUR_MS + 60_000)
    assert len(block_folders(tmp_path / "data")) == 4, "it is not closed yet"
    storage.maintain(LATER_MS)
    assert len(block_folders(tmp_path / "data")) == 1
    assert totals(storage) == expected(12)
    assert by_function(storage) == functions
    let_go(storage)
    again = open_storage()
    assert totals(again) == expected(12)
    assert by_function(again) == functions


def test_late_batches_are_merged_too(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    flushes(storage, 2)
    storage.maintain(LATER_MS)
    fill(storage, range(6, 8))
    storage.flush()
    assert len(block_folders(tmp_path / "data")) == 2
    storage.maintain(LATER_MS)
    assert len(block_folders(tmp_path / "data")) == 1
    assert totals(storage) == expected(8)


def test_hours_and_tenants_stay_apart(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    for tenant in ("a", "b"):
        for at in range(4):
            storage.append(cpu_batch(at, time_ms=NOON_MS + at % 2 * HOUR_MS, tenant=tenant))
            storage.flush()
    storage.maintain(LATER_MS + HOUR_MS)
    assert len(block_folders(tmp_path / "data")) == 4
    assert totals(storage, tenant="a") == totals(storage, tenant="b") == expected(4)


def test_replaced_blocks_stay_while_a_snapshot_reads_them(
    open_storage: Open, tmp_path: Path
) -> None:
    storage = open_storage()
    flushes(storage, 2)
    with (
        storage.snapshot("default", 0, FOREVER_MS) as first,
        storage.snapshot("default", 0, FOREVER_MS) as second,
    ):
        storage.maintain(LATER_MS)
        assert raw_folders(first) == raw_folders(second)
        assert len(first.stacks("payments", raw_folders(first)).tree) == 8
        assert len(block_folders(tmp_path / "data")) == 3
        assert totals(storage) == expected(6)
    assert len(block_folders(tmp_path / "data")) == 1


def test_killed_before_the_merged_block_is_registered(
    open_storage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage()
    flushes(storage, 3)

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage._catalog, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.maintain(LATER_MS)
    let_go(storage)
    assert len(block_folders(tmp_path / "data")) == 4
    again = open_storage()
    assert len(block_folders(tmp_path / "data")) == 3
    assert totals(again) == expected(9)
    again.maintain(LATER_MS)
    assert totals(again) == expected(9)


def test_a_catalog_that_cannot_be_written_leaves_no_second_copy(
    open_storage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage()
    flushes(storage, 3)

    def full(*_arguments: object) -> None:
        raise StorageUnavailable("full")

    with monkeypatch.context() as patch:
        patch.setattr(storage._catalog, "replace", full)
        with pytest.raises(StorageUnavailable):
            storage.maintain(LATER_MS)
    assert len(block_folders(tmp_path / "data")) == 3
    assert totals(storage) == expected(9)


def test_head_is_flushed_by_rows_and_by_age(open_storage: Open) -> None:
    storage = open_storage(flush_rows=4, flush_seconds=3600)
    fill(storage, range(1))
    storage.maintain(NOON_MS)
    assert storage.state.blocks == 0
    fill(storage, range(1, 2))
    storage.maintain(NOON_MS)
    assert (storage.state.blocks, storage.state.head_rows) == (1, 0)
    storage._options = type(storage._options)(flush_seconds=0)
    fill(storage, range(2, 3))
    storage.maintain(NOON_MS)
    assert (storage.state.blocks, storage.state.head_rows) == (2, 0)


def test_old_blocks_go_with_series_that_nothing_is_left_of(
    open_storage: Open, tmp_path: Path
) -> None:
    storage = open_storage(keep_raw_ms=10 * HOUR_MS)
    fill(storage, range(1), time_ms=NOON_MS)  # pod p0
    fill(storage, range(1, 2), time_ms=NOON_MS + 5 * HOUR_MS)  # pod p1
    storage.flush()
    fill(storage, range(2, 3), time_ms=NOON_MS)  # pod p2, not flushed
    storage.maintain(NOON_MS + 11 * HOUR_MS)
    assert {each.labels["pod"] for each in storage.series("default").all()} == {"p1", "p2"}
    assert totals(storage) == {11: 1, 12: 1}
    assert len(block_folders(tmp_path / "data")) == 1
    fill(storage, range(3, 4), time_ms=NOON_MS + 9 * HOUR_MS)  # p0 is back
    storage.flush()
    let_go(storage)
    again = open_storage()
    assert {each.labels["pod"] for each in again.series("default").all()} == {"p0", "p1", "p2"}
    assert totals(again) == {11: 1, 12: 1, 13: 1}


def test_the_oldest_go_first_until_the_rest_fits(open_storage: Open) -> None:
    storage = open_storage()
    for at in range(4):
        fill(storage, range(at, at + 1), time_ms=NOON_MS + at * HOUR_MS)
    storage.flush()
    size = storage.state.block_bytes // 4
    let_go(storage)
    again = open_storage(keep_bytes=size * 5 // 2)
    again.maintain(NOON_MS)
    assert again.state.block_bytes <= size * 5 // 2
    assert totals(again) == {12: 1, 13: 1}


def test_retention_rule() -> None:
    blocks = [block(f"b{at}", end_ms=at * 100, size=10) for at in (3, 1, 2)]
    assert names(retention.expired(blocks, now_ms=1000, keep_ms={}, keep_bytes=0)) == []
    assert names(retention.expired(blocks, now_ms=350, keep_ms={RAW: 200}, keep_bytes=0)) == ["b1"]
    assert names(retention.expired(blocks, now_ms=0, keep_ms={}, keep_bytes=15)) == ["b1", "b2"]
    both = retention.expired(blocks, now_ms=350, keep_ms={RAW: 200}, keep_bytes=10)
    assert names(both) == ["b1", "b2"]
    tiers = [block(tier, end_ms=100, size=10, tier=tier) for tier in (ONE_HOUR, TEN_MINUTES, RAW)]
    kept = {RAW: 100, TEN_MINUTES: 300, ONE_HOUR: 0}
    assert names(retention.expired(tiers, now_ms=350, keep_ms=kept, keep_bytes=0)) == [RAW]
    assert names(retention.expired(tiers, now_ms=500, keep_ms=kept, keep_bytes=0)) == [
        TEN_MINUTES,
        RAW,
    ]
    by_size = retention.expired(tiers, now_ms=0, keep_ms={}, keep_bytes=15)
    assert names(by_size) == [RAW, TEN_MINUTES], "raw rows first: their sums remain"


def block(path: str, *, end_ms: int, size: int, tier: str = RAW) -> Block:
    return Block(path, "t", end_ms, end_ms, 1, size, compacted=False, tier=tier)


def names(blocks: list[Block]) -> list[str]:
    return [each.path for each in blocks]


def test_batch_ids_are_remembered_for_a_day(open_storage: Open) -> None:
    storage = open_storage()
    fill(storage, range(2))
    storage.flush()
    received = time.time_ns() // 1_000_000
    storage.maintain(received + REMEMBER_MS - 60_000)
    assert storage.seen("default", "b1")
    storage.maintain(received + REMEMBER_MS + 60_000)
    assert not storage.seen("default", "b1")
    let_go(storage)
    assert not open_storage().seen("default", "b1")


def test_many_threads_write_while_all_is_flushed_and_merged(open_storage: Open) -> None:
    storage = open_storage(flush_rows=1)
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told by the assertion below
                failures.append(error)

        return run

    def keep_up() -> None:
        while not stop.is_set():
            storage.maintain(LATER_MS)

    keeper = threading.Thread(target=guarded(keep_up))
    writers = [
        threading.Thread(target=guarded(lambda at=at: fill(storage, range(at * 25, at * 25 + 25))))
        for at in range(4)
    ]
    keeper.start()
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    stop.set()
    keeper.join()
    assert not failures
    assert totals(storage) == expected(100)
    storage.flush()
    storage.maintain(LATER_MS)
    assert storage.state.blocks == 1
    assert totals(storage) == expected(100)
