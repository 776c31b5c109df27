"""Call trees of the model workload: random, and shaped as real ones are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from model_symbols import LIBRARY_FRAMES, Symbols

from flamewell_collector.hashing import mix, path_ids
from flamewell_collector.store.schema import BATCH_FRAMES, BATCH_STACKS

Ints = npt.NDArray[np.int64]

OWN_FRAMES = 2_800
_FRAMES = 4_000
_MEAN_DEPTH, _BELOW, _ABOVE = 43.0, 15.6, 17.9
_DEEPEST = 120
_KEPT = 0.97
"""How much of a depth's distance to the mean the next stack keeps."""
_CUT = 0.3
"""Chance that a stack leaves its predecessor's path at the end, at the frame before, and so on."""
_SHARED, _ENTRIES = 4, 10
"""Nearly all stacks begin with frames that others begin with: so many, of so many threads."""


@dataclass(frozen=True, slots=True, eq=False)
class CallTree:
    """A service's stacks; nodes in preorder, node 0 the root.

    Attributes:
        parent: int64, shape (n,); -1 for the root.
        frame: Below LIBRARY_FRAMES a library's, else the service's own; -1 for the root.
        path: Stack id of each node.
        ends: Node at which stack i ends, ascending.
    """

    parent: Ints
    frame: Ints
    path: Ints
    ends: Ints


def call_tree(chance: np.random.Generator, stacks: int, symbols: Symbols) -> CallTree:
    """Make the stacks of a service.

    Args:
        chance: Decides.
        stacks: How many.
        symbols: Hashes of the library's frames and, behind them, of the service's own.
    """
    noise = chance.normal(0, math.sqrt(1 - _KEPT**2), stacks).tolist()
    distance = np.array(list(accumulate(noise, lambda last, step: _KEPT * last + step)))
    depth = np.rint(_MEAN_DEPTH + np.where(distance < 0, _BELOW, _ABOVE) * distance)
    depth = np.clip(depth, 3, _DEEPEST).astype(np.int64)
    before = np.concatenate(([0], depth[:-1]))
    kept = np.minimum(before, depth - 1) - (chance.geometric(_CUT, stacks) - 1)
    kept = np.maximum(kept, np.minimum(_SHARED, np.minimum(before, depth - 1)))
    kept[chance.integers(0, stacks, _ENTRIES)] = 0

    # Nodes of the stacks one behind the other, each at its depth: that is preorder.
    fresh = depth - kept
    ends = np.cumsum(fresh)
    count = int(ends[-1])
    level = np.arange(1, count + 1) - np.repeat(ends - fresh - kept, fresh)
    # A node's caller is the last one before it that is one level up.
    at = np.arange(count)
    keys = np.sort(level * count + at)
    caller = keys[np.searchsorted(keys, (level - 1) * count + at) - 1] % count
    caller[level == 1] = -1
    frame = _frames(chance, level, caller)
    parent = np.concatenate(([-1], caller + 1))
    frame = np.concatenate(([-1], frame))
    hashes = np.zeros(count + 1, np.uint64)
    hashes[1:] = symbols.hashes[frame[1:]]
    path, _ = path_ids(np.maximum(parent, 0), hashes)
    return CallTree(parent, frame, path, ends)


def _frames(chance: np.random.Generator, level: Ints, caller: Ints) -> Ints:
    """Choose the frame of each node; those that one caller calls differ."""
    library = chance.choice(LIBRARY_FRAMES, _FRAMES - OWN_FRAMES, replace=False)
    frames = np.concatenate((library, LIBRARY_FRAMES + np.arange(OWN_FRAMES)))
    chance.shuffle(frames)
    by_caller = np.argsort(caller, kind="stable")
    sorted_callers = caller[by_caller]
    first = np.searchsorted(sorted_callers, sorted_callers)
    nth = np.empty(len(caller), np.int64)
    nth[by_caller] = np.arange(len(caller)) - first
    step = nth * 1_327 % _FRAMES  # no divisor in common: distinct for 4,000 siblings
    number = np.zeros(len(level), np.int64)
    by_level = np.argsort(level, kind="stable")
    bounds = np.searchsorted(level[by_level], np.arange(1, int(level.max()) + 2))
    salt = np.uint64(chance.integers(1 << 62))
    for depth, (low, high) in enumerate(pairwise(bounds.tolist())):
        nodes = by_level[low:high]
        calling = np.where(caller[nodes] < 0, 0, number[caller[nodes]] + 1).astype(np.uint64)
        drawn = mix(calling * np.uint64(64) + np.uint64(depth // 4) + salt) / 2.0**64
        number[nodes] = ((drawn**3 * _FRAMES).astype(np.int64) + step[nodes]) % _FRAMES
    return np.asarray(frames[number], np.int64)


class Owner(Protocol):
    """What has stacks: a service."""

    @property
    def name(self) -> str:
        """service_name."""

    @property
    def tree(self) -> CallTree:
        """Its stacks."""

    @property
    def symbols(self) -> Symbols:
        """Its own frames."""


def symbol_tables(
    services: Sequence[Owner], used: Mapping[str, Sequence[Ints]] | None, library: Symbols
) -> tuple[pa.Table, pa.Table]:
    """Make BATCH_STACKS and BATCH_FRAMES.

    Args:
        services: Whose stacks to hold.
        used: Service name → stacks to hold; None for all.
        library: Frames that the services share.
    """
    tables: list[pa.Table] = []
    symbols = [library, *(each.symbols for each in services)] if services else []
    nodes, frames = 0, LIBRARY_FRAMES
    for each in services:
        tree = each.tree
        ends = tree.ends if used is None else tree.ends[np.unique(np.concatenate(used[each.name]))]
        chosen = _with_callers(tree.parent, ends)
        number = np.cumsum(chosen) - 1
        parent = number[tree.parent[chosen]] + nodes
        parent[0] = -1
        own = tree.frame[chosen]
        frame = np.where(own >= LIBRARY_FRAMES, own - LIBRARY_FRAMES + frames, own)
        unmarked = np.ones(len(tree.path), dtype=bool)
        unmarked[ends] = unmarked[0] = False
        count = len(parent)
        tables.append(
            pa.table(
                {
                    "service_name": pa.repeat(each.name, count),
                    "node": np.arange(nodes, nodes + count, dtype=np.int32),
                    "parent": parent.astype(np.int32),
                    "frame": frame.astype(np.int32),
                    "stack_id": pa.array(tree.path[chosen], pa.int64(), mask=unmarked[chosen]),
                },
                schema=BATCH_STACKS,
            )
        )
        nodes += count
        frames += len(each.symbols.hashes)
    if not tables:
        return BATCH_STACKS.empty_table(), BATCH_FRAMES.empty_table()
    joined = Symbols.joined(symbols)
    rows = {
        "frame": np.arange(frames, dtype=np.int32),
        "frame_id": joined.hashes.view(np.int64),
        "function": joined.functions,
        "file": joined.files,
        "line": joined.lines,
    }
    return pa.concat_tables(tables), pa.table(rows, schema=BATCH_FRAMES)


def _with_callers(parent: Ints, nodes: Ints) -> npt.NDArray[np.bool_]:
    """Mark nodes and all that leads to them."""
    chosen = np.zeros(len(parent), dtype=bool)
    chosen[0] = True
    while len(nodes):
        chosen[nodes] = True
        nodes = np.unique(parent[nodes])
        nodes = nodes[~chosen[nodes]]
    return chosen
