"""What tests of containers ask of them again and again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from containers import runc
from containers.rootfs import Interpreter, interpreters, musl_interpreter

from flamewell_agent.discovery import Discovery
from flamewell_agent.model import Process

INTERPRETERS = interpreters()
MUSL = musl_interpreter()
BOUND = next((each for each in INTERPRETERS.values() if each.prefix is not None), None)
"""One whose files are not below /usr: they can be copied, and then deleted and closed."""


def seen(pid: int) -> Process:
    """Give what discovery tells of a process."""
    (found,) = [each for each in Discovery().scan() if each.key.pid == pid]
    return found


def pid_with(until: Callable[..., object], running: runc.Running) -> int:
    """Give the pid once it runs the interpreter: runc's own stub comes first."""
    process = Path(f"/proc/{running.pid}")
    until(lambda: "python" in (process / "comm").read_text(), what="the interpreter")
    # The libc is the last of its libraries.
    maps = process / "maps"
    until(lambda: re.search(rb"/(libc|ld-musl)[-.]", maps.read_bytes()), what="its libraries")
    return running.pid


def copy_of(interpreter: Interpreter, directory: Path) -> Interpreter:
    """Copy an interpreter's program and libpython, so that they may be deleted."""
    if interpreter.prefix is None:
        raise LookupError(f"{interpreter} is in no directory of its own")
    prefix = directory / "prefix"
    library = interpreter.prefix / "lib" / f"python{interpreter.version}"
    (prefix / "lib" / library.name).mkdir(parents=True)
    (prefix / "bin").mkdir()
    shutil.copy(interpreter.prefix / "bin" / f"python{interpreter.version}", prefix / "bin")
    for each in interpreter.prefix.glob(f"lib/libpython{interpreter.version}*.so*"):
        shutil.copy(each, prefix / "lib", follow_symlinks=False)
    return Interpreter(interpreter.version, interpreter.python, prefix=prefix, library=library)
