"""Writes a flame graph as one static SVG: no script, no link, no font or style from elsewhere.

So it is safe to open, to mail and to put into a ticket. Root at the top, as in the page. Each bar
has a title, which browsers show on hover. Names are hostile text: all of it is escaped, and what
XML can't hold is replaced.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from html import escape

import numpy as np

from flamewell_collector.analysis.flamegraph import FlameColumns
from flamewell_collector.exports.amounts import amount_text, share_text

WIDTH = 1200
"""Of the picture, in CSS pixels."""

_MARGIN, _ROW, _HEADER, _FOOTER = 10, 18, 56, 26
_MIN_WIDTH = 0.25  # narrower bars can't be seen; this bounds the file by 4,720 bars a row
_MIN_TEXT_WIDTH = 24.0
_CHARACTER = 6.65  # width of one at 11 px in the monospace fonts that are named below
_FOLD_COLOUR = "#d9d9d9"
_ROOT_COLOUR = "#e4e0d8"
_STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f1b16}"
    ".title{font-size:16px;font-weight:600}.note{fill:#6b6459}rect{stroke:#fffdf9;stroke-width:.5}"
    "g.bar:hover rect{stroke:#1f1b16;stroke-width:1}"
)
# What XML 1.0 does not allow, even escaped (https://www.w3.org/TR/xml/#charsets), C1 controls, and
# the characters that turn the direction of the text around them.
_FORBIDDEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def encode(columns: FlameColumns, *, unit: str, title: str, subtitle: str = "") -> str:
    """Draw a flame graph.

    Args:
        columns: From ``analysis.flamegraph.build``.
        unit: The profile type's unit: ``nanoseconds``, ``bytes`` or ``count``.
        title: The headline, e.g. the service.
        subtitle: A line below it, e.g. profile type and time range.

    Returns:
        An SVG document.
    """
    total = int(columns.total[0])
    scale = (WIDTH - 2 * _MARGIN) / total if total > 0 else 0.0
    left = (np.cumsum(columns.self) - columns.self - _ancestors_own(columns)) * scale + _MARGIN
    width = columns.total * scale
    drawn = np.flatnonzero(width >= _MIN_WIDTH)
    rows = int(columns.depth[drawn].max()) + 1 if drawn.size else 1
    height = _HEADER + rows * _ROW + _FOOTER
    bars = "\n".join(
        _bar(columns, node, unit, left=float(left[node]), width=float(width[node]))
        for node in drawn.tolist()
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" \
viewBox="0 0 {WIDTH} {height}" role="img">
<title>{_text(title)}</title><style>{_STYLE}</style>
<rect width="{WIDTH}" height="{height}" fill="#fffdf9"/>
<text class="title" x="{_MARGIN}" y="24">{_text(title)}</text>
<text class="note" x="{_MARGIN}" y="43">{_text(subtitle)}</text>
<text class="note" x="{WIDTH - _MARGIN}" y="24" text-anchor="end">{amount_text(total, unit)}</text>
{bars}
<text class="note" x="{_MARGIN}" y="{height - 9}">{_text(_note(columns, drawn.size))}</text>
</svg>
"""


def _bar(columns: FlameColumns, node: int, unit: str, *, left: float, width: float) -> str:
    name = int(columns.name[node])
    function, file = _harmless(columns.functions[name]), _harmless(columns.files[name])
    line = columns.lines[name]
    top = _HEADER + int(columns.depth[node]) * _ROW
    total, own = int(columns.total[node]), int(columns.self[node])
    place = f"\n{file}:{line}" if file and line else f"\n{file}" if file else ""
    hover = (
        f"{function}{place}\n{amount_text(total, unit)}, "
        f"{share_text(total, int(columns.total[0]))}; self {amount_text(own, unit)}"
    )
    label = ""
    if width >= _MIN_TEXT_WIDTH:
        shown = _shortened(function, int((width - 6) / _CHARACTER))
        label = f'<text x="{left + 3:.2f}" y="{top + 12.5}">{_text(shown)}</text>'
    return (
        f'<g class="bar"><title>{_text(hover)}</title><rect x="{left:.2f}" y="{top}" '
        f'width="{width:.2f}" height="{_ROW - 1}" rx="1.5" fill="{_colour(columns, name)}"/>'
        f"{label}</g>"
    )


def _ancestors_own(columns: FlameColumns) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Sum the own values of all nodes above each node, so that children start at its left edge."""
    open_at = [0] * (int(columns.depth.max()) + 2)
    above = np.empty(columns.depth.size, np.int64)
    depths, own = columns.depth.tolist(), columns.self.tolist()
    for node, depth in enumerate(depths):
        above[node] = open_at[depth]
        open_at[depth + 1] = open_at[depth] + own[node]
    return above


def _colour(columns: FlameColumns, name: int) -> str:
    """Give a warm colour that is the same for the same function in every picture."""
    if name == 0:
        return _ROOT_COLOUR
    function = columns.functions[name]
    if name >= columns.first_fold or function.startswith("["):
        return _FOLD_COLOUR
    digest = blake2b(
        f"{function}\0{columns.files[name]}".encode("utf-8", "replace"), digest_size=3
    ).digest()
    # Lightness above 66 % keeps the text's contrast above 7:1 (WCAG AAA).
    return f"hsl({8 + digest[0] % 44},{70 + digest[1] % 22}%,{68 + digest[2] % 12}%)"


def _note(columns: FlameColumns, drawn: int) -> str:
    left_out = columns.name.size - drawn
    if not left_out:
        return "flamewell"
    return f"flamewell · too narrow to be drawn: {left_out:,} of {columns.name.size:,} frames"


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: max(characters - 1, 1)] + "…"


def _text(text: str) -> str:
    """Escape text; line feeds in titles are written as references, so that they stay."""
    return "&#10;".join(escape(_harmless(line), quote=True) for line in text.split("\n"))


def _harmless(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
