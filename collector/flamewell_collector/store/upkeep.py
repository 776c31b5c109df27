"""What keeps the blocks in order: compaction, retention, setting damaged ones aside, deletion."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store import compactor, recovery, retention
from flamewell_collector.store.catalog import Block, Catalog
from flamewell_collector.store.live_blocks import LiveBlocks
from flamewell_collector.store.state import StorageOptions
from flamewell_collector.store.writer import BlockWriter

log = logging.getLogger(__name__)


class Upkeep:
    """Changes the catalog first and what snapshots see afterwards; files go last of all."""

    def __init__(
        self,
        data_dir: Path,
        options: StorageOptions,
        *,
        catalog: Catalog,
        blocks: LiveBlocks,
        writer: BlockWriter,
        lock: threading.Lock,
    ) -> None:
        """Take the parts; ``lock`` guards ``blocks``."""
        self._data_dir = data_dir
        self._options = options
        self._catalog = catalog
        self._blocks = blocks
        self._writer = writer
        self._lock = lock

    def compact(self, now_ms: int) -> None:
        """Merge the blocks of each closed hour.

        Raises:
            StorageUnavailable: The disk is full or read-only.
        """
        closed_ms = now_ms - self._options.compact_after_seconds * 1000
        with self._lock:
            groups = compactor.due(self._blocks.all(), closed_ms)
        for group in groups:
            try:
                merged = compactor.compact(group, data_dir=self._data_dir, writer=self._writer)
            except compactor.DamagedBlock as error:
                self.set_aside(error.block.path, str(error))
                continue
            self._exchange(group, merged)

    def expire(self, now_ms: int) -> bool:
        """Remove blocks that have outlived their keep; tells whether there were any.

        Raises:
            StorageUnavailable: The catalog can't be written.
        """
        with self._lock:
            gone = retention.expired(
                self._blocks.all(),
                now_ms=now_ms,
                keep_ms=self._options.keep_ms,
                keep_bytes=self._options.keep_bytes,
            )
        if gone:
            self._exchange(gone, None)
            log.info("%d blocks have outlived their keep", len(gone))
        return bool(gone)

    def set_aside(self, path: str, reason: str) -> None:
        """Take a damaged block out of the store; its files move to the damaged folder."""
        with self._lock:
            known = self._blocks.take_out(path)
        if known is None:
            return
        log.error("block %s is damaged and set aside: %s", path, reason)
        block = self._data_dir / path
        try:
            self._catalog.set_aside(path, reason)
        except StorageUnavailable as error:
            # It is still registered: the next start, or the next reader after it, comes here again.
            log.warning("the damaged block %s stays where it is for now: %s", path, error)
            return
        if block.exists():
            recovery.set_aside(block, self._data_dir)

    def delete_unread(self) -> None:
        """Delete replaced blocks that no snapshot holds."""
        with self._lock:
            paths = self._blocks.deletable()
        for path in paths:
            shutil.rmtree(self._data_dir / path, ignore_errors=True)

    def delete(self, blocks: Iterable[Block]) -> None:
        """Delete blocks that were written but are not registered."""
        registered = {each.path for each in self._catalog.blocks()}
        for each in blocks:
            if each.path not in registered:
                shutil.rmtree(self._data_dir / each.path, ignore_errors=True)

    def _exchange(self, old: list[Block], new: Block | None) -> None:
        fresh = [new] if new else []
        try:
            self._catalog.replace(old, fresh)
        except StorageUnavailable:
            self.delete(fresh)
            raise
        with self._lock:
            self._blocks.exchange(old, fresh)
        self.delete_unread()
