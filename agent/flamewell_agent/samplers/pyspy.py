"""Samples Python processes from outside by py-spy, one child a window, all of a cycle at once."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.errors import SamplerError
from flamewell_agent.model import Window, WindowResult
from flamewell_agent.samplers import pyspy_output

log = logging.getLogger(__name__)

_SLACK_SECONDS = 1.0
"""-d counts intervals, not seconds: on a slow target a window would last for ever. After its time
and this slack it is ended with SIGINT, which keeps the data (SIGTERM would lose them)."""
_KILL_AFTER_SECONDS = 3.0
_LOOK_SECONDS = (0.02, 0.5)
"""How long at least and at most until deadlines, costs and ``stop`` are looked at again."""
_OUTPUT_AT_MOST = 32 << 20
_NANOS = 1_000_000_000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def find_py_spy(configured: str = "") -> str:
    """Give the path of the py-spy program: the configured one, ours, or one on PATH.

    Raises:
        SamplerError: There is none.
    """
    if configured:
        if not os.access(configured, os.X_OK):
            raise SamplerError(f"py_spy names {configured}, which is no program that can be run")
        return configured
    ours = Path(sysconfig.get_path("scripts")) / "py-spy"
    found = str(ours) if os.access(ours, os.X_OK) else shutil.which("py-spy")
    if not found:
        raise SamplerError(f"py-spy is not at {ours}: pip install py-spy, or set py_spy to it")
    return found


@dataclass(slots=True)
class _Run:
    """A py-spy child at work."""

    window: Window
    child: subprocess.Popen[bytes]
    pidfd: int
    raw: Path
    said: Path
    began: float
    target_cpu_nanos: int | None
    interrupt_at: float
    interrupted: bool = False
    overran: bool = False

    def left(self) -> float:
        """Give the CPU seconds that the child may still use; negative where it used too many."""
        return self.window.cpu_limit_seconds - (process_cpu_nanos(self.child.pid) or 0) / _NANOS


class PySpy:
    """Runs windows.

    Args:
        executable: The py-spy program.
        work_dir: For its output files; what an earlier run left there is removed.
    """

    def __init__(self, executable: str, work_dir: Path) -> None:
        self._executable = executable
        self._work_dir = work_dir
        self._children: set[int] = set()
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True, mode=0o700)

    def children(self) -> Iterable[int]:
        """Give the pids of the children at work: discovery leaves them out."""
        return tuple(self._children)

    def run(self, windows: Sequence[Window], stop: threading.Event) -> list[WindowResult]:
        """Run all windows at once and give a result for each, in their order.

        Args:
            windows: Whom to sample, and how.
            stop: Ends all windows early; what they have by then is kept.
        """
        results: dict[int, WindowResult] = {}
        running: dict[int, _Run] = {}
        for at, window in enumerate(windows):
            try:
                running[at] = self._start(window, at)
            except OSError as error:
                results[at] = WindowResult(window, failure="sampler_failed", detail=str(error))
        with selectors.DefaultSelector() as selector:
            for at, run in running.items():
                selector.register(run.pidfd, selectors.EVENT_READ, at)
            while len(results) < len(windows):
                for key, _ in selector.select(self._patience(running.values())):
                    at = key.data
                    run = running.pop(at)
                    selector.unregister(run.pidfd)
                    results[at] = self._finish(run)
                self._enforce(running.values(), stop_now=stop.is_set())
        return [results[at] for at in range(len(windows))]

    def _start(self, window: Window, at: int) -> _Run:
        raw, said = self._work_dir / f"{at}.raw", self._work_dir / f"{at}.said"
        pid = window.process.key.pid
        command = [
            self._executable, "record", "--nonblocking", "--gil", "-F", "--full-filenames",
            "--format", "raw", "-r", str(window.rate_hz), "-d", str(window.seconds),
            "-p", str(pid), "-o", str(raw),
        ]  # fmt: skip
        cpu_nanos = process_cpu_nanos(pid)
        with said.open("wb") as sink:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={"PATH": os.defpath},
                # Two system calls, no lock: safe also beside the agent's other threads.
                preexec_fn=functools.partial(_die_with_parent, os.getpid()),  # noqa: PLW1509 - see above
            )
        began = time.monotonic()
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:  # no descriptors left: nobody would ever hear of the child again
            child.kill()
            child.wait()
            raise
        self._children.add(child.pid)
        deadline = began + window.seconds + _SLACK_SECONDS
        return _Run(window, child, pidfd, raw, said, began, cpu_nanos, deadline)

    def _patience(self, running: Iterable[_Run]) -> float:
        """Give how long to wait for a child before all are looked at again.

        No child can use up what it may cost in less time than that: py-spy has one busy thread.
        """
        now = time.monotonic()
        soonest, latest = _LOOK_SECONDS
        waits = [min(run.interrupt_at - now, run.left()) for run in running if not run.interrupted]
        return min(latest, max(soonest, min(waits, default=soonest)))

    def _enforce(self, running: Iterable[_Run], *, stop_now: bool) -> None:
        """End what is over its time or cost: SIGINT first, SIGKILL where that does not help."""
        now = time.monotonic()
        for run in running:
            if run.interrupted and now >= run.interrupt_at:
                run.child.send_signal(signal.SIGKILL)
                run.interrupt_at = now + _KILL_AFTER_SECONDS
                continue
            overran = now >= run.interrupt_at or run.left() < 0
            if not run.interrupted and (stop_now or overran):
                run.interrupted, run.overran = True, overran
                run.child.send_signal(signal.SIGINT)
                run.interrupt_at = now + _KILL_AFTER_SECONDS

    def _finish(self, run: _Run) -> WindowResult:
        _, status, usage = os.wait4(run.child.pid, 0)
        run.child.returncode = os.waitstatus_to_exitcode(status)
        os.close(run.pidfd)
        self._children.discard(run.child.pid)
        wall_seconds = time.monotonic() - run.began
        said, raw = _take(run.said), _take(run.raw)
        result = WindowResult(
            run.window,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            wall_seconds=wall_seconds,
        )
        if run.child.returncode != 0:
            failure, detail = pyspy_output.failure_reason(said)
            if run.interrupted and run.child.returncode < 0:
                failure, detail = "sampler_hung", "it did not end when asked to"
            return replace(result, failure=failure, detail=detail)
        samples, errors = pyspy_output.parse_summary(said) or (0, 0)
        ended = pyspy_output.target_ended(said)
        before = run.target_cpu_nanos or 0
        # The pid of a target that ended may be another's by now; its samples held the GIL for
        # about an interval each.
        after = None if ended else process_cpu_nanos(run.window.process.key.pid)
        if after is None:
            after = before + (samples + errors) * _NANOS // run.window.rate_hz
        return replace(
            result,
            samples=tuple(pyspy_output.parse_raw(raw).items()),
            intervals=_intervals(run, samples + errors, wall_seconds, said),
            # How often one that had to be cut short looked is not known.
            kept_pace=not run.overran,
            errors=errors,
            target_cpu_nanos=max(0, after - before),
            target_clock_nanos=after,
            failure="process_ended" if ended and not samples else "",
        )


def _intervals(run: _Run, looked: int, wall_seconds: float, said: str) -> int:
    """Give how often py-spy looked: it does not say, but it says when it was cut short."""
    window = run.window
    # The interval that reaches the wanted number ends the run before it is counted.
    whole = window.rate_hz * window.seconds - 1
    if run.interrupted or pyspy_output.target_ended(said):
        whole = min(whole, int(wall_seconds * window.rate_hz))
    return max(whole, looked, 1)


def _take(path: Path) -> str:
    """Read a file and remove it; one that was never made is empty."""
    try:
        with path.open("rb") as file:
            content = file.read(_OUTPUT_AT_MOST)
        path.unlink()
    except OSError:
        return ""
    return content.decode("utf-8", "replace")


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill the child when the agent dies, however it dies.

    The kernel forgets this where py-spy itself has file capabilities (prctl(2)): there an orphan
    lives until the end of its window.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)
