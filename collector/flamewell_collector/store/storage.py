"""The store as a whole: append, snapshot, flush, maintain. Everything else in here serves it.

An acknowledged batch is always in exactly one of head, frozen head or blocks, and on disk.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from flamewell_collector.errors import Overloaded, StorageError, StorageUnavailable
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import batch_codec, folder_lock, rebuild, recovery, wal
from flamewell_collector.store.catalog import Block
from flamewell_collector.store.dedupe import REMEMBER_MS, SeenBatches
from flamewell_collector.store.flush import write_head
from flamewell_collector.store.head import Head, Heads, HeadView
from flamewell_collector.store.known_stacks import KnownStacks, TenantStacks
from flamewell_collector.store.live_blocks import LiveBlocks
from flamewell_collector.store.plan import Stored
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.room import Room
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stack_cache import StackCache
from flamewell_collector.store.state import Snapshot, StorageOptions, StorageState
from flamewell_collector.store.tiers import RAW
from flamewell_collector.store.upkeep import Upkeep
from flamewell_collector.store.writer import BLOCKS_FOLDER, ROLLUPS_FOLDER, BlockWriter, Origin

__all__ = ["Snapshot", "Storage", "StorageOptions", "StorageState"]

log = logging.getLogger(__name__)

WAL_FOLDER = "wal"
CATALOG_FILE = "catalog.sqlite"


class Storage:
    """The embedded store in one data folder, owned by one process."""

    def __init__(self, data_dir: Path, options: StorageOptions, lock_fd: int) -> None:
        """Use ``open``."""
        self._data_dir = data_dir
        self._options = options
        self._lock_fd = lock_fd
        # Guards head, frozen head, blocks, known batches and tenants: what a snapshot sees.
        self._state_lock = threading.Lock()
        # One flush at a time, and one compaction or retention, which may take minutes meanwhile.
        # Taken before the log's lock, that before the state lock.
        self._flush_lock = threading.Lock()
        self._upkeep_lock = threading.Lock()
        self._series: dict[str, SeriesIndex] = {}
        self._heads = Heads()
        self._seen = SeenBatches()
        self._known = KnownStacks(0)
        self._in_flight: set[tuple[str, str]] = set()
        self._room = Room(
            data_dir,
            min_free_bytes=options.min_free_bytes,
            max_rows=options.max_head_rows,
            rows=lambda: self._heads.rows,
        )
        self._wal_skipped_bytes = 0
        self._catalog = rebuild.open_catalog(data_dir / CATALOG_FILE, data_dir, self._wal_dir)
        try:
            self._blocks = LiveBlocks(self._catalog.blocks(), self._catalog.rollup_hours())
            self._writer = BlockWriter(data_dir)
            self._stacks = StackCache(options.stack_cache_bytes)
            self._upkeep = Upkeep(
                data_dir,
                options,
                catalog=self._catalog,
                blocks=self._blocks,
                writer=self._writer,
                stacks=self._stacks,
                lock=self._state_lock,
            )
            self._recover()
        except BaseException:
            self._catalog.close()
            raise

    @classmethod
    def open(cls, data_dir: Path, options: StorageOptions) -> Self:
        """Open a data folder, making it if it is not there, and recover what the log holds.

        Raises:
            StorageError: Another process uses it, or it can't be read or written.
        """
        try:
            (data_dir / WAL_FOLDER).mkdir(parents=True, exist_ok=True)
            (data_dir / BLOCKS_FOLDER).mkdir(exist_ok=True)
            (data_dir / ROLLUPS_FOLDER).mkdir(exist_ok=True)
            lock_fd = folder_lock.take(data_dir)
        except OSError as error:
            raise StorageError(f"the data folder {data_dir} can't be used: {error}") from error
        try:
            return cls(data_dir, options, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    def seen(self, tenant: str, batch_id: str) -> bool:
        """Tell whether a batch is durable already."""
        return self._seen.seen(tenant, batch_id)

    def series(self, tenant: str) -> SeriesIndex:
        """Give the tenant's series."""
        with self._state_lock:
            return self._series.setdefault(tenant, SeriesIndex())

    def known_stacks(self, tenant: str) -> TenantStacks:
        """Tell which stacks a batch need not hold: the log has them."""
        return self._known.of(tenant)

    def append(self, batch: DecodedBatch) -> bool:
        """Make a batch durable and queryable.

        Returns:
            False where all its batch ids were known: nothing was stored.

        Raises:
            StorageUnavailable: The disk is full or read-only; nothing of the batch counts.
            StaleBatch: It leaves out stacks that are in a former log file: decode it again.
            Overloaded: Some of it is being written, or has just been, by another request: what is
                left of it has to be told apart anew.
        """
        keys = {(batch.tenant, each) for each in batch.batch_ids}
        self.check_room()
        with self._state_lock:
            known = {key for key in keys if self._seen.seen(*key)}
            if keys and known == keys:
                return False
            if known or keys & self._in_flight:
                raise Overloaded("a part of the batch is being written: send it again")
            self._in_flight |= keys
        try:
            self._wal.append(
                batch_codec.encode(batch), lambda: self._into_head(batch), number=batch.epoch
            )
        except StorageUnavailable as error:
            self._room.failure = str(error)
            raise
        finally:
            with self._state_lock:
                self._in_flight -= keys
        self._room.failure = ""
        return True

    @contextmanager
    def snapshot(
        self, tenant: str, start_ms: int, end_ms: int, *, services: Sequence[str] | None = ()
    ) -> Iterator[Snapshot]:
        """Give a consistent view of [start_ms, end_ms) for as long as the context is open.

        Args:
            tenant: Whose.
            start_ms: First time that is asked for.
            end_ms: First time that is not asked for any more.
            services: Whose samples are wanted, as far as they are in memory; all for None.
        """
        series = self.series(tenant)
        with self._state_lock:
            raw = self._blocks.raw_of_hours(tenant, start_ms, end_ms)
            rollups = self._blocks.rollups(tenant, start_ms, end_ms)
            chosen = [*raw, *(block for found in rollups.values() for block in found.values())]
            self._blocks.pin(chosen)
            heads = self._heads.of(tenant)
            views = tuple(each.view(services) for each in heads)
            hours = {hour for each in heads for hour in each.hours}
        try:
            yield Snapshot(
                data_dir=self._data_dir,
                stored=Stored(raw, rollups, hours),
                series=series,
                heads=views,
                stacks=lambda service, blocks: self._stacks.stacks(
                    tenant,
                    service,
                    blocks=blocks,
                    heads=_trees(service, views),
                    report_damage=self.set_aside,
                ),
            )
        finally:
            with self._state_lock:
                self._blocks.unpin(chosen)
            self._upkeep.delete_unread()

    def tenants(self) -> list[str]:
        """Give the tenants that have any series."""
        with self._state_lock:
            return sorted(name for name, series in self._series.items() if len(series))

    def set_aside(self, block: Path, reason: str) -> None:
        """Take a damaged block out of the store; its files move to the damaged folder."""
        self._upkeep.set_aside(str(block.relative_to(self._data_dir)), reason)

    @property
    def set_aside_count(self) -> int:
        """How many blocks were set aside since the start."""
        return self._upkeep.set_aside_count

    def flush(self) -> None:
        """Write the head as Parquet blocks and forget its log files.

        Raises:
            StorageUnavailable: The disk is full or read-only; the head stays as it is.
        """
        with self._flush_lock:
            self._flush()

    def flush_if_due(self) -> None:
        """Flush where the head is old or large.

        Raises:
            StorageUnavailable: The disk is full or read-only; the head stays as it is.
        """
        self._room.probe(self._wal_dir)
        with self._flush_lock:
            oldest = self._heads.taking.oldest_monotonic
            aged = oldest is not None and time.monotonic() - oldest >= self._options.flush_seconds
            if aged or self._heads.taking.rows >= self._options.flush_rows:
                self._flush()

    def maintain(self, now_ms: int) -> None:
        """Do what is due: flush by age or size, compaction, retention, forgetting old batch ids.

        Raises:
            StorageUnavailable: The disk is full or read-only; the next call tries again.
        """
        self.flush_if_due()
        with self._upkeep_lock:
            # Retention first: it makes room for what follows.
            if self._upkeep.expire(now_ms):
                self._forget_series()
            if self._seen.forget(now_ms - REMEMBER_MS):
                self._catalog.forget_batches(now_ms - REMEMBER_MS)
            self._upkeep.compact(now_ms)

    def stop_upkeep(self) -> None:
        """Let go of a compaction that runs: nothing of it counts; no other is begun."""
        self._upkeep.stopping.set()

    def check_room(self) -> None:
        """Refuse before the disk is really full.

        Raises:
            StorageUnavailable: Too little disk is left, or too much waits for a flush.
        """
        self._room.check()

    def close(self, *, flush: bool = True) -> None:
        """Flush and let go of the folder; where the flush fails, the log keeps everything.

        Args:
            flush: Off: the log is left to keep it (a folder that was opened to be read).
        """
        self.stop_upkeep()
        try:
            with self._upkeep_lock:
                if flush:
                    self.flush()
        except StorageError as error:
            log.warning("could not flush at the end, the log will be read at the start: %s", error)
        self._wal.close()
        self._catalog.close()
        os.close(self._lock_fd)

    @property
    def state(self) -> StorageState:
        """Say how the store is."""
        with self._state_lock:
            blocks = self._blocks.all()
            rows = self._heads.rows
        raw = [each for each in blocks if each.tier == RAW]
        reason = self._room.reason()
        return StorageState(
            writable=not reason,
            reason=reason,
            head_rows=rows,
            wal_bytes=wal.total_bytes(self._wal_dir),
            blocks=len(raw),
            block_bytes=sum(each.bytes for each in raw),
            rollup_blocks=len(blocks) - len(raw),
            rollup_bytes=sum(each.bytes for each in blocks if each.tier != RAW),
            stack_cache_bytes=self._stacks.nbytes,
            damaged_blocks=len(self._catalog.damaged()),
            disk_free_bytes=shutil.disk_usage(self._data_dir).free,
            wal_skipped_bytes=self._wal_skipped_bytes,
        )

    @property
    def _wal_dir(self) -> Path:
        return self._data_dir / WAL_FOLDER

    def _into_head(self, batch: DecodedBatch) -> None:
        """Count a batch: it is on disk now."""
        now_ms = time.time_ns() // 1_000_000
        new = self.series(batch.tenant).add(batch.series)
        with self._state_lock:
            self._heads.taking.add(batch, received_ms=now_ms)
            self._heads.taking.new_series.extend((batch.tenant, each) for each in new)
            for batch_id in batch.batch_ids:
                self._seen.add(batch.tenant, batch_id, now_ms)
        self._known.add(batch.tenant, batch.stacks)

    def _flush(self) -> None:
        if self._heads.taking.empty:
            return
        number = self._wal.rotate(self._freeze)
        frozen = self._heads.frozen
        assert frozen is not None  # noqa: S101 - set by _freeze, which rotate has called
        written: list[Block] = []
        registered = False
        try:
            self._write_blocks(frozen, number, written)
            self._catalog.register_flush(
                written,
                series=frozen.new_series,
                active=frozen.active,
                batch_ids=frozen.batch_ids,
                wal_number=number,
            )
            registered = True
        finally:
            with self._state_lock:
                if registered:
                    self._blocks.exchange((), written)
                self._heads.thaw(keep=not registered)
            if not registered:
                self._upkeep.delete(written)
        recovery.remove_logs(self._wal_dir, number)

    def _freeze(self) -> None:
        with self._state_lock:
            self._heads.freeze()
        self._known.reset(self._wal.number)

    def _write_blocks(self, head: Head, wal_number: int, written: list[Block]) -> None:
        """Write a block a tenant and hour; after an error ``written`` has what was done."""
        for tenant in sorted(head.tenants):
            write_head(
                tenant,
                head.tenants[tenant],
                self._writer,
                series=self.series(tenant),
                origin=Origin(wal_number=wal_number),
                written=written,
            )

    def _recover(self) -> None:
        """Sweep what a crash left behind, then read the log into the head."""
        flushed = self._catalog.flushed_wal()
        recovery.sweep(self._data_dir, registered={each.path for each in self._blocks.all()})
        for block, reason in recovery.incomplete(self._data_dir, self._blocks.all()):
            self._upkeep.set_aside(block.path, reason)
        for tenant, series in self._catalog.series():
            self.series(tenant).add_one(series)
        self._seen = self._catalog.seen_batches()
        recovered = recovery.read_log(self._wal_dir, flushed=flushed)
        self._wal_skipped_bytes = recovered.skipped_bytes
        # Whole ids, not the watermarks of agents: the order of the log need not be that of taking.
        replayed: set[tuple[str, str]] = set()
        for batch in recovered.batches:
            keys = {(batch.tenant, each) for each in batch.batch_ids}
            if not keys or not keys <= replayed:
                replayed |= keys
                self._into_head(batch)
        self._wal = wal.Wal(self._wal_dir, number=recovered.last_number + 1)
        self._known.reset(self._wal.number)
        recovery.remove_logs(self._wal_dir, flushed)

    def _forget_series(self) -> None:
        """Drop series of which no block and no unflushed row is left."""
        with self._state_lock:
            starts = [each.start_ms for each in self._blocks.all()]
            unused = [
                key
                for key in self._catalog.series_before(min(starts, default=None))
                if not self._heads.active(key)
            ]
            for tenant, series_id in unused:
                if tenant in self._series:
                    self._series[tenant].discard(series_id)
        self._catalog.drop_series(unused)


def _trees(service: str, heads: Sequence[HeadView]) -> list[PrefixTree]:
    """Give the stacks of a service that are in memory only."""
    found = (each.stacks.tree(service) for each in heads)
    return [each for each in found if each is not None]
