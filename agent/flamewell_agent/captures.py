"""One strace summary or gdb backtrace of one process, for at most ten seconds.

Both hold their target: strace stops it at each system call (a target that calls the system often
runs 13 to 25 times slower), gdb for as long as it reads. They are therefore off unless collector
and agent both allow them, and run one at a time. ``trace_guard`` sees that no tracer stays behind.

What remains risky: gdb reads the target's executable and memory, which a hostile target makes what
it likes, so a flaw of gdb's own readers is reachable; files of other mount namespaces are not
opened. gdb's commands may neither write to the target, nor call its functions, nor load its
scripts or libraries.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flamewell_agent import trace_guard, trace_record
from flamewell_agent.model import ProcessKey

log = logging.getLogger(__name__)

TraceKind = Literal["strace", "gdb"]
MAX_SECONDS = 10
COST = {
    "strace": "a process that calls the system often runs 13 to 25 times slower meanwhile",
    "gdb": "the process stands still meanwhile",
}
_PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POLITE = {"strace": signal.SIGINT, "gdb": signal.SIGTERM}
"""What each answers by letting go of its target; strace writes its summary then."""
_GUARD = Path(trace_guard.__file__)
_GUARD_SLACK_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_TEXT_BYTES = 1_000_000
_GDB_SETTINGS = (
    "set auto-load off",
    "set auto-load safe-path /nonexistent",
    "set debuginfod enabled off",
    "set debug-file-directory /usr/lib/debug",
    # A thread library is code of the target's choice.
    "set libthread-db-search-path /nonexistent",
    "set may-call-functions off",
    "set may-write-memory off",
    "set may-write-registers off",
    "set may-insert-breakpoints off",
    "set may-insert-tracepoints off",
    # A hostile executable may call any file of the node its source, to have lines of it shown.
    "set source open off",
    "set substitute-path / /nonexistent/",
    "set print frame-info location",
    # Values of arguments may be secrets.
    "set print frame-arguments none",
    "set print entry-values no",
    "set pagination off",
    "set confirm off",
    "set width 0",
)
_GDB_FRAMES = 256
_ENDINGS = {
    "not_the_process": ("failed", "the process has ended"),
    "target_ended": ("failed", "the process has ended"),
    "called_off": ("failed", "it was called off"),
    "traced_already": ("refused", "the process is traced by another program"),
    "stopped_already": ("refused", "the process is stopped"),
    "no_start": ("failed", "the tracer could not be started"),
}


@dataclass(frozen=True, slots=True)
class TraceResult:
    """What came of it.

    Attributes:
        state: As orders are reported.
        detail: Why, or what to know about it.
        text: What the tracer wrote, harmless: printable characters, tabs and line ends.
    """

    state: Literal["done", "failed", "refused"]
    detail: str
    text: str = ""


def find_tracer(kind: str, program_path: str = _PROGRAM_PATH) -> str | None:
    """Find strace or gdb, in the places of the system's own programs alone."""
    return shutil.which(kind, path=program_path)


class Tracers:
    """Runs tracers, one at a time on this node.

    Args:
        program_path: Where strace and gdb are looked for, as in PATH.
        record: A file in which the target stands meanwhile, for ``rescue`` in the next run; None
            for none.
    """

    def __init__(self, program_path: str = _PROGRAM_PATH, *, record: Path | None = None) -> None:
        self._program_path = program_path
        self._record = record
        self._one_at_a_time = threading.Lock()
        self._guard: int | None = None

    def rescue(self) -> None:
        """Set going what a former run, killed with its guard, left stopped; takes 5 s at most."""
        if self._record is None:
            return
        key = trace_record.read(self._record)
        if key is not None:
            target = _free(key)
            level = logging.INFO if target in {"gone", "running"} else logging.WARNING
            log.log(
                level, "a tracing capture of process %d was cut off: the process is %s",
                key.pid, target,
            )  # fmt: skip
        trace_record.clear(self._record)

    def children(self) -> tuple[int, ...]:
        """Give the pids of the guard and the tracer at work: discovery leaves them out."""
        guard = self._guard
        if guard is None:
            return ()
        with contextlib.suppress(OSError, ValueError):
            text = Path(f"/proc/{guard}/task/{guard}/children").read_text(encoding="ascii")
            return (guard, *(int(each) for each in text.split()))
        return (guard,)

    def run(
        self, kind: TraceKind, key: ProcessKey, seconds: int, stop: threading.Event
    ) -> TraceResult:
        """Trace a process; gives back within ``seconds`` and some for letting go.

        Args:
            kind: By what.
            key: The process; another one that has its pid by then is left alone.
            seconds: At most, and never more than ``MAX_SECONDS``.
            stop: Calls it off.
        """
        program = find_tracer(kind, self._program_path)
        if program is None:
            return TraceResult("refused", f"{kind} is not installed here: apt-get install {kind}")
        if key.pid == os.getpid():
            return TraceResult("refused", "the agent does not trace itself")
        if not self._one_at_a_time.acquire(blocking=False):
            return TraceResult("refused", "another tracing capture runs on this node: ask again")
        seconds = min(seconds, MAX_SECONDS)
        try:
            log.warning(
                "a %s capture of process %d begins: %s, for up to %d s",
                kind, key.pid, COST[kind], seconds,
            )  # fmt: skip
            command = make_command(kind, program, key.pid)
            if self._record is not None:
                trace_record.write(self._record, key)
            outcome, output = self._guarded(kind, command, key, seconds, stop)
            if self._record is not None and outcome.target != "held":
                trace_record.clear(self._record)
            log.warning(
                "the %s capture of process %d is over: %s, the process is %s",
                kind, key.pid, outcome.ended, outcome.target,
            )  # fmt: skip
        except OSError as error:
            return TraceResult("failed", f"it could not be begun: {error}")
        finally:
            self._one_at_a_time.release()
        return judge(kind, outcome, printable(output))

    def _guarded(
        self,
        kind: TraceKind,
        command: list[str],
        key: ProcessKey,
        seconds: int,
        stop: threading.Event,
    ) -> tuple[trace_guard.Outcome, bytes]:
        numbers = [str(each) for each in (key.pid, key.start_ticks, seconds, int(_POLITE[kind]))]
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_GUARD), *numbers, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath},
            # Ctrl-C in the agent's terminal must not reach guard and tracer at once.
            start_new_session=True,
        )
        self._guard = guard.pid
        try:
            said = _listen(guard, time.monotonic() + seconds + _GUARD_SLACK_SECONDS, stop)
        finally:
            _close(guard)
            self._guard = None
        outcome, output = parse_said(said)
        if outcome is None:
            outcome = _rescue(key, guard.pid)
        return outcome, output


def make_command(kind: TraceKind, program: str, pid: int) -> list[str]:
    """Give the command line of a tracer: our own words and a number, nothing of the target's."""
    if kind == "strace":
        return [program, "-c", "-f", "-q", "-p", str(pid)]
    sysroot = "/" if _shares_our_files(pid) else "/nonexistent"
    settings = [*_GDB_SETTINGS, f"set sysroot {sysroot}"]
    return [
        program, "-nx", "-nh", "-q", "-batch",
        *(part for setting in settings for part in ("-iex", setting)),
        "-p", str(pid), f"/proc/{pid}/exe",
        "-ex", f"thread apply all bt {_GDB_FRAMES}",
    ]  # fmt: skip


def judge(kind: TraceKind, outcome: trace_guard.Outcome, text: str) -> TraceResult:
    """Decide what a tracer's end means. Pure."""
    if outcome.target == "held":
        return TraceResult(
            "failed",
            "THE PROCESS MAY STILL BE STOPPED OR TRACED: look at State and TracerPid in its "
            "/proc/PID/status, and send it SIGCONT",
            text,
        )
    if outcome.ended in _ENDINGS and not (outcome.ended == "target_ended" and outcome.attached):
        state, why = _ENDINGS[outcome.ended]
        detail = f"{why}: {outcome.detail}" if outcome.detail else why
        return TraceResult("refused" if state == "refused" else "failed", detail, text)
    if not outcome.attached and outcome.exit_code:
        refused = "not permitted" in text
        mend = (
            "the kernel does not let the agent trace it: CAP_SYS_PTRACE is needed, "
            "`flamewell-agent check` says more"
        )
        why = outcome.detail or text.strip().rpartition("\n")[2][:200]
        return TraceResult("failed", mend if refused else f"{kind} did not attach: {why}", text)
    notes = [f"{kind} for {outcome.seconds:.1f} s; {COST[kind]}"]
    if kind == "gdb" and outcome.ended == "time_up":
        notes.append("its time was up before all threads were read")
    if outcome.target == "continued":
        notes.append("the process was left stopped and has been set going again")
    if outcome.detail:
        notes.append(outcome.detail)
    return TraceResult("done", "; ".join(notes), text)


def parse_said(said: bytes) -> tuple[trace_guard.Outcome | None, bytes]:
    """Take the guard's output apart: None where it did not come to say anything. Pure."""
    head, _, output = said.partition(b"\n")
    try:
        found: dict[str, Any] = json.loads(head)
        return trace_guard.Outcome(**found), output
    except (ValueError, TypeError):
        return None, b""


def printable(output: bytes) -> str:
    """Make text of what a tracer wrote, without anything that acts on a terminal. Pure."""
    text = output.decode("utf-8", "replace")
    harmless = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
    return harmless.encode()[:_TEXT_BYTES].decode("utf-8", "ignore")


def _listen(guard: subprocess.Popen[bytes], deadline: float, stop: threading.Event) -> bytes:
    """Read all that the guard says; closing its input calls the capture off."""
    assert guard.stdout is not None  # noqa: S101 - for the type checker
    assert guard.stdin is not None  # noqa: S101 - as above
    said = b""
    while time.monotonic() < deadline:
        if stop.is_set() and not guard.stdin.closed:
            guard.stdin.close()
        if select.select([guard.stdout], [], [], _LOOK_SECONDS)[0]:
            part = os.read(guard.stdout.fileno(), 1 << 16)
            if not part:
                return said
            said += part
    return said


def _close(guard: subprocess.Popen[bytes]) -> None:
    """Make sure that the guard is gone; the kernel ends its tracer with it."""
    for stream in (guard.stdin, guard.stdout):
        if stream is not None:
            stream.close()
    try:
        guard.wait(_LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _rescue(key: ProcessKey, guard: int) -> trace_guard.Outcome:
    """Do the guard's last work after one that was killed."""
    outcome = trace_guard.Outcome(ended="no_start", detail="the guard ended without a word")
    trace_guard.end_session(guard)
    outcome.target = _free(key)
    return outcome


def _free(key: ProcessKey) -> str:
    """See that a process is neither traced nor stopped; gives what ``release`` gives."""
    try:
        target = os.pidfd_open(key.pid)
    except OSError:
        return "gone"
    try:
        _, _, began = trace_guard.look(key.pid)
        return trace_guard.release(key.pid, target) if began == key.start_ticks else "gone"
    finally:
        os.close(target)


def _shares_our_files(pid: int) -> bool:
    """Tell whether a path of the target's means the same file here."""
    try:
        same = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")  # noqa: PTH115 - no path, a name
        return same and os.readlink(f"/proc/{pid}/root") == "/"  # noqa: PTH115 - as above
    except OSError:
        return False
