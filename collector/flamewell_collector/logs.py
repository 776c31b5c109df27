"""Log lines on stderr: text for people, one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; what else a record carries came in by ``extra=``."""


class JsonFormatter(logging.Formatter):
    """``ts`` (RFC 3339, UTC), ``level``, ``msg``, ``logger``, then the fields given as extra."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one line of JSON."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
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
        # A name out of a profile must not be able to end the line and write one of its own.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        parts = [at, f"{record.levelname:7}", message]
        parts += [f"{name}={value!s}" for name, value in _extra(record).items()]
        text = " ".join(parts)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(log_format: str, level: str, stream: TextIO) -> None:
    """Send the log of the collector's own packages to a stream; other libraries' from warning up.

    Args:
        log_format: ``text`` or ``json``.
        level: Least severe level of our own lines.
        stream: Usually stderr.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("flamewell_collector").setLevel(level.upper())
    # Waitress warns of each request that waits for a thread; the request metrics tell more.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}
