"""The command as a process: start line, loopback HTTP, signals, restarts, locks."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from end_to_end.otlp_batches import cpu_request

START_SECONDS = 60


class Served:
    """A collector process; its log lines are read while it runs."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "flamewell_collector", "serve", "--listen", "127.0.0.1:0",
                "--data-dir", str(data), "--log-format", "json", *flags,
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.earlier: list[dict[str, Any]] = []
        self.url = ""

    def wait(self) -> None:
        """Wait for the line that names the URL; keep those before it."""
        while not self.url:
            line = json.loads(self.lines.get(timeout=START_SECONDS))
            self.url = line.get("url", "")
            self.earlier.append(line)

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.put(line)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def send(self, **profile: Any) -> int:
        request = urllib.request.Request(
            self.url + "/v1development/profiles",
            cpu_request(**profile),
            {"Content-Type": "application/x-protobuf"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status

    def shown(self) -> dict[str, int]:
        status, body = self.get("/api/v1/top?until=now%2B1m")
        assert status == 200, body
        return {row["function"]: row["self"] for row in json.loads(body)["rows"] if row["self"]}

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.process.stderr.close()
        self.process.stdout.close()


@contextlib.contextmanager
def served(data: Path, *flags: str) -> Iterator[Served]:
    running = Served(data, *flags)
    try:
        running.wait()
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_a_restart_shows_the_same(tmp_path: Path, number: int) -> None:
    with served(tmp_path / "data") as first:
        assert first.get("/ready") == (200, b"ready\n")
        assert first.send(service="api", batch_id="b1", functions={"f": 5, "g": 6}) == 200
        assert first.shown() == {"f": 5, "g": 6}
        assert first.stop(number) == 0
        assert "Traceback" not in "".join(first.lines.queue)
    assert list((tmp_path / "data").rglob("samples.parquet"))
    with served(tmp_path / "data") as second:
        assert second.shown() == {"f": 5, "g": 6}
        assert second.send(service="api", batch_id="b1", functions={"f": 5, "g": 6}) == 200
        assert second.shown() == {"f": 5, "g": 6}, "the same batch is counted once"
        assert second.stop() == 0


def test_a_killed_one_shows_what_it_acknowledged(tmp_path: Path) -> None:
    with served(tmp_path / "data") as first:
        first.send(service="api", batch_id="b1", functions={"f": 5})
        first.process.kill()
        first.process.wait()
    with served(tmp_path / "data") as second:
        assert second.shown() == {"f": 5}
        assert second.stop() == 0


def test_flushes_while_it_serves(tmp_path: Path) -> None:
    with served(tmp_path / "data", "--flush-seconds", "0.2") as running:
        running.send(service="api", batch_id="b1", functions={"f": 5})
        deadline = time.monotonic() + 30
        while not json.loads(running.get("/api/v1/status")[1])["blocks"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert running.shown() == {"f": 5}
        assert running.stop() == 0


def test_a_second_one_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with served(tmp_path / "data") as first:
        second = command("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"))
        assert second.returncode == 1
        assert "another collector uses the data folder" in second.stderr
        assert "Traceback" not in second.stderr
        port = first.url.rsplit(":", 1)[1]
        third = command("--listen", f"127.0.0.1:{port}", "--data-dir", str(tmp_path / "other"))
        assert third.returncode == 1
        assert "cannot listen" in third.stderr
        assert first.get("/ready")[0] == 200


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flamewell_collector", "serve", *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_requests_under_way_are_answered_before_it_stops(tmp_path: Path) -> None:
    with served(tmp_path / "data") as running:
        for at in range(20):
            running.send(service="api", batch_id=f"b{at}", functions={f"f{at}": 1})
        answers: list[int] = []
        begin = threading.Barrier(5)

        def ask() -> None:
            begin.wait()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                answers.append(running.get("/api/v1/flamegraph?until=now%2B1m")[0])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        begin.wait()
        time.sleep(0.01)
        assert running.stop() == 0
        for thread in threads:
            thread.join()
        # Those that were not yet accepted are refused; none is answered wrongly.
        assert set(answers) <= {200}


def test_it_bears_broken_requests(tmp_path: Path) -> None:
    host = {"Host": "127.0.0.1"}
    otlp = {**host, "Content-Type": "application/x-protobuf"}
    with served(tmp_path / "data", "--max-body-bytes", "100000") as running:
        address = running.url.removeprefix("http://")
        for method, path, body, headers, expected in (
            ("POST", "/v1development/profiles", b"x" * 200_000, otlp, {413}),
            ("POST", "/v1development/profiles", b"\xff" * 100, otlp, {400}),
            ("GET", "/" + "a" * 10_000, b"", host, {404}),
            ("GET", "/api/v1/top?query=%ff%fe", b"", host, {400}),
            ("GET", "/static/../../etc/passwd", b"", host, {404}),
            ("GET", "/static/%2e%2e/app.py", b"", host, {404}),
            ("BREW", "/", b"", host, {405}),
            ("GET", "/ready", b"", {"Host": "evil.example"}, {400}),
        ):
            connection = http.client.HTTPConnection(address, timeout=30)
            try:
                connection.request(method, path, body, headers)
                assert connection.getresponse().status in expected, path[:40]
            finally:
                connection.close()
        assert running.get("/ready")[0] == 200
        assert running.stop() == 0


@pytest.mark.slow
def test_it_idles(tmp_path: Path) -> None:
    """Wake-ups are counted, since CPU time depends on the machine (0.05 % of a core here)."""
    with served(tmp_path / "data") as running:
        running.shown()
        before = wake_ups(running.process.pid)
        time.sleep(12)
        assert wake_ups(running.process.pid) - before < 12 * 20
        assert running.stop() == 0


def wake_ups(pid: int) -> int:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(
        int(line.split()[1])
        for text in texts
        for line in text.splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
