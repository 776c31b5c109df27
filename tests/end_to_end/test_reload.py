"""SIGHUP and SIGTERM of a real agent: new options hold, and no CPU time is lost or told twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
import zstandard
from end_to_end.system import System, free_port, system, wait_until
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)

from flamewell_agent.spool import Spool

CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
SERVICE = "reload-burner"
FLUSH_SECONDS = 8
"""What the agent takes at most after SIGTERM to send what waits."""
TOLERANCE = 0.03
"""Of the CPU time: what starting and ending the interpreter uses outside of its own count."""

BURN = """
import sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
def spin():
    for _ in range(20_000):
        pass
def burn():
    while not stop.is_set():
        spin()
        time.sleep(0.001)
burn()
print(time.process_time(), flush=True)
sys.stdin.readline()
"""


class Burner:
    """A Python process that burns until it is told to stop, and then counts its own CPU time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BURN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OTEL_SERVICE_NAME": SERVICE},
            text=True,
        )

    def stop_burning(self) -> float:
        """Give the CPU seconds that it has used; it goes on to live, idle."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate("\n")


@contextlib.contextmanager
def burner() -> Iterator[Burner]:
    running = Burner()
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


class Agent:
    """A real agent whose options are in a file; it is asked over its own port."""

    def __init__(self, running: System, folder: Path, **options: object) -> None:
        self.file = folder / "agent.yaml"
        self.port = free_port()
        self.write(**options)
        self.service = running.start_agent(
            "--config", str(self.file), "--metrics-listen", f"127.0.0.1:{self.port}"
        )
        wait_until(lambda: self.metric("sent_batches_total") > 0, what="a first batch")

    def write(self, **options: object) -> None:
        self.file.write_text(yaml.safe_dump({"cycle_seconds": 1, **options}))

    def hang_up(self) -> None:
        self.service.process.send_signal(signal.SIGHUP)

    def metric(self, name: str) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            assert self.service.process.poll() is None, self.service.tail()
            return 0.0
        found = [line for line in lines if line.startswith(f"flamewell_agent_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def wait_cycles(self, count: int) -> None:
        """Each cycle sends a batch: it has memory readings at least."""
        until = self.metric("sent_batches_total") + count
        wait_until(lambda: self.metric("sent_batches_total") >= until, what=f"{count} cycles")


def cpu_seconds(running: System, **labels: str) -> float:
    selector = ",".join(
        f'{name}="{value}"' for name, value in {"service_name": SERVICE, **labels}.items()
    )
    span = {"from": "now-1h", "until": "now+1h", "limit": 100_000}
    top = running.get("/api/v1/top", type=CPU, query=f"{{{selector}}}", **span)
    return sum(row["self"] for row in top["rows"]) / 1e9


@pytest.mark.slow
def test_hang_up_takes_new_options_and_tells_cpu_time_once(tmp_path: Path) -> None:
    with system(tmp_path) as running:
        running.start_collector("--flush-seconds", "1")
        agent = Agent(running, tmp_path, overhead_budget=0.2, labels=["team=red"])
        assert agent.metric("overhead_budget_ratio") == pytest.approx(0.2)
        with burner() as burning:
            wait_until(lambda: cpu_seconds(running, team="red") > 0.5, what="CPU time of team red")
            agent.write(overhead_budget=0.3, labels=["team=blue"])
            agent.hang_up()
            wait_until(
                lambda: agent.metric("overhead_budget_ratio") == pytest.approx(0.3),
                what="the new budget",
            )
            wait_until(lambda: cpu_seconds(running, team="blue") > 0.5, what="the new label")

            agent.write(overhead_budget=7, labels=["team=green"])
            agent.hang_up()
            wait_until(
                lambda: "the old one stays" in agent.service.tail(), what="the wrong file is told"
            )
            (told,) = [
                each for each in agent.service.tail().splitlines() if "the old one stays" in each
            ]
            assert "overhead_budget" in told
            assert "0.0005 to 0.5" in told
            wait_until(
                lambda: agent.metric("config_last_reload_successful") == 0, what="the metric"
            )
            assert agent.metric("overhead_budget_ratio") == pytest.approx(0.3)

            used = burning.stop_burning()
            agent.wait_cycles(3)
            burning.end()
            agent.wait_cycles(3)
        assert agent.service.stop() == 0
        told_seconds = cpu_seconds(running)
        red, blue = cpu_seconds(running, team="red"), cpu_seconds(running, team="blue")
        assert cpu_seconds(running, team="green") == 0
        assert red + blue == pytest.approx(told_seconds)
        assert told_seconds == pytest.approx(used, rel=TOLERANCE), (red, blue)


class SlowCollector(ThreadingHTTPServer):
    """Takes each batch, and answers only after a while."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer_seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Slow)
        self.answer_seconds = answer_seconds
        self.received: list[bytes] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Slow(BaseHTTPRequestHandler):
    server: SlowCollector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1development/profiles":
            self.server.released.wait(self.server.answer_seconds)
            self.server.received.append(body)
            answer = b""
        else:
            answer = b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def slow_collector(answer_seconds: float) -> Iterator[SlowCollector]:
    server = SlowCollector(answer_seconds)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def sequences(payloads: list[bytes]) -> set[int]:
    """Give the numbers of batches: the last part of their ids."""
    found = set()
    for payload in payloads:
        request = ExportProfilesServiceRequest.FromString(zstandard.decompress(payload))
        for resource in request.resource_profiles:
            for each in resource.resource.attributes:
                if each.key == "flamewell.batch_id":
                    found.add(int(each.value.string_value.rsplit("-", 2)[-2]))
    return found


@pytest.mark.slow
def test_the_end_comes_in_time_and_loses_nothing_with_a_slow_collector(tmp_path: Path) -> None:
    with slow_collector(1.5) as collector, system(tmp_path) as running:
        agent = running.start_agent(
            *("--cycle-seconds", "1", "--overhead-budget", "0.2"), collector_url=collector.url
        )
        spool = tmp_path / "agent" / "spool"
        wait_until(
            lambda: len(collector.received) >= 2 and len(list(spool.glob("*.batch"))) >= 2,
            what="batches that wait",
        )
        before = len(collector.received)
        # The grace period of container runtimes is 10 s; more than that is a kill.
        assert agent.stop(seconds=FLUSH_SECONDS + 10) == 0
        assert len(collector.received) > before, "nothing was sent after SIGTERM"
        waiting = Spool(spool, 1 << 24)
        kept = []
        while (segment := waiting.claim()) is not None:
            kept.append(segment.payload)
            waiting.remove(segment.sequence)
        waiting.close()
        known = sequences([*collector.received, *kept])
        assert known == set(range(1, max(known) + 1))
