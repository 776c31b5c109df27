"""The registered blocks in memory: chosen by time, pinned by snapshots, deleted when nobody reads.

Not locked: its owner serialises calls.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from flamewell_collector.store.changes import Block, RollupHour
from flamewell_collector.store.tiers import HOUR_MS, RAW


class LiveBlocks:
    """Blocks by path; what is dropped is deleted once no snapshot pins it."""

    def __init__(self, blocks: Iterable[Block], hours: Iterable[RollupHour]) -> None:
        self._blocks = {each.path: each for each in blocks}
        self._raw: dict[tuple[str, int], dict[str, Block]] = defaultdict(dict)
        self._hours: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        for each in self._blocks.values():
            self._index(each)
        self._index_hours(hours)

    def all(self) -> list[Block]:
        """Give all blocks that count."""
        return list(self._blocks.values())

    def raw(self) -> list[Block]:
        """Give all blocks of rows as they came."""
        return [each for each in self._blocks.values() if each.tier == RAW]

    def raw_of_hours(self, tenant: str, start_ms: int, end_ms: int) -> list[Block]:
        """Give a tenant's raw blocks of all hours that overlap [start_ms, end_ms)."""
        first, last = start_ms // HOUR_MS, -(-end_ms // HOUR_MS)
        if last - first > len(self._raw):
            keys = [each for each in self._raw if each[0] == tenant and first <= each[1] < last]
        else:
            keys = [(tenant, hour) for hour in range(first, last)]
        return [each for key in keys for each in self._raw.get(key, {}).values()]

    def rollups(self, tenant: str, start_ms: int, end_ms: int) -> dict[str, dict[int, Block]]:
        """Give tier → hour → the block that has its sums, of hours that overlap the range."""
        first = start_ms // HOUR_MS * HOUR_MS
        return {
            tier: {
                hour: self._blocks[path] for hour, path in found.items() if first <= hour < end_ms
            }
            for (whose, tier), found in self._hours.items()
            if whose == tenant
        }

    def hours(self) -> list[RollupHour]:
        """Give which block has the sums of which hour."""
        return [
            RollupHour(tenant, tier, hour, path)
            for (tenant, tier), found in self._hours.items()
            for hour, path in found.items()
        ]

    def pin(self, blocks: Iterable[Block]) -> None:
        """Keep these from being deleted."""
        self._pins.update(each.path for each in blocks)

    def is_pinned(self, path: str) -> bool:
        """Tell whether anybody keeps a block from being deleted."""
        return self._pins[path] > 0

    def unpin(self, blocks: Iterable[Block]) -> None:
        """Undo one ``pin``."""
        self._pins.subtract(each.path for each in blocks)
        self._pins = +self._pins

    def take_out(self, path: str) -> Block | None:
        """Forget a block that is damaged; its files are not deleted."""
        block = self._blocks.pop(path, None)
        if block is not None:
            self._unindex(block)
        return block

    def exchange(
        self, old: Iterable[str], new: Iterable[Block], hours: Iterable[RollupHour] = ()
    ) -> None:
        """Put new blocks in the place of old ones (paths), at once."""
        for path in old:
            if self.take_out(path) is not None:
                self._doomed.add(path)
        for each in new:
            self._blocks[each.path] = each
            self._index(each)
        self._index_hours(hours)

    def deletable(self) -> list[str]:
        """Give the paths of dropped blocks that nobody reads any more; each once."""
        free = [path for path in self._doomed if not self._pins[path]]
        self._doomed.difference_update(free)
        return free

    def _index(self, block: Block) -> None:
        if block.tier == RAW:
            self._raw[block.tenant, block.start_ms // HOUR_MS][block.path] = block

    def _unindex(self, block: Block) -> None:
        if block.tier == RAW:
            key = (block.tenant, block.start_ms // HOUR_MS)
            self._raw[key].pop(block.path, None)
            if not self._raw[key]:
                del self._raw[key]
            return
        of_tier = self._hours[block.tenant, block.tier]
        for hour in [hour for hour, path in of_tier.items() if path == block.path]:
            del of_tier[hour]

    def _index_hours(self, hours: Iterable[RollupHour]) -> None:
        for each in hours:
            if each.path in self._blocks:
                self._hours[each.tenant, each.tier][each.hour_ms] = each.path
