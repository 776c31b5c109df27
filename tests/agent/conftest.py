"""Real target processes for the agent's tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from flamewell_agent.samplers.pyspy import PySpy, find_py_spy

TARGETS = Path(__file__).parent.parent / "targets"
Spawn = Callable[..., "subprocess.Popen[bytes]"]


def installed_interpreters() -> dict[str, str]:
    """Version to path of each CPython of this machine that py-spy reads, ours included.

    Newer ones with a C library of their own run in tests/containers.
    """
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in [*pyenv.glob("*/bin/python*"), *Path("/usr/bin").glob("python*")]:
        match = re.fullmatch(r"python(2\.7|3\.(?:[6-9]|1[0-5]))", path.name)
        if match:
            found.setdefault(match.group(1), str(path))
    return dict(sorted(found.items(), key=lambda item: [int(x) for x in item[0].split(".")]))


INTERPRETERS = installed_interpreters()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start target processes; all are gone after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(
        *command: str, wrapper: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*wrapper, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, **(env or {})},
            start_new_session=True,
        )
        running.append(process)
        # Where exec is still under way, arguments and environment read as empty.
        arguments = Path(f"/proc/{process.pid}/cmdline")
        while process.poll() is None and not arguments.read_bytes():
            time.sleep(0.001)
        return process

    yield start
    for process in running:
        try:
            os.killpg(process.pid, 9)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.wait()


@pytest.fixture
def until() -> Callable[..., object]:
    """Poll until something is true; gives it."""

    def wait(condition: Callable[[], object], *, seconds: float = 20, what: str = "it") -> object:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}")
            time.sleep(0.02)
        return value

    return wait


@pytest.fixture
def spy(tmp_path: Path) -> Iterator[PySpy]:
    """Give a sampler; its files are gone after the test."""
    work = tmp_path / "windows"
    yield PySpy(find_py_spy(), work)
    assert list(work.iterdir()) == [], "files are left behind"


@pytest.fixture
def burning(spawn: Spawn, until: Callable[..., object]) -> Callable[..., int]:
    """Start a target and wait until it burns."""

    def start(*command: str, **options: object) -> int:
        process = spawn(*command, **options)

        def burns() -> int:
            for pid in (process.pid, *(c.pid for c in psutil.Process(process.pid).children())):
                times = psutil.Process(pid).cpu_times()
                if times.user + times.system > 0.1:
                    return pid
            return 0

        pid = until(burns, what="the target to burn")
        assert isinstance(pid, int)
        return pid

    return start
