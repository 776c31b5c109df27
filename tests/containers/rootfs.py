"""Root file systems for containers: made of what the machine has, or unpacked once and cached.

The machine's own /usr is bound read-only, the interpreter at a path that the host does not have.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

TARGETS = Path(__file__).parent.parent / "targets"
INSIDE = "/opt/interpreter"
"""Where a pyenv build is inside the container; its prefix is found from there."""
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_EMPTY = ("proc", "sys", "dev", "tmp", "etc", "usr", "opt", "work", "opt/interpreter")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython to run in a container.

    Attributes:
        version: ``3.11``.
        python: Its path inside.
        root: A whole root file system that holds it, or None: the machine's own /usr.
        prefix: A directory of the host to be bound at ``INSIDE``, or None.
        library: Its standard library, bound into the prefix, or None: the prefix has one.
    """

    version: str
    python: str
    root: Path | None = None
    prefix: Path | None = None
    library: Path | None = None


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of the host that the container sees."""

    source: Path
    destination: str
    writable: bool = False


def cache() -> Path:
    """Give where scripts/interpreters.sh puts what it has unpacked."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "flamewell" / "interpreters"


def interpreters() -> dict[str, Interpreter]:
    """Give all CPythons from 3.8 on that can be run in a container here, by version."""
    found: dict[str, Interpreter] = {}
    for path in sorted(cache().glob("3.*/usr/bin/python3.*")):
        root = path.parents[2]
        if path.name == f"python{root.name}":
            found[root.name] = Interpreter(root.name, f"/usr/bin/{path.name}", root=root)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in pyenv.glob("3.*/bin/python3.*"):
        match = re.fullmatch(r"python(3\.(?:[89]|1\d))", path.name)
        if match:
            inside = f"{INSIDE}/bin/{path.name}"
            found.setdefault(
                match.group(1), Interpreter(match.group(1), inside, prefix=path.parents[1])
            )
    for path in Path("/usr/bin").glob("python3.*"):
        match = re.fullmatch(r"python(3\.(?:[89]|1\d))", path.name)
        if match:
            found.setdefault(match.group(1), Interpreter(match.group(1), str(path)))
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition(".")[2])))


def musl_interpreter() -> Interpreter | None:
    """Give a CPython whose root file system has no other libc than musl, where it was made."""
    root = cache() / "musl-3.11"
    python = "/usr/bin/python3.11"
    return Interpreter("3.11", python, root=root) if (root / python[1:]).exists() else None


def free_threaded_interpreter() -> Interpreter | None:
    """Give a CPython without a GIL, where it was made."""
    prefix = cache() / "free-threaded-3.13"
    if not (prefix / "bin/python3.13t").exists():
        return None
    return Interpreter("3.13", f"{INSIDE}/bin/python3.13t", prefix=prefix)


def any_interpreter() -> Interpreter:
    """Give one that is on every machine: our own version where it is there, else the newest."""
    found = interpreters()
    ours = sysconfig.get_python_version()
    if ours in found:
        return found[ours]
    if not found:
        raise LookupError(f"{sys.executable} can't be bound into a container")
    return list(found.values())[-1]


def build(directory: Path, interpreter: Interpreter) -> tuple[Path, list[Bind]]:
    """Give a root directory and what to bind into it. Nothing is copied, so it takes no time."""
    binds = [Bind(TARGETS, "/work")]
    if interpreter.root is not None:
        return interpreter.root, binds
    directory.mkdir(parents=True, mode=0o755)
    for name in _EMPTY:
        (directory / name).mkdir(mode=0o755, exist_ok=True)
    for name, target in _LINKS.items():
        (directory / name).symlink_to(target)
    binds.append(Bind(Path("/usr"), "/usr"))
    if interpreter.prefix is not None:
        binds.append(Bind(interpreter.prefix, INSIDE))
    if interpreter.library is not None:
        binds.append(Bind(interpreter.library, f"{INSIDE}/lib/{interpreter.library.name}"))
    return directory, binds
