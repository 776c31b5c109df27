"""kill -9 of the collector, then of the agent, ten times each under load.

No acknowledged batch is missing, none is counted twice.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from end_to_end.otlp_batches import cpu_request, totals_by_batch_id
from end_to_end.recording_proxy import RecordingProxy
from end_to_end.system import System, system, wait_until

KILLS = 10
SENDERS = 3
CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
TARGETS = Path(__file__).parent.parent / "targets"
HEADERS = {"Content-Type": "application/x-protobuf"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Sender(threading.Thread):
    """Posts batches one after the other, each until it is acknowledged; remembers what was."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.port, self.number = port, number
        self.stopping = threading.Event()
        self.acknowledged: Counter[str] = Counter()
        self.retries = 0

    def run(self) -> None:
        sequence = 0
        while not self.stopping.is_set():
            functions = {f"f{sequence % 7}": 1_000 + sequence, f"g{sequence % 3}": 7}
            body = cpu_request(
                service="load", batch_id=f"sender{self.number}-{sequence}", functions=functions
            )
            while not self.post(body):
                self.retries += 1
                time.sleep(0.02)
            self.acknowledged.update(functions)
            sequence += 1

    def post(self, body: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/v1development/profiles", body, HEADERS)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return False
            assert answer.status in {200, 429, 503}, answer.status
            return answer.status == 200


def test_collector_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with system(tmp_path) as running:
        running.start_collector("--flush-seconds", "1")
        senders = [Sender(running.port, number) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        chance = random.Random(4)
        try:
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.3, 1.8))
                running.collector.kill()
                running.start_collector("--flush-seconds", "1")
        finally:
            for sender in senders:
                sender.stopping.set()
            for sender in senders:
                sender.join()
        expected = sum((sender.acknowledged for sender in senders), Counter())
        assert sum(sender.retries for sender in senders) > 0, (
            "no batch was ever in flight at a kill"
        )
        assert shown(running) == expected
        running.collector.stop()
        running.start_collector()
        assert shown(running) == expected, "after a clean restart"


def shown(running: System) -> Counter[str]:
    rows = running.top("load")
    return Counter({name: value for name, (value, _) in rows.items() if value})


def test_agent_loses_and_doubles_nothing(tmp_path: Path) -> None:
    acknowledged: dict[str, dict[str, int]] = {}
    answers: Counter[int] = Counter()

    def keep(_m: str, path: str, request: bytes, headers: dict, status: int, _body: bytes) -> None:
        answers[status] += 1
        if path == "/v1development/profiles" and status == 200:
            acknowledged.update(totals_by_batch_id(decompressed(request, headers)))

    burner = subprocess.Popen(
        [sys.executable, str(TARGETS / "shares.py")], stdout=subprocess.DEVNULL
    )
    try:
        with system(tmp_path) as running:
            running.start_collector("--flush-seconds", "2")
            with RecordingProxy(running.url, keep) as proxy:
                chance = random.Random(5)
                flags = ("--cycle-seconds", "2", "--overhead-budget", "0.1")
                for _ in range(KILLS):
                    seen = len(acknowledged)
                    agent = running.start_agent(*flags, collector_url=proxy.url)
                    wait_until(lambda seen=seen: len(acknowledged) > seen, what="a batch to arrive")
                    time.sleep(chance.uniform(0, 2.5))
                    agent.kill()
                running.start_agent(*flags, collector_url=proxy.url)
                seen = len(acknowledged)
                wait_until(lambda: len(acknowledged) > seen, what="the spool to be shipped")
                assert running.agent.stop() == 0
            expected: Counter[str] = Counter()
            for totals in acknowledged.values():
                expected.update(totals)
            assert expected[CPU] > 0, "the agents never shipped a CPU profile"
            assert cpu_total(running) == expected[CPU], dict(answers)
    finally:
        burner.kill()
        burner.wait()


def decompressed(body: bytes, headers: dict[str, str]) -> bytes:
    encoding = {name.lower(): value for name, value in headers.items()}.get("content-encoding", "")
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return gzip.decompress(body) if encoding == "gzip" else body


def cpu_total(running: System) -> int:
    answer = running.get(
        "/api/v1/top", query="{}", limit=1, **{"from": "now-1h", "until": "now+1h"}
    )
    return int(answer["total"])
