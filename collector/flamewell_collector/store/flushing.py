"""From the frozen head to blocks that count: written, published, registered, in this order.

After an error nothing of it counts and the head goes on, unless it is in doubt whether it was
registered: then the head stays frozen until that is known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flamewell_collector.errors import InDoubt
from flamewell_collector.model import Series
from flamewell_collector.store.block_files import BlockFiles
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import Block, Change, LogMark
from flamewell_collector.store.flush import write_head
from flamewell_collector.store.head import Head, Heads
from flamewell_collector.store.live_blocks import LiveBlocks
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.upkeep import Upkeep
from flamewell_collector.store.writer import BlockWriter, Origin


@dataclass(frozen=True, slots=True)
class Flush:
    """Blocks that were written, and what registers them."""

    change: Change
    blocks: Sequence[Block]


class Flushing:
    """One flush at a time; its owner sees to that."""

    def __init__(
        self,
        heads: Heads,
        *,
        series_of: Callable[[str], SeriesIndex],
        catalog: Catalog,
        blocks: LiveBlocks,
        files: BlockFiles,
        writer: BlockWriter,
        upkeep: Upkeep,
        lock: threading.Lock,
    ) -> None:
        """Take the parts; ``lock`` guards ``heads`` and ``blocks``."""
        self._heads = heads
        self._series_of = series_of
        self._catalog = catalog
        self._blocks = blocks
        self._files = files
        self._writer = writer
        self._upkeep = upkeep
        self._lock = lock
        self._waiting: Flush | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether it is not known if the last flush was registered."""
        return self._waiting is not None

    def write(self, mark: LogMark) -> None:
        """Write what is frozen as blocks, one a tenant and hour.

        Raises:
            StorageUnavailable: The disk is full or read-only, or the store can't be reached.
        """
        frozen = self._heads.frozen
        assert frozen is not None  # noqa: S101 - the log was rotated, which freezes the head
        try:
            self._waiting = self.blocks_of(frozen, mark, series=())
        except BaseException:
            self.let_go(())
            raise

    def blocks_of(
        self, head: Head, mark: LogMark, *, series: Iterable[tuple[str, Series]]
    ) -> Flush:
        """Write a head as blocks; after an error none is left.

        Args:
            head: The rows.
            mark: How far their log is in blocks then.
            series: Those of them that are not in the tenants' indexes, perhaps.
        """
        written: list[Block] = []
        try:
            for tenant in sorted(head.tenants):
                write_head(
                    tenant,
                    head.tenants[tenant],
                    self._writer,
                    series=self._series_of(tenant),
                    origin=Origin(wal_number=mark.number),
                    written=written,
                )
            self._files.publish(written)
        except BaseException:
            self._upkeep.delete(written)
            raise
        change = Change(
            added=tuple(written),
            series=(*series, *self._catalog.series_to_register(head, self._series_of)),
            active=dict(head.active),
            batch_ids=tuple(head.batch_ids),
            log=mark,
        )
        return Flush(change, written)

    def register(self) -> None:
        """Let the blocks count.

        Raises:
            InDoubt: It is not known whether they do: the head stays frozen, the next call finds
                out.
            StorageUnavailable: They don't; the head goes on.
        """
        flush = self._waiting
        if flush is None:
            return
        try:
            self._catalog.commit(flush.change)
        except InDoubt:
            raise
        except BaseException:
            self.let_go(flush.blocks)
            raise
        self._waiting = None
        with self._lock:
            self._blocks.exchange((), flush.blocks)
            self._heads.thaw(keep=False)

    def let_go(self, written: Sequence[Block]) -> None:
        """Forget a flush; the head goes on."""
        self._waiting = None
        with self._lock:
            self._heads.thaw(keep=True)
        self._upkeep.delete(written)

    def give_up(self) -> None:
        """Forget a flush whose log another collector has taken over."""
        self._waiting = None
