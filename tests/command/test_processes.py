"""Children are started, read, stopped in time, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flamewell.errors import CommandError
from flamewell.processes import Ended, ProcessSpec, Supervisor

WAIT_SECONDS = 30

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: time.sleep(60)
"""
POLITE = """
import os, signal, sys, time
def stop(*_):
    os.write(1, b"flushed\\n")  # print may be under way in the code that was interrupted
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True: time.sleep(60)
"""
PARENT_OF_SLEEPER = """
import subprocess, time
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""


def python(name: str, code: str) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-c", code), dict(os.environ))


@pytest.fixture
def lines() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def supervisor(lines: list[tuple[str, str]]) -> Iterator[Supervisor]:
    with Supervisor(lambda name, line: lines.append((name, line))) as made:
        yield made


def pump_until(supervisor: Supervisor, condition: Callable[[], object]) -> list[Ended]:
    ended: list[Ended] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        ended += supervisor.pump(0.1)
    return ended


def pump_until_empty(supervisor: Supervisor) -> list[Ended]:
    return pump_until(supervisor, lambda: not supervisor.names)


def test_lines_and_status_are_told(supervisor: Supervisor, lines: list[tuple[str, str]]) -> None:
    supervisor.start(python("a", "import sys; print('one'); print('two', end=''); sys.exit(3)"))
    (ended,) = pump_until_empty(supervisor)
    assert lines == [("a", "one"), ("a", "two")]
    assert (ended.status, ended.tail) == (3, ("one", "two"))
    assert ended.how == "ended with status 3"


def test_the_tail_is_the_last_lines_only(supervisor: Supervisor) -> None:
    supervisor.start(python("a", "print(*range(1000), sep='\\n')"))
    (ended,) = pump_until_empty(supervisor)
    assert ended.tail[-1] == "999"
    assert len(ended.tail) == 15


def test_much_output_without_line_ends_stays_bounded(
    supervisor: Supervisor, lines: list[tuple[str, str]]
) -> None:
    supervisor.start(python("a", "import sys; sys.stdout.write('x' * 1_000_000 + '\\n')"))
    pump_until_empty(supervisor)
    assert sum(len(line) for _, line in lines) == 1_000_000
    assert max(len(line) for _, line in lines) <= 2 * 64 * 1024


def test_bytes_that_are_not_text_are_shown_escaped(
    supervisor: Supervisor, lines: list[tuple[str, str]]
) -> None:
    code = r"import sys; sys.stdout.buffer.write(b'caf\xe9\n')"
    supervisor.start(python("a", code))
    pump_until_empty(supervisor)
    assert lines == [("a", "caf\\xe9")]


def test_a_signal_is_named(supervisor: Supervisor) -> None:
    pid = supervisor.start(python("a", POLITE))
    os.kill(pid, signal.SIGKILL)
    (ended,) = pump_until_empty(supervisor)
    assert ended.how == "was ended by SIGKILL"


def test_stop_lets_a_child_put_its_things_in_order(
    supervisor: Supervisor, lines: list[tuple[str, str]]
) -> None:
    supervisor.start(python("a", POLITE))
    pump_until(supervisor, lambda: ("a", "ready") in lines)
    (ended,) = supervisor.stop({"a", "nobody"}, seconds=WAIT_SECONDS, hurry=lambda: False)
    assert ended.status == 0
    assert lines[-1] == ("a", "flushed")


def test_who_does_not_stop_is_killed(supervisor: Supervisor, lines: list[tuple[str, str]]) -> None:
    supervisor.start(python("a", STUBBORN))
    pump_until(supervisor, lambda: ("a", "ready") in lines)
    assert supervisor.stop({"a"}, seconds=0.3, hurry=lambda: False) == []
    assert supervisor.names == {"a"}
    assert supervisor.kill() == ["a"]
    assert not supervisor.names


def test_hurry_ends_the_waiting(supervisor: Supervisor, lines: list[tuple[str, str]]) -> None:
    supervisor.start(python("a", STUBBORN))
    pump_until(supervisor, lambda: ("a", "ready") in lines)
    assert supervisor.stop({"a"}, seconds=3600, hurry=lambda: True) == []


def test_what_a_child_has_started_goes_with_it(
    supervisor: Supervisor, lines: list[tuple[str, str]]
) -> None:
    pid = supervisor.start(python("a", PARENT_OF_SLEEPER))
    pump_until(supervisor, lambda: lines)
    sleeper = psutil.Process(int(lines[0][1]))
    os.kill(pid, signal.SIGKILL)
    pump_until_empty(supervisor)
    assert is_gone(sleeper)


def test_a_missing_program_is_told(supervisor: Supervisor) -> None:
    with pytest.raises(CommandError, match=r"a cannot be started: .*No such file"):
        supervisor.start(ProcessSpec("a", ("/nonexistent/program",), {}))


def test_descriptors_are_given_back(supervisor: Supervisor) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        supervisor.start(python("a", "print('hello')"))
        pump_until_empty(supervisor)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_kill_minus_nine_of_the_parent_ends_the_children(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, sys\n"
        "from flamewell.processes import ProcessSpec, Supervisor\n"
        "with Supervisor(lambda name, line: None) as supervisor:\n"
        "    command = (sys.executable, '-c', 'import time; time.sleep(600)')\n"
        "    for name in ('a', 'b'):\n"
        "        print(supervisor.start(ProcessSpec(name, command, os.environ)), flush=True)\n"
        "    supervisor.pump(None)\n"
    )
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
        parent.kill()
        parent.wait()
    assert all(is_gone(child) for child in children)


def is_gone(process: psutil.Process) -> bool:
    """Wait for the end of a process that is not ours to reap."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
