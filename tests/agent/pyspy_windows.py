"""Orders windows of real processes and reads what came of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flamewell_agent.errors import ProcessGoneError
from flamewell_agent.model import Process, ProcessKey, Window, WindowResult
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers.pyspy import PySpy


def window(
    pid: int, *, rate_hz: int = 97, seconds: int = 1, limit: float = 60.0, **mode: Any
) -> Window:
    """Order a window of a process as it is now."""
    try:
        ticks = read_stat(Path("/proc"), pid).start_ticks
    except ProcessGoneError:
        ticks = 0
    process = Process(ProcessKey(pid, ticks), "cpython", "", "python", ())
    return Window(process, rate_hz, seconds, 0.0, cpu_limit_seconds=limit, **mode)


def one(spy: PySpy, order: Window, stop: threading.Event | None = None) -> WindowResult:
    (result,) = spy.run([order], stop or threading.Event())
    return result


def functions(result: WindowResult) -> dict[str, int]:
    found: dict[str, int] = {}
    for stack, count in result.samples:
        for name in {frame.function for frame in stack}:
            found[name] = found.get(name, 0) + count
    return found


def count_of(result: WindowResult) -> int:
    return sum(count for _, count in result.samples)


def held(pid: int) -> list[str]:
    """Give what holds a process: states T and t and tracers of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(
            line.split(":\t", 1)
            for line in (task / "status").read_text().splitlines()
            if ":\t" in line
        )
        if fields["State"][0] in "Tt" or fields["TracerPid"] != "0":
            found.append(f"{task.name}: {fields['State']}, traced by {fields['TracerPid']}")
    return found
