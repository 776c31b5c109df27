"""What keeps the blocks in order: compaction, retention, setting damaged ones aside, deletion."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from flamewell_collector.errors import StorageError, StorageUnavailable, Superseded
from flamewell_collector.store import compactor, retention
from flamewell_collector.store.block_files import RAW_FILES, SERIES_FILE, SUMS_FILES, BlockFiles
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import Block, RollupHour
from flamewell_collector.store.live_blocks import LiveBlocks
from flamewell_collector.store.stack_cache import StackCache
from flamewell_collector.store.state import StorageOptions
from flamewell_collector.store.writer import BlockWriter, read_origin

log = logging.getLogger(__name__)


class Upkeep:
    """Changes the catalog first and what snapshots see afterwards; files go last of all.

    Attributes:
        set_aside_count: How many damaged blocks were set aside since the start.
        stopping: Set: what is being merged is let go, and nothing more is begun.
    """

    def __init__(
        self,
        data_dir: Path,
        options: StorageOptions,
        *,
        catalog: Catalog,
        blocks: LiveBlocks,
        files: BlockFiles,
        writer: BlockWriter,
        stacks: StackCache,
        lock: threading.Lock,
    ) -> None:
        """Take the parts; ``lock`` guards ``blocks``."""
        self.set_aside_count = 0
        self.stopping = threading.Event()
        self._stacks = stacks
        self._data_dir = data_dir
        self._options = options
        self._catalog = catalog
        self._blocks = blocks
        self._files = files
        self._writer = writer
        self._lock = lock

    def compact(self, now_ms: int) -> None:
        """Merge the blocks of each closed hour and sum them up; merge the sums of closed days.

        Raises:
            StorageUnavailable: The disk is full or read-only.
        """
        closed_ms = now_ms - self._options.compact_after_seconds * 1000
        with self._lock:
            groups = compactor.due_hours(self._blocks.raw(), self._blocks.hours(), closed_ms)
        for group in groups:
            self._replace(group, partial(self._merge_hour, group))
        with self._lock:
            days = compactor.due_days(self._blocks.hours(), closed_ms)
        for hours in days:
            # Those blocks go with the exchange of which no hour counts any more.
            self._replace([], partial(self._merge_day, hours))

    def expire(self, now_ms: int) -> bool:
        """Remove blocks that have outlived their keep; tells whether there were any.

        Raises:
            StorageUnavailable: The catalog can't be written.
        """
        with self._lock:
            gone = retention.expired(
                self._blocks.all(),
                now_ms=now_ms,
                keep_ms=self._options.keep_ms_by_tier,
                keep_bytes=self._options.keep_bytes,
            )
        if gone:
            self._exchange(gone)
            log.info("%d blocks have outlived their keep", len(gone))
        return bool(gone)

    def set_aside(self, path: str, reason: str) -> None:
        """Take a damaged block out of the store; its files move to the damaged folder."""
        if self._files.is_copy(path):
            self._stacks.forget([self._data_dir / path])
            return
        with self._lock:
            known = self._blocks.take_out(path)
            self.set_aside_count += known is not None
        if known is None:
            return
        log.error("block %s is damaged and set aside: %s", path, reason)
        try:
            self._catalog.set_aside(path, reason)
        except StorageError as error:
            # It is still registered: the next start, or the next reader after it, comes here again.
            log.warning("the damaged block %s stays where it is for now: %s", path, error)
            return
        self._files.set_aside(path)

    def delete_unread(self) -> None:
        """Delete replaced blocks that no snapshot holds."""
        with self._lock:
            paths = self._blocks.deletable()
        for path in paths:
            self._files.remove(path)

    def delete(self, blocks: Iterable[Block]) -> None:
        """Delete blocks that were written but are not registered."""
        registered = {each.path for each in self._catalog.blocks()}
        for each in blocks:
            if each.path not in registered:
                self._files.remove(each.path)

    def _merge_hour(self, group: Sequence[Block]) -> compactor.Compacted:
        self._files.fetch((each.path, RAW_FILES + SERIES_FILE) for each in group)
        return compactor.compact_hour(
            group,
            data_dir=self._data_dir,
            writer=self._writer,
            stopped=self.stopping.is_set,
        )

    def _merge_day(self, hours: Sequence[RollupHour]) -> compactor.Compacted:
        with self._lock:
            known = {each.path: each for each in self._blocks.all()}
        self._files.fetch((each.path, SUMS_FILES + SERIES_FILE) for each in hours)
        return compactor.compact_day(
            hours,
            [read_origin(self._data_dir / each.path) for each in hours],
            blocks=[known[each.path] for each in hours],
            data_dir=self._data_dir,
            writer=self._writer,
            stopped=self.stopping.is_set,
        )

    def _replace(self, old: Sequence[Block], merge: Callable[[], compactor.Compacted]) -> None:
        """Write what takes the place of others; a damaged one is set aside instead."""
        if self.stopping.is_set():
            return
        try:
            made = merge()
        except compactor.Stopped:
            log.info("a compaction is let go: the next start begins it anew")
            return
        except compactor.DamagedBlock as error:
            self.set_aside(error.block.path, str(error))
            return
        except (OSError, ValueError, pa.ArrowException) as error:
            log.error("blocks could not be merged: %s", error)
            return
        self._exchange(old, made.blocks, made.hours)

    def _exchange(
        self,
        old: Sequence[Block],
        new: Sequence[Block] = (),
        hours: Sequence[RollupHour] = (),
    ) -> None:
        try:
            self._files.publish(new)
            useless = self._catalog.replace(old, new, hours)
        except Superseded as error:
            log.info("a merge is let go: %s", error)
            self.delete(new)
            return
        except StorageUnavailable:
            self.delete(new)
            raise
        self.exchange([*(each.path for each in old), *useless], new, hours)

    def exchange(
        self, gone: Sequence[str], new: Sequence[Block], hours: Sequence[RollupHour]
    ) -> None:
        """Let questions see what the catalog says."""
        with self._lock:
            self._blocks.exchange(gone, new, hours)
        self._stacks.forget(self._data_dir / path for path in gone)
        self.delete_unread()
