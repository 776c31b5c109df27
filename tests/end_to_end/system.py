"""Starts a real collector and a real agent as an SRE would, and asks them over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START_SECONDS = 60
"""How long a service may take to answer on a loaded machine before the test gives up."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], Any], *, seconds: float = START_SECONDS, what: str) -> Any:
    """Poll until the condition holds; gives its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


class Service:
    """One child process of ours with its log file."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, *, seconds: float = 60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {seconds} s:\n{self.tail()}") from None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


class System:
    """A collector on a free port, and agents that ship to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = folder / "data"
        self.collector: Service | None = None
        self.agent: Service | None = None

    def start_collector(self, *flags: str) -> Service:
        service = Service(
            "flamewell_collector",
            [
                "serve",
                "--listen",
                f"127.0.0.1:{self.port}",
                "--data-dir",
                str(self.data_dir),
                *flags,
            ],
            self.folder / "collector.log",
        )
        self.collector = service

        def ready() -> bool:
            if service.process.poll() is not None:
                raise AssertionError(f"the collector ended:\n{service.tail()}")
            return self.status("/ready") == 200

        wait_until(ready, what="the collector to be ready")
        return service

    def start_agent(self, *flags: str, collector_url: str | None = None) -> Service:
        service = Service(
            "flamewell_agent",
            [
                "run",
                "--collector-url",
                collector_url or self.url,
                "--state-dir",
                str(self.folder / "agent"),
                "--metrics-listen",
                f"127.0.0.1:{free_port()}",
                *flags,
            ],
            self.folder / "agent.log",
        )
        self.agent = service
        return service

    def stop(self) -> None:
        for service in (self.agent, self.collector):
            if service is not None:
                service.stop()

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0

    def get_bytes(self, path: str, **parameters: Any) -> bytes:
        query = urllib.parse.urlencode({k: v for k, v in parameters.items() if v is not None})
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=60) as answer:
            return bytes(answer.read())

    def get(self, path: str, **parameters: Any) -> Any:
        return json.loads(self.get_bytes(path, **parameters))

    def top(self, service: str, **parameters: Any) -> dict[str, tuple[int, int]]:
        """Give self and total of each function of a service."""
        rows = self.get(
            "/api/v1/top",
            query=f'{{service_name="{service}"}}',
            limit=100_000,
            **{"from": "now-1h", "until": "now+1h", **parameters},
        )["rows"]
        found: dict[str, tuple[int, int]] = {}
        for row in rows:
            self_value, total = found.get(row["function"], (0, 0))
            found[row["function"]] = (self_value + row["self"], total + row["total"])
        return found


@contextlib.contextmanager
def system(folder: Path) -> Iterator[System]:
    running = System(folder)
    try:
        yield running
    finally:
        running.stop()
