"""Stacks of blocks in memory, a tree a service: as many as there is room for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flamewell_collector.errors import StorageError
from flamewell_collector.store.block_stacks import BlockStacks, joined
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.reader import BlockReader

Int32s = npt.NDArray[np.int32]

_MAX_GONE = 200
"""After so many of its blocks were replaced a tree is made anew: of stacks that still are."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceStacks:
    """A service's stacks of several blocks.

    Attributes:
        tree: All of them.
        nodes: Block's folder → node of each of its numbers, int32, shape (stacks,). Blocks that
            can't be read are missing.
    """

    tree: PrefixTree
    nodes: Mapping[Path, Int32s]


@dataclass(slots=True)
class _Entry:
    """One service's stacks.

    Attributes:
        stacks: Of blocks.
        gone: How many blocks more were, and are not there any more.
        together: The heads that came with the last question, and the stacks with theirs.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    stacks: ServiceStacks = field(default_factory=lambda: ServiceStacks(PrefixTree.empty(), {}))
    gone: int = 0
    together: tuple[tuple[PrefixTree, ...], ServiceStacks] | None = None

    @property
    def nbytes(self) -> int:
        kept = [self.stacks]
        if self.together is not None and self.together[1] is not self.stacks:
            kept.append(self.together[1])
        return sum(
            each.tree.nbytes + sum(mine.nbytes for mine in each.nodes.values()) for each in kept
        )


class StackCache:
    """Stacks by (tenant, service), least recently used first; safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._sizes: dict[tuple[str, str], int] = {}

    @property
    def nbytes(self) -> int:
        """Memory that is taken."""
        with self._lock:
            return sum(self._sizes.values())

    def stacks(
        self,
        tenant: str,
        service: str,
        *,
        blocks: Sequence[Path],
        heads: Sequence[PrefixTree] = (),
        report_damage: Callable[[Path, str], None],
    ) -> ServiceStacks:
        """Give at least the stacks of these blocks and heads.

        Args:
            tenant: Whose.
            service: Which.
            blocks: Folders.
            heads: Stacks that are in no block yet.
            report_damage: Told of each block whose stacks can't be read; the others are given.
        """
        key = (tenant, service)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.gone > _MAX_GONE:
                entry.stacks, entry.gone = ServiceStacks(PrefixTree.empty(), {}), 0
            missing = [each for each in blocks if each not in entry.stacks.nodes]
            if missing:
                self._load(entry, service, missing, report_damage)
            result = _with_heads(entry, tuple(heads))
        self._make_room(key, entry)
        return result

    def forget(self, blocks: Iterable[Path]) -> None:
        """Note that blocks are gone; their stacks stay while the tree is in use."""
        gone = set(blocks)
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            with entry.lock:
                known = entry.stacks.nodes
                kept = {block: nodes for block, nodes in known.items() if block not in gone}
                if len(kept) < len(known):
                    entry.gone += len(known) - len(kept)
                    entry.stacks = ServiceStacks(entry.stacks.tree, kept)
                    entry.together = None

    def _load(
        self,
        entry: _Entry,
        service: str,
        missing: Sequence[Path],
        report_damage: Callable[[Path, str], None],
    ) -> None:
        found: dict[Path, BlockStacks] = {}
        for block in missing:
            try:
                with BlockReader(block) as reader:
                    found[block] = reader.stacks(service)
            except StorageError as error:
                report_damage(block, str(error))
        entry.stacks = _joined(entry.stacks, found)
        entry.together = None

    def _make_room(self, key: tuple[str, str], entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                self._sizes[key] = entry.nbytes
            while sum(self._sizes.values()) > self._max_bytes and len(self._entries) > 1:
                oldest, _ = self._entries.popitem(last=False)
                self._sizes.pop(oldest, None)


def _joined(
    stacks: ServiceStacks, blocks: Mapping[Path, BlockStacks], heads: Sequence[PrefixTree] = ()
) -> ServiceStacks:
    """Add the stacks of blocks and heads."""
    tree, found = joined(stacks.tree, list(blocks.values()), heads)
    nodes = dict(stacks.nodes)
    if tree is not stacks.tree:
        moved = tree.moved(stacks.tree)
        nodes = {block: moved[mine] for block, mine in nodes.items()}
    nodes.update(zip(blocks, found, strict=True))
    return ServiceStacks(tree, nodes)


def _with_heads(entry: _Entry, heads: tuple[PrefixTree, ...]) -> ServiceStacks:
    if not heads:
        return entry.stacks
    known = entry.together
    same = known is not None and len(known[0]) == len(heads)
    if known is not None and same and all(a is b for a, b in zip(known[0], heads, strict=True)):
        return known[1]
    tree = entry.stacks.tree
    new = [each for each in heads if (tree.find(each.path) < 0).any()]
    together = _joined(entry.stacks, {}, new) if new else entry.stacks
    entry.together = (heads, together)
    return together
