"""Whatever becomes of a sampler that stops its target: that goes on, and its pause is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from agent.pyspy_windows import held, one, window

from flamewell_agent.errors import ProcessUnreadableError
from flamewell_agent.model import ProcessKey
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers import pyspy_child, pyspy_held, pyspy_orphans
from flamewell_agent.samplers.pyspy import PySpy
from flamewell_agent.samplers.pyspy_held import HeldTarget

TRACER = f"""#!{sys.executable}
import ctypes, os, signal, sys, time
ATTACH, DETACH = 16, 17
pid = int(sys.argv[sys.argv.index("-p") + 1])
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
"""
HOLDS = f"""{TRACER}
def let_go(*_):
    ptrace(DETACH, pid, None, None)
    os._exit(0)
signal.signal(signal.SIGINT, let_go)
assert ptrace(ATTACH, pid, None, None) == 0
os.waitpid(pid, 0)
time.sleep(99)
"""
ENDS_BEFORE_THE_STOP = f"""{TRACER}
assert ptrace(ATTACH, pid, None, None) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""
# Its arguments end with: -p PID -o FILE.
STOPS = """#!/bin/sh
while [ "$1" != -p ]; do shift; done
kill -STOP "$2"
"""


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def key_of(pid: int) -> ProcessKey:
    return ProcessKey(pid, read_stat(Path("/proc"), pid).start_ticks)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_a_failed_sampler_left_stopped_goes_on(tmp_path, spawn):
    target = spawn("sleep", "99").pid
    dies = program(tmp_path / "dies", ENDS_BEFORE_THE_STOP)
    result = one(PySpy(dies, tmp_path / "w"), window(target, native=True))
    assert result.failure == "sampler_failed"
    assert held(target) == []
    assert result.pause_seconds > 0


def test_what_somebody_else_stopped_is_left_alone(tmp_path, spawn, until):
    target = spawn("sleep", "99").pid
    stops = program(tmp_path / "stops", STOPS)
    one(PySpy(stops, tmp_path / "w"), window(target, native=True))
    until(lambda: held(target))
    # Before its sampler failed.
    stopped = HeldTarget(key_of(target))
    stopped.watch(0.0, 0.0)
    assert stopped.release(0.0)
    stopped.close()
    assert held(target)
    os.kill(target, signal.SIGCONT)


def test_what_the_sampler_of_a_killed_agent_left_stopped_goes_on(tmp_path, spawn, until):
    stopped, other = spawn("sleep", "99").pid, spawn("sleep", "99").pid
    work = tmp_path / "w"
    work.mkdir()
    sampler = spawn("sleep", "99")
    pyspy_orphans.note(work, sampler.pid, key_of(stopped))
    sampler.kill()
    sampler.wait()
    # Noted before its number became another's.
    gone = key_of(other)._replace(start_ticks=1)
    (work / f"{sampler.pid}-1-{gone.pid}-{gone.start_ticks}.child").touch()
    for pid in (stopped, other):
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: held(pid))
    PySpy("/bin/true", work)
    assert held(stopped) == []
    assert held(other)
    os.kill(other, signal.SIGCONT)


def test_a_target_that_is_held_while_its_sampler_sleeps_counts_as_paused(tmp_path, spawn):
    target = spawn("sleep", "99").pid
    attaches = program(tmp_path / "attaches", HOLDS)
    order = window(target, native=True, seconds=60, pause_limit_seconds=1.0)
    result = one(PySpy(attaches, tmp_path / "w"), order)
    assert result.wall_seconds < 50
    assert result.pause_seconds >= 1.0
    assert held(target) == []


def test_a_process_that_is_another_one_is_not_touched(spawn):
    target = spawn("sleep", "99").pid
    before = open_files()
    with pytest.raises(ProcessLookupError):
        HeldTarget(ProcessKey(target, 1))
    assert open_files() == before


def test_one_that_has_ended_is_free(spawn):
    process = spawn("sleep", "99")
    target = HeldTarget(key_of(process.pid))
    process.kill()
    process.wait()
    targets = [target]
    pyspy_held.release(targets)
    assert targets == []


def test_a_child_that_cannot_be_confined_costs_no_other_window(tmp_path, spawn, monkeypatch):
    target = spawn("sleep", "99").pid
    spy = PySpy("/bin/true", tmp_path / "w")
    confine = pyspy_child._confine

    def refuses(parent: int, order) -> None:
        if order.native:
            raise ValueError("not allowed to raise maximum limit")
        confine(parent, order)

    monkeypatch.setattr(pyspy_child, "_confine", refuses)
    before = open_files()
    for _ in range(2):
        plain, native, last = spy.run(
            [window(target), window(target, native=True), window(target)], threading.Event()
        )
        assert (plain.failure, native.failure, last.failure) == ("", "sampler_failed", "")
    assert open_files() == before
    assert list(spy.children()) == []


def test_a_child_that_cannot_be_noted_is_ended(tmp_path, spawn, monkeypatch):
    target = spawn("sleep", "99").pid
    sleeps = program(tmp_path / "sleeps", "#!/bin/sh\nexec sleep 99\n")
    spy = PySpy(sleeps, tmp_path / "w")

    def fails(*_: object) -> Path:
        raise ProcessUnreadableError("no descriptors left")

    monkeypatch.setattr(pyspy_orphans, "note", fails)
    before = open_files()
    for native in (False, True):
        assert one(spy, window(target, native=native)).failure == "sampler_failed"
    assert open_files() == before


def test_no_limit_is_raised_above_the_agents_own():
    code = (
        "import resource; from flamewell_agent.samplers.pyspy_child import _allowed\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "print(*(_allowed(resource.RLIMIT_FSIZE, n) for n in (2000, 500)))"
    )
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert said == b"1000 500\n"
