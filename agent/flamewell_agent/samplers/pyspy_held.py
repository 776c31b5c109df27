"""The target of a native window: for how long it is held, and that it goes on afterwards.

py-spy attaches to thread by thread, and waits for each to stop. One that sleeps uninterruptibly, or
whose cgroup has no CPU left, does not stop, and those attached before it stay stopped meanwhile:
py-spy then sleeps, so its own clocks do not tell. A py-spy that is killed just then leaves behind
the SIGSTOP with which the kernel makes an attached thread stop, and that stops the whole process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from flamewell_agent.errors import AgentError
from flamewell_agent.model import ProcessKey
from flamewell_agent.procfs import read_stat

WATCH_SECONDS = 0.5
"""For how long a target is looked at after its sampler ended: a stop comes when its thread is on a
CPU again, in a cgroup with a limit in the next period of 0.1 s."""
LOOK_SECONDS = 0.02
_GIVE_UP_SECONDS = 5.0
"""Whoever stops it again and again, it is not us; nor may SIGCONT be sent to everybody."""
_THREADS_LOOKED_AT = 4
"""py-spy attaches in the order of their start: where one does not stop, the first are held."""
_PROC = Path("/proc")
_STOP_PENDING = 1 << (signal.SIGSTOP - 1)
_NANOS = 1_000_000_000


class HeldTarget:
    """A process that a sampler stops; was looked at before, and neither stopped nor traced.

    Attributes:
        held_seconds: For how long it was seen held without a break while ``watch`` looked, less
            what its sampler worked meanwhile.
        stopped_seconds: For how long it was stopped after its sampler had ended.

    Raises:
        OSError: It is gone.
    """

    def __init__(self, key: ProcessKey) -> None:
        self.key = key
        self.held_seconds = self.stopped_seconds = 0.0
        self._held: dict[str, bytes] = {}
        self._stopped_by_others = False
        self._looked_at = self._worked_at = 0.0
        self._until = self._give_up_at = self._stopped_at = 0.0
        self._pidfd = os.pidfd_open(key.pid)
        # From here on the number can't become another's unseen.
        try:
            if read_stat(_PROC, key.pid).start_ticks != key.start_ticks:
                raise ProcessLookupError(f"process {key.pid} is another one")
        except (AgentError, OSError) as error:
            os.close(self._pidfd)
            raise ProcessLookupError(str(error)) from error

    @property
    def is_held(self) -> bool:
        """Whether a thread was held at the last look."""
        return bool(self._held)

    def watch(self, now: float, worked_seconds: float) -> None:
        """Look whether it is held, and count the time since the last look where it was throughout.

        Args:
            now: Monotonic seconds.
            worked_seconds: What its sampler has worked, and waited for a CPU, so far: that is
                counted already.
        """
        threads = list(self._threads())
        # Threads that a sampler holds are in t: it makes them T only by its end.
        self._stopped_by_others = any(state == b"T" for _, state, _ in threads)
        held = {task: switches for task, state, switches in threads if state == b"t"}
        # One that ran in between has switched contexts: that is no look after look, but two.
        if held.items() & self._held.items():
            idle = now - self._looked_at - (worked_seconds - self._worked_at)
            self.held_seconds += max(0.0, idle)
        self._held, self._looked_at, self._worked_at = held, now, worked_seconds

    def release(self, now: float) -> bool:
        """Set it going where its sampler, which has ended, left it stopped.

        One that was stopped before its sampler ended is somebody else's, and left as it is. Asked
        until it is true. SIGCONT also takes back a SIGSTOP that is still on its way to one of
        the threads.

        Returns:
            Whether nothing is left to be done.
        """
        if not self._until:
            self._until, self._give_up_at = now + WATCH_SECONDS, now + _GIVE_UP_SECONDS
        if self._stopped_by_others or select.select([self._pidfd], [], [], 0)[0]:
            return True
        stopped, tracer = self._stopped()
        if stopped and not tracer:
            self._stopped_at = self._stopped_at or now
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
            self._until = now + WATCH_SECONDS
        elif self._stopped_at:
            self.stopped_seconds += now - self._stopped_at
            self._stopped_at = 0.0
        return now >= min(self._until, self._give_up_at)

    def close(self) -> None:
        """Leave it alone."""
        os.close(self._pidfd)

    def _threads(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Give threads with their states and, in a tracing stop, their context switches so far."""
        with contextlib.suppress(OSError):
            tasks = os.listdir(f"/proc/{self.key.pid}/task")  # noqa: PTH208 - thread ids, not paths
            for task in tasks[:_THREADS_LOOKED_AT]:
                with contextlib.suppress(OSError):
                    folder = f"/proc/{self.key.pid}/task/{task}"
                    stat = Path(f"{folder}/stat").read_bytes().rpartition(b")")[2]
                    state, switches = stat[1:2], b""
                    if state == b"t":
                        status = Path(f"{folder}/status").read_bytes()
                        switches = status[status.rfind(b"\nvoluntary_ctxt_switches:") :]
                    yield task, state, switches

    def _stopped(self) -> tuple[bool, bool]:
        """Tell whether it is stopped, or about to be, and whether something traces it."""
        stopped = tracer = False
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{self.key.pid}/task"):  # noqa: PTH208 - see above
                with contextlib.suppress(OSError, ValueError):
                    status = Path(f"/proc/{self.key.pid}/task/{task}/status").read_bytes()
                    stopped = stopped or _field(status, b"State").startswith((b"T", b"t"))
                    pending = int(_field(status, b"SigPnd") or b"0", 16)
                    stopped = stopped or bool(pending & _STOP_PENDING)
                    tracer = tracer or _field(status, b"TracerPid") not in {b"", b"0"}
        return stopped, tracer


def release(targets: list[HeldTarget]) -> None:
    """See that targets go on, and wait for it; they are closed afterwards."""
    while targets:
        for each in [each for each in targets if each.release(time.monotonic())]:
            each.close()
            targets.remove(each)
        if targets:
            time.sleep(LOOK_SECONDS)


def _field(status: bytes, name: bytes) -> bytes:
    """Give a field of /proc/PID/status: the kernel escapes line feeds in names."""
    return status.partition(b"\n" + name + b":")[2].partition(b"\n")[0].strip()
