"""Log lines on stderr: text for people, one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; what else a record carries came in by ``extra=``."""
# Controls, among them ESC, and the Unicode line ends: a name out of a profile must not be able to
# end the line and write one of its own, nor to talk to the terminal.
_BREAKING = re.compile("[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\u2028\u2029]")
# Who did what is on record whatever else is shown. Waitress warns of each request that waits for
# a thread; the request metrics tell more.
_LEVELS = {"flamewell.audit": logging.INFO, "waitress.queue": logging.ERROR}


class JsonFormatter(logging.Formatter):
    """``ts`` (RFC 3339, UTC), ``level``, ``msg``, ``logger``, then the fields given as extra.

    Args:
        fields: On every line, such as the node and the pod of the program itself.
    """

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """Give one line of JSON."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
            **self._fields,
        }
        line.update(_extra(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, then the fields given as extra as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one line of text, more where there is a traceback."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        parts = [at, f"{record.levelname:7}", _one_line(record.getMessage())]
        parts += [f"{name}={_one_line(str(value))}" for name, value in _extra(record).items()]
        text = " ".join(parts)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(
    package: str,
    log_format: str,
    level: str,
    stream: TextIO,
    *,
    fields: Mapping[str, str] | None = None,
) -> None:
    """Send the log of a program's own package to a stream; other libraries' from warning up.

    Args:
        package: The program's own package.
        log_format: ``text`` or ``json``.
        level: Least severe level of our own lines.
        stream: Usually stderr.
        fields: On every JSON line; people who read text know where they are.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(fields) if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(package).setLevel(level.upper())
    for name, least in _LEVELS.items():
        logging.getLogger(name).setLevel(least)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def _one_line(text: str) -> str:
    return _BREAKING.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
