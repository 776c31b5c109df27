"""Profiles made from lists of stacks, and a plain reference for what analysis says of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from flamewell_collector.model import Frames, StackTree

Frame = tuple[str, str, int]  # function, file, line
Function = tuple[str, str]
Stacks = list[tuple[tuple[Frame, ...], int]]  # root first, value

# Few names, so that stacks meet, recur and differ by file or line alone.
FRAMES: list[Frame] = [
    ("main", "app.py", 1),
    ("work", "app.py", 10),
    ("work", "app.py", 12),
    ("work", "lib.py", 3),
    ("total", "", 0),
    ("a;b", "x y.py", 7),
    ("(3 smaller)", "", 0),
]
stacks_strategy = st.lists(
    st.tuples(
        st.lists(st.sampled_from(FRAMES), max_size=7).map(tuple),
        st.one_of(st.integers(0, 9), st.integers(0, 2**52)),
    ),
    max_size=25,
)


def tree_of(stacks: Stacks) -> StackTree:
    """Make the prefix tree of some stacks; nodes differ by frame, line included."""
    rows: dict[Frame, int] = {}
    nodes: dict[tuple[int, int], int] = {}
    parent, frame, value = [-1], [-1], [0]
    for stack, amount in stacks:
        at = 0
        for each in stack:
            row = rows.setdefault(each, len(rows))
            if (at, row) not in nodes:
                nodes[at, row] = len(parent)
                parent.append(at)
                frame.append(row)
                value.append(0)
            at = nodes[at, row]
        value[at] += amount
    return StackTree(
        np.array(parent, np.int32),
        np.array(frame, np.int32),
        np.array(value, np.int64),
        Frames(
            [each[0] for each in rows],
            [each[1] for each in rows],
            np.array([each[2] for each in rows], np.int32),
        ),
    )


def functions_of(stack: Iterable[Frame]) -> tuple[Function, ...]:
    return tuple((function, file) for function, file, _ in stack)


def naive_nodes(stacks: Stacks) -> dict[tuple[Function, ...], tuple[int, int]]:
    """Self and total of every path of functions that has a value below it, the root's too."""
    own: Counter[tuple[Function, ...]] = Counter()
    total: Counter[tuple[Function, ...]] = Counter()
    for stack, value in stacks:
        path = functions_of(stack)
        own[path] += value
        for depth in range(len(path) + 1):
            total[path[:depth]] += value
    shown = {(), *(path for path in total if total[path])}
    return {path: (own[path], total[path]) for path in shown}


def naive_top(stacks: Stacks) -> dict[Function, tuple[int, int]]:
    """Self and total of every function; one that recurs counts once a stack."""
    found: dict[Function, list[int]] = defaultdict(lambda: [0, 0])
    for stack, value in stacks:
        path = functions_of(stack)
        if path:
            found[path[-1]][0] += value
        for function in set(path):
            found[function][1] += value
    return {name: (own, total) for name, (own, total) in found.items() if own or total}


def paths_of(columns) -> list[tuple[Function, ...]]:
    """Read the path of each row of a flame graph back from its preorder."""
    path: list[Function] = []
    paths = []
    for name, depth in zip(columns.name.tolist(), columns.depth.tolist(), strict=True):
        del path[max(depth - 1, 0) :]
        if depth:
            path.append((columns.functions[name], columns.files[name]))
        assert len(path) == depth
        paths.append(tuple(path))
    return paths
