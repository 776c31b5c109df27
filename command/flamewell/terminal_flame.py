"""Draws a flame graph with characters: as a tree of lines, or as bars side by side (an icicle)."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from flamewell.amounts import amount, percent
from flamewell.answers import Graph, subtree_sums
from flamewell.terminal import Terminal, cut, harmless, pad, paint, width

_BAR_CELLS = 10
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_DEFAULT_COLUMNS = 100
_MAX_GUIDE_SHARE = 3  # guides never take more than a third of a line
# Warm 256-colour codes that black text can be read on.
_WARM = (172, 173, 178, 179, 180, 208, 209, 214, 215, 216, 220, 221, 222)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left out.

    Attributes:
        min_share: Nodes with a smaller share of the whole, 0 to 1.
        depth: Levels below it; None draws all.
    """

    min_share: float
    depth: int | None


@dataclass(frozen=True, slots=True)
class _Symbols:
    branch: str
    last: str
    through: str
    blank: str


_LINES = _Symbols("├─ ", "└─ ", "│  ", "   ")
_ASCII_LINES = _Symbols("|- ", "`- ", "|  ", "   ")


@dataclass(slots=True)
class _Tree:
    """A graph with what its preorder says: totals and children."""

    graph: Graph
    total: list[int]
    children: list[list[int]]


def render_tree(graph: Graph, limits: Limits, terminal: Terminal) -> list[str]:
    """Draw one line a node, heaviest first; a chain of single calls keeps its indentation.

    Left to right: share of the whole, amount, bar, name, place, and own share where it has one.
    """
    tree = _read(graph)
    lines: list[str] = []
    # (node, what stands before its name, what stands before its children's names, shown below)
    stack: list[tuple[int, str, str]] = [(0, "", "")]
    while stack:
        node, lead, below = stack.pop()
        shown, hidden = _visible(tree, node, limits)
        lines.append(_tree_line(tree, node, lead, terminal, mark=_hidden_mark(tree, node, limits)))
        if len(shown) == 1 and not hidden:
            stack.append((shown[0], below, below))
            continue
        symbols = _LINES if terminal.unicode else _ASCII_LINES
        for at, child in reversed(list(enumerate(shown))):
            last = at == len(shown) - 1
            stack.append(
                (
                    child,
                    below + (symbols.last if last else symbols.branch),
                    below + (symbols.blank if last else symbols.through),
                )
            )
    return lines


def render_icicle(graph: Graph, limits: Limits, terminal: Terminal) -> list[str]:
    """Draw a row a level, each node as wide as its share, its callees below it."""
    tree = _read(graph)
    columns = terminal.columns or _DEFAULT_COLUMNS
    scale = columns / tree.total[0] if tree.total[0] > 0 else 0.0
    rows: list[list[tuple[int, int, int]]] = []
    level = [(0, 0)]
    while level and (limits.depth is None or len(rows) <= limits.depth):
        row, below = [], []
        for node, offset in level:
            left, right = round(offset * scale), round((offset + tree.total[node]) * scale)
            if right > left:
                row.append((node, left, right))
            for child in tree.children[node]:
                if tree.total[child] >= limits.min_share * tree.total[0]:
                    below.append((child, offset))
                offset += tree.total[child]  # noqa: PLW2901 - the running left edge of the children
        if row:
            rows.append(row)
        level = below
    return [_icicle_line(tree, row, terminal) for row in rows]


def _read(graph: Graph) -> _Tree:
    children: list[list[int]] = [[] for _ in graph.name]
    path: list[int] = []
    for row, depth in enumerate(graph.depth):
        del path[depth:]
        if path:
            children[path[-1]].append(row)
        path.append(row)
    return _Tree(graph, subtree_sums(graph.depth, graph.own), children)


def _visible(tree: _Tree, node: int, limits: Limits) -> tuple[list[int], list[int]]:
    """Give the children to draw, heaviest first, and those that are left out."""
    if limits.depth is not None and tree.graph.depth[node] >= limits.depth:
        return [], tree.children[node]
    smallest = limits.min_share * tree.total[0]
    shown = [each for each in tree.children[node] if tree.total[each] >= max(smallest, 1)]
    hidden = [each for each in tree.children[node] if tree.total[each] < max(smallest, 1)]
    return sorted(shown, key=lambda each: -tree.total[each]), hidden


def _hidden_mark(tree: _Tree, node: int, limits: Limits) -> str:
    """Say what is left out below a node, if it is more than the smallest that is drawn."""
    _, hidden = _visible(tree, node, limits)
    total = sum(tree.total[each] for each in hidden)
    if not hidden or total < limits.min_share * tree.total[0]:
        return ""
    return f"[+{len(hidden)} not shown: {percent(total, tree.total[0])}]"


def _tree_line(tree: _Tree, node: int, lead: str, terminal: Terminal, *, mark: str) -> str:
    graph, whole = tree.graph, tree.total[0]
    name = graph.name[node]
    share = tree.total[node] / whole if whole else 0.0
    head = (
        f"{percent(tree.total[node], whole):>7} {amount(tree.total[node], graph.unit):>10} "
        f"{_bar(share, terminal)} "
    )
    function = harmless(graph.functions[name])
    file, line = harmless(graph.files[name]), graph.lines[name]
    notes = [f"{file}:{line}" if file and line else file]
    if graph.own[node] and node:
        notes.append(f"self {percent(graph.own[node], whole)}")
    notes.append(mark)
    tail = "  ".join(filter(None, notes))
    if terminal.columns is not None:
        room = terminal.columns - width(head)
        if len(lead) > room // _MAX_GUIDE_SHARE:  # deep: the innermost guides tell most
            lead = lead[-(room // _MAX_GUIDE_SHARE) :]
        function = cut(function, room - len(lead))
        tail = cut(tail, max(0, room - len(lead) - width(function) - 2))
    painted = paint(function, f"38;5;{_colour(tree, node)}" if node else "1", terminal)
    return f"{head}{lead}{painted}" + (f"  {paint(tail, '2', terminal)}" if tail else "")


def _bar(share: float, terminal: Terminal) -> str:
    if not terminal.unicode:
        return pad("#" * round(share * _BAR_CELLS), _BAR_CELLS)
    eighths = min(round(share * _BAR_CELLS * 8), _BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    return pad("█" * full + (_EIGHTHS[rest] if rest else ""), _BAR_CELLS)


def _icicle_line(tree: _Tree, row: list[tuple[int, int, int]], terminal: Terminal) -> str:
    parts, at = [], 0
    for node, left, right in row:
        parts.append(" " * (left - at))
        cells = right - left
        name = harmless(tree.graph.functions[tree.graph.name[node]])
        if terminal.colour:
            label = pad(cut(f" {name}", cells), cells)
            code = f"30;48;5;{_colour(tree, node)}" if node else "30;47"
            parts.append(paint(label, code, terminal))
        else:
            parts.append(pad(cut(f"|{name}", cells, mark="~"), cells))
        at = right
    return "".join(parts).rstrip()


def _colour(tree: _Tree, node: int) -> int:
    """Give a warm colour that is always the same for a function."""
    function = tree.graph.functions[tree.graph.name[node]]
    return _WARM[crc32(function.encode("utf-8", "replace")) % len(_WARM)]
