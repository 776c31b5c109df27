"""Collectors as processes on one bucket: senders, kills, a replica, the command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from collector.otlp_requests import simple
from collector.shared.conftest import Place

PATH = "/v1development/profiles"
HEADERS = {"Content-Type": "application/x-protobuf"}
WAIT_SECONDS = 60


class Server:
    """A collector of its own process; started again it keeps its port and loses its folder."""

    def __init__(self, place: Place, folder: Path, name: str, *flags: str) -> None:
        self.name, self.place, self.folder, self.flags = name, place, folder, flags
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = int(found.getsockname()[1])
        self.log = folder / f"{name}.log"
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        data = self.folder / f"{self.name}-{self.starts}"
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "flamewell_collector", "serve",
                    *shared_flags(self.place, data), f"--listen=127.0.0.1:{self.port}",
                    f"--instance={self.name}", "--store-follow-seconds=0.2",
                    "--store-lease-seconds=2", "--store-gather-seconds=0.01",
                    "--flush-seconds=1", *self.flags,
                ],
                stdout=sink, stderr=sink, env=environment(),
            )  # fmt: skip
        until(lambda: self.get("/ready") == "ready\n", self.log)

    def get(self, path: str) -> str:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode()
        return ""

    def total(self, start_ms: int) -> float:
        """The sum of all samples, in ns."""
        answer = self.get(f"/api/v1/top?from={start_ms}&until={now_ms() + 60_000}&limit=1")
        return json.loads(answer)["total"] if answer else -1

    def metrics(self) -> dict[str, float]:
        lines = self.get("/metrics").splitlines()
        return {
            name: float(value)
            for name, _, value in (each.rpartition(" ") for each in lines if each[0] != "#")
        }

    def stop(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


class Sender(threading.Thread):
    """Posts batches one after the other, each until it is acknowledged, by its own collector."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.port, self.number = port, number
        self.stopping = threading.Event()
        self.acknowledged: list[int] = []
        self.retries = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            sequence = len(self.acknowledged)
            value = self.number * 1_000_000 + sequence + 1
            body = simple(f"sender{self.number}-{sequence}", value, time_ms=now_ms())
            while not self.post(body):
                self.retries += 1
                time.sleep(0.02)
            self.acknowledged.append(3 * value)
            time.sleep(0.01)

    def post(self, body: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            try:
                connection.request("POST", PATH, body, HEADERS)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return False
        return answer.status == 200


@pytest.fixture
def servers(s3_place: Place, tmp_path: Path) -> Iterator[list[Server]]:
    """Three collectors that write and one that only reads."""
    made = [Server(s3_place, tmp_path, f"c{number}") for number in range(3)]
    made.append(Server(s3_place, tmp_path, "replica", "--read-only"))
    try:
        for each in made:
            each.start()
        yield made
    finally:
        for each in made:
            each.stop(signal.SIGKILL)


@pytest.mark.slow
def test_writers_are_killed_and_a_replica_sees_all_of_it(servers, s3_place, tmp_path):
    *writers, replica = servers
    begin_ms = now_ms() - 60_000
    senders = [Sender(writers[number % 3].port, number) for number in range(6)]
    chance = random.Random(5)
    for each in senders:
        each.start()
    try:
        for kill in range(6):
            time.sleep(chance.uniform(0.5, 1.5))
            victim = writers[kill % 3]
            victim.stop(signal.SIGKILL)
            if kill % 2:
                time.sleep(chance.uniform(2, 4))  # long enough for others to take over
            victim.start()
    finally:
        for each in senders:
            each.stopping.set()
        for each in senders:
            each.join()
    assert sum(each.retries for each in senders), "no batch was ever in flight at a kill"
    wanted = sum(sum(each.acknowledged) for each in senders)
    for each in servers:
        until(lambda each=each: each.total(begin_ms), each.log, wanted)
    writers[0].stop(signal.SIGKILL)
    writers[1].stop(signal.SIGTERM)
    until(lambda: replica.metrics()["flamewell_collector_store_other_rows"] == 0, replica.log)
    assert replica.total(begin_ms) == wanted
    found = replica.metrics()
    assert found["flamewell_collector_store_position"] > 0
    assert found['flamewell_collector_object_store_requests_total{operation="get"}'] > 0
    assert found['flamewell_collector_object_store_failures_total{operation="get"}'] == 0
    assert b"Traceback" not in b"".join(each.log.read_bytes() for each in servers)
    once = tmp_path / "once"
    done = command(s3_place, once, "query", "top", f"--from={begin_ms}", "--until=now", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"] == wanted
    done = command(s3_place, tmp_path / "compact", "compact")
    assert done.returncode == 0, done.stderr
    assert replica.total(begin_ms) == wanted


def test_a_replica_refuses_profiles_and_is_ready(s3_place, tmp_path):
    replica = Server(s3_place, tmp_path, "replica", "--read-only")
    try:
        replica.start()
        url = f"http://127.0.0.1:{replica.port}{PATH}"
        request = urllib.request.Request(url, simple("b", 1, time_ms=now_ms()), HEADERS)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        with refused.value as answer:
            assert answer.code == 503
            assert b"only answers questions" in answer.read()
    finally:
        replica.stop(signal.SIGTERM)


@pytest.mark.parametrize("name", ["verify", "backup", "restore"])
def test_commands_for_folders_say_so(s3_place, tmp_path, name):
    more = [] if name == "verify" else ["folder"]
    done = command(s3_place, tmp_path / "data", name, *more)
    assert done.returncode == 2
    assert "is about a data folder" in done.stderr


def test_a_store_that_is_away_is_an_error_in_words(tmp_path):
    away = Place("s3://profiles/x", "http://127.0.0.1:9")
    done = command(away, tmp_path / "data", "serve", "--listen=127.0.0.1:0")
    assert done.returncode == 1
    assert "s3://profiles/x can't be used" in done.stderr
    assert "Traceback" not in done.stderr


def command(place: Place, data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    name, *rest = words
    return subprocess.run(
        [sys.executable, "-m", "flamewell_collector", name, *rest, *shared_flags(place, data)],
        capture_output=True, text=True, check=False, timeout=120, env=environment(),
    )  # fmt: skip


def shared_flags(place: Place, data: Path) -> list[str]:
    return [
        f"--store-url={place.url}", f"--store-endpoint={place.endpoint}", f"--data-dir={data}",
    ]  # fmt: skip


def environment() -> dict[str, str]:
    paths = os.pathsep.join(sys.path)
    cloud = {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    return {**os.environ, **cloud, "PYTHONPATH": paths}


def until(found, log: Path, wanted: object = True) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (there := found()) != wanted:
        if time.monotonic() > deadline:
            pytest.fail(f"{there} is not {wanted}\n{log.read_text()[-20_000:]}")
        time.sleep(0.1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
