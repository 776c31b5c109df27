from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store import wal

PAYLOADS = [b"first", b"", b"FWAL" * 9, bytes(range(256)) * 40, b"last"]


def written(folder: Path, payloads: list[bytes]) -> Path:
    log = wal.Wal(wal.LogFiles(folder), number=1)
    for payload in payloads:
        log.append(payload, lambda: None)
    log.close()
    return folder / "000000000001.wal"


@settings(max_examples=40, deadline=None)
@given(payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=8))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    path = written(tmp_path_factory.mktemp("wal"), payloads)
    assert wal.replay(path) == wal.Replayed(tuple(payloads), 0, 0)


def test_every_truncation_keeps_the_whole_frames(tmp_path: Path) -> None:
    path = written(tmp_path, [b"abc", b"defgh", b"ij"])
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        replayed = wal.replay(path)
        assert replayed.payloads == (b"abc", b"defgh", b"ij")[: len(replayed.payloads)]
        assert replayed.damaged_bytes == 0
        whole = sum(12 + len(each) for each in replayed.payloads)
        assert replayed.torn_bytes == cut - whole
        assert cut - whole < 12 + 5, "a whole frame was left out"


def test_every_flipped_bit_costs_its_own_frame_only(tmp_path: Path) -> None:
    payloads = [b"abc", b"defgh", b"ij"]
    path = written(tmp_path, payloads)
    data = path.read_bytes()
    edges = [0, 15, 32, 46]
    assert len(data) == edges[-1]
    for at in range(len(data)):
        hit = next(frame for frame in range(3) if at < edges[frame + 1])
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            replayed = wal.replay(path)
            assert list(replayed.payloads) == payloads[:hit] + payloads[hit + 1 :]
            assert replayed.damaged_bytes + replayed.torn_bytes == edges[hit + 1] - edges[hit]
            assert bool(replayed.damaged_bytes) == (hit < 2)


def test_magic_inside_a_payload_is_no_frame(tmp_path: Path) -> None:
    path = written(tmp_path, PAYLOADS)
    data = bytearray(path.read_bytes())
    data[12 + len(PAYLOADS[0]) + 12 + 12 + 1] ^= 1  # in the third payload
    path.write_bytes(data)
    assert wal.replay(path).payloads == (*PAYLOADS[:2], *PAYLOADS[3:])


def test_concurrent_appends_are_all_there_in_the_order_of_their_callbacks(tmp_path: Path) -> None:
    log = wal.Wal(wal.LogFiles(tmp_path), number=7)
    order: list[bytes] = []

    def work(worker: int) -> None:
        for number in range(30):
            payload = f"{worker}:{number}".encode()
            log.append(payload, lambda payload=payload: order.append(payload))
            assert payload in order, "append returned before the callback"

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    log.close()
    assert list(wal.replay(tmp_path / "000000000007.wal").payloads) == order
    assert len(order) == 240


def test_one_sync_covers_all_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = wal.Wal(wal.LogFiles(tmp_path), number=1)
    syncs = []
    go_on = threading.Event()
    real = os.fdatasync

    def slow(fd: int) -> None:
        syncs.append(fd)
        if len(syncs) == 1:
            go_on.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    workers = [threading.Thread(target=log.append, args=(b"x", lambda: None)) for _ in range(20)]
    workers[0].start()
    while not syncs:
        pass
    for each in workers[1:]:
        each.start()
    while len(log._pending) < 19:
        pass
    go_on.set()
    for each in workers:
        each.join()
    log.close()
    assert len(syncs) == 2
    assert len(wal.replay(tmp_path / "000000000001.wal").payloads) == 20


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
@pytest.mark.parametrize("cutting_fails", [False, True])
def test_a_failed_write_counts_for_nothing_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, cutting_fails: bool
) -> None:
    log = wal.Wal(wal.LogFiles(tmp_path), number=1)
    log.append(b"before", lambda: None)
    real = getattr(os, call)

    def fails(fd: int, *arguments: object) -> int:
        if call == "pwrite":
            data, at = arguments
            real(fd, bytes(data)[: len(data) // 2], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    def fails_too(_fd: int, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        if cutting_fails:
            patch.setattr(os, "ftruncate", fails_too)
        with pytest.raises(StorageUnavailable, match="No space left"):
            log.append(b"a longer payload that is refused", pytest.fail)
    log.append(b"after", lambda: None)
    log.append(b"more", lambda: None)
    log.close()
    payloads = wal.replay(tmp_path / "000000000001.wal").payloads
    assert payloads[:3] == (b"before", b"after", b"more")


def test_rotation(tmp_path: Path) -> None:
    log = wal.Wal(wal.LogFiles(tmp_path), number=1)
    log.append(b"one", lambda: None)
    sizes: list[int] = []
    assert log.rotate(lambda: sizes.append(log.size_bytes)) == 1
    log.append(b"two", lambda: None)
    log.close()
    assert sizes == [0]
    assert [number for number, _ in wal.files(tmp_path)] == [1, 2]
    assert wal.replay(tmp_path / "000000000002.wal").payloads == (b"two",)
    assert wal.total_bytes(tmp_path) == 30


def test_nothing_is_made_before_the_first_frame(tmp_path: Path) -> None:
    wal.Wal(wal.LogFiles(tmp_path), number=1).close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    log = wal.Wal(wal.LogFiles(tmp_path / "gone"), number=1)
    with pytest.raises(StorageUnavailable):
        log.append(b"x", pytest.fail)
    (tmp_path / "gone").mkdir()
    log.append(b"x", lambda: None)
    log.close()
