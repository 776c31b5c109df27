"""The process that is being traced, in a file: should all of the agent be killed at once.

``trace_guard`` frees a target when the agent dies, or the agent when the guard does. Where both are
killed together (a whole container that runs out of memory, a pod that is deleted by force) the
next run reads this.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from flamewell_agent.model import ProcessKey

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOST_BYTES = 4096


def write(path: Path, key: ProcessKey) -> None:
    """Say that a process is about to be traced.

    Raises:
        OSError: It cannot be written: nothing may be traced then.
    """
    content = json.dumps({"boot": _boot(), "pid": key.pid, "start_ticks": key.start_ticks})
    temporary = path.with_suffix(".tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    # No fsync: after a power cut there is no such process.
    with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
        file.write(content)
    temporary.rename(path)


def read(path: Path) -> ProcessKey | None:
    """Give the process that was being traced; None where none was, or before this boot."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
        if found["boot"] != _boot():
            return None
        return ProcessKey(int(found["pid"]), int(found["start_ticks"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def clear(path: Path) -> None:
    """Say that none is."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
