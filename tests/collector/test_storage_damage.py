"""What a crash or a bad disk leaves behind, and what becomes of it at the next start."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from collector.stored import (
    HOUR_MS,
    NOON_MS,
    block_folders,
    cpu_batch,
    expected,
    let_go,
    raw_folders,
    totals,
)

from flamewell_collector.errors import StorageError
from flamewell_collector.store import recovery, wal
from flamewell_collector.store.schema import BLOCK_TABLES
from flamewell_collector.store.storage import Storage

Open = Callable[..., Storage]


def fill(storage: Storage, numbers: range, **options: int) -> None:
    for number in numbers:
        assert storage.append(cpu_batch(number, **options))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_torn_tail_of_the_log_is_left_out(
    open_storage: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage()
    fill(storage, range(4))
    let_go(storage)
    ((_, path),) = wal.files(tmp_path / "data/wal")
    path.write_bytes(path.read_bytes()[:-5])
    again = open_storage()
    assert totals(again) == expected(3)
    assert again.state.wal_skipped_bytes > 0
    assert "never acknowledged" in caplog.text
    assert again.append(cpu_batch(3)), "what was torn may come again"
    let_go(again)
    assert totals(open_storage()) == expected(4)


def test_a_flipped_bit_in_the_log_costs_its_own_batch(
    open_storage: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage()
    fill(storage, range(4))
    let_go(storage)
    ((_, path),) = wal.files(tmp_path / "data/wal")
    size = path.stat().st_size
    flip(path, size * 3 // 8)
    again = open_storage()
    assert totals(again) == expected(4) - Counter([11])
    assert again.state.wal_skipped_bytes in range(size // 5, size // 3)
    assert "damaged bytes" in caplog.text


def test_a_log_that_cannot_be_read_does_not_stop_the_start(
    open_storage: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage()
    fill(storage, range(2))
    let_go(storage)
    (tmp_path / "data/wal/000000000009.wal").mkdir()
    again = open_storage()
    assert totals(again) == expected(2)
    assert "can't be read" in caplog.text
    fill(again, range(2, 4))
    again.flush()
    assert totals(again) == expected(4)
    assert (tmp_path / "data/damaged/000000000009.wal").exists(), "it is kept for whoever can"


def test_left_overs_of_a_crash_are_swept(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    fill(storage, range(3))
    storage.flush()
    let_go(storage)
    data = tmp_path / "data"
    (folder,) = block_folders(data)
    shutil.copytree(folder, folder.with_name("block=unregistered"))
    shutil.copytree(folder, data / "temporary/half-written")
    again = open_storage()
    assert block_folders(data) == [folder]
    assert not (data / "temporary").exists()
    assert totals(again) == expected(3)


@pytest.mark.parametrize("flushed_log_is_there", [False, True])
def test_a_crash_between_registration_and_removal_of_the_log(
    open_storage: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flushed_log_is_there: bool,
) -> None:
    storage = open_storage()
    fill(storage, range(6))
    if flushed_log_is_there:
        monkeypatch.setattr(recovery, "remove_logs", lambda _folder, _number: None)
    storage.flush()
    let_go(storage)
    monkeypatch.undo()
    assert len(wal.files(tmp_path / "data/wal")) == int(flushed_log_is_there)
    assert totals(open_storage()) == expected(6)
    assert wal.files(tmp_path / "data/wal") == []


@pytest.mark.parametrize("harm", ["shorter", "missing", "gone"])
def test_a_block_that_is_not_whole_is_set_aside_at_the_start(
    open_storage: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    storage = open_storage()
    fill(storage, range(2))
    fill(storage, range(2, 4), time_ms=NOON_MS + HOUR_MS)
    storage.flush()
    let_go(storage)
    data = tmp_path / "data"
    first, second = block_folders(data)
    if harm == "shorter":
        path = first / "samples.parquet"
        path.write_bytes(path.read_bytes()[:-9])
    elif harm == "missing":
        (first / "frames.parquet").unlink()
    else:
        shutil.rmtree(first)
    again = open_storage()
    assert totals(again) == expected(4) - expected(2)
    assert again.state.damaged_blocks == 1
    assert first.name in caplog.text
    assert block_folders(data) == [second]
    assert (data / "damaged" / first.name).exists() == (harm != "gone")
    let_go(again)
    assert open_storage().state.damaged_blocks == 1, "it is remembered"


@pytest.mark.parametrize("table", BLOCK_TABLES)
def test_a_flipped_bit_in_a_block_is_noticed(
    open_storage: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """Whoever reads the block, compaction here, sets it aside; all others stay."""
    storage = open_storage()
    fill(storage, range(2))
    storage.flush()
    fill(storage, range(2, 4))
    storage.flush()
    fill(storage, range(4, 6))
    storage.flush()
    data = tmp_path / "data"
    victim = next(each for each in block_folders(data) if holds(each, 13))
    path = victim / f"{table}.parquet"
    column = pq.read_metadata(path).row_group(0).column(0)
    first = column.dictionary_page_offset or column.data_page_offset
    flip(path, first + column.total_compressed_size - 2)
    storage.maintain(NOON_MS + 5 * HOUR_MS)
    assert storage.state.damaged_blocks == 1
    assert victim.name in caplog.text
    assert totals(storage) == expected(6) - expected(4) + expected(2)
    storage.maintain(NOON_MS + 5 * HOUR_MS)
    assert len(block_folders(data)) == 1, "the others are compacted by the next round"
    assert totals(storage) == expected(6) - expected(4) + expected(2)


def holds(block: Path, total: int) -> bool:
    return total in pq.ParquetFile(block / "profiles.parquet").read().column("total").to_pylist()


def test_set_aside_by_a_reader(open_storage: Open) -> None:
    storage = open_storage()
    fill(storage, range(3))
    storage.flush()
    with storage.snapshot("default", 0, 1 << 60) as snapshot:
        (block,) = raw_folders(snapshot)
        (block / "stacks.parquet").write_bytes(b"PAR1 this is none")
        assert len(snapshot.stacks("payments", [block]).tree) == 1
        assert storage.set_aside_count == 1
        storage.set_aside(block, "again")
    assert totals(storage) == {}
    assert storage.state.damaged_blocks == 1


@pytest.mark.parametrize("harm", ["lost", "not a database", "torn"])
def test_a_lost_or_damaged_catalog_is_made_anew_from_the_blocks(
    open_storage: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    storage = open_storage()
    for at in range(3):
        fill(storage, range(at * 4, at * 4 + 4), time_ms=NOON_MS + at * HOUR_MS)
        storage.flush()
    fill(storage, range(12, 16))
    let_go(storage)
    catalog = tmp_path / "data/catalog.sqlite"
    catalog.with_name("catalog.sqlite-wal").unlink(missing_ok=True)
    if harm == "lost":
        catalog.unlink()
    elif harm == "not a database":
        catalog.write_bytes(b"this is no database" * 400)
    else:
        catalog.write_bytes(catalog.read_bytes()[: catalog.stat().st_size // 2])
    again = open_storage()
    assert totals(again) == expected(16)
    assert "registered again" in caplog.text
    assert {each.labels["pod"] for each in again.series("default").all()} == {"p0", "p1", "p2"}
    assert not again.append(cpu_batch(13)), "the log still knows its batches"
    fill(again, range(16, 18))
    again.flush()
    let_go(again)
    assert totals(open_storage()) == expected(18)


def test_without_a_catalog_replaced_blocks_and_half_flushes_do_not_count_twice(
    open_storage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage()
    for at in range(3):
        fill(storage, range(at * 2, at * 2 + 2))
        storage.flush()
    # Killed between the registration of the merged block and the deletion of those it replaces,
    monkeypatch.setattr(storage._upkeep, "delete_unread", lambda: None)
    storage.maintain(NOON_MS + 5 * HOUR_MS)
    # and in a flush, between its blocks and the removal of its log.
    monkeypatch.setattr(recovery, "remove_logs", lambda _folder, _number: None)
    fill(storage, range(6, 9))
    storage.flush()
    let_go(storage)
    monkeypatch.undo()
    assert len(block_folders(tmp_path / "data")) == 5
    for path in (tmp_path / "data").glob("catalog.sqlite*"):
        path.unlink()
    again = open_storage()
    assert totals(again) == expected(9)
    assert len(block_folders(tmp_path / "data")) == 1


def test_a_catalog_of_a_newer_version_is_refused(open_storage: Open, tmp_path: Path) -> None:
    let_go(open_storage())
    with sqlite3.connect(tmp_path / "data/catalog.sqlite") as db:
        db.execute("UPDATE meta SET value = 99 WHERE key = 'format_version'")
    db.close()
    with pytest.raises(StorageError, match="storage format 99"):
        open_storage()


def test_a_close_that_cannot_flush_loses_nothing(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    storage = open_storage()
    fill(storage, range(3))

    def fails(*_arguments: object, **_options: object) -> None:
        raise StorageError("no")

    monkeypatch.setattr(storage._writer, "draft", fails)
    storage.close()
    storage._lock_fd = -1
    assert "could not flush" in caplog.text
    assert totals(open_storage()) == expected(3)
