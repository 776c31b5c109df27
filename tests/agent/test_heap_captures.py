"""Censuses for orders: within the budget, one at a time, told as text and as profiles."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.conftest import TARGETS, Spawn
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent import procfs
from flamewell_agent.errors import ProcessGoneError
from flamewell_agent.heap_captures import HeapCaptures, HeapResult, NoHeap, Purse, plan
from flamewell_agent.model import Process, ProcessKey

Until = Callable[..., object]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def python(pid: int, version: str = OWN) -> Process:
    try:
        ticks = procfs.read_stat(Path("/proc"), pid).start_ticks
    except ProcessGoneError:
        ticks = 1
    return Process(ProcessKey(pid, ticks), "cpython", version, "python3", ())


@pytest.fixture
def target(spawn: Spawn, until: Until, tmp_path: Path) -> int:
    mark = tmp_path / "mark"
    process = spawn(sys.executable, str(TARGETS / "heap_of_known_objects.py"), str(mark), "8000")
    until(mark.exists, what="the target")
    return process.pid


def ran(
    heap: HeapCaptures, *processes: Process, seconds: int = 1, grants: float = 10.0
) -> tuple[HeapResult, list[float]]:
    """Carry an order out, with a loop that has so much to give each cycle."""
    found: list[HeapResult] = []
    stop = threading.Event()
    thread = threading.Thread(target=lambda: found.append(heap.run(processes, seconds, stop)))
    thread.start()
    spoken_for = []
    while thread.is_alive():
        spoken_for.append(heap.grant(grants))
        thread.join(0.02)
    return found[0], spoken_for


def test_an_order_is_carried_out(target: int) -> None:
    heap = HeapCaptures()
    result, spoken_for = ran(heap, python(target))
    assert result.state == "done"
    assert result.detail.startswith(f"python3 (pid {target})")
    grown, _, all_types = result.text.partition("OBJECTS        ±")
    assert "  __main__.Slotted *" in grown
    assert "  __main__.Payment" in all_types
    assert sum(each > 0 for each in spoken_for) == 2
    assert 0 < heap.cpu_seconds() < sum(spoken_for)
    (taken,) = heap.drain()
    assert taken.process.key.pid == target
    assert taken.grown[0].name == "__main__.Slotted"
    assert taken.seconds >= 1
    census = taken.census
    assert {"__main__.Payment", "__main__.Slotted"} <= {each.name for each in census.types}
    assert heap.drain() == []


def test_the_largest_process_is_counted(target: int, spawn: Spawn) -> None:
    small = spawn(sys.executable, "-c", "import time; time.sleep(99)").pid
    result, _ = ran(HeapCaptures(), python(small), python(target), python(1 << 22))
    assert f"pid {target}" in result.detail


def test_without_room_in_the_budget_it_is_refused(target: int) -> None:
    heap = HeapCaptures(patience_seconds=0.5)
    result, spoken_for = ran(heap, python(target), grants=0.01)
    assert result.state == "refused"
    assert "the overhead budget has had no room" in result.detail
    # Meanwhile it was saved up: nobody else has got anything.
    assert {each for each in spoken_for[1:-2] if each} == {0.01}
    assert heap.cpu_seconds() == 0


def test_what_can_not_be_counted_is_told(target: int, spawn: Spawn) -> None:
    result, _ = ran(HeapCaptures(), python(target, "3.15"))
    assert (result.state, "3.15 is not known" in result.detail) == ("refused", True)
    gone = spawn("/usr/bin/true")
    gone.wait()
    result, _ = ran(HeapCaptures(), python(gone.pid))
    assert (result.state, "ended" in result.detail) == ("failed", True)


def test_another_process_with_its_pid_is_left_alone(target: int) -> None:
    former = Process(ProcessKey(target, 1), "cpython", OWN, "python3", ())
    heap = HeapCaptures()
    result, _ = ran(heap, former)
    assert (result.state, "ended" in result.detail) == ("failed", True)
    assert heap.drain() == []


def test_a_process_that_ends_between_two_looks(target: int) -> None:
    heap = HeapCaptures()
    killer = threading.Timer(0.5, lambda: os.kill(target, signal.SIGKILL))
    killer.start()
    result, _ = ran(heap, python(target), seconds=2)
    killer.join()
    assert result.state in {"failed", "refused"}


def test_it_can_be_called_off(target: int) -> None:
    heap, stop = HeapCaptures(), threading.Event()
    found: list[HeapResult] = []
    thread = threading.Thread(target=lambda: found.append(heap.run([python(target)], 300, stop)))
    thread.start()
    while not heap.cpu_seconds():
        heap.grant(10.0)
        time.sleep(0.01)
    stop.set()
    thread.join(20)
    assert found == [HeapResult("failed", "it was called off")]


class TestPurse:
    def test_nothing_is_asked_for(self) -> None:
        assert Purse().grant(1.0) == 0
        assert NoHeap().grant(1.0) == 0

    def test_it_saves_up(self) -> None:
        purse, stop, given = Purse(), threading.Event(), []
        thread = threading.Thread(target=lambda: given.append(purse.ask(0.5, stop, 30)))
        thread.start()
        while not (got := purse.grant(0.2)):
            time.sleep(0.01)
        assert got == 0.2
        assert purse.grant(-1.0) == 0
        assert purse.grant(0.7) == 0.5
        thread.join(20)
        assert given == [True]
        assert purse.grant(1.0) == 0


@given(st.integers(0, 1 << 24), st.floats(0, 100), st.booleans())
def test_a_plan_fits_where_it_can(places: int, at_once: float, twice: bool) -> None:
    chosen, least = plan(places, at_once, twice=twice), plan(places, 0.0, twice=twice)
    assert least.pools <= chosen.pools <= 1_000
    assert least.headers <= chosen.headers
    assert chosen.cpu_seconds <= max(at_once + 1e-6, least.cpu_seconds)
    # On one core at 1 %, a minute has .6 s.
    assert least.cpu_seconds < 0.2
