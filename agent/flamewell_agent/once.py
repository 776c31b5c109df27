"""Windows on one process, container or service: a flame graph without a collector."""

from __future__ import annotations

import difflib
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamewell_agent import flame_formats, flame_svg
from flamewell_agent.config import AgentConfig
from flamewell_agent.discovery import Discovery
from flamewell_agent.errors import AgentError
from flamewell_agent.identity.container import parse_placement
from flamewell_agent.model import (
    Coverage,
    Frame,
    Process,
    SamplingOptions,
    Stack,
    Window,
    WindowResult,
)
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy

FORMATS = ("folded", "speedscope", "svg")
PROCESSES_AT_MOST = 16
"""Sampled at once: each has a py-spy of its own, of 5 to 30 MB."""
_CONTAINER = re.compile(r"[0-9a-f]{12,64}")
_NAMES_SHOWN = 5
_PID_DIGITS = 10  # 4194304 is the largest pid (PID_MAX_LIMIT); 12 digits are a container's
_MEND = {
    "not_permitted": "run as root, or give py-spy the capability SYS_PTRACE",
    "process_ended": "it ended before a sample was taken",
    "interpreter_files_gone": "its libpython was deleted or updated since it started: restart it",
    "free_threaded": "py-spy does not read free-threaded interpreters",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What all windows of one command brought together.

    Attributes:
        title: Whom they looked at.
        samples: Of all processes.
        results: One a process, the failed ones included.
        wall: Whether threads that wait were told as well.
    """

    title: str
    samples: tuple[tuple[Stack, int], ...]
    results: tuple[WindowResult, ...]
    wall: bool = False

    @property
    def count(self) -> int:
        """Samples of all processes."""
        return sum(count for _, count in self.samples)

    @property
    def wall_seconds(self) -> float:
        """How long the longest window ran."""
        return max((each.wall_seconds for each in self.results), default=0.0)

    @property
    def summary(self) -> str:
        """What was seen and what it cost, on one line."""
        target = sum(each.target_cpu_nanos for each in self.results) / 1e9
        cost = sum(each.cpu_seconds for each in self.results)
        pause = sum(each.pause_seconds for each in self.results)
        failed = [each for each in self.results if each.failure]
        who = "the process" if len(self.results) == 1 else f"{len(self.results)} processes"
        text = (
            f"{self.count} samples in {self.wall_seconds:.1f} s; {who} used {target:.2f} s of "
            f"CPU, py-spy {cost:.2f} s"
        )
        if pause:
            text += f"; stopped for {pause:.2f} s at most"
        if failed:
            reasons = Counter(each.failure for each in failed)
            text += "; not sampled: " + ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        return text


def scan(config: AgentConfig) -> Sequence[Process]:
    """Look at every process of the node."""
    return Discovery(Path(config.proc_root)).scan()


def select(processes: Iterable[Process], target: str) -> tuple[str, list[Process]]:
    """Give what a pid or the beginning of a container id stands for: a title, and processes.

    Raises:
        AgentError: Says what is there instead.
    """
    if target.isdecimal() and len(target) <= _PID_DIGITS:
        process = find_python(processes, int(target))
        return f"{process.executable} (pid {target})", [process]
    if not _CONTAINER.fullmatch(target):
        raise AgentError(f"{target!r} is neither a pid nor 12 to 64 hex digits of a container id")
    inside = [
        each for each in processes if parse_placement(each.cgroup).container_id.startswith(target)
    ]
    if not inside:
        raise AgentError(
            f"no process runs in a container {target} (`flamewell-agent targets` lists them)"
        )
    ids = {parse_placement(each.cgroup).container_id for each in inside}
    if len(ids) > 1:
        raise AgentError(f"{len(ids)} containers begin with {target}; give more digits")
    return f"container {target[:12]}", pythons(inside, f"container {target[:12]}")


def of_service(coverage: Iterable[Coverage], name: str) -> list[Process]:
    """Give the processes of a service.

    Raises:
        AgentError: Names services that are there instead.
    """
    rows = list(coverage)
    found = [each.process for each in rows if each.service_name == name]
    if not found:
        known = {each.service_name for each in rows if each.process.runtime == "cpython"}
        close = difflib.get_close_matches(name, known) or sorted(known)[:_NAMES_SHOWN]
        shown = f"; there are: {', '.join(close)}" if close else ""
        raise AgentError(f"there is no service {name!r} (`flamewell-agent targets`){shown}")
    return found


def pythons(processes: Iterable[Process], where: str) -> list[Process]:
    """Keep the Python processes that can be sampled.

    Raises:
        AgentError: There is none; says what is there.
    """
    known = list(processes)
    found = [each for each in known if each.runtime == "cpython" and not each.unreadable]
    if not found:
        shown = sorted({f"{each.executable} ({each.unreadable or each.runtime})" for each in known})
        raise AgentError(f"{where} has no Python process to sample, but: {', '.join(shown[:5])}")
    return found


def sample_once(
    config: AgentConfig,
    title: str,
    processes: Sequence[Process],
    seconds: int,
    *,
    options: SamplingOptions = SamplingOptions(),  # noqa: B008 - frozen
    stop: threading.Event,
) -> Found:
    """Sample Python processes at once for some seconds.

    Raises:
        AgentError: None could be read, or none showed anything.
    """
    rate_hz = options.rate_hz or config.max_rate_hz
    windows = [
        Window(
            process,
            rate_hz,
            seconds,
            0.0,
            kind="wall" if options.wall else "cpu",
            native=options.native,
            threads=options.threads,
        )
        for process in processes[:PROCESSES_AT_MOST]
    ]
    with tempfile.TemporaryDirectory(prefix="flamewell-") as folder:
        sampler = PySpy(find_py_spy(config.py_spy), Path(folder) / "windows")
        results = sampler.run(windows, stop)
    if all(each.failure for each in results):
        first = results[0]
        mend = _MEND.get(first.failure, "`flamewell-agent check` tells what is missing")
        detail = f" ({first.detail})" if first.detail else ""
        raise AgentError(f"{title} could not be sampled: {first.failure}{detail}: {mend}")
    samples = tuple(sample for each in results for sample in _with_threads(each))
    found = Found(title, samples, tuple(results), options.wall)
    if not samples:
        raise AgentError(
            f"no Python code of {title} was on a CPU in {found.wall_seconds:.0f} s: "
            "it was idle, or in native code without the GIL (--wall shows threads that wait)"
        )
    return found


def render(found: Found, form: str) -> str:
    """Write what was found in one of ``FORMATS``. Pure."""
    if form == "speedscope":
        return flame_formats.speedscope(found.samples, title=found.title)
    if form == "svg":
        kind = "wall-clock" if found.wall else "CPU (GIL)"
        subtitle = f"{kind}; {found.summary}"
        return flame_svg.draw(found.samples, title=found.title, subtitle=subtitle)
    return flame_formats.fold(found.samples)


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


def _with_threads(result: WindowResult) -> Iterable[tuple[Stack, int]]:
    """Put the names of threads, where they were asked for, at the root of their stacks."""
    if not result.thread_names:
        return result.samples
    return [
        ((*stack, Frame(f"thread {name}")), count)
        for name, (stack, count) in zip(result.thread_names, result.samples, strict=True)
    ]
