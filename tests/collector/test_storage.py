from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from collector.batches import TENANT, P, batch
from collector.stored import (
    FOREVER_MS,
    HOUR_MS,
    NOON_MS,
    block_folders,
    by_function,
    cpu_batch,
    expected,
    let_go,
    totals,
)

from flamewell_collector.errors import Overloaded, StorageError, StorageUnavailable
from flamewell_collector.model import Matcher
from flamewell_collector.store import batch_codec, schema, writer
from flamewell_collector.store.plan import make_plan
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.wal import sync_folder

Open = Callable[..., Storage]


def fill(storage: Storage, numbers: range, **options: int) -> None:
    for number in numbers:
        assert storage.append(cpu_batch(number, **options))


def test_rows_are_there_at_once_and_once_through_flush_and_restart(open_storage: Open) -> None:
    storage = open_storage()
    fill(storage, range(20))
    assert totals(storage) == expected(20)
    storage.flush()
    assert totals(storage) == expected(20)
    fill(storage, range(20, 30))
    assert totals(storage) == expected(30)
    assert storage.state.head_rows == 20
    functions = by_function(storage)
    storage.flush()
    let_go(storage)
    again = open_storage()
    assert totals(again) == expected(30)
    assert again.state.head_rows == 0
    assert by_function(again) == functions
    assert sum(functions.values()) == sum(total * times for total, times in expected(30).items())


def test_what_is_only_in_the_log_comes_back(open_storage: Open) -> None:
    storage = open_storage()
    fill(storage, range(5))
    storage.flush()
    fill(storage, range(5, 12))
    functions = by_function(storage)
    let_go(storage)
    again = open_storage()
    assert totals(again) == expected(12)
    assert by_function(again) == functions
    assert not again.append(cpu_batch(3)), "known from the catalog"
    assert not again.append(cpu_batch(9)), "known from the log"
    assert again.seen(TENANT, "b3")
    assert not again.seen("somebody", "b3")
    fill(again, range(12, 14))
    let_go(again)
    assert totals(open_storage()) == expected(14)


def test_a_duplicate_is_stored_once(open_storage: Open) -> None:
    storage = open_storage()
    assert storage.append(cpu_batch(1))
    assert not storage.append(cpu_batch(1))
    storage.flush()
    assert not storage.append(cpu_batch(1))
    assert totals(storage) == {11: 1}


def test_of_many_at_once_one_is_stored(open_storage: Open) -> None:
    storage = open_storage()
    answers: list[object] = []

    def work() -> None:
        try:
            answers.append(storage.append(cpu_batch(1)))
        except Overloaded as error:
            answers.append(error)

    workers = [threading.Thread(target=work) for _ in range(12)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert answers.count(True) == 1
    assert totals(storage) == {11: 1}


def test_a_batch_that_is_partly_known_has_to_be_told_apart_anew(open_storage: Open) -> None:
    storage = open_storage()
    storage.append(cpu_batch(1))
    both = cpu_batch(2)
    object.__setattr__(both, "batch_ids", ("b1", "b2"))
    with pytest.raises(Overloaded):
        storage.append(both)
    assert totals(storage) == {11: 1}


def test_tenants_do_not_see_each_other(open_storage: Open) -> None:
    storage = open_storage()
    storage.append(cpu_batch(1, tenant="../a b"))
    storage.append(cpu_batch(1, tenant="b"))
    storage.append(cpu_batch(2, tenant="b"))
    for _ in range(2):
        assert totals(storage, tenant="../a b") == {11: 1}
        assert totals(storage, tenant="b") == {11: 1, 12: 1}
        assert totals(storage, tenant="c") == {}
        storage.flush()
    assert not list(Path(storage._data_dir).parent.glob("a b*"))


def test_series_are_selected_by_labels_also_after_a_restart(open_storage: Open) -> None:
    storage = open_storage()
    fill(storage, range(6))
    storage.flush()
    let_go(storage)
    series = open_storage().series(TENANT)
    assert {each.labels["pod"] for each in series.select([])} == {"p0", "p1", "p2"}
    chosen = series.select([Matcher("pod", "=~", "p[01]"), Matcher("pod", "!=", "p0")])
    assert [each.labels["pod"] for each in chosen] == ["p1"]
    assert series.select([Matcher("zone", "!=", "")]) == []


def test_snapshots_see_each_row_once_while_all_goes_on(open_storage: Open) -> None:
    storage = open_storage(flush_seconds=0)
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep_up() -> None:
        try:
            while not stop.is_set():
                storage.maintain(NOON_MS + 9 * HOUR_MS)
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    worker = threading.Thread(target=keep_up)
    worker.start()
    try:
        for number in range(60):
            storage.append(cpu_batch(number))
            assert totals(storage) == expected(number + 1)
    finally:
        stop.set()
        worker.join()
    assert not failures


def test_blocks_are_laid_out_as_documented(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    cpu, wall = schema_types()
    profiles = [
        P({"service_name": name}, NOON_MS + at * HOUR_MS // 2, {"main f": 5, "main g": 7}, type_id)
        for at in range(4)
        for name in ("b", "a")
        for type_id in (wall, cpu)
    ]
    storage.append(batch(profiles, batch_id="x"))
    storage.flush()
    folders = block_folders(tmp_path / "data")
    assert [each.parent.name for each in folders] == ["hour=08", "hour=09"]
    assert folders[0].parent.parent.parent.name == "tenant=default"
    for folder in folders:
        assert {each.stem for each in folder.iterdir()} == set(schema.BLOCK_TABLES)
        with pq.ParquetFile(folder / "samples.parquet") as file:
            assert file.schema_arrow.equals(schema.SAMPLES)
            groups = [
                {(row["service_name"], row["profile_type"]) for row in group.to_pylist()}
                for group in (
                    file.read_row_group(at, columns=["service_name", "profile_type"])
                    for at in range(file.num_row_groups)
                )
            ]
            assert groups == [{("a", cpu)}, {("a", wall)}, {("b", cpu)}, {("b", wall)}]
            rows = file.read()
            order = [(name, "ascending") for name in schema.SAMPLES.names[:5]]
            assert rows.equals(rows.sort_by(order))
        for name, expected_schema in schema.BLOCK_TABLES.items():
            assert pq.read_schema(folder / f"{name}.parquet").equals(expected_schema)
        stacks = pq.ParquetFile(folder / "stacks.parquet").read()
        assert stacks.num_rows == 8, "of each service the root, main, f and g: nothing else"


def schema_types() -> tuple[str, str]:
    return "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "wall:wall:nanoseconds:wall:nanoseconds"


def test_duckdb_reads_a_block_without_us(open_storage: Open, tmp_path: Path) -> None:
    import duckdb

    storage = open_storage()
    fill(storage, range(9))
    storage.flush()
    files = str(tmp_path / "data/blocks/*/*/*/*/samples.parquet")
    rows = duckdb.sql(
        f"SELECT tenant, service_name, SUM(value) FROM read_parquet('{files}', "
        "hive_partitioning = true) GROUP BY ALL"
    ).fetchall()
    assert rows == [("default", "payments", sum(expected(9)))]


def test_only_one_process_may_open_a_folder(open_storage: Open, tmp_path: Path) -> None:
    open_storage()
    program = (
        "import sys, pathlib\n"
        "from flamewell_collector.store.storage import Storage, StorageOptions\n"
        "Storage.open(pathlib.Path(sys.argv[1]), StorageOptions())\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert "another collector uses the data folder" in child.stderr
    with pytest.raises(StorageError, match="another collector"):
        open_storage()


def test_a_folder_that_cannot_be_made_is_an_error(open_storage: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be used"):
        open_storage(tmp_path / "file" / "data")


def test_a_failed_flush_keeps_the_head(
    open_storage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage()
    fill(storage, range(4))
    fill(storage, range(4, 8), time_ms=NOON_MS + HOUR_MS)

    def second_fails(folder: Path) -> None:
        if block_folders(tmp_path / "data"):
            raise OSError("this is broken")
        sync_folder(folder)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "sync_folder", second_fails)
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                storage.flush()
            assert totals(storage) == expected(8)
            assert block_folders(tmp_path / "data") == [], "half a flush is left behind"
    with monkeypatch.context() as patch:
        patch.setattr(storage._catalog, "commit", raise_unexpected)
        with pytest.raises(RuntimeError):
            storage.flush()
        assert totals(storage) == expected(8)
    fill(storage, range(8, 9))
    storage.flush()
    assert totals(storage) == expected(9)
    assert len(block_folders(tmp_path / "data")) == 2
    let_go(storage)
    assert totals(open_storage()) == expected(9)


def raise_unexpected(*_arguments: object, **_options: object) -> None:
    raise RuntimeError("nobody expected this")


def test_too_much_that_waits_for_a_flush_is_refused(open_storage: Open) -> None:
    storage = open_storage(max_head_rows=6)
    fill(storage, range(3))
    with pytest.raises(StorageUnavailable, match="wait for a flush"):
        storage.append(cpu_batch(3))
    assert not storage.state.writable
    storage.flush()
    fill(storage, range(3, 4))
    assert totals(storage) == expected(4)


def test_too_little_free_disk_is_refused_and_reads_go_on(open_storage: Open) -> None:
    storage = open_storage()
    fill(storage, range(3))
    storage._room._min_free_bytes = 1 << 60
    with pytest.raises(StorageUnavailable, match="MiB left"):
        storage.append(cpu_batch(3))
    assert "MiB left" in storage.state.reason
    assert totals(storage) == expected(3)


def test_the_codec_refuses_what_is_none() -> None:
    payload = batch_codec.encode(cpu_batch(1))
    assert batch_codec.decode(payload).samples.equals(cpu_batch(1).samples)
    for broken in (b"", payload[:20], payload[:-30], os.urandom(200), b"\0" * 100):
        with pytest.raises(StorageError):
            batch_codec.decode(broken)


def test_ranges_choose_blocks(open_storage: Open) -> None:
    storage = open_storage()
    for at in range(3):
        storage.append(cpu_batch(at, time_ms=NOON_MS + at * HOUR_MS))
    storage.flush()

    def chosen(start_ms: int, end_ms: int) -> int:
        with storage.snapshot(TENANT, start_ms, end_ms) as snapshot:
            plan = make_plan(snapshot.stored, start_ms, end_ms, gauge=False, sums_do=True)
            return len(plan.raw)

    assert chosen(0, FOREVER_MS) == 3
    assert chosen(NOON_MS, NOON_MS + 1) == 1
    assert chosen(NOON_MS + 1, NOON_MS + HOUR_MS) == 0
    assert chosen(NOON_MS + HOUR_MS, NOON_MS + 2 * HOUR_MS + 1) == 2
