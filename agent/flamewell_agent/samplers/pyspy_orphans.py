"""Notes of the py-spy children at work, so that the next run ends those that a killed one left.

A note is an empty file ``PID-START_TICKS.child``: nothing to be torn, one system call to make. That
of a child which stops its target goes on with ``-PID-START_TICKS`` of the target.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from flamewell_agent.errors import ProcessGoneError, ProcessUnreadableError
from flamewell_agent.model import ProcessKey
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers import pyspy_held
from flamewell_agent.samplers.pyspy_held import HeldTarget

_SUFFIX = ".child"
_COMM_BYTES = 15
"""The kernel cuts names there (TASK_COMM_LEN)."""
_WAIT_MILLISECONDS = 2000


def note(work_dir: Path, pid: int, held: ProcessKey | None = None) -> Path:
    """Note a child that was just started; gives the note, to be removed when it ended.

    Args:
        work_dir: Where notes are.
        pid: Of the child.
        held: The target, where it stops it.
    """
    numbers = (pid, read_stat(Path("/proc"), pid).start_ticks, *(held or ()))
    path = work_dir / f"{'-'.join(map(str, numbers))}{_SUFFIX}"
    path.touch(mode=0o600)
    return path


def end_orphans(work_dir: Path, program: str) -> list[int]:
    """End the children that an earlier run noted and that are still at work.

    Killed, not asked: nobody wants their data, and the kernel lets go of what they traced. What
    they left stopped, those that have ended before included, is set going.

    Args:
        work_dir: Where the notes are.
        program: Base name of the sampler: a pid and start time of before a reboot could, with
            much bad luck, be another process's.

    Returns:
        The pids that were ended.
    """
    ended, targets = [], []
    for path in work_dir.glob(f"*{_SUFFIX}"):
        texts = path.name.removesuffix(_SUFFIX).split("-")
        if len(texts) not in {2, 4} or not all(map(_is_number, texts)):
            continue
        pid, ticks, *held = map(int, texts)
        if _end(pid, ticks, program):
            ended.append(pid)
        if held:
            with contextlib.suppress(OSError, OverflowError):
                targets.append(HeldTarget(ProcessKey(*held)))
    pyspy_held.release(targets)
    return ended


def _end(pid: int, start_ticks: int, program: str) -> bool:
    with contextlib.suppress(OSError, OverflowError, ProcessGoneError, ProcessUnreadableError):
        # Opened before it is looked at: from here on the number can't become another's.
        pidfd = os.pidfd_open(pid)
        try:
            stat = read_stat(Path("/proc"), pid)
            if (stat.start_ticks, stat.comm) == (start_ticks, program[:_COMM_BYTES]):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                ended = select.poll()
                ended.register(pidfd, select.POLLIN)
                return bool(ended.poll(_WAIT_MILLISECONDS))
        finally:
            os.close(pidfd)
    return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _COMM_BYTES
