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
from flamewell_collector.store import batch_codec, data_folder, folder_lock, rebuild, recovery, wal
from flamewell_collector.store.block_files import BlockFiles, LocalFiles
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import LogMark
from flamewell_collector.store.data_folder import CATALOG_FILE, WAL_FOLDER
from flamewell_collector.store.dedupe import REMEMBER_MS, SeenBatches
from flamewell_collector.store.flushing import Flushing
from flamewell_collector.store.head import Heads, each_once, trees_of
from flamewell_collector.store.known_stacks import KnownStacks, TenantStacks
from flamewell_collector.store.live_blocks import LiveBlocks
from flamewell_collector.store.plan import Stored
from flamewell_collector.store.room import Room
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stack_cache import StackCache
from flamewell_collector.store.state import Snapshot, StorageOptions, StorageState, sizes
from flamewell_collector.store.upkeep import Upkeep
from flamewell_collector.store.writer import BLOCKS_FOLDER, ROLLUPS_FOLDER, BlockWriter

__all__ = ["Snapshot", "Storage", "StorageOptions", "StorageState"]

log = logging.getLogger(__name__)


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
        self._mark = LogMark("", 0)
        self._catalog = self._open_catalog()
        try:
            self._blocks = LiveBlocks(self._catalog.blocks(), self._catalog.rollup_hours())
            self._files = self._open_files()
            self._writer = BlockWriter(data_dir)
            self._stacks = StackCache(options.stack_cache_bytes)
            self._upkeep = Upkeep(
                data_dir,
                options,
                catalog=self._catalog,
                blocks=self._blocks,
                files=self._files,
                writer=self._writer,
                stacks=self._stacks,
                lock=self._state_lock,
            )
            self._flushing = Flushing(
                self._heads,
                series_of=self.series,
                catalog=self._catalog,
                blocks=self._blocks,
                files=self._files,
                writer=self._writer,
                upkeep=self._upkeep,
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
            for name in (WAL_FOLDER, BLOCKS_FOLDER, ROLLUPS_FOLDER):
                (data_dir / name).mkdir(parents=True, exist_ok=True)
            lock_fd = folder_lock.take(data_dir)
        except OSError as error:
            raise StorageError(f"the data folder {data_dir} can't be used: {error}") from error
        try:
            cls._check_kind(data_dir, options)
            return cls(data_dir, options, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    @classmethod
    def _check_kind(cls, data_dir: Path, options: StorageOptions) -> None:  # noqa: ARG003 - of ours
        data_folder.check_own(data_dir)

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
                fetch=self._files.fetch,
                stacks=lambda service, blocks: self._stacks.stacks(
                    tenant,
                    service,
                    blocks=blocks,
                    heads=trees_of(service, views),
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
        self._room.probe(self._try_write)
        with self._flush_lock:
            oldest = self._heads.taking.oldest_monotonic
            aged = oldest is not None and time.monotonic() - oldest >= self._options.flush_seconds
            many = self._heads.taking.rows >= self._options.flush_rows
            if aged or many or self._flushing.in_doubt:
                self._flush()

    def maintain(self, now_ms: int) -> None:
        """Do what is due: flush by age or size, compaction, retention, forgetting old batch ids.

        Raises:
            StorageUnavailable: The disk is full or read-only; the next call tries again.
        """
        self.flush_if_due()
        with self._upkeep_lock:
            self._keep_up(now_ms)

    def follow(self) -> None:
        """Take in what other collectors have written since: in a store of one there are none."""

    def watch_peers(self) -> None:
        """Tell other collectors of this one: there are none."""

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
        reason = self._room.reason()
        return StorageState(
            writable=not reason,
            reason=reason,
            head_rows=rows,
            wal_bytes=wal.total_bytes(self._wal_dir),
            **sizes(blocks),
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

    def _keep_up(self, now_ms: int) -> None:
        # Retention first: it makes room for what follows.
        if self._upkeep.expire(now_ms):
            self._forget_series()
        if self._seen.forget(now_ms - REMEMBER_MS):
            self._catalog.forget_batches(now_ms - REMEMBER_MS)
        self._upkeep.compact(now_ms)

    def _flush(self) -> None:
        if not self._flushing.in_doubt:
            if self._heads.taking.empty:
                return
            self._wal.rotate(self._freeze)
            self._flushing.write(self._mark)
        self._flushing.register()
        self._remove_logs(self._mark)

    def _freeze(self) -> None:
        self._mark = self._mark_of(self._wal.number - 1)
        with self._state_lock:
            self._heads.freeze()
        self._known.reset(self._wal.number)

    def _open_catalog(self) -> Catalog:
        return rebuild.open_catalog(self._data_dir / CATALOG_FILE, self._data_dir, self._wal_dir)

    def _open_files(self) -> BlockFiles:
        return LocalFiles(self._data_dir)

    def _try_write(self) -> None:
        recovery.try_write(self._wal_dir)

    def _mark_of(self, number: int) -> LogMark:
        return LogMark("", number)

    def _remove_logs(self, flushed: LogMark) -> None:
        recovery.remove_logs(self._wal_dir, flushed.number)

    def _recover(self) -> None:
        """Sweep what a crash left behind, then read the log into the head."""
        flushed = self._catalog.flushed_wal()
        recovery.sweep(self._data_dir, registered={each.path for each in self._blocks.all()})
        for block, reason in recovery.incomplete(self._data_dir, self._blocks.all()):
            self._upkeep.set_aside(block.path, reason)
        self._read_catalog()
        recovered = recovery.read_log(self._wal_dir, flushed=flushed)
        self._wal_skipped_bytes = recovered.skipped_bytes
        for batch in each_once(recovered.batches):
            self._into_head(batch)
        self._wal = wal.Wal(wal.LogFiles(self._wal_dir), number=recovered.last_number + 1)
        self._known.reset(self._wal.number)
        recovery.remove_logs(self._wal_dir, flushed)

    def _read_catalog(self) -> None:
        for tenant, series in self._catalog.series():
            self.series(tenant).add_one(series)
        self._seen = self._catalog.seen_batches()

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
