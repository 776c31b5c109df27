"""One py-spy child: started with limits, watched, ended, its use of the machine told."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from flamewell_agent.cpu_alarm import CpuAlarms
from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.errors import ProcessGoneError
from flamewell_agent.model import Window
from flamewell_agent.procfs import Stat
from flamewell_agent.samplers import pyspy_orphans
from flamewell_agent.samplers.pyspy_command import command

SLACK_SECONDS = 1.0
"""-d counts intervals, not seconds: on a slow target a window would last for ever. After its time
and this slack it is ended with SIGINT, which keeps the data (SIGTERM would lose them)."""
KILL_AFTER_SECONDS = 3.0
OUTPUT_BYTES = 32 << 20
"""Of stacks. A file cut there would tell of some stacks and not of others: it is refused."""
_MEMORY_BYTES = 1 << 30
_NATIVE_MEMORY_BYTES = 4 << 30
"""Address space, which counts the files that it maps: all libraries of a target for --native."""
_ALARM_SECONDS = 10
_MEMORY_LOOK_SECONDS = 0.25
_NANOS = 1_000_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Use(NamedTuple):
    """What a child that ended has used.

    Attributes:
        exit_code: Negative for a signal.
        cpu_seconds: User and system.
        memory_bytes: Resident, the highest that was seen.
        pause_seconds: For how long it held its target stopped, at most.
        wall_seconds: From its start to its end.
    """

    exit_code: int
    cpu_seconds: float
    memory_bytes: int
    pause_seconds: float
    wall_seconds: float


class Child:
    """A py-spy at work on a window.

    Args:
        executable: The py-spy program.
        window: The order.
        work_dir: For its files.
        name: Of its files, without an ending.
        before: The target as it was looked at before.

    Raises:
        OSError: It could not be started.
    """

    def __init__(
        self, executable: str, window: Window, work_dir: Path, name: str, before: Stat
    ) -> None:
        self.window = window
        self.before = before
        self.interrupted = self.overran = self.has_alarm = False
        self._raw, self._said = work_dir / f"{name}.raw", work_dir / f"{name}.said"
        self._waited_nanos: dict[str, int] = {}
        self._memory_bytes = 0
        # py-spy has read the interpreter's symbols by the first look.
        self._memory_noted_at = time.monotonic()
        self.target_cpu_nanos = process_cpu_nanos(window.process.key.pid) or 0
        with self._said.open("wb") as sink:
            self._process = subprocess.Popen(
                command(executable, window, self._raw),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={"PATH": os.defpath},
                # System calls, no lock: safe also beside the agent's other threads.
                preexec_fn=functools.partial(_confine, os.getpid(), window),  # noqa: PLW1509 - see above
            )
        self._began = time.monotonic()
        try:
            self.pidfd = os.pidfd_open(self.pid)
            self._note = pyspy_orphans.note(work_dir, self.pid)
        except (OSError, ProcessGoneError) as error:
            # No descriptors left, or no disk: nobody would ever hear of the child again.
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(AttributeError):
                os.close(self.pidfd)
            raise OSError(str(error)) from error
        self.interrupt_at = self._began + window.seconds + SLACK_SECONDS

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def watch_by(self, alarms: CpuAlarms) -> None:
        """Have it told when it has used what it may cost, where that can be."""
        limit = self.window.cpu_limit_seconds
        # How long a target was stopped is not in the child's CPU alone.
        if math.isfinite(limit) and not self.window.native:
            used = process_cpu_nanos(self.pid) or 0
            self.has_alarm = alarms.arm(self.pid, int(limit * _NANOS) - used)

    def left_seconds(self) -> float:
        """Give for how long it may go on at its fastest before a limit; negative beyond one."""
        self._note_memory()
        used = (process_cpu_nanos(self.pid) or 0) / _NANOS
        left = self.window.cpu_limit_seconds - used
        if self.window.native:
            left = min(left, self.window.pause_limit_seconds - used - self._queued_seconds())
        return left

    def end(self, now: float, *, overran: bool) -> None:
        """Ask it to end by SIGINT, which keeps what it has; the second time, kill it."""
        if not self.interrupted:
            self.interrupted, self.overran = True, overran
            self._process.send_signal(signal.SIGINT)
        else:
            self._process.send_signal(signal.SIGKILL)
        self.interrupt_at = now + KILL_AFTER_SECONDS

    def kill(self) -> None:
        """End it without a word; what it has is lost."""
        self._process.kill()
        self.reap()

    def reap(self) -> Use:
        """Take leave of one that ended."""
        # A zombie's clock goes on telling, but its queueing is told no more.
        queued = self._queued_seconds() if self.window.native else 0.0
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        self._note.unlink(missing_ok=True)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return Use(
            exit_code=self._process.returncode,
            cpu_seconds=cpu_seconds,
            memory_bytes=self._memory_bytes,
            pause_seconds=cpu_seconds + queued if self.window.native else 0.0,
            wall_seconds=time.monotonic() - self._began,
        )

    def take_said(self) -> str:
        """Read its own words; their file is gone afterwards."""
        return _take(self._said)[0]

    def take_raw(self) -> tuple[str, bool]:
        """Read its stacks, and whether there are too many; their file is gone afterwards."""
        return _take(self._raw)

    def _note_memory(self) -> None:
        """Look at its memory, a few times a second: a look costs 50 µs.

        ru_maxrss begins at that of the agent that it was forked from.
        """
        now = time.monotonic()
        if now < self._memory_noted_at + _MEMORY_LOOK_SECONDS:
            return
        self._memory_noted_at = now
        with contextlib.suppress(OSError, IndexError, ValueError):
            text = Path(f"/proc/{self.pid}/statm").read_text("ascii")
            self._memory_bytes = max(self._memory_bytes, int(text.split()[1]) * _PAGE_BYTES)

    def _queued_seconds(self) -> float:
        """Give how long its threads waited for a CPU: a target that it holds waits with them.

        The thread that traces works or waits for a CPU whenever it holds a target, so its CPU and
        this bound the pause from above (bench/pauses.py: 1.3 to 2.4 times the truth). Loading the
        symbols of a target is part of it: py-spy does that during its first look (26 to 45 ms of
        pause for a plain CPython 3.11).
        """
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{self.pid}/task"):  # noqa: PTH208 - thread ids, not paths
                with contextlib.suppress(OSError, IndexError, ValueError):
                    text = Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text("ascii")
                    # A thread that has ended keeps what was read last.
                    self._waited_nanos[task] = int(text.split()[1])
        return sum(self._waited_nanos.values()) / _NANOS


def _take(path: Path) -> tuple[str, bool]:
    """Read a file and remove it; one that was never made is empty."""
    try:
        with path.open("rb") as file:
            content = file.read(OUTPUT_BYTES)
        path.unlink()
    except OSError:
        return "", False
    return content.decode("utf-8", "replace"), len(content) == OUTPUT_BYTES


def _confine(parent: int, window: Window) -> None:
    """Run in the child before it becomes py-spy: whatever happens, it ends and stays bounded.

    The kernel kills it when the agent dies. It forgets that where py-spy itself has file
    capabilities (prctl(2)), but not the alarm, so an orphan lives little longer than its window.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(int(window.seconds + SLACK_SECONDS + KILL_AFTER_SECONDS) + _ALARM_SECONDS)
    # Ignored, the limit is an error that py-spy tells of, not a crash.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    memory = _NATIVE_MEMORY_BYTES if window.native else _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_BYTES, OUTPUT_BYTES))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getppid() != parent:  # it died before the call
        os._exit(1)
