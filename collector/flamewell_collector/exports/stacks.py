"""Reads stacks back from a prefix tree, for formats that write each stack out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flamewell_collector.model import StackTree

NO_STACK = "[no stack]"
"""The frame that stands for a value on the empty stack, which these formats can't express."""


def samples(tree: StackTree) -> Iterator[tuple[list[int], int]]:
    """Give each stack that has a value, and the value.

    Yields:
        Rows of the frame table, leaf first, empty for the empty stack; and the value.
    """
    parents, frames = tree.parent.tolist(), tree.frame.tolist()
    nodes = np.flatnonzero(tree.value)
    for node, value in zip(nodes.tolist(), tree.value[nodes].tolist(), strict=True):
        stack, at = [], node
        while at > 0:
            stack.append(frames[at])
            at = parents[at]
        yield stack, value
