"""Plain tables: numbers to the right, text to the left, no wider than the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flamewell.terminal import Terminal, cut, cut_front, pad, paint, width

_GAP = "  "
_MIN_TEXT = 12


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column.

    Attributes:
        head: Its title.
        right: Whether its cells end at the same place, as numbers do.
        shrink: Shortens a cell where the terminal is too narrow; None keeps it whole.
    """

    head: str
    right: bool = False
    shrink: Callable[[str, int], str] | None = None


NAME = Column("FUNCTION", shrink=cut)
PLACE = Column("FILE", shrink=cut_front)


def render_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], terminal: Terminal
) -> list[str]:
    """Lay rows out.

    Args:
        columns: Those of the table; the last ones that shrink do so where it is too wide.
        rows: Harmless text; as many cells a row as there are columns.
        terminal: Where it is shown.
    """
    widths = [
        max([width(column.head), *(width(row[at]) for row in rows)])
        for at, column in enumerate(columns)
    ]
    if terminal.columns is not None:
        _shrink(columns, widths, terminal.columns)
    head = _line(columns, [column.head for column in columns], widths)
    return [
        paint(head, "1", terminal),
        *(_line(columns, row, widths) for row in rows),
    ]


def _shrink(columns: Sequence[Column], widths: list[int], available: int) -> None:
    """Take cells from the widest column that shrinks until the table fits."""
    too_many = sum(widths) + len(_GAP) * (len(widths) - 1) - available
    flexible = [at for at, column in enumerate(columns) if column.shrink]
    while too_many > 0 and flexible:
        widest = max(flexible, key=lambda at: widths[at])
        if widths[widest] <= _MIN_TEXT:
            return
        widths[widest] -= 1
        too_many -= 1


def _line(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for column, cell, cells_wide in zip(columns, row, widths, strict=True):
        shown = column.shrink(cell, cells_wide) if column.shrink else cell
        cells.append(pad(shown, cells_wide, right=column.right))
    return _GAP.join(cells).rstrip()
