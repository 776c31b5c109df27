"""One log file for all children; what went wrong is shown on the terminal as well."""

from __future__ import annotations

import json
import logging
import logging.handlers
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from flamewell.errors import CommandError

_MAX_FILE_BYTES = 10 * 1024 * 1024
_MAX_SHOWN = 20
_SHOWN_LEVELS = frozenset({"error", "critical"})
_OWN_FIELDS = frozenset({"ts", "level", "msg", "logger", "error"})


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a child's log: its level (empty where it is not known) and its text."""

    level: str
    text: str


class LogBook:
    """Keeps ``<time> <child> <line>`` in a file that is rotated at 10 MiB."""

    def __init__(self, path: Path, terminal: TextIO) -> None:
        """Open the file.

        Raises:
            CommandError: It can't be written.
        """
        self.path = path
        self._terminal = terminal
        self._shown: set[tuple[str, str]] = set()
        try:
            self._handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=_MAX_FILE_BYTES, backupCount=1, encoding="utf-8"
            )
        except OSError as error:
            raise CommandError(f"cannot write the log file: {error}") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(name)-13s %(message)s"))

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._handler.close()

    def write(self, name: str, raw: str) -> None:
        """Keep a child's line, and show it if it is an error."""
        line = parse_line(raw)
        text = f"{line.level}: {line.text}" if line.level else line.text
        self._handler.handle(
            logging.LogRecord(name, logging.INFO, "", 0, text.replace("\n", "\n    "), None, None)
        )
        if line.level in _SHOWN_LEVELS:
            self._show(name, line.text)

    def _show(self, name: str, text: str) -> None:
        """Show an error once, and no more than a screen of different ones."""
        first = text.partition("\n")[0]
        if (name, first) in self._shown or len(self._shown) > _MAX_SHOWN:
            return
        self._shown.add((name, first))
        if len(self._shown) > _MAX_SHOWN:
            print(f"more errors are in {self.path}", file=self._terminal, flush=True)
        else:
            print(f"{name}: error: {first}", file=self._terminal, flush=True)


def parse_line(raw: str) -> Line:
    """Take level and text from a JSON log line; any other line is text."""
    content: Any = None
    if raw.startswith("{"):
        try:
            content = json.loads(raw)
        except ValueError:
            content = None
    if not isinstance(content, dict) or "msg" not in content:
        return Line("", raw)
    fields = [f"{key}={value}" for key, value in content.items() if key not in _OWN_FIELDS]
    text = " ".join([str(content["msg"]), *fields])
    if content.get("error"):
        text += f"\n{content['error']}"
    return Line(str(content.get("level", "")).lower(), text)
