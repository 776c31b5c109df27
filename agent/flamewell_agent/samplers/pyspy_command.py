"""How py-spy is called: where it is, and the flags that make each kind of window."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

from flamewell_agent.errors import SamplerError
from flamewell_agent.model import Window


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


def command(executable: str, window: Window, raw: Path) -> list[str]:
    """Give the command line of a window. Pure.

    Args:
        executable: The py-spy program.
        window: Its kind decides between GIL holders and all threads (``--idle`` turns off py-spy's
            idle detection, which is wrong across PID namespaces); ``native`` needs the target
            stopped at each look, all others never stop it.
        raw: Where the stacks go.
    """
    return [
        executable, "record", "-F", "--full-filenames", "--format", "raw",
        "--idle" if window.kind == "wall" else "--gil",
        "--native" if window.native else "--nonblocking",
        *(["--threads"] if window.threads else []),
        "-r", str(window.rate_hz), "-d", str(window.seconds),
        "-p", str(window.process.key.pid), "-o", str(raw),
    ]  # fmt: skip
