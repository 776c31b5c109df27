"""kill -9 of the write path while it stores, flushes and compacts; ten times, under load."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from collector.faults.checks import assert_sound, merged, merged_raw
from collector.otlp_requests import simple
from collector.stored import FOREVER_MS, all_rows, let_go, raw_folders, totals

from flamewell_collector.store.storage import Storage

KILLS = 10
SENDERS = 4
PROGRAM = Path(__file__).parent.parent.parent / "targets" / "ingest_server.py"
PATH = "/v1development/profiles"
HEADERS = {"Content-Type": "application/x-protobuf"}
HOURS_AGO_MS = (3 * 3_600_000, 4 * 3_600_000)
"""Closed hours: each flush makes something to compact."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def server(folder: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as sink:
        child = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), str(port)], stdout=sink, stderr=sink
        )
    try:
        while child.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        assert child.poll() is None, log.read_text()
        yield child
    finally:
        child.kill()
        child.wait()


class Sender(threading.Thread):
    """Posts batches one after the other, each until it is acknowledged; its values are unique."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.port, self.number = port, number
        self.stopping = threading.Event()
        self.acknowledged: list[int] = []
        self.retries = 0
        self.refused: Counter[int] = Counter()

    def run(self) -> None:
        while not self.stopping.is_set():
            sequence = len(self.acknowledged)
            value = self.number * 1_000_000 + sequence + 1
            time_ms = time.time_ns() // 1_000_000 - HOURS_AGO_MS[sequence % 2]
            body = simple(f"sender{self.number}-{sequence}", value, time_ms=time_ms)
            while not self.post(body):
                self.retries += 1
                time.sleep(0.005)
            self.acknowledged.append(3 * value)

    def post(self, body: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            try:
                connection.request("POST", PATH, body, HEADERS)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                return False
        if answer.status != 200 or content:
            self.refused[answer.status] += 1
            return False
        return True


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_is_doubled(
    tmp_path: Path, open_storage: Callable[..., Storage]
) -> None:
    folder, port, log = tmp_path / "data", free_port(), tmp_path / "log"
    senders = [Sender(port, number) for number in range(SENDERS)]
    chance = random.Random(9)
    left_behind = 0
    try:
        for kill in range(KILLS):
            with server(folder, port, log):
                if kill == 0:
                    for sender in senders:
                        sender.start()
                time.sleep(chance.uniform(0.1, 1.2))
            left_behind += len(list((folder / "wal").glob("*.wal")))
        with server(folder, port, log):
            for sender in senders:
                sender.stopping.set()
            for sender in senders:
                sender.join()
    finally:
        for sender in senders:
            sender.stopping.set()
    wanted = Counter(total for sender in senders for total in sender.acknowledged)
    assert sum(sender.retries for sender in senders), "no batch was ever in flight at a kill"
    assert not any(set(sender.refused) - {429} for sender in senders), log.read_text()
    assert left_behind, "the log was always empty"
    storage = open_storage(folder)
    assert totals(storage) == wanted
    with storage.snapshot("default", 0, FOREVER_MS, services=None) as snapshot:
        _, samples = all_rows(snapshot)
        assert samples.num_rows == 2 * len(wanted)
        assert raw_folders(snapshot)
    assert "Traceback" not in log.read_text()
    storage.flush()
    storage.maintain(time.time_ns() // 1_000_000)
    assert totals(storage) == wanted, "after everything is compacted"
    span = (min(HOURS_AGO_MS), max(HOURS_AGO_MS))
    now_ms = time.time_ns() // 1_000_000
    asked = {"start_ms": now_ms - span[1] - 7_200_000, "end_ms": now_ms}
    sums = merged(storage, **asked)
    assert sums == merged_raw(storage, **asked)
    assert sum(sums.values()) == sum(value * count for value, count in wanted.items())
    let_go(storage)
    assert_sound(folder)
    storage = open_storage(folder)
    assert storage.state.damaged_blocks == 0
