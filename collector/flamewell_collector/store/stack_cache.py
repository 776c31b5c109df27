"""Stacks of blocks in memory, a tree a service: as many as there is room for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flamewell_collector.errors import StorageError
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.reader import BlockReader

_MAX_GONE = 200
"""After so many of its blocks were replaced a tree is made anew: of stacks that still are."""


@dataclass(slots=True)
class _Entry:
    """One service's stacks.

    Attributes:
        loaded: Blocks whose stacks are in the tree.
        gone: How many blocks more were, and are not there any more.
        together: The heads that came with the last question, and the tree with theirs.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    tree: PrefixTree = field(default_factory=PrefixTree.empty)
    loaded: set[Path] = field(default_factory=set)
    gone: int = 0
    together: tuple[tuple[PrefixTree, ...], PrefixTree] | None = None

    @property
    def nbytes(self) -> int:
        both = self.tree.nbytes
        if self.together is not None and self.together[1] is not self.tree:
            both += self.together[1].nbytes
        return both


class StackCache:
    """Trees by (tenant, service), least recently used first; safe to use from several threads."""

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

    def tree(
        self,
        tenant: str,
        service: str,
        *,
        blocks: Sequence[Path],
        heads: Sequence[PrefixTree] = (),
        report_damage: Callable[[Path, str], None],
    ) -> PrefixTree:
        """Give a tree that has at least the stacks of these blocks and heads.

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
                entry.tree, entry.loaded, entry.gone = PrefixTree.empty(), set(), 0
            missing = [each for each in blocks if each not in entry.loaded]
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
                count = len(entry.loaded & gone)
                entry.loaded -= gone
                entry.gone += count

    def _load(
        self,
        entry: _Entry,
        service: str,
        missing: Sequence[Path],
        report_damage: Callable[[Path, str], None],
    ) -> None:
        trees = [entry.tree]
        for block in missing:
            try:
                with BlockReader(block) as reader:
                    trees.append(reader.tree(service))
            except StorageError as error:
                report_damage(block, str(error))
            entry.loaded.add(block)
        entry.tree = PrefixTree.merged(trees)
        entry.together = None

    def _make_room(self, key: tuple[str, str], entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                self._sizes[key] = entry.nbytes
            while sum(self._sizes.values()) > self._max_bytes and len(self._entries) > 1:
                oldest, _ = self._entries.popitem(last=False)
                self._sizes.pop(oldest, None)


def _with_heads(entry: _Entry, heads: tuple[PrefixTree, ...]) -> PrefixTree:
    if not heads:
        return entry.tree
    known = entry.together
    same = known is not None and len(known[0]) == len(heads)
    if known is not None and same and all(a is b for a, b in zip(known[0], heads, strict=True)):
        return known[1]
    tree = entry.tree
    new = [each for each in heads if (tree.find(each.path) < 0).any()]
    if new:
        tree = PrefixTree.merged([tree, *new])
    entry.together = (heads, tree)
    return tree
