"""Child processes that start and end with this one, their output line by line.

One loop, no threads: pipes, pidfds and signals meet in a selector. Each child leads its own
process group, so that Ctrl-C in a terminal reaches only this process, which then stops the others
in order; the kernel signals a child whose parent is gone, even by kill -9.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from flamewell.errors import CommandError

TAIL_LINES = 15
"""How many of its last lines tell why a child ended."""

_MAX_LINE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_MAX_LAST_READS = 64  # of an ended child whose pipe some stranger may still be writing to
_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61  # "Yama", linux/prctl.h
_PR_SET_PTRACER_ANY = -1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to start a child.

    Attributes:
        name: What its lines and messages are headed with.
        command: Program and arguments.
        environ: Its whole environment.
        folder: Its working directory; None for this process's own.
        readable: Let any process of the same user read its memory where Yama restricts that
            (``ptrace_scope`` 1): lets an unprivileged agent sample it.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    folder: Path | None = None
    readable: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that is gone.

    Attributes:
        spec: How it had been started.
        status: Exit status, or minus the number of the signal that ended it.
        tail: The last lines that it wrote.
    """

    spec: ProcessSpec
    status: int
    tail: tuple[str, ...]

    @property
    def how(self) -> str:
        """Say in words how it ended."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        try:
            return f"was ended by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was ended by signal {-self.status}"


@dataclass(slots=True)
class _Child:
    spec: ProcessSpec
    popen: subprocess.Popen[bytes]
    pidfd: int
    output: int
    partial: bytes = b""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


class Supervisor:
    """Starts children, reads what they write, notices their end, stops them.

    Use it as a context: whatever still runs at its end is killed.
    """

    def __init__(
        self, on_line: Callable[[str, str], None], *, wakeup: socket.socket | None = None
    ) -> None:
        """Make one without children.

        Args:
            on_line: Called with a child's name and each line that it writes.
            wakeup: ``pump`` returns at once when this becomes readable.
        """
        self._on_line = on_line
        self._children: dict[str, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wakeup = wakeup
        if wakeup is not None:
            self._selector.register(wakeup, selectors.EVENT_READ, None)

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what still runs."""
        self.kill()
        self._selector.close()

    @property
    def names(self) -> frozenset[str]:
        """Who runs."""
        return frozenset(self._children)

    def start(self, spec: ProcessSpec) -> int:
        """Start a child.

        Returns:
            Its pid.

        Raises:
            CommandError: Its program can't be run.
        """
        output, theirs = os.pipe()
        try:
            popen = subprocess.Popen(
                spec.command,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env=dict(spec.environ),
                cwd=spec.folder,
                process_group=0,
                # No other thread runs in this program.
                preexec_fn=_child_set_up(os.getpid(), readable=spec.readable),  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(output)
            raise CommandError(f"{spec.name} cannot be started: {error}") from error
        finally:
            os.close(theirs)
        os.set_blocking(output, False)
        child = _Child(spec, popen, os.pidfd_open(popen.pid), output)
        self._children[spec.name] = child
        self._selector.register(child.output, selectors.EVENT_READ, child)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        return popen.pid

    def pump(self, seconds: float | None) -> list[Ended]:
        """Wait for something to happen, and hand on lines.

        Args:
            seconds: How long to wait at most; None for as long as it takes.

        Returns:
            The children that ended meanwhile.
        """
        ended = []
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._drain_wakeup()
            elif key.fd == key.data.output:
                self._read(key.data)
            else:
                ended.append(key.data)
        # Only now: reaping closes descriptors that the loop above may still come to.
        return [self._reap(child) for child in ended]

    def stop(
        self, names: Iterable[str], *, seconds: float, hurry: Callable[[], bool]
    ) -> list[Ended]:
        """Ask some children to end, and wait for them.

        Args:
            names: Whom; those that do not run are left out.
            seconds: How long they have.
            hurry: Asked after each event: True ends the waiting early.

        Returns:
            Those that ended. Who took too long still runs.
        """
        waiting = {name for name in names if name in self._children}
        for name in waiting:
            self._children[name].popen.terminate()
        deadline = time.monotonic() + seconds
        ended: list[Ended] = []
        while waiting & self.names and not hurry():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            ended += self.pump(left)
        return ended

    def kill(self) -> list[str]:
        """Kill all that run, with what they have started themselves.

        Returns:
            Their names.
        """
        killed = sorted(self._children)
        for child in self._children.values():
            _kill_group(child.popen.pid)
        for child in list(self._children.values()):
            self._reap(child)
        return killed

    def _drain_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup is not None and self._wakeup.recv(1024):
                pass

    def _read(self, child: _Child) -> bool:
        """Hand on the whole lines that are there by now; False when there is nothing to read."""
        try:
            data = os.read(child.output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            # All writers are gone; the end itself is told by the pidfd.
            self._unwatch(child.output)
            return False
        *lines, child.partial = (child.partial + data).split(b"\n")
        if len(child.partial) > _MAX_LINE_BYTES:
            lines.append(child.partial)
            child.partial = b""
        for line in lines:
            self._hand_on(child, line)
        return True

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def _hand_on(self, child: _Child, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip()
        child.tail.append(text)
        self._on_line(child.spec.name, text)

    def _reap(self, child: _Child) -> Ended:
        """Collect a child that ended or was killed, with the rest of its output."""
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
        # It is a zombie now: its pid, and with it its group, cannot be anybody else's yet.
        _kill_group(child.popen.pid)
        child.popen.wait()
        for _ in range(_MAX_LAST_READS):
            if not self._read(child):
                break
        if child.partial:
            self._hand_on(child, child.partial)
        for descriptor in (child.output, child.pidfd):
            self._unwatch(descriptor)
            os.close(descriptor)
        del self._children[child.spec.name]
        return Ended(child.spec, child.popen.returncode, tuple(child.tail))


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _child_set_up(parent: int, *, readable: bool) -> Callable[[], None]:
    """Make what runs in the child between fork and exec."""

    def set_up() -> None:
        # SIGTERM, not SIGKILL: collector and agent put their data in order first.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before the line above took hold
            os._exit(1)
        if readable:
            # Fails without Yama, where it is not needed.
            _LIBC.prctl(_PR_SET_PTRACER, ctypes.c_ulong(_PR_SET_PTRACER_ANY), 0, 0, 0)

    return set_up
