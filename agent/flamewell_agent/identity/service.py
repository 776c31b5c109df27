"""What to call a process that nobody named: from its arguments. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OPTIONS_WITH_VALUE = {"-W", "-X", "--check-hash-based-pycs"}
_INTERPRETER = re.compile(r"python[\d.]*t?d?$")
_BAD = re.compile(r"[^\w.@:+/-]+")
_LENGTH_AT_MOST = 120


def python_service(executable: str, cmdline: Sequence[str]) -> str:
    """Name a Python process for its program, not for the interpreter.

    ``python app.py`` is ``app``, ``python -m pkg.mod`` is ``pkg.mod``, a console script is its own
    name, ``python -c …`` and an interactive interpreter are the interpreter's name.
    """
    if not _INTERPRETER.search(executable):
        return tidy(executable)
    arguments = list(cmdline[1:])
    while arguments:
        argument = arguments.pop(0)
        if argument == "-m" and arguments:
            return tidy(arguments[0])
        if argument in {"-c", "-"}:
            break
        if argument in _OPTIONS_WITH_VALUE and arguments:
            arguments.pop(0)
        elif not argument.startswith("-"):
            name = argument.rstrip("/").rpartition("/")[2]
            if name in {"__main__.py", "manage.py", "main.py", "app.py"} and "/" in argument:
                # The folder says more than a name that every second project uses.
                folder = argument.split("/")[-2]
                name = folder if folder not in {"", ".", "bin", "src", "app"} else name
            return tidy(name.removesuffix(".py"))
    return tidy(executable)


def tidy(name: str) -> str:
    """Make a name that is fit for a label: no control characters, bounded."""
    return _BAD.sub("_", name).strip("_")[:_LENGTH_AT_MOST] or "unknown"
