"""Wall-clock windows, native frames, names of threads; what holds a target, and for how long."""

from __future__ import annotations

import random
import signal
import sys
import threading

import psutil
import pytest
from agent.conftest import TARGETS
from agent.pyspy_windows import count_of, functions, held, one, window

BURNER, SLEEPER = str(TARGETS / "shares.py"), str(TARGETS / "sleeper.py")
THREADS, DEEP = str(TARGETS / "threads.py"), str(TARGETS / "deep.py")


def in_background(run, *arguments):
    """Run in a thread; gives the thread and the list that its result comes into."""
    results = []
    thread = threading.Thread(target=lambda: results.append(run(*arguments)))
    thread.start()
    return thread, results


def test_wall_windows_show_the_threads_that_wait(spy, burning):
    result = one(spy, window(burning(sys.executable, THREADS, "3"), kind="wall", rate_hz=49))
    assert result.failure == ""
    shown = functions(result)
    assert shown["spin"] > 0
    # Each thread counts at each look.
    assert shown["wait_for_ever"] > result.intervals
    assert result.intervals == 48
    assert result.pause_seconds == 0
    assert result.memory_bytes > 1 << 20


def test_wall_windows_show_a_sleeper_of_another_pid_namespace(spy, spawn, until):
    wrapper = ("unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")
    outer = spawn(sys.executable, SLEEPER, wrapper=wrapper)
    inner = until(lambda: psutil.Process(outer.pid).children())[0].pid

    def seen():
        return functions(one(spy, window(inner, kind="wall"))).get("sleep_for_ever", 0)

    assert until(seen, what="the sleeper to be shown") > 10


def test_names_of_threads_come_beside_the_stacks(spy, burning):
    pid = burning(sys.executable, THREADS, "2", "wai;ter (1):\n\x1b[31m x")
    result = one(spy, window(pid, kind="wall", threads=True))
    assert len(result.thread_names) == len(result.samples)
    assert set(result.thread_names) == {"MainThread", "burner", "wai;ter (1): [31m x"}
    for (stack, _), name in zip(result.samples, result.thread_names, strict=True):
        expected = "wait_for_ever" if name.startswith("wai") else "spin"
        assert expected in {frame.function for frame in stack}
        assert not any(frame.function.startswith("thread (") for frame in stack)


def test_without_names_asked_for_there_are_none(spy, burning):
    assert one(spy, window(burning(sys.executable, BURNER))).thread_names == ()


def test_native_windows_show_native_frames_and_tell_the_pause(spy, burning):
    result = one(spy, window(burning(sys.executable, BURNER), native=True, rate_hz=20))
    assert result.failure == ""
    assert functions(result)["burn_sixty"] > 0
    assert any(".so" in frame.file for stack, _ in result.samples for frame in stack)
    assert not any(
        frame.function.startswith("0x") for stack, _ in result.samples for frame in stack
    )
    assert 0 < result.pause_seconds <= result.wall_seconds


def test_a_native_window_ends_where_it_stopped_its_target_for_too_long(spy, burning):
    pid = burning(sys.executable, BURNER)
    order = window(pid, native=True, rate_hz=97, seconds=60, pause_limit_seconds=0.15)
    result = one(spy, order)
    assert result.failure == ""
    assert result.wall_seconds < 50
    assert not result.kept_pace
    assert held(pid) == []


def test_a_nonblocking_window_never_holds_its_target(spy, burning):
    pid = burning(sys.executable, THREADS, "3")
    thread, results = in_background(one, spy, window(pid, rate_hz=199, seconds=2))
    looks = 0
    while thread.is_alive():
        assert held(pid) == []
        looks += 1
        thread.join(0.005)
    assert results[0].failure == ""
    assert results[0].pause_seconds == 0
    assert looks > 10


def test_kill_nine_of_a_blocking_sampler_sets_its_target_free(spy, burning, until):
    pid = burning(sys.executable, THREADS, "4")
    rounds = random.Random(3)
    seen_held = 0
    for _ in range(12):
        order = window(pid, native=True, rate_hz=499, seconds=30)
        thread, results = in_background(one, spy, order)
        (child,) = until(spy.children)
        for _ in range(rounds.randrange(5, 60)):
            seen_held += bool(held(pid))
            thread.join(0.005)
        psutil.Process(child).send_signal(signal.SIGKILL)
        thread.join(10)
        assert results[0].failure == "sampler_failed"
        until(lambda: not held(pid), seconds=5, what="the target to be free")
    assert seen_held > 0, "the samplers never held the target: this shows nothing"
    before = psutil.Process(pid).cpu_times().user
    until(lambda: psutil.Process(pid).cpu_times().user > before, what="the target to go on")


def test_windows_of_different_lengths_and_kinds_in_one_run(spy, burning):
    pids = [burning(sys.executable, BURNER) for _ in range(2)]
    orders = [
        window(pids[0], seconds=1),
        window(pids[1], seconds=3, kind="wall", threads=True),
        window(pids[0], seconds=2, rate_hz=11),
    ]
    results = spy.run(orders, threading.Event())
    assert [result.failure for result in results] == ["", "", ""]
    assert [result.window for result in results] == orders
    assert [result.intervals for result in results] == [96, 290, 21]
    assert all(count_of(result) for result in results)


@pytest.mark.parametrize("mode", [{}, {"kind": "wall"}, {"native": True}])
def test_a_deep_recursion(spy, burning, mode):
    result = one(spy, window(burning(sys.executable, DEEP, "4000"), rate_hz=5, limit=8, **mode))
    assert result.failure == ""
    assert max((len(stack) for stack, _ in result.samples), default=0) > 1000


def test_a_recursion_beyond_what_py_spy_reads_is_a_reason(spy, burning):
    """It refuses stacks of more than 4,096 frames, and takes the interpreter for none."""
    result = one(spy, window(burning(sys.executable, DEEP, "5000"), rate_hz=5))
    assert result.failure in {"interpreter_not_found", "never_attached"}


def test_two_hundred_threads(spy, burning):
    result = one(spy, window(burning(sys.executable, THREADS, "200"), kind="wall", rate_hz=2))
    assert result.failure == ""
    assert functions(result)["wait_for_ever"] >= 200
