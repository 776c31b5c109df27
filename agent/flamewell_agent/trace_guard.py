"""Stands between the agent and a tracer: whatever dies, the target goes on untraced.

Run as a program of its own, by path and with the standard library alone. Its standard input is a
lifeline: when the agent ends, however it ends, the read side sees it, the tracer is told to end,
killed if it does not, and a target that was left stopped is set going again. The tracer itself
dies with this process (PDEATHSIG) and, where that is cleared, by an alarm of its own.

Input: none but the lifeline. Output: one line of JSON, then what the tracer wrote, head and tail.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 1.0
"""From the polite signal to SIGKILL: strace and gdb need some 10 ms to let go of a target."""
_RELEASE_SECONDS = 5.0
_ALARM_SECONDS = 10
_MEMORY_BYTES = 1 << 30
"""Address space of a tracer: gdb reads all symbols of its target, beside an agent with a limit."""
_HALF_BYTES = 400 * 1024
"""Kept of the beginning and of the end of what the tracer writes; with JSON's escapes below the
1 MiB that a collector takes."""
_START_TICKS_FIELD = 19
"""Field 22 of /proc/PID/stat, counted behind the name."""


@dataclass(slots=True)
class Outcome:
    """How it went.

    Attributes:
        ended: ``done``; ``time_up``; ``target_ended``; ``called_off``; ``not_the_process``;
            ``traced_already``; ``stopped_already``; ``no_start``.
        attached: Whether the tracer was seen on the target.
        exit_code: Of the tracer, negative for a signal.
        target: ``running``, ``gone``, ``continued`` (it had been left stopped) or ``held``.
        seconds: From the tracer's start to its end.
        detail: More, for people.
    """

    ended: str = "done"
    attached: bool = False
    exit_code: int = 0
    target: str = "running"
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done.

    Attributes:
        command: Program and arguments of the tracer.
        pid: The target; it must be the process that began at ``start_ticks``.
        start_ticks: Clock ticks after boot.
        seconds: At most.
        polite: The signal that makes the tracer detach and end.
    """

    command: list[str]
    pid: int
    start_ticks: int
    seconds: int
    polite: int


class Kept:
    """The head and the tail of a stream."""

    def __init__(self, half_bytes: int = _HALF_BYTES) -> None:
        self._half = half_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._lost = 0

    def add(self, data: bytes) -> None:
        """Take more; what does not fit in the middle is dropped."""
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        excess = len(self._tail) - self._half
        if excess > 0:
            del self._tail[:excess]
            self._lost += excess

    def content(self) -> bytes:
        """Give what was kept."""
        gap = f"\n... {self._lost} bytes left out ...\n".encode() if self._lost else b""
        return bytes(self._head) + gap + bytes(self._tail)


def look(pid: int) -> tuple[str, int, int]:
    """Read a process: the worst state of its threads, its tracer, and its start time in ticks.

    Returns:
        State ``""`` where it is gone; ``T`` stopped and ``t`` traced count more than others.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        tracer = _status_field(f"/proc/{pid}/status", "TracerPid")
    except OSError:
        return "", 0, 0
    state = stat[0].decode("ascii", "replace")
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - numbers are wanted, not paths
            with contextlib.suppress(OSError):
                here = Path(f"/proc/{pid}/task/{task}/stat").read_bytes().rpartition(b")")[2]
                found = here.split()[0].decode("ascii", "replace")
                state = found if found in "Tt" and state != "t" else state
                tracer = tracer or _status_field(f"/proc/{pid}/task/{task}/status", "TracerPid")
    return ("" if state in "ZX" else state), tracer, int(stat[_START_TICKS_FIELD])


def trace(task: Task) -> tuple[Outcome, bytes]:
    """Run a tracer on a process for a while, and see the process free afterwards."""
    outcome, kept = Outcome(), Kept()
    try:
        # From here on the number can't be another process's without this descriptor saying so.
        target = os.pidfd_open(task.pid)
    except OSError:
        outcome.ended, outcome.target = "not_the_process", "gone"
        return outcome, b""
    try:
        state, tracer, began = look(task.pid)
        if began != task.start_ticks or not state:
            outcome.ended, outcome.target = "not_the_process", "gone"
        elif tracer:
            outcome.ended, outcome.detail = "traced_already", f"by process {tracer}"
        elif state in "Tt":
            outcome.ended = "stopped_already"
        else:
            _run(task, target, outcome, kept)
            outcome.target = release(task.pid, target)
    finally:
        os.close(target)
    return outcome, kept.content()


def _run(task: Task, target: int, outcome: Outcome, kept: Kept) -> None:
    """Start the tracer, and end it; ``target`` is the process's descriptor."""
    guard = os.getpid()
    limit = task.seconds + _ALARM_SECONDS

    def bind_to_guard() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # An alarm outlives exec, and file capabilities do not clear it.
        signal.alarm(limit)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        if os.getppid() != guard:
            os._exit(1)

    began = time.monotonic()
    try:
        child = subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": "/nonexistent"},
            cwd="/",
            preexec_fn=bind_to_guard,  # noqa: PLW1509 - this process has one thread
        )
    except OSError as error:
        outcome.ended, outcome.detail = "no_start", str(error)
        return
    try:
        _watch(child, task, target, outcome, kept)
    finally:
        child.kill()
        outcome.exit_code = child.wait()
        end_session(guard)
        outcome.seconds = round(time.monotonic() - began, 3)
        _drain(child, kept)


def _watch(
    child: subprocess.Popen[bytes], task: Task, target: int, outcome: Outcome, kept: Kept
) -> None:
    """Read what the tracer writes until it ends, or has to be ended."""
    assert child.stdout is not None  # noqa: S101 - for the type checker
    output = child.stdout.fileno()
    waiting = {output, 0, target}
    deadline = time.monotonic() + task.seconds
    asked_at = 0.0
    while child.poll() is None:
        ready, _, _ = select.select(list(waiting), [], [], _LOOK_SECONDS)
        if output in ready:
            data = os.read(output, 1 << 16)
            kept.add(data)
            waiting -= set() if data else {output}
        if not outcome.attached:
            outcome.attached = look(task.pid)[1] == child.pid
        why = ""
        if 0 in ready:  # its end, or a word: both mean that nobody wants this any more
            why = "called_off"
        elif target in ready:
            # Where nothing was attached yet, the number might be another process's at once.
            why = "target_ended"
        elif time.monotonic() >= deadline:
            why = "time_up"
        if why and not asked_at:
            asked_at, outcome.ended = time.monotonic(), why
            unsure = why == "target_ended" and not outcome.attached
            child.send_signal(signal.SIGKILL if unsure else task.polite)
            waiting -= {0, target}
        elif asked_at and time.monotonic() - asked_at > _GRACE_SECONDS:
            outcome.detail = "the tracer had to be killed"
            return


def release(pid: int, target: int) -> str:
    """See that a process whose tracer has ended is neither traced nor stopped.

    It was neither before. gdb stops a process by a SIGSTOP, and one that is killed in between can
    leave it behind.

    Returns:
        ``running``, ``gone``, ``continued`` or ``held``.
    """
    found = "running"
    deadline = time.monotonic() + _RELEASE_SECONDS
    while time.monotonic() < deadline:
        if select.select([target], [], [], 0)[0]:
            return "gone"
        state, tracer, _ = look(pid)
        if not state:
            return "gone"
        if state in "Tt" and not tracer:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(target, signal.SIGCONT)
            found = "continued"
        elif not tracer:
            # A second look: a SIGSTOP that was on its way shows a moment later.
            time.sleep(_LOOK_SECONDS)
            state, tracer, _ = look(pid)
            if state not in {"T", "t"} and not tracer:
                return found
        time.sleep(_LOOK_SECONDS)
    return "held"


def end_session(session: int) -> None:
    """Kill what is left in a session but its leader, whose pid is ``session``.

    strace tries ptrace out on a child of its own when it starts; one that is killed just then
    leaves that child behind, asleep for ever.
    """
    for name in os.listdir("/proc"):  # noqa: PTH208 - numbers are wanted, not paths
        if name.isdecimal() and int(name) != session:
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) == session:
                    os.kill(int(name), signal.SIGKILL)


def _drain(child: subprocess.Popen[bytes], kept: Kept) -> None:
    """Take what is still in the pipe."""
    assert child.stdout is not None  # noqa: S101 - for the type checker
    os.set_blocking(child.stdout.fileno(), False)
    with contextlib.suppress(OSError):
        while data := os.read(child.stdout.fileno(), 1 << 16):
            kept.add(data)
    child.stdout.close()


def _status_field(path: str, name: str) -> int:
    """Read a number of a status file; 0 where there is none.

    The kernel escapes line feeds in names, and nothing else that splits lines elsewhere.
    """
    start = name.encode() + b":"
    for line in Path(path).read_bytes().split(b"\n"):
        value = line.removeprefix(start).strip()
        if line.startswith(start) and value.isdigit():
            return int(value)
    return 0


def main(arguments: list[str]) -> int:
    """Run by the agent: PID START_TICKS SECONDS SIGNAL PROGRAM [ARGUMENT...]."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Handled by doing nothing, not ignored: what is ignored stays so in the tracer.
        signal.signal(number, lambda *_: None)
    pid, start_ticks, seconds, polite = (int(each) for each in arguments[:4])
    # If all of this hangs, it ends nevertheless, and the tracer with it.
    signal.alarm(int(seconds + _ALARM_SECONDS + _GRACE_SECONDS + _RELEASE_SECONDS))
    outcome, content = trace(Task(arguments[4:], pid, start_ticks, seconds, polite))
    with contextlib.suppress(OSError):  # the agent may be gone
        sys.stdout.buffer.write(json.dumps(asdict(outcome)).encode() + b"\n" + content)
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # An output that nobody reads must not turn into an error at the interpreter's own flush.
    os._exit(status)
