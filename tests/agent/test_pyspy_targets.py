"""Targets that end, change, stop or lie; samplers that die. Each is a reason, none is a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent.conftest import TARGETS
from agent.pyspy_windows import count_of, functions, held, one, window

from flamewell_agent.model import ProcessKey
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers import pyspy_orphans
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy

BURNER, SLEEPER = str(TARGETS / "shares.py"), str(TARGETS / "sleeper.py")
ENDLESS = str(TARGETS / "endless_names.py")


def test_a_pid_that_is_another_process_by_now(spy, burning):
    order = window(burning(sys.executable, BURNER))
    key = order.process.key._replace(start_ticks=order.process.key.start_ticks - 1)
    result = one(spy, replace(order, process=replace(order.process, key=key)))
    assert result.failure == "pid_reused"
    assert result.cpu_seconds == 0


def test_a_pid_that_becomes_another_process_in_mid_window(tmp_path, burning):
    pid = burning(sys.executable, BURNER)
    (tmp_path / "proc" / str(pid)).mkdir(parents=True)
    stat = tmp_path / "proc" / str(pid) / "stat"
    stat.write_bytes(Path(f"/proc/{pid}/stat").read_bytes())
    order = window(pid)
    later = stat.read_bytes().replace(str(order.process.key.start_ticks).encode(), b"99999999")
    timer = threading.Timer(0.3, stat.write_bytes, (later,))
    timer.start()
    result = one(PySpy(find_py_spy(), tmp_path / "w", tmp_path / "proc"), order)
    timer.join()
    assert result.failure == "pid_reused"
    assert result.samples == ()


def test_a_target_that_runs_another_program_in_mid_window(spy, burning):
    code = (
        "import os, sys, time\n"
        "end = time.time() + 1.5\n"
        "while time.time() < end: pass\n"
        "os.execv(sys.executable, [sys.executable, sys.argv[1]])\n"
    )
    result = one(spy, window(burning(sys.executable, "-c", code, BURNER), seconds=3))
    assert result.failure == "program_replaced"


def test_a_target_that_forks_and_dies(spy, burning):
    code = (
        "import os, time\n"
        "end = time.time() + 2\n"
        "while time.time() < end: pass\n"
        "for _ in range(200):\n"
        "    if os.fork(): os._exit(0)\n"
        "    end = time.time() + 0.02\n"
        "    while time.time() < end: pass\n"
    )
    result = one(spy, window(burning(sys.executable, "-c", code), seconds=20))
    assert result.failure in {"", "process_ended"}
    assert result.wall_seconds < 15


def test_a_stopped_target_is_left_alone(spy, burning, until):
    pid = burning(sys.executable, BURNER)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: read_stat(Path("/proc"), pid).state == "T")
    modes: tuple[dict[str, Any], ...] = ({}, {"kind": "wall"}, {"native": True})
    for mode in modes:
        assert one(spy, window(pid, **mode)).failure == "target_stopped"
    assert read_stat(Path("/proc"), pid).state == "T"
    os.kill(pid, signal.SIGCONT)


def test_a_target_that_is_stopped_in_mid_window_stays_so_without_a_hang(spy, burning):
    pid = burning(sys.executable, BURNER)
    modes: tuple[dict[str, Any], ...] = ({}, {"native": True})
    for mode in modes:
        timer = threading.Timer(0.4, os.kill, (pid, signal.SIGSTOP))
        timer.start()
        result = one(spy, window(pid, rate_hz=20, **mode))
        timer.join()
        assert result.failure == "target_stopped"
        assert result.wall_seconds < 20
        assert held(pid)[0].endswith("T (stopped), traced by 0")
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("characters", ["4000", "1000000"])
def test_endless_names_are_bounded(spy, burning, characters):
    """py-spy leaves out frames whose names are longer than it copies."""
    result = one(spy, window(burning(sys.executable, ENDLESS, characters), seconds=2))
    assert result.failure == ""
    assert count_of(result) > 0
    assert max(len(frame.function) for stack, _ in result.samples for frame in stack) < 10_000
    assert result.memory_bytes < 1 << 28


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_too_much_output_is_refused_not_cut(tmp_path, spawn):
    target = spawn("sleep", "99")
    # Its last argument is the file to write.
    greedy = script(
        tmp_path / "greedy",
        'for last; do :; done; head -c 40000000 /dev/zero > "$last" && echo all was written',
    )
    result = one(PySpy(greedy, tmp_path / "w"), window(target.pid))
    assert (result.failure, result.samples) == ("output_too_large", ())


def test_an_end_by_a_signal_is_told(tmp_path, spawn):
    target = spawn("sleep", "99")
    for number, failure in (("KILL", "sampler_failed"), ("SEGV", "sampler_failed")):
        dying = script(tmp_path / "dying", f"kill -{number} $$")
        assert one(PySpy(dying, tmp_path / "w"), window(target.pid)).failure == failure


def test_orphans_of_an_earlier_run_are_ended(tmp_path, spawn, until):
    work = tmp_path / "w"
    work.mkdir()
    orphan, other = spawn("sleep", "98"), spawn("sleep", "97")
    until(lambda: read_stat(Path("/proc"), orphan.pid).comm == "sleep")
    pyspy_orphans.note(work, orphan.pid)
    pyspy_orphans.note(work, other.pid).rename(work / f"{other.pid}-1.child")
    (work / "nonsense.child").touch()
    (work / "99999999999999-1.child").touch()
    PySpy("/usr/bin/sleep", work)
    assert orphan.wait(5) == -signal.SIGKILL
    assert other.poll() is None, "its start time did not fit"
    assert list(work.iterdir()) == []


def test_an_orphan_that_outlives_the_agent_is_ended_by_the_next_one(tmp_path, burning, until):
    """As where py-spy has file capabilities, which clear the kernel's promise to kill it."""
    target, work = burning(sys.executable, BURNER), tmp_path / "w"
    ticks = read_stat(Path("/proc"), target).start_ticks
    text = (
        "import threading; from pathlib import Path\n"
        "from flamewell_agent.model import *; from flamewell_agent.samplers import pyspy_child\n"
        "from flamewell_agent.samplers.pyspy import *\n"
        "pyspy_child._PR_SET_PDEATHSIG = 0\n"
        f"process = Process(ProcessKey({target}, {ticks}), 'cpython', '', '', ())\n"
        f"spy = PySpy(find_py_spy(), Path({str(work)!r}))\n"
        "spy.run([Window(process, 97, 60, 0.1, native=True)], threading.Event())\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", text])
    try:
        (sampler,) = until(lambda: psutil.Process(agent.pid).children())
        until(lambda: list(work.glob("*.child")) and sampler.cpu_times().user > 0.02)
    finally:
        agent.kill()
        agent.wait()
    assert sampler.is_running()
    PySpy(find_py_spy(), work)
    until(lambda: not sampler.is_running() or sampler.status() == psutil.STATUS_ZOMBIE)
    until(lambda: not held(target))


def test_a_key_of_a_process_that_is_gone(spy, burning):
    order = window(burning(sys.executable, BURNER))
    gone = replace(order.process, key=ProcessKey(2**22 + 1, 1))
    assert one(spy, replace(order, process=gone)).failure == "process_ended"
    fine = one(spy, order)
    assert count_of(fine) > 0
    assert functions(fine)["burn_sixty"] > 0
