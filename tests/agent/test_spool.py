"""The disk queue: order, bounds, damage, kill -9."""

from __future__ import annotations

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

from flamewell_agent.errors import StateError
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


def take_all(spool: Spool) -> list[bytes]:
    taken = []
    while (segment := spool.oldest()) is not None:
        taken.append(plain(segment))
        spool.remove(segment.sequence)
    return taken


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.batch"))


def test_what_is_put_comes_out_in_order_and_stays_until_removed(spool):
    for index in range(5):
        assert spool.put(b"batch %d" % index)
    assert plain(spool.oldest()) == plain(spool.oldest()) == b"batch 0"
    assert take_all(spool) == [b"batch %d" % index for index in range(5)]
    assert spool.oldest() is None
    assert (len(spool), spool.size_bytes) == (0, 0)


def test_it_goes_on_where_a_former_run_stopped(tmp_path):
    first = Spool(tmp_path, MIB)
    first.put(b"old")
    sequence = first.oldest().sequence
    first.close()
    second = Spool(tmp_path, MIB)
    second.put(b"new")
    assert second.oldest().sequence == sequence
    assert second.size_bytes == sum(each.stat().st_size for each in files(tmp_path))
    assert take_all(second) == [b"old", b"new"]
    second.close()


def test_gzip_is_kept_beside_zstd(tmp_path):
    with_gzip = Spool(tmp_path, MIB, encoding="gzip")
    with_gzip.put(b"one")
    with_gzip.close()
    with_zstd = Spool(tmp_path, MIB)
    with_zstd.put(b"two")
    assert with_zstd.oldest().encoding == "gzip"
    assert take_all(with_zstd) == [b"one", b"two"]
    with_zstd.close()


def test_the_oldest_make_room_and_are_counted(tmp_path, drops):
    spool = Spool(tmp_path, 10_000, on_drop=drops)
    for index in range(20):
        spool.put(bytes([index]) + os.urandom(1_000))
    kept = take_all(spool)
    assert [each[0] for each in kept] == list(range(20 - len(kept), 20))
    assert 5 < len(kept) < 10
    assert drops == {"spool_full": 20 - len(kept)}
    spool.close()


def test_a_batch_beyond_the_whole_spool_is_refused(tmp_path, drops):
    spool = Spool(tmp_path, 1_000, on_drop=drops)
    spool.put(b"small")
    assert not spool.put(os.urandom(2_000))
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
    for text in (b"first", b"second"):
        spool.put(text)
    file = files(tmp_path / "spool")[0]
    file.write_bytes(damage(file.read_bytes()))
    assert take_all(spool) == [b"second"]
    assert drops == {"corrupt": 1}
    assert [each.name for each in (tmp_path / "spool" / "corrupt").iterdir()] == [file.name]


def test_only_a_few_damaged_batches_are_kept(spool, drops, tmp_path):
    for _ in range(15):
        spool.put(b"text")
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
    spool.put(b"one")
    spool.put(b"two")
    files(tmp_path / "spool")[0].unlink()
    assert take_all(spool) == [b"two"]
    assert drops == {"corrupt": 1}


def test_a_symbolic_link_is_not_followed(spool, drops, tmp_path):
    spool.put(b"one")
    secret = tmp_path / "secret"
    files(tmp_path / "spool")[0].rename(secret)
    (tmp_path / "spool" / "00000000000000000001.batch").symlink_to(secret)
    assert spool.oldest() is None
    assert drops == {"corrupt": 1}


def test_a_disk_that_cannot_be_written_drops_the_batch_only(spool, drops, tmp_path):
    (tmp_path / "spool" / "00000000000000000001.tmp").mkdir()  # root ignores permissions
    assert not spool.put(b"one")
    assert drops == {"write_failed": 1}
    assert spool.put(b"two")
    assert take_all(spool) == [b"two"]


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


WRITER = """
import sys
from pathlib import Path
from flamewell_agent.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
index = int(sys.argv[2])
while True:
    spool.put(b"%d " % index * 2000)
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
