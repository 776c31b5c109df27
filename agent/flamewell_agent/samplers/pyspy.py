"""Samples Python processes from outside by py-spy, one child a window, all of a cycle at once."""

from __future__ import annotations

import logging
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flamewell_agent.cpu_alarm import CpuAlarms
from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.errors import ProcessGoneError, ProcessUnreadableError
from flamewell_agent.model import (
    ATTACH_TOO_DEAR,
    INTERRUPTED,
    Process,
    Window,
    WindowResult,
)
from flamewell_agent.procfs import Stat, read_stat
from flamewell_agent.samplers import pyspy_held, pyspy_orphans, pyspy_output
from flamewell_agent.samplers.pyspy_child import Child, Use
from flamewell_agent.samplers.pyspy_command import find_py_spy
from flamewell_agent.samplers.pyspy_held import HeldTarget

__all__ = ["PySpy", "find_py_spy"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = (0.02, 0.5)
"""How long at least and at most until deadlines, costs and ``stop`` are looked at again."""
_ALARM = -1
"""In place of a window's number, for what wakes when one has used what it may cost."""
_THREADS_AT_MOST = 10_000
"""Of a wall-clock window, to bound what names that look like stacks can add."""
_NANOS = 1_000_000_000


class PySpy:
    """Runs windows.

    Args:
        executable: The py-spy program.
        work_dir: For its output files; what an earlier run left there, and children of it that
            are still at work, are removed.
        proc_root: Where the processes' /proc is.
    """

    def __init__(self, executable: str, work_dir: Path, proc_root: Path = Path("/proc")) -> None:
        self._executable = executable
        self._work_dir = work_dir
        self._proc_root = proc_root
        self._children: set[int] = set()
        for pid in pyspy_orphans.end_orphans(work_dir, Path(executable).name):
            log.warning("ended a sampler that an earlier run left behind", extra={"pid": pid})
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True, mode=0o700)

    def children(self) -> Iterable[int]:
        """Give the pids of the children at work: discovery leaves them out."""
        return tuple(self._children)

    def cpu_seconds(self) -> float:
        """Give what the children that are at work have used so far; any thread may ask."""
        return sum(process_cpu_nanos(pid) or 0 for pid in tuple(self._children)) / _NANOS

    def run(self, windows: Sequence[Window], stop: threading.Event) -> list[WindowResult]:
        """Run all windows at once and give a result for each, in their order.

        Args:
            windows: Whom to sample, and how.
            stop: Ends all windows early; what they have by then is kept.
        """
        results: dict[int, WindowResult] = {}
        running: dict[int, Child] = {}
        left_behind: dict[int, HeldTarget] = {}
        try:
            for at, window in enumerate(windows):
                child = self._start(at, window, results)
                if child is not None:
                    running[at] = child
            self._wait_for(running, left_behind, results, stop)
        finally:
            for at, child in running.items():  # only after an error of ours
                child.kill()
                self._children.discard(child.pid)
                if child.target is not None:
                    left_behind[at] = child.target
            pyspy_held.release(list(left_behind.values()))
        return [results[at] for at in range(len(windows))]

    def _start(self, at: int, window: Window, results: dict[int, WindowResult]) -> Child | None:
        """Start a window's child; where that can't be, its result says why."""
        stat, failure = look(self._proc_root, window.process)
        if stat is None:
            results[at] = WindowResult(window, failure=failure)
            return None
        try:
            child = Child(self._executable, window, self._work_dir, str(at), stat)
        except (OSError, subprocess.SubprocessError) as error:
            results[at] = WindowResult(window, failure="sampler_failed", detail=str(error))
            (self._work_dir / f"{at}.said").unlink(missing_ok=True)
            return None
        self._children.add(child.pid)
        return child

    def _wait_for(
        self,
        running: dict[int, Child],
        left_behind: dict[int, HeldTarget],
        results: dict[int, WindowResult],
        stop: threading.Event,
    ) -> None:
        """Wait until all children have ended, and take what they have."""
        with selectors.DefaultSelector() as selector, CpuAlarms() as alarms:
            selector.register(alarms.fd, selectors.EVENT_READ, _ALARM)
            for at, child in running.items():
                selector.register(child.pidfd, selectors.EVENT_READ, at)
                child.watch_by(alarms)
            while running or left_behind:
                for key, _ in selector.select(_patience(running.values(), left_behind)):
                    at = key.data
                    if at == _ALARM:
                        alarms.clear()
                        continue
                    child = running.pop(at)
                    selector.unregister(child.pidfd)
                    results[at] = self._take(child)
                    if child.target is not None and child.exit_code == 0:
                        child.target.close()
                    elif child.target is not None:
                        left_behind[at] = child.target
                _enforce(running.values(), stop_now=stop.is_set())
                _release(left_behind, results)

    def _take(self, child: Child) -> WindowResult:
        """Take what one brought; what can't be understood costs no other window."""
        try:
            return self._finish(child)
        except Exception as error:
            log.exception("what a sampler brought could not be understood")
            detail = f"{type(error).__name__}: {error}"[:200]
            return WindowResult(child.window, failure="sampler_failed", detail=detail)

    def _finish(self, child: Child) -> WindowResult:
        self._children.discard(child.pid)
        use = child.reap()
        said, (raw, cut) = child.take_said(), child.take_raw()
        result = WindowResult(
            child.window,
            cpu_seconds=use.cpu_seconds,
            wall_seconds=use.wall_seconds,
            pause_seconds=use.pause_seconds,
            memory_bytes=use.memory_bytes,
        )
        if cut:
            return replace(result, failure="output_too_large", detail=f"over {len(raw)} characters")
        if child.ended_for == "memory":
            taken, limit = use.memory_bytes >> 20, child.window.memory_limit_bytes >> 20
            detail = f"{taken} MiB where {limit} MiB were set aside"
            return replace(result, failure="sampler_over_memory", detail=detail)
        if use.exit_code != 0:
            failure, detail = self._why_failed(child, use, said)
            return replace(result, failure=failure, detail=detail)
        if not pyspy_output.target_ended(said):
            now, failure = look(self._proc_root, child.window.process)
            if now is not None and _replaced(child.before, now):
                failure = "program_replaced"
            if failure and failure != "process_ended":
                # Whose stacks these are, or of which time, is not known any more.
                return replace(result, failure=failure)
        return _with_stacks(result, child, use, said, raw)

    def _why_failed(self, child: Child, use: Use, said: str) -> tuple[str, str]:
        """Give coverage reason and words for a py-spy that did not end well."""
        if use.exit_code == -signal.SIGINT:
            # Once it looks, it handles the signal.
            if child.ended_for == "stop":
                return INTERRUPTED, "the agent was stopped or read its options anew"
            if child.ended_for == "cpu":
                limit = child.window.cpu_limit_seconds * 1e3
                return (
                    ATTACH_TOO_DEAR,
                    f"its CPU allowance of {limit:.0f} ms was over before it read a stack",
                )
            what = "pause allowance" if child.ended_for == "pause" else "time"
            return "never_attached", f"its {what} was over before it read a stack"
        if use.exit_code in {-signal.SIGKILL, -signal.SIGALRM}:
            if child.interrupted:
                return "sampler_hung", "it did not end when asked to"
            return "sampler_failed", "it was killed"
        failure, detail = pyspy_output.failure_reason(said)
        if failure == "process_ended" and look(self._proc_root, child.window.process)[0]:
            # py-spy says the same of a process that ended and of a library that was deleted.
            failure = "interpreter_files_gone"
        return failure, detail


def look(proc_root: Path, process: Process) -> tuple[Stat | None, str]:
    """Look whether a pid is still the process, and whether that can be sampled at all.

    Returns:
        What was seen, or None and a coverage reason.
    """
    try:
        stat = read_stat(proc_root, process.key.pid)
    except ProcessGoneError:
        return None, "process_ended"
    except ProcessUnreadableError:
        return None, "not_permitted"
    if stat.start_ticks != process.key.start_ticks:
        return None, "pid_reused"
    if stat.state in {"Z", "X"}:
        return None, "process_ended"
    if stat.state == "T":
        return None, "target_stopped"
    return stat, ""


def _replaced(before: Stat, now: Stat) -> bool:
    """Tell whether another program was executed in between: it keeps pid and start time."""
    return bool(before.stack_start and now.stack_start) and before.stack_start != now.stack_start


def _patience(running: Iterable[Child], left_behind: Mapping[int, HeldTarget]) -> float:
    """Give how long to wait for a child before all are looked at again.

    No child can use up what it may cost in less time than that: py-spy has one busy thread. Most
    have an alarm instead.
    """
    soonest, latest = _LOOK_SECONDS
    if left_behind:
        return pyspy_held.LOOK_SECONDS
    return max(soonest, min([latest, *(each.patience_seconds for each in running)]))


def _enforce(running: Iterable[Child], *, stop_now: bool) -> None:
    """End what is over one of its limits: SIGINT first, SIGKILL where that does not help."""
    now = time.monotonic()
    for child in running:
        spent = child.spent(now)
        if child.interrupted:
            if now >= child.interrupt_at:
                child.end(now, "time")
        elif spent:
            child.end(now, spent)
        elif stop_now:
            child.end(now, "stop")


def _release(left_behind: dict[int, HeldTarget], results: dict[int, WindowResult]) -> None:
    """Set targets going that their samplers left stopped."""
    now = time.monotonic()
    for at, target in list(left_behind.items()):
        if target.release(now):
            del left_behind[at]
            target.close()
            stopped = target.stopped_seconds
            if stopped:
                log.warning("a target was left stopped", extra={"pid": target.key.pid})
                paused = results[at].pause_seconds + stopped
                results[at] = replace(results[at], pause_seconds=paused)


def _with_stacks(result: WindowResult, child: Child, use: Use, said: str, raw: str) -> WindowResult:
    """Add what a py-spy that ended well has found."""
    window = child.window
    samples, errors = pyspy_output.parse_summary(said) or (0, 0)
    ended = pyspy_output.target_ended(said)
    # In a wall-clock window each look counts all threads, and is one of py-spy's samples.
    most = samples if window.kind == "cpu" else samples * _THREADS_AT_MOST
    stacks = pyspy_output.parse_raw(raw, samples=most, threads=window.threads, native=window.native)
    looked = samples + errors if window.kind == "cpu" else 0
    # The pid of a target that ended may be another's by now; its samples held the GIL for
    # about an interval each.
    after = None if ended else process_cpu_nanos(window.process.key.pid)
    if after is None:
        after = child.target_cpu_nanos + looked * _NANOS // window.rate_hz
    return replace(
        result,
        samples=tuple((stack, count) for (_, stack), count in stacks.items()),
        thread_names=tuple(name for name, _ in stacks) if window.threads else (),
        intervals=_intervals(child, looked, use.wall_seconds, said),
        # How often one that had to be cut short looked is not known.
        kept_pace=not child.overran,
        errors=errors,
        target_cpu_nanos=max(0, after - child.target_cpu_nanos),
        target_clock_nanos=after,
        failure="process_ended" if ended and not samples else "",
    )


def _intervals(child: Child, looked: int, wall_seconds: float, said: str) -> int:
    """Give how often py-spy looked: it does not say, but it says when it was cut short."""
    window = child.window
    # The interval that reaches the wanted number ends the run before it is counted.
    whole = window.rate_hz * window.seconds - 1
    if child.interrupted or pyspy_output.target_ended(said):
        whole = min(whole, int(wall_seconds * window.rate_hz))
    return max(whole, looked, 1)
