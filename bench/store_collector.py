"""A collector in a process of its own, asked over HTTP on loopback, and what its answers cost."""

from __future__ import annotations

import http.client
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

_URL = re.compile(r"http://127\.0\.0\.1:(\d+)")
_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        name: For the tables.
        path: Of the API.
        values: Parameters.
        rows: Raw rows that the answer is about.
    """

    name: str
    path: str
    values: Mapping[str, str]
    rows: int = 0

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{urlencode(self.values)}"


@dataclass(slots=True)
class Answers:
    """Times of a question, ms.

    Attributes:
        wall: From the request to the last byte.
        cpu: Of the whole collector meanwhile.
        bytes: Of the last answer, as it came.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Collector:
    """A running one."""

    port: int
    pid: int

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection; it is kept for many questions."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def cpu_ms(self) -> float:
        """Give the CPU time that the process has used, by the kernel's own clock of it."""
        # Linux: the clock of a process is named by its inverted id (clock_getcpuclockid(3)).
        return time.clock_gettime((~self.pid << 3) | 2) * 1e3


@contextmanager
def collector(store: Path, *flags: str) -> Iterator[Collector]:
    """Run a collector over a store until the context is closed."""
    command = [
        sys.executable, "-m", "flamewell_collector", "serve",
        "--listen", "127.0.0.1:0", "--data-dir", str(store), "--retention-days", "0", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        yield Collector(_port(process), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[str]) -> int:
    """Read the port from the log; whatever is logged later is read and dropped."""
    assert process.stderr is not None
    lines: list[str] = []
    guard = threading.Timer(_START_SECONDS, process.kill)
    guard.start()
    try:
        for line in process.stderr:
            lines.append(line)
            found = _URL.search(line)
            if found:
                threading.Thread(target=process.stderr.read, daemon=True).start()
                return int(found[1])
    finally:
        guard.cancel()
    raise SystemExit("the collector does not start:\n" + "".join(lines[-20:]))


def ask(connection: http.client.HTTPConnection, question: Question) -> int:
    """Ask as a browser does; gives the bytes of the answer.

    Raises:
        SystemExit: It is an error.
    """
    connection.request("GET", question.target, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != http.client.OK:
        raise SystemExit(f"{question.name}: {answer.status} {body[:500]!r}")
    return len(body)


def measure(running: Collector, question: Question, runs: int) -> Answers:
    """Ask one question so many times, one after the other."""
    answers = Answers()
    connection = running.connect()
    for _ in range(runs):
        cpu, began = running.cpu_ms(), time.perf_counter()
        answers.bytes = ask(connection, question)
        answers.wall.append((time.perf_counter() - began) * 1e3)
        answers.cpu.append(running.cpu_ms() - cpu)
    connection.close()
    return answers


def crowd(
    running: Collector, questions: Sequence[Question], *, clients: int, seconds: float
) -> list[float]:
    """Let clients ask the questions in turn, each without a pause; gives ms of each answer."""
    walls: list[list[float]] = [[] for _ in range(clients)]
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = running.connect()
        turn = number
        while time.monotonic() < until:
            began = time.perf_counter()
            ask(connection, questions[turn % len(questions)])
            walls[number].append((time.perf_counter() - began) * 1e3)
            turn += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [wall for each in walls for wall in each]


def forget_pages(folder: Path) -> None:
    """Ask the kernel to drop the files of a folder from its cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that a share of all is not above: the largest of few values is their p99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """Give the middle one."""
    return statistics.median(values)
