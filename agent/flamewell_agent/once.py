"""One window on one process, as folded stacks: a flame graph without a collector."""

from __future__ import annotations

import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from flamewell_agent.config import AgentConfig
from flamewell_agent.discovery import Discovery
from flamewell_agent.errors import AgentError
from flamewell_agent.model import Frame, Process, Stack, Window, WindowResult
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy

# Controls (line ends among them) and the Unicode line separators: readers split at those.
_BREAKING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]")
_MEND = {
    "not_permitted": "run as root, or give py-spy the capability SYS_PTRACE",
    "process_ended": "it ended before a sample was taken",
    "free_threaded": "py-spy does not read free-threaded interpreters",
}


def sample_once(
    config: AgentConfig, pid: int, seconds: int, *, stop: threading.Event
) -> WindowResult:
    """Sample a Python process for some seconds.

    Raises:
        AgentError: It is not there, does not run Python, cannot be read, or showed nothing.
    """
    process = find_python(Discovery(Path(config.proc_root)).scan(), pid)
    with tempfile.TemporaryDirectory(prefix="flamewell-") as folder:
        sampler = PySpy(find_py_spy(config.py_spy), Path(folder) / "windows")
        (result,) = sampler.run([Window(process, config.max_rate_hz, seconds, 0.0)], stop)
    if result.failure:
        mend = _MEND.get(result.failure, "`flamewell-agent check` tells what is missing")
        detail = f" ({result.detail})" if result.detail else ""
        raise AgentError(f"process {pid} could not be sampled: {result.failure}{detail}: {mend}")
    if not result.samples:
        raise AgentError(
            f"no Python code of process {pid} was on a CPU in {result.wall_seconds:.0f} s: "
            "it was idle, or in native code without the GIL"
        )
    return result


def find_python(processes: Iterable[Process], pid: int) -> Process:
    """Give the Python process with a pid.

    Raises:
        AgentError: Says what is there instead.
    """
    process = next((each for each in processes if each.key.pid == pid), None)
    if process is None:
        raise AgentError(f"there is no process {pid} (`flamewell-agent targets` lists them)")
    if process.runtime == "go":
        raise AgentError(
            f"process {pid} ({process.executable}) is a Go program: those are profiled by their "
            "/debug/pprof endpoint, see go_endpoints and go_detect"
        )
    if process.runtime != "cpython":
        raise AgentError(f"process {pid} ({process.executable}) does not run CPython")
    if process.unreadable:
        word, _, detail = process.unreadable.partition(":")
        mend = _MEND.get(word, "it cannot be sampled")
        raise AgentError(f"process {pid}: {word}{detail and ':' + detail}: {mend}")
    return process


def fold(samples: Iterable[tuple[Stack, int]]) -> str:
    """Write folded stacks: root first, ``;`` between frames, a blank and the count. Pure."""
    lines: Counter[str] = Counter()
    for stack, count in samples:
        lines[";".join(_frame_text(frame) for frame in reversed(stack))] += count
    return "".join(f"{stack} {count}\n" for stack, count in sorted(lines.items()))


def _frame_text(frame: Frame) -> str:
    place = f"{frame.file}:{frame.line}" if frame.file and frame.line else frame.file
    text = f"{frame.function} ({place})" if place else frame.function
    return _BREAKING.sub(" ", text).replace(";", ":").strip() or "[unknown]"
