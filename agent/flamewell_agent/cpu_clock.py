"""Clocks: a process's CPU time by one system call, right across PID namespaces; time since boot."""

from __future__ import annotations

import os
import time

_CPUCLOCK_SCHED = 2
"""Kernel ABI, include/linux/posix-timers_types.h: clock id = (~pid << 3) | 2 is the CPU time of
all threads of a process."""


def ticks_since_boot() -> int:
    """Give the time in the unit and from the origin of field 22 of /proc/PID/stat."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def cpu_clock_id(pid: int) -> int:
    """Give the clock of a process's CPU time."""
    return (~pid << 3) | _CPUCLOCK_SCHED


def process_cpu_nanos(pid: int) -> int | None:
    """Give user and system CPU of all threads in ns; None where the process is gone."""
    try:
        return time.clock_gettime_ns(cpu_clock_id(pid))
    except OSError:
        return None
