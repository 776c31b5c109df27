"""What to call a process that nobody named: from its arguments. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_INTERPRETER = re.compile(r"python[\d.]*t?d?$")
_WITH_VALUE, _PROGRAM = "WX", "cm"
"""Short options of the interpreter: those with a value, and those that end the options."""
_LONG_WITH_VALUE = "--check-hash-based-pycs"
_ARGUMENTS_AT_MOST = 64
_GUNICORN = re.compile(r"gunicorn: [\w -]+ \[([^\]:]+)")
_CELERY = re.compile(r"\[(celery)d?: ")
_SERVERS = frozenset({"gunicorn", "uvicorn", "hypercorn", "daphne", "granian", "waitress-serve"})
_APPLICATION = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_][\w.]*(?:\(.*\))?")
"""What such a server is told to serve, ``shop.web:app``: a port would be a number."""
_ENTRY_FILES = frozenset({"__main__.py", "manage.py", "main.py", "app.py"})
_DULL_FOLDERS = frozenset({"", ".", "..", "bin", "src", "app"})
_BAD = re.compile(r"[^\w.@:+/-]+")
_LENGTH_AT_MOST = 120
VALUE_BYTES_AT_MOST = 1_024
"""Of a label's value. The collector refuses a whole series with a value beyond 2,048."""


def python_service(executable: str, cmdline: Sequence[str]) -> str:
    """Name a Python process for its program, not for the interpreter.

    ``python app.py`` is ``app``, ``python -m pkg.mod`` is ``pkg.mod``, a console script is its own
    name, ``gunicorn shop.web:app`` is ``shop.web``, ``python -c …`` and an interactive interpreter
    are the interpreter's name. What a server wrote over its arguments gives the same name.
    """
    if not _INTERPRETER.search(executable):
        return tidy(executable)
    arguments = [each for each in cmdline[1:] if each]
    program = _title(cmdline) or _program(arguments)
    if program in _SERVERS:
        served = (_APPLICATION.fullmatch(each) for each in arguments)
        program = next((match.group(1) for match in served if match), program)
    return tidy(program or executable)


def is_generic(name: str, executable: str) -> bool:
    """Tell whether a name says no more than that it is Python."""
    return name == tidy(executable) and bool(_INTERPRETER.search(executable))


def tidy(name: str) -> str:
    """Make a name that is fit for a label: no control characters, bounded."""
    # Cut before and after: a name may be a megabyte long.
    short = _BAD.sub("_", name[: 8 * _LENGTH_AT_MOST]).strip("_")
    return short[:_LENGTH_AT_MOST] or "unknown"


def clean(value: str) -> str:
    """Make a value that can be sent: nothing that is not printed, bounded in bytes."""
    text = value[:VALUE_BYTES_AT_MOST]
    if not text.isprintable():  # half surrogate pairs are not, either
        text = "".join(each if each.isprintable() else "_" for each in text)
    return text.encode()[:VALUE_BYTES_AT_MOST].decode("utf-8", "ignore")


def _program(arguments: Sequence[str]) -> str:
    """Give script or module behind the interpreter's own options, empty where there is none."""
    left = iter(arguments[:_ARGUMENTS_AT_MOST])
    for argument in left:
        if argument == "-":
            return ""
        if not argument.startswith("-"):
            return _script(argument)
        if argument == _LONG_WITH_VALUE:
            next(left, "")
        elif not argument.startswith("--"):
            # Letters may stand together, and a value right behind its letter: -um pkg, -Wignore.
            at = next((at for at, each in enumerate(argument) if each in _WITH_VALUE + _PROGRAM), 0)
            if at:
                value = argument[at + 1 :] or next(left, "")
                if argument[at] in _PROGRAM:
                    return value if argument[at] == "m" else ""
    return ""


def _script(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    if name in _ENTRY_FILES and "/" in path:
        # The folder says more than a name that every second project uses.
        folder = path.split("/")[-2]
        name = name if folder in _DULL_FOLDERS else folder
    return name.removesuffix(".py")


def _title(cmdline: Sequence[str]) -> str:
    """Give the program out of a title that it wrote over its arguments, empty where it wrote none.

    Preforking servers do that (through the setproctitle package), each worker another one:
    ``gunicorn: worker [shop:app]``, ``[celeryd: worker@host:ForkPoolWorker-1] …``.
    """
    if len([each for each in cmdline if each]) != 1:
        return ""
    gunicorn = _GUNICORN.match(cmdline[0])
    if gunicorn:
        return gunicorn.group(1)
    celery = _CELERY.match(cmdline[0])
    return celery.group(1) if celery else ""
