"""The registered blocks in memory: chosen by time, pinned by snapshots, deleted when nobody reads.

Not locked: its owner serialises calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flamewell_collector.store.catalog import Block


class LiveBlocks:
    """Blocks by path; what is dropped is deleted once no snapshot pins it."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = {each.path: each for each in blocks}
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()

    def all(self) -> list[Block]:
        """Give all blocks that count."""
        return list(self._blocks.values())

    def overlapping(self, tenant: str, start_ms: int, end_ms: int) -> list[Block]:
        """Give a tenant's blocks that may hold rows of [start_ms, end_ms)."""
        return [
            each
            for each in self._blocks.values()
            if each.tenant == tenant and each.start_ms < end_ms and each.end_ms >= start_ms
        ]

    def pin(self, blocks: Iterable[Block]) -> None:
        """Keep these from being deleted."""
        self._pins.update(each.path for each in blocks)

    def unpin(self, blocks: Iterable[Block]) -> None:
        """Undo one ``pin``."""
        self._pins.subtract(each.path for each in blocks)
        self._pins = +self._pins

    def take_out(self, path: str) -> Block | None:
        """Forget a block that is damaged; its files are not deleted."""
        return self._blocks.pop(path, None)

    def exchange(self, old: Iterable[Block], new: Iterable[Block]) -> None:
        """Put new blocks in the place of old ones, at once."""
        for each in old:
            if self._blocks.pop(each.path, None) is not None:
                self._doomed.add(each.path)
        self._blocks.update({each.path: each for each in new})

    def deletable(self) -> list[str]:
        """Give the paths of dropped blocks that nobody reads any more; each once."""
        free = [path for path in self._doomed if not self._pins[path]]
        self._doomed.difference_update(free)
        return free
