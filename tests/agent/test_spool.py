"""The disk queue: order, bounds, damage, kill -9."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from flamewell_agent import spool as spool_module
from flamewell_agent import spool_files
from flamewell_agent.errors import StateError, UnreadableBatchError
from flamewell_agent.spool import Spool

MIB = 1024 * 1024


class Drops(Counter):
    def __call__(self, reason: str, count: int) -> None:
        self[reason] += count


@pytest.fixture
def drops() -> Drops:
    return Drops()


@pytest.fixture
def spool(tmp_path, drops):
    spool = Spool(tmp_path / "spool", MIB, on_drop=drops)
    yield spool
    spool.close()


def plain(segment) -> bytes:
    if segment.encoding == "gzip":
        return gzip.decompress(segment.payload)
    return zstandard.decompress(segment.payload)


def put(spool: Spool, *batches: bytes) -> None:
    """Put, and wait until all is on disk."""
    for each in batches:
        assert spool.put(each)
        assert spool.flush(20)


def oldest(spool: Spool):
    """Look at the first one, and leave it."""
    if (segment := spool.claim()) is not None:
        spool.release(segment.sequence)
    return segment


def take_all(spool: Spool) -> list[bytes]:
    assert spool.flush(20)
    taken = []
    while (segment := spool.claim()) is not None:
        taken.append(plain(segment))
        spool.remove(segment.sequence)
    return taken


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.batch"))


def test_what_is_put_comes_out_in_order_and_stays_until_removed(spool):
    put(spool, *(b"batch %d" % index for index in range(5)))
    assert plain(oldest(spool)) == plain(oldest(spool)) == b"batch 0"
    assert take_all(spool) == [b"batch %d" % index for index in range(5)]
    assert oldest(spool) is None
    assert (len(spool), spool.size_bytes) == (0, 0)


def test_it_goes_on_where_a_former_run_stopped(tmp_path):
    first = Spool(tmp_path, MIB)
    put(first, b"old")
    sequence = oldest(first).sequence
    first.close()
    second = Spool(tmp_path, MIB)
    put(second, b"new")
    assert oldest(second).sequence == sequence
    assert second.size_bytes == sum(each.stat().st_size for each in files(tmp_path))
    assert take_all(second) == [b"old", b"new"]
    second.close()


def test_gzip_is_kept_beside_zstd(tmp_path):
    with_gzip = Spool(tmp_path, MIB, encoding="gzip")
    with_gzip.put(b"one")
    with_gzip.close()
    with_zstd = Spool(tmp_path, MIB)
    put(with_zstd, b"two")
    assert oldest(with_zstd).encoding == "gzip"
    assert take_all(with_zstd) == [b"one", b"two"]
    with_zstd.close()


def test_the_oldest_make_room_and_are_counted(tmp_path, drops):
    spool = Spool(tmp_path, 10_000, on_drop=drops)
    for index in range(20):
        put(spool, bytes([index]) + os.urandom(1_000))
    kept = take_all(spool)
    assert [each[0] for each in kept] == list(range(20 - len(kept), 20))
    assert 5 < len(kept) < 10
    assert drops == {"spool_full": 20 - len(kept)}
    spool.close()


def test_a_batch_beyond_the_whole_spool_is_refused(tmp_path, drops):
    spool = Spool(tmp_path, 1_000, on_drop=drops)
    put(spool, b"small", os.urandom(2_000))
    assert drops == {"too_large": 1}
    assert take_all(spool) == [b"small"]
    spool.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: b"XXXX" + content[4:],
        lambda content: content[:4] + b"\x09" + content[5:],
        lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
)
def test_a_damaged_batch_is_set_aside_and_counted(spool, drops, tmp_path, damage):
    put(spool, b"first", b"second")
    file = files(tmp_path / "spool")[0]
    file.write_bytes(damage(file.read_bytes()))
    assert take_all(spool) == [b"second"]
    assert drops == {"corrupt": 1}
    assert [each.name for each in (tmp_path / "spool" / "corrupt").iterdir()] == [file.name]


def test_only_a_few_damaged_batches_are_kept(spool, drops, tmp_path):
    put(spool, *[b"text"] * 15)
    for file in files(tmp_path / "spool"):
        file.write_bytes(b"?")
    assert take_all(spool) == []
    assert drops == {"corrupt": 15}
    assert len(list((tmp_path / "spool" / "corrupt").iterdir())) == 10


def test_half_written_files_are_swept(tmp_path):
    (tmp_path / "00000000000000000003.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours")
    spool = Spool(tmp_path, MIB)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lock", "notes.txt"]
    spool.close()


def test_a_file_that_vanished_is_passed_over(spool, drops, tmp_path):
    put(spool, b"one", b"two")
    files(tmp_path / "spool")[0].unlink()
    assert take_all(spool) == [b"two"]
    assert drops == {"corrupt": 1}


def test_a_symbolic_link_is_not_followed(spool, drops, tmp_path):
    put(spool, b"one")
    secret = tmp_path / "secret"
    files(tmp_path / "spool")[0].rename(secret)
    (tmp_path / "spool" / "00000000000000000001.batch").symlink_to(secret)
    assert oldest(spool) is None
    assert drops == {"corrupt": 1}


def test_a_disk_that_cannot_be_written_drops_the_batch_only(spool, drops, tmp_path):
    (tmp_path / "spool" / "00000000000000000001.tmp").mkdir()  # root ignores permissions
    put(spool, b"one")
    assert drops == {"write_failed": 1}
    put(spool, b"two")
    assert take_all(spool) == [b"two"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_passing_read_error_costs_no_batch(spool, drops, monkeypatch, number):
    put(spool, b"one", b"two")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as ill:
        ill.setattr(spool_files, "read", refuse)
        for _ in range(3):
            with pytest.raises(UnreadableBatchError, match=os.strerror(number)) as error:
                spool.claim()
            assert error.value.sequence == 1
    assert take_all(spool) == [b"one", b"two"]
    assert not drops


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_the_oldest_make_room(spool, drops, monkeypatch, tmp_path, number):
    """The disk holds four batches of some 1,000 bytes."""
    real = spool_files.write

    def write(path, body, *rest):
        if len(files(tmp_path / "spool")) >= 4:
            raise OSError(number, os.strerror(number))
        real(path, body, *rest)

    monkeypatch.setattr(spool_files, "write", write)
    put(spool, *(bytes([index]) + os.urandom(1_000) for index in range(6)))
    assert [each[0] for each in take_all(spool)] == [2, 3, 4, 5]
    assert drops == {"disk_full": 2}


def test_a_full_disk_without_batches_of_ours_loses_the_new_one(spool, drops, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "no space left")

    put(spool, b"small")
    monkeypatch.setattr(spool_files, "write", write)
    put(spool, os.urandom(10_000))
    assert drops == {"write_failed": 1}
    assert take_all(spool) == [b"small"]


def test_a_directory_that_cannot_be_synced_does_not_cost_the_batch(
    spool, drops, monkeypatch, tmp_path
):
    def refuse(_directory):
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(spool_files, "_sync_directory", refuse)
    put(spool, b"one")
    assert spool.size_bytes == sum(each.stat().st_size for each in files(tmp_path / "spool"))
    assert take_all(spool) == [b"one"]
    assert not drops


def test_a_claimed_batch_is_neither_dropped_nor_given_to_another(tmp_path, drops):
    now = [1_000_000.0]
    spool = Spool(tmp_path, 10_000, max_age_seconds=100, on_drop=drops, clock=lambda: now[0])
    put(spool, b"first")
    segment = spool.claim()
    assert spool.claim() is None
    assert not spool.wait(0.01)
    now[0] += 1_000
    put(spool, *(bytes([index]) + os.urandom(1_000) for index in range(20)))
    assert spool.claim().sequence > segment.sequence
    assert not drops["too_old"]
    assert segment.sequence in [int(each.stem) for each in files(tmp_path)]
    spool.release(segment.sequence)
    spool.claim()
    assert drops["too_old"] == 1
    spool.close()


def test_two_agents_do_not_share_a_directory(spool, tmp_path):
    with pytest.raises(StateError, match="another agent uses"):
        Spool(tmp_path / "spool", MIB)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool", MIB)


def test_a_waiting_reader_is_woken_by_a_put(spool):
    woken = []
    reader = threading.Thread(target=lambda: woken.append(spool.wait(30)))
    reader.start()
    spool.put(b"now")
    reader.join(10)
    assert woken == [True]
    assert spool.wait(0)


class SlowDisk:
    """Lets no fsync end until it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.reached, self.release = threading.Event(), threading.Event()
        real = os.fsync

        def slow(descriptor: int) -> None:
            self.reached.set()
            self.release.wait(30)
            real(descriptor)

        monkeypatch.setattr(spool_files.os, "fsync", slow)


def test_put_does_not_wait_for_a_disk_that_hangs(spool, drops, monkeypatch):
    disk = SlowDisk(monkeypatch)
    spool.put(b"0")
    assert disk.reached.wait(20)
    for index in range(1, 30):
        spool.put(b"%d" % index)  # would hang here
    assert len(spool) == 9
    assert oldest(spool) is None
    assert not spool.flush(0.01)
    disk.release.set()
    assert take_all(spool) == [b"0", *(b"%d" % index for index in range(22, 30))]
    assert drops == {"spool_busy": 21}


def test_what_waits_for_the_disk_is_bounded_in_bytes(spool, drops, monkeypatch):
    disk = SlowDisk(monkeypatch)
    spool.put(b"first")
    assert disk.reached.wait(20)
    for _ in range(3):
        spool.put(bytes(9 * MIB))
    assert len(spool) == 2
    disk.release.set()
    assert spool.flush(20)
    assert drops == {"spool_busy": 2}


def test_closing_stores_what_was_handed_over(tmp_path):
    spool = Spool(tmp_path, MIB)
    for index in range(5):
        spool.put(b"%d" % index)
    spool.close()
    again = Spool(tmp_path, MIB)
    assert take_all(again) == [b"0", b"1", b"2", b"3", b"4"]
    again.close()
    assert not again.put(b"late")


def test_batches_that_no_collector_would_take_any_more_are_dropped(tmp_path, drops):
    now = [1_000_000.0]
    options = {"max_age_seconds": 100.0, "on_drop": drops, "clock": lambda: now[0]}
    spool = Spool(tmp_path, MIB, **options)
    put(spool, b"old", b"old too")
    now[0] += 60
    put(spool, b"young")
    now[0] += 60
    assert take_all(spool) == [b"young"]
    assert drops == {"too_old": 2}
    assert files(tmp_path) == []
    spool.close()


def test_a_clock_that_was_set_back_makes_nothing_old(tmp_path, drops):
    now = [1_000_000.0]
    spool = Spool(tmp_path, MIB, max_age_seconds=100, on_drop=drops, clock=lambda: now[0])
    put(spool, b"before")
    now[0] -= 5_000
    put(spool, b"after")
    assert take_all(spool) == [b"before", b"after"]
    assert not drops
    spool.close()


def test_many_leftover_files(tmp_path, drops, monkeypatch):
    for index in range(2_000):
        (tmp_path / f"{index:020d}.batch").write_bytes(b"?")
    (tmp_path / "00000000000000009999.batch").mkdir()
    (tmp_path / "00000000000000008888.batch").symlink_to("/etc/passwd")
    (tmp_path / "\u0663.batch").write_bytes(b"not ours")
    monkeypatch.setattr(spool_module, "_BATCHES_AT_MOST", 1_000)
    spool = Spool(tmp_path, MIB, on_drop=drops)
    assert (len(spool), spool.size_bytes) == (2_000, 2_000)
    put(spool, b"new")
    assert len(spool) == 1_000
    assert drops == {"spool_full": 1_001}
    assert len(files(tmp_path)) == 1_003
    spool.close()


def test_the_size_is_always_that_of_the_files(spool, tmp_path):
    put(spool, *(os.urandom(index) for index in range(50)))
    for _ in range(10):
        spool.remove(oldest(spool).sequence)
    spool.remove(1)
    assert spool.size_bytes == sum(each.stat().st_size for each in files(tmp_path / "spool"))


def test_a_pipe_in_place_of_a_batch_does_not_hang(spool, drops, tmp_path):
    put(spool, b"one", b"two")
    first = files(tmp_path / "spool")[0]
    first.unlink()
    os.mkfifo(first)
    assert take_all(spool) == [b"two"]
    assert drops == {"corrupt": 1}


def test_a_batch_is_encoded_anew_for_a_collector_without_zstd(spool):
    put(spool, b"text" * 100)
    segment = spool_files.as_gzip(oldest(spool))
    assert segment.encoding == "gzip"
    assert plain(segment) == b"text" * 100
    assert spool_files.as_gzip(segment) is segment


WRITER = """
import sys
from pathlib import Path
from flamewell_agent.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
index = int(sys.argv[2])
while True:
    spool.put(b"%d " % index * 2000)
    spool.flush(20)
    print(index, flush=True)
    index += 1
"""


def test_kill_nine_loses_nothing_that_was_put(tmp_path):
    told = 0
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(told)],
            stdout=subprocess.PIPE,
            text=True,
        )
        first = int(writer.stdout.readline())
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        lines = [first, *map(int, writer.stdout.read().split())]
        writer.wait()
        writer.stdout.close()
        told = lines[-1] + 1
    spool = Spool(tmp_path, 1 << 30)
    assert not list(tmp_path.glob("*.tmp"))
    stored = [int(each.split()[0]) for each in take_all(spool)]
    # At a kill one more may have been put than was told; nothing that was told is missing.
    assert set(range(told)) <= set(stored) <= set(range(told + 1))
    assert stored == sorted(stored)
    spool.close()
