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
from typing import Literal, NamedTuple

from flamewell_agent.cpu_alarm import CpuAlarms
from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.errors import AgentError
from flamewell_agent.model import Window
from flamewell_agent.procfs import Stat
from flamewell_agent.samplers import pyspy_held, pyspy_orphans
from flamewell_agent.samplers.pyspy_command import command
from flamewell_agent.samplers.pyspy_held import HeldTarget

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
_NATIVE_LOOK_SECONDS = 0.1
"""At most where a target is stopped."""
_NANOS = 1_000_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

EndedFor = Literal["", "time", "cpu", "pause", "memory", "stop"]
"""Why a child was asked to end: one of its limits, or the agent's own end or reload; empty: it was
not."""


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

    Attributes:
        target: That it stops, for native frames; else None. Whoever reaps takes care of it.
        ended_for: Why it was asked to end.

    Raises:
        OSError, subprocess.SubprocessError: It could not be started.
    """

    def __init__(
        self, executable: str, window: Window, work_dir: Path, name: str, before: Stat
    ) -> None:
        self.window = window
        self.before = before
        self.has_alarm = False
        self.ended_for: EndedFor = ""
        self._raw, self._said = work_dir / f"{name}.raw", work_dir / f"{name}.said"
        self._waited_nanos: dict[str, int] = {}
        # How long it worked or waited for a CPU: it may have held its target meanwhile.
        self._worked_seconds = 0.0
        self.memory_bytes = 0
        # py-spy has read the interpreter's symbols by the first look.
        self._memory_noted_at = time.monotonic()
        self.target_cpu_nanos = process_cpu_nanos(window.process.key.pid) or 0
        self.target = HeldTarget(window.process.key) if window.native else None
        try:
            self._start(executable, work_dir)
        except BaseException:
            if self.target is not None:
                self.target.close()
            raise
        self.interrupt_at = self._began + window.seconds + SLACK_SECONDS

    def _start(self, executable: str, work_dir: Path) -> None:
        with self._said.open("wb") as sink:
            self._process = subprocess.Popen(
                command(executable, self.window, self._raw),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={"PATH": os.defpath},
                # System calls, no lock: safe also beside the agent's other threads.
                preexec_fn=functools.partial(_confine, os.getpid(), self.window),  # noqa: PLW1509 - see above
            )
        self._began = time.monotonic()
        try:
            self.pidfd = os.pidfd_open(self.pid)
            held = self.window.process.key if self.window.native else None
            self._note = pyspy_orphans.note(work_dir, self.pid, held)
        except (OSError, AgentError) as error:
            # No descriptors left, or no disk: nobody would ever hear of the child again.
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(AttributeError):
                os.close(self.pidfd)
            if self.target is not None:
                pyspy_held.release([self.target])
                self.target = None
            raise OSError(str(error)) from error

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

    @property
    def exit_code(self) -> int | None:
        """None before it was reaped, negative for a signal."""
        return self._process.returncode

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end."""
        return bool(self.ended_for)

    @property
    def overran(self) -> bool:
        """Whether it was ended for a limit of its own."""
        return self.ended_for not in {"", "stop"}

    @property
    def patience_seconds(self) -> float:
        """How long it may go on before it is looked at again."""
        wait = self.interrupt_at - time.monotonic()
        if not self.interrupted and not self.has_alarm:
            wait = min(wait, self._left()[0])
        if self.target is not None:
            # It is told only while it runs for how long it waited, and held its target.
            wait = min(
                wait, pyspy_held.LOOK_SECONDS if self.target.is_held else _NATIVE_LOOK_SECONDS
            )
        return wait

    def spent(self, now: float) -> EndedFor:
        """Tell which of its limits it is beyond; empty where of none."""
        self._note_memory(now)
        if self.target is not None:
            self._worked_seconds = self._cpu_seconds() + self._queued_seconds()
            self.target.watch(now, self._worked_seconds)
        if now >= self.interrupt_at:
            return "time"
        if self.memory_bytes > self.window.memory_limit_bytes:
            return "memory"
        left, why = self._left()
        return why if left <= 0 else ""

    def end(self, now: float, why: EndedFor) -> None:
        """Ask it to end by SIGINT, which keeps what it has; the second time, kill it."""
        if not self.interrupted:
            self.ended_for = why
            self._send(signal.SIGINT)
        else:
            self._send(signal.SIGKILL)
        self.interrupt_at = now + KILL_AFTER_SECONDS

    def _left(self) -> tuple[float, EndedFor]:
        """Give for how long it may go on at its fastest, and which limit it meets then."""
        cpu = self.window.cpu_limit_seconds - self._cpu_seconds()
        if self.target is None:
            return cpu, "cpu"
        paused = self._worked_seconds + self.target.held_seconds
        pause = self.window.pause_limit_seconds - paused
        return (cpu, "cpu") if cpu < pause else (pause, "pause")

    def _cpu_seconds(self) -> float:
        return (process_cpu_nanos(self.pid) or 0) / _NANOS

    def kill(self) -> None:
        """End it without a word; what it has is lost."""
        self._send(signal.SIGKILL)
        self.reap()

    def _send(self, number: signal.Signals) -> None:
        # Not Popen.send_signal: that reaps one that has just ended, and takes its usage with it.
        signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> Use:
        """Take leave of one that ended."""
        # A zombie's clock goes on telling, but its queueing is told no more.
        queued = self._queued_seconds() if self.target is not None else 0.0
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        self._note.unlink(missing_ok=True)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return Use(
            exit_code=self._process.returncode,
            cpu_seconds=cpu_seconds,
            memory_bytes=self.memory_bytes,
            pause_seconds=cpu_seconds + queued + self.target.held_seconds if self.target else 0.0,
            wall_seconds=time.monotonic() - self._began,
        )

    def take_said(self) -> str:
        """Read its own words; their file is gone afterwards."""
        return _take(self._said)[0]

    def take_raw(self) -> tuple[str, bool]:
        """Read its stacks, and whether there are too many; their file is gone afterwards."""
        return _take(self._raw)

    def _note_memory(self, now: float) -> None:
        """Look at its memory, a few times a second: a look costs 50 µs.

        ru_maxrss begins at that of the agent that it was forked from.
        """
        if now < self._memory_noted_at + _MEMORY_LOOK_SECONDS:
            return
        self._memory_noted_at = now
        with contextlib.suppress(OSError, IndexError, ValueError):
            text = Path(f"/proc/{self.pid}/statm").read_text("ascii")
            self.memory_bytes = max(self.memory_bytes, int(text.split()[1]) * _PAGE_BYTES)

    def _queued_seconds(self) -> float:
        """Give how long its threads waited for a CPU: a target that it holds waits with them.

        The thread that traces works or waits for a CPU whenever it holds a target, but where it
        waits for a thread to stop (``HeldTarget`` sees that), so its CPU and this bound the pause
        from above (bench/pauses.py: 1.3 to 2.4 times the truth). Loading the symbols of a target is
        part of it: py-spy does that during its first look (26 to 45 ms of pause for a plain CPython
        3.11).
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
    most = _allowed(resource.RLIMIT_FSIZE, OUTPUT_BYTES)
    try:
        with path.open("rb") as file:
            content = file.read(most)
        path.unlink()
    except OSError:
        return "", False
    return content.decode("utf-8", "replace"), len(content) >= most


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
    limits = ((resource.RLIMIT_FSIZE, OUTPUT_BYTES), (resource.RLIMIT_AS, memory))
    for kind, wanted in (*limits, (resource.RLIMIT_CORE, 0)):
        most = _allowed(kind, wanted)
        resource.setrlimit(kind, (most, most))
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def _allowed(kind: int, wanted: int) -> int:
    """Give a limit that may be set: none above the one that the agent itself was given."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
