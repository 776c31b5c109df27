"""Text for terminals: hostile names made harmless, widths in cells, colours where wanted."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

_DEFAULT_COLUMNS = 100
_MIN_COLUMNS = 40


@dataclass(frozen=True, slots=True)
class Terminal:
    """What the output can show.

    Attributes:
        columns: Its width in cells; None where lines need not fit (a file, a pipe).
        colour: Whether to send colour codes.
        unicode: Whether the output's encoding holds block and line characters.
    """

    columns: int | None
    colour: bool
    unicode: bool


def inspect_terminal(out: TextIO, *, colour: str, environ: Mapping[str, str]) -> Terminal:
    """Find out what the output can show, and let it never fail on a character.

    Args:
        out: The output.
        colour: ``always``, ``never``, or ``auto``: on a terminal, unless NO_COLOR is set.
        environ: The environment: NO_COLOR, TERM, COLUMNS.
    """
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")
    is_terminal = out.isatty()
    wanted = is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Terminal(
        columns=_columns(out, environ) if is_terminal or environ.get("COLUMNS") else None,
        colour={"always": True, "never": False}.get(colour, wanted),
        unicode=_holds(out.encoding or "ascii", "█▏├─└│…"),
    )


def harmless(text: str) -> str:
    r"""Show control characters, escape sequences and direction overrides as ``\x1b``.

    Symbol names come from the profiled programs: printed as they are, they could move the cursor,
    set the title or answer queries of the terminal. Only printable characters pass.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def width(text: str) -> int:
    """Count the cells that harmless text takes: two for wide characters, none for combining."""
    if text.isascii():
        return len(text)
    return sum(_cells(each) for each in text)


def cut(text: str, cells: int, *, mark: str = "…") -> str:
    """Shorten text at its end to a number of cells."""
    if width(text) <= cells:
        return text
    if cells <= len(mark):
        return mark[:cells]
    kept, used = [], len(mark)
    for each in text:
        used += _cells(each)
        if used > cells:
            break
        kept.append(each)
    return "".join(kept) + mark


def cut_front(text: str, cells: int, *, mark: str = "…") -> str:
    """Shorten text at its front, where paths say least."""
    return cut(text[::-1], cells, mark=mark[::-1])[::-1]


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Fill text with blanks up to a number of cells."""
    blanks = " " * max(0, cells - width(text))
    return blanks + text if right else text + blanks


def paint(text: str, code: str, terminal: Terminal) -> str:
    """Colour harmless text by an SGR code, e.g. ``1`` or ``38;5;208``."""
    return f"\x1b[{code}m{text}\x1b[0m" if terminal.colour and text else text


def _columns(out: TextIO, environ: Mapping[str, str]) -> int:
    given = environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(_MIN_COLUMNS, int(given))
    try:
        return max(_MIN_COLUMNS, os.get_terminal_size(out.fileno()).columns)
    except (OSError, ValueError):
        return _DEFAULT_COLUMNS


def _holds(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _escaped(character: str) -> str:
    number = ord(character)
    if number <= 0xFF:  # noqa: PLR2004 - what two hexadecimal digits hold
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - four digits
