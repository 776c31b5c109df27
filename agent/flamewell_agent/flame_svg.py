"""A flame graph as one static SVG: no script, no link, no style from elsewhere. Pure.

Safe to open, to mail and to put into a ticket. Root at the top; each bar has a title, which
browsers show on hover. Names are hostile text: all of it is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from html import escape

from flamewell_agent.flame_formats import BREAKING, frame_text
from flamewell_agent.model import Frame, Stack

WIDTH = 1200
"""Of the picture, in CSS pixels."""
_MARGIN, _ROW, _HEADER, _FOOTER = 10, 18, 56, 26
_MIN_WIDTH = 0.25  # narrower bars can't be seen; this bounds the file by 4,720 bars a row
_ROWS_AT_MOST = 1_000
_MIN_TEXT_WIDTH = 24.0
_CHARACTER = 6.65  # width of one at 11 px in the monospace fonts that are named below
_NAME_CHARACTERS = 300
_STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f1b16}"
    ".title{font-size:16px;font-weight:600}.note{fill:#6b6459}rect{stroke:#fffdf9;stroke-width:.5}"
    "g.bar:hover rect{stroke:#1f1b16;stroke-width:1}"
)
# What XML 1.0 does not allow, even escaped (https://www.w3.org/TR/xml/#charsets).
_FORBIDDEN = re.compile("[\ud800-\udfff\ufffe\uffff]")


@dataclass(slots=True)
class _Node:
    total: int = 0
    children: dict[Frame, _Node] = field(default_factory=dict)


def draw(samples: Iterable[tuple[Stack, int]], *, title: str, subtitle: str = "") -> str:
    """Draw a flame graph.

    Args:
        samples: Stack, leaf first, and count.
        title: The headline, e.g. the process.
        subtitle: A line below it, e.g. how long it was sampled.

    Returns:
        An SVG document.
    """
    root = _merge(samples)
    scale = (WIDTH - 2 * _MARGIN) / root.total if root.total else 0.0
    bars, rows, cut = [], 1, False
    for frame, node, depth, left in _visible(root, scale):
        if depth >= _ROWS_AT_MOST:
            cut = True
            continue
        rows = max(rows, depth + 1)
        bars.append(_bar(frame, node.total, root.total, depth, (left, node.total * scale)))
    height = _HEADER + rows * _ROW + _FOOTER
    note = f"{root.total:,} samples; a bar's width is its share of them"
    if cut:
        note += f"; frames below row {_ROWS_AT_MOST:,} are not drawn"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}">\n<style>{_STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf9"/>\n'
        f'<text class="title" x="{_MARGIN}" y="24">{_text(title, 100)}</text>\n'
        f'<text class="note" x="{_MARGIN}" y="44">{_text(subtitle, 170)}</text>\n'
        + "\n".join(bars)
        + f'\n<text class="note" x="{_MARGIN}" y="{height - 9}">{_text(note, 170)}</text>\n</svg>\n'
    )


def _merge(samples: Iterable[tuple[Stack, int]]) -> _Node:
    root = _Node()
    for stack, count in samples:
        node = root
        node.total += count
        for frame in reversed(stack):
            node = node.children.setdefault(frame, _Node())
            node.total += count
    return root


def _visible(root: _Node, scale: float) -> Iterator[tuple[Frame | None, _Node, int, float]]:
    """Walk the bars that can be seen: frame, node, depth, left edge. By hand: stacks are deep."""
    waiting: list[tuple[Frame | None, _Node, int, float]] = [(None, root, 0, float(_MARGIN))]
    while waiting:
        frame, node, depth, left = waiting.pop()
        yield frame, node, depth, left
        if depth >= _ROWS_AT_MOST:
            continue
        at = left
        for name in sorted(node.children, key=lambda each: (each.function, each.file, each.line)):
            child = node.children[name]
            if child.total * scale >= _MIN_WIDTH:
                waiting.append((name, child, depth + 1, at))
            at += child.total * scale


def _bar(
    frame: Frame | None, count: int, total: int, depth: int, across: tuple[float, float]
) -> str:
    left, width = across
    name = "all" if frame is None else BREAKING.sub(" ", frame.function).strip() or "[unknown]"
    whole = "all" if frame is None else frame_text(frame)
    share = f"{100 * count / total:.1f} %" if total else "0 %"
    top = _HEADER + depth * _ROW
    label = ""
    if width >= _MIN_TEXT_WIDTH:
        room = int((width - 6) / _CHARACTER)
        label = f'<text x="{left + 3:.1f}" y="{top + 13}">{_text(name, room)}</text>'
    return (
        f'<g class="bar"><title>{_text(whole, _NAME_CHARACTERS)}\n{count:,} samples, {share}'
        f'</title><rect x="{left:.2f}" y="{top}" width="{width:.2f}" height="{_ROW - 1}" rx="1" '
        f'fill="{_colour(frame)}"/>{label}</g>'
    )


def _colour(frame: Frame | None) -> str:
    """Give frames of one file one warm colour, so that libraries stand apart."""
    if frame is None:
        return "#e4e0d8"
    digest = blake2b((frame.file or frame.function).encode("utf-8", "replace"), digest_size=2)
    hue, light = digest.digest()
    return f"hsl({12 + hue % 42},{70 + light % 20}%,{66 + light % 12}%)"


def _text(text: str, room: int) -> str:
    """Escape a text, shortened to a number of characters."""
    if len(text) > room:
        text = text[: max(room - 1, 0)] + "…"
    return escape(_FORBIDDEN.sub("\ufffd", BREAKING.sub(" ", text)))
