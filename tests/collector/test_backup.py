"""Backups: beside a collector that writes and merges, incremental, checked, restored whole."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from collector.stored import NOON_MS, block_folders, cpu_batch, expected, let_go, totals

from flamewell_collector import cli
from flamewell_collector.errors import StorageError
from flamewell_collector.store import backup as backups
from flamewell_collector.store.backup import back_up, restore
from flamewell_collector.store.database_copy import copy_database
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.verify import verify

Open = Callable[..., Storage]
LATER_MS = NOON_MS + 5 * 3_600_000
GUIDE = Path(__file__).parent.parent.parent / "docs" / "guides" / "backup.md"


def fill(storage: Storage, numbers: range) -> None:
    for number in numbers:
        assert storage.append(cpu_batch(number))


def saved(data: Path, target: Path, *, link: bool = False) -> backups.Done:
    return back_up(data, target, link=link, now_ms=NOON_MS)


def restored(open_storage: Open, target: Path, name: str) -> Storage:
    folder = target.parent / name
    restore(target, folder)
    report = verify(folder, progress=lambda _done, _total: None)
    assert report.problems == []
    return open_storage(folder)


@pytest.mark.parametrize("link", [False, True])
def test_beside_a_collector_that_is_still(open_storage: Open, tmp_path: Path, link: bool) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    storage = open_storage()
    for at in range(3):
        fill(storage, range(at * 3, at * 3 + 3))
        storage.flush()
    storage.maintain(LATER_MS)
    fill(storage, range(9, 12))
    done = saved(data, target, link=link)
    assert (done.blocks, done.copied_blocks, done.log_batches) == (3, 3, 3)
    fill(storage, range(12, 14))
    storage.flush()
    again = saved(data, target, link=link)
    assert (again.blocks, again.copied_blocks, again.log_batches) == (4, 1, 0)
    parquet = next(iter(block_folders(target))) / "samples.parquet"
    assert (parquet.stat().st_nlink == 2) == link
    other = restored(open_storage, target, "restored")
    assert totals(other) == totals(storage) == expected(14)
    assert not other.append(cpu_batch(12)), "known batches are known again"
    assert {each.labels["pod"] for each in other.series("default").all()} == {"p0", "p1", "p2"}


def test_what_was_merged_away_leaves_the_backup_too(open_storage: Open, tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    storage = open_storage()
    for at in range(3):
        fill(storage, range(at, at + 1))
        storage.flush()
    saved(data, target)
    assert len(block_folders(target)) == 3
    storage.maintain(LATER_MS)
    done = saved(data, target)
    assert (done.blocks, done.copied_blocks) == (3, 3)
    assert len(block_folders(target)) == 1
    assert len(list(target.glob("state-*"))) == 1
    assert totals(restored(open_storage, target, "restored")) == expected(3)


def test_beside_a_collector_that_flushes_and_merges_all_the_time(
    open_storage: Open, tmp_path: Path
) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    storage = open_storage(flush_rows=1)
    acknowledged, stop = [0], threading.Event()

    def write() -> None:
        while not stop.is_set():
            assert storage.append(cpu_batch(acknowledged[0]))
            acknowledged[0] += 1

    def keep_up() -> None:
        while not stop.is_set():
            storage.maintain(LATER_MS)

    threads = [threading.Thread(target=each) for each in (write, keep_up)]
    for each in threads:
        each.start()
    try:
        for at in range(4):
            before = acknowledged[0]
            saved(data, target)
            after = acknowledged[0] + 1
            other = restored(open_storage, target, f"restored-{at}")
            found = totals(other)
            assert expected(before) <= found <= expected(after)
            assert max(found.values(), default=1) == 1, "nothing is there twice"
    finally:
        stop.set()
        for each in threads:
            each.join()


def test_of_what_a_kill_left(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    fill(storage, range(4))
    storage.flush()
    fill(storage, range(4, 6))
    let_go(storage)
    (log,) = (tmp_path / "data/wal").glob("*.wal")
    log.write_bytes(log.read_bytes() + b"FWAL torn")
    saved(tmp_path / "data", tmp_path / "backup")
    other = restored(open_storage, tmp_path / "backup", "restored")
    assert totals(other) == expected(6)
    assert other.state.wal_skipped_bytes == 0


def test_an_interrupted_backup_leaves_the_former_one(
    open_storage: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    storage = open_storage()
    fill(storage, range(2))
    storage.flush()
    saved(data, target)
    fill(storage, range(2, 4))
    storage.flush()
    storage.maintain(LATER_MS)

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backups, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            saved(data, target)
    assert totals(restored(open_storage, target, "one")) == expected(2)
    saved(data, target)
    assert totals(restored(open_storage, target, "two")) == expected(4)


@pytest.mark.parametrize("harm", ["flipped", "missing", "catalog"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(
    open_storage: Open, tmp_path: Path, harm: str
) -> None:
    storage = open_storage()
    fill(storage, range(2))
    storage.flush()
    target = tmp_path / "backup"
    saved(tmp_path / "data", target)
    path = next(iter(block_folders(target))) / "samples.parquet"
    if harm == "catalog":
        path = next(target.glob("state-*/catalog.sqlite"))
    if harm == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    with pytest.raises(StorageError, match=re.escape(path.name)):
        restore(target, tmp_path / "restored")
    assert {each.name for each in (tmp_path / "restored").iterdir()} <= {"lock"}


def test_folders_that_hold_something_are_refused(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    fill(storage, range(1))
    other = tmp_path / "documents"
    other.mkdir()
    (other / "letter").write_text("dear")
    with pytest.raises(StorageError, match="'letter'"):
        saved(tmp_path / "data", other)
    assert [each.name for each in other.iterdir()] == ["letter"]
    saved(tmp_path / "data", tmp_path / "backup")
    with pytest.raises(StorageError, match="'letter'"):
        restore(tmp_path / "backup", other)
    with pytest.raises(StorageError, match="not empty"):
        restore(tmp_path / "backup", tmp_path / "data")
    with pytest.raises(StorageError, match="no backup"):
        restore(other, tmp_path / "restored")
    with pytest.raises(StorageError, match="no catalog"):
        saved(other, tmp_path / "backup-2")


@pytest.mark.parametrize(
    "path", ["../outside", "/etc", "blocks/../../outside", "elsewhere/block=1"]
)
def test_a_hostile_manifest_leads_nowhere(open_storage: Open, tmp_path: Path, path: str) -> None:
    fill(open_storage(), range(1))
    target = tmp_path / "backup"
    saved(tmp_path / "data", target)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["blocks"][path] = {"samples.parquet": [1, "00"]}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="no manifest"):
        restore(target, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_block_that_is_not_there_is_told_of(open_storage: Open, tmp_path: Path) -> None:
    storage = open_storage()
    fill(storage, range(1))
    storage.flush()
    shutil.rmtree(block_folders(tmp_path / "data")[0])
    with pytest.raises(StorageError, match="see `verify`"):
        saved(tmp_path / "data", tmp_path / "backup")


def test_a_database_is_copied_while_it_is_written(tmp_path: Path) -> None:
    """Each row is a pair that adds up to zero; checkpoints happen all the time."""
    db = sqlite3.connect(tmp_path / "db", check_same_thread=False)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA wal_autocheckpoint=20")
    db.execute("CREATE TABLE t (a INTEGER, b INTEGER, fill TEXT)")
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.wait(0.001):
            with db:
                row = (written[0], -written[0], os.urandom(900).hex())
                db.execute("INSERT INTO t VALUES (?, ?, ?)", row)
            written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for at in range(30):
            before = written[0]
            copy_database(tmp_path / "db", tmp_path / f"copy-{at}")
            copy = sqlite3.connect(tmp_path / f"copy-{at}")
            count, total, highest = copy.execute(
                "SELECT count(*), sum(a + b), coalesce(max(a), -1) FROM t"
            ).fetchone()
            copy.close()
            assert count == highest + 1 >= before
            assert not total
    finally:
        stop.set()
        thread.join()
        db.close()


def test_the_guide(open_storage: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of the guide runs as it stands there, with folders of its own."""
    storage = open_storage()
    fill(storage, range(3))
    storage.flush()
    fill(storage, range(3, 5))
    let_go(storage)
    commands = re.findall(
        r"^flamewell-collector (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {line.split()[0] for line in commands} >= {"backup", "restore", "verify"}
    for line in commands:
        mine = line.replace("/srv/", f"{tmp_path}/")
        assert cli.main(shlex.split(mine)) == 0, line
    assert "2 batches of the log" in capsys.readouterr().out
    assert totals(open_storage(tmp_path / "restored")) == expected(5)
