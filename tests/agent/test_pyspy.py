"""py-spy on real targets: right stacks for every interpreter, and a reason for everything else."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from agent.conftest import INTERPRETERS, TARGETS
from agent.pyspy_windows import count_of, functions, one, window

from flamewell_agent.errors import SamplerError
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy
from flamewell_agent.weighting import add_evidence

BURNER, SLEEPER = str(TARGETS / "shares.py"), str(TARGETS / "sleeper.py")
SHARES = {"burn_sixty": 60, "burn_twenty_five": 25, "burn_ten": 10, "burn_five": 5}


@pytest.mark.interpreters
@pytest.mark.parametrize("version", INTERPRETERS)
def test_each_interpreter_shows_the_burner_and_not_the_sleeper(spy, spawn, burning, version):
    python = INTERPRETERS[version]
    sleeper = spawn(python, SLEEPER)
    burner = burning(python, BURNER)
    busy, idle = spy.run([window(burner), window(sleeper.pid)], threading.Event())
    assert busy.failure == ""
    assert idle.failure == ""
    shown = functions(busy)
    # The shares themselves need more than a second: tests/end_to_end/test_truth.py.
    assert sum(shown.get(name, 0) for name in SHARES) > 0.7 * count_of(busy) > 0
    assert count_of(idle) <= 0.02 * idle.intervals
    leaf_to_root = max(busy.samples, key=lambda each: each[1])[0]
    assert leaf_to_root[-1].function == "<module>"
    assert leaf_to_root[-1].file == BURNER
    assert busy.target_cpu_nanos > 0
    assert busy.cpu_seconds > 0


def test_a_pid_namespace_does_not_confuse_burner_and_sleeper(spy, spawn, burning, until):
    wrapper = ("unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")
    sleeper = spawn(sys.executable, SLEEPER, wrapper=wrapper)
    burner = burning(sys.executable, BURNER, wrapper=wrapper)
    inner = until(lambda: psutil.Process(sleeper.pid).children())[0].pid
    time.sleep(0.5)  # the interpreter in the namespace comes up
    busy, idle = spy.run([window(burner), window(inner)], threading.Event())
    assert functions(busy)["burn_sixty"] > 0
    assert idle.failure == ""
    assert count_of(idle) <= 0.1 * count_of(busy)


def test_native_code_without_the_gil_has_no_samples(spy, burning):
    result = one(spy, window(burning(sys.executable, str(TARGETS / "native.py"))))
    assert result.failure == ""
    assert count_of(result) <= 0.1 * result.intervals
    assert result.target_cpu_nanos > 0


def test_hostile_names_arrive_whole_or_mangled_but_counted(spy, burning):
    result = one(spy, window(burning(sys.executable, str(TARGETS / "hostile_names.py"))))
    assert result.failure == ""
    assert count_of(result) > 0
    shown = "".join(functions(result))
    assert "main" in shown
    assert "a;b\nc" in shown


def test_a_target_that_ends_keeps_what_was_seen(spy, burning):
    pid = burning(sys.executable, str(TARGETS / "short_lived.py"), "1.5")
    result = one(spy, window(pid, seconds=20))
    assert result.failure == ""
    assert functions(result)["burn_until"] > 0
    assert result.wall_seconds < 15
    assert result.target_clock_nanos > 0
    assert 0 < result.target_cpu_nanos < 5 * 10**9


def test_stop_ends_all_windows_and_keeps_their_samples(spy, burning):
    orders = [window(burning(sys.executable, BURNER), seconds=60) for _ in range(2)]
    stop = threading.Event()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    began = time.monotonic()
    results = spy.run(orders, stop)
    timer.join()
    assert time.monotonic() - began < 30
    for result in results:
        assert result.failure == ""
        assert functions(result)["burn_sixty"] > 0
        assert result.intervals < 60 * 97


def test_a_process_that_is_gone(spy):
    child = subprocess.Popen(["true"])
    child.wait()
    assert one(spy, window(child.pid)).failure == "process_ended"


def test_a_zombie(spy, until):
    child = subprocess.Popen(["true"])
    try:
        until(lambda: read_stat(Path("/proc"), child.pid).state == "Z")
        assert one(spy, window(child.pid)).failure == "process_ended"
    finally:
        child.wait()


def test_what_is_not_python(spy, spawn):
    result = one(spy, window(spawn("sleep", "99").pid))
    assert result.failure == "not_python"
    assert "python" in result.detail
    assert result.cpu_seconds > 0


def test_one_bad_target_does_not_touch_the_others(spy, spawn, burning):
    burner = burning(sys.executable, BURNER)
    bad, good = spy.run([window(spawn("sleep", "99").pid), window(burner)], threading.Event())
    assert bad.failure == "not_python"
    assert functions(good)["burn_sixty"] > 0


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_sampler_that_overruns_is_interrupted_and_one_that_ignores_it_killed(tmp_path, spawn):
    target = spawn("sleep", "99")
    work = tmp_path / "windows"
    polite = program(tmp_path / "polite", "trap 'exit 0' INT; while :; do sleep 0.05; done")
    result = one(PySpy(polite, work), window(target.pid, seconds=1))
    assert (result.failure, count_of(result)) == ("", 0)
    stubborn = program(tmp_path / "stubborn", "trap '' INT; exec sleep 99")
    result = one(PySpy(stubborn, work), window(target.pid, seconds=1))
    assert result.failure == "sampler_hung"


def test_a_sampler_that_does_not_start_is_a_reason_not_a_crash(tmp_path, spawn):
    result = one(PySpy("/nonexistent/py-spy", tmp_path / "w"), window(spawn("sleep", "9").pid))
    assert result.failure == "sampler_failed"


def test_without_permission_the_reason_says_so(tmp_path, spawn):
    if os.geteuid() != 0:
        pytest.skip("drops root's rights")
    target = spawn(sys.executable, SLEEPER)
    folder = tmp_path / "open"
    folder.mkdir()
    helper = program(
        folder / "as-nobody",
        f"exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all "
        f'--inh-caps=-all {find_py_spy()} "$@"',
    )
    result = one(PySpy(helper, folder / "w"), window(target.pid))
    # Where nobody may not even execute py-spy, that is a failure of the sampler.
    assert result.failure in {"not_permitted", "sampler_failed"}


def test_a_window_that_costs_too_much_is_ended(spy, burning):
    order = window(burning(sys.executable, BURNER), rate_hz=997, seconds=60, limit=0.1)
    result = one(spy, order)
    assert result.failure == ""
    assert functions(result)["burn_sixty"] > 0
    assert result.wall_seconds < 50
    assert not result.kept_pace
    assert add_evidence(None, result).python_share == 1.0


def test_what_an_earlier_run_left_is_removed(tmp_path):
    work = tmp_path / "windows"
    work.mkdir()
    (work / "0.raw").write_text("old")
    PySpy(find_py_spy(), work)
    assert list(work.iterdir()) == []


def test_kill_nine_of_the_agent_leaves_no_sampler_and_no_stopped_target(tmp_path, burning, until):
    target = burning(sys.executable, BURNER)
    ticks = read_stat(Path("/proc"), target).start_ticks
    text = (
        "import threading; from pathlib import Path\n"
        "from flamewell_agent.model import *; from flamewell_agent.samplers.pyspy import *\n"
        f"process = Process(ProcessKey({target}, {ticks}), 'cpython', '', '', ())\n"
        f"spy = PySpy(find_py_spy(), Path({str(tmp_path / 'w')!r}))\n"
        "spy.run([Window(process, 97, 60, 0.1)], threading.Event())\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", text])
    try:
        (sampler,) = until(lambda: psutil.Process(agent.pid).children())
        until(lambda: "py-spy" in " ".join(sampler.cmdline()))
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    until(lambda: not sampler.is_running() or sampler.status() == psutil.STATUS_ZOMBIE)
    assert psutil.Process(target).status() != psutil.STATUS_STOPPED
    assert "TracerPid:\t0" in Path(f"/proc/{target}/status").read_text()


def test_py_spy_is_found_or_the_message_says_how_to_get_it():
    assert os.access(find_py_spy(), os.X_OK)
    assert find_py_spy("/bin/true") == "/bin/true"
    with pytest.raises(SamplerError, match="no program that can be run"):
        find_py_spy("/nonexistent/py-spy")


def test_an_attach_that_costs_more_than_was_allowed_has_a_reason_of_its_own(tmp_path, spawn):
    target = spawn("sleep", "99")
    burns = program(tmp_path / "burns", "while :; do :; done")
    spy = PySpy(burns, tmp_path / "windows")
    result = one(spy, window(target.pid, seconds=60, limit=0.1))
    assert (result.failure, result.intervals) == ("attach_too_dear", 0)
    assert "100 ms" in result.detail
    assert result.cpu_seconds > 0.1
    assert one(spy, window(target.pid, seconds=1)).failure == "never_attached"


def test_what_the_agents_own_end_cut_short_is_not_the_targets_failure(tmp_path, spawn):
    target = spawn("sleep", "99")
    sleeps = program(tmp_path / "sleeps", "exec sleep 99")
    stop = threading.Event()
    stop.set()
    result = one(PySpy(sleeps, tmp_path / "windows"), window(target.pid, seconds=60), stop)
    assert result.failure == "interrupted"


def test_a_sampler_that_takes_too_much_memory_is_ended(tmp_path, spawn):
    target = spawn("sleep", "99")
    eats = program(
        tmp_path / "eats",
        f"exec {sys.executable} -c 'import time; eaten = b\"x\" * (90 << 20); time.sleep(99)'",
    )
    order = window(target.pid, seconds=60, memory_limit_bytes=60 << 20)
    result = one(PySpy(eats, tmp_path / "windows"), order)
    assert result.failure == "sampler_over_memory"
    assert "60 MiB" in result.detail
    assert result.memory_bytes > 60 << 20
