"""Alarms on the CPU time of other processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flamewell_agent import cpu_alarm
from flamewell_agent.cpu_alarm import CpuAlarms
from flamewell_agent.cpu_clock import process_cpu_nanos

MILLIS = 1_000_000
BURN = "while True: pass"
SLEEP = "print(flush=True); import time; time.sleep(600)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    programs: list[subprocess.Popen[bytes]] = []
    yield programs
    for each in programs:
        each.kill()
        each.communicate()


def start(programs: list[subprocess.Popen[bytes]], code: str) -> int:
    programs.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
    return programs[-1].pid


def rings(alarms: CpuAlarms, seconds: float) -> bool:
    return bool(select.select([alarms.fd], [], [], seconds)[0])


def test_it_wakes_when_the_process_has_used_so_much_and_not_before(started):
    burning = start(started, BURN)
    with CpuAlarms() as alarms:
        before = process_cpu_nanos(burning)
        assert alarms.arm(burning, 200 * MILLIS)
        assert rings(alarms, 60)
        assert process_cpu_nanos(burning) - before >= 200 * MILLIS
        alarms.clear()
        alarms.clear()
        assert not rings(alarms, 0)


def test_a_process_that_sleeps_never_wakes_it(started):
    sleeping = start(started, SLEEP)
    started[0].stdout.readline()
    with CpuAlarms() as alarms:
        assert alarms.arm(sleeping, 200 * MILLIS)
        assert not rings(alarms, 0.5)


def test_nothing_is_left_behind_and_a_late_signal_does_no_harm(started):
    burning = start(started, BURN)
    descriptors = set(Path("/proc/self/fd").iterdir())
    with CpuAlarms() as alarms:
        assert alarms.arm(burning, 3_600_000 * MILLIS)
        assert "ID:" in timers("ID:")
    assert "ID:" not in timers("")
    assert set(Path("/proc/self/fd").iterdir()) == descriptors
    os.kill(os.getpid(), cpu_alarm._SIGNAL)
    assert signal.getsignal(cpu_alarm._SIGNAL) == signal.SIG_IGN


def timers(otherwise: str) -> str:
    """Give the process's timers as the kernel lists them, where it does."""
    listed = Path("/proc/self/timers")
    return listed.read_text() if listed.exists() else otherwise


def test_where_no_alarm_can_be_set_it_says_so(started):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.communicate()
    told: list[bool] = []

    def elsewhere() -> None:
        with CpuAlarms() as alarms:
            told.append(alarms.arm(os.getpid(), MILLIS))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    with CpuAlarms() as alarms:
        assert [*told, alarms.arm(gone.pid, MILLIS)] == [False, False]
