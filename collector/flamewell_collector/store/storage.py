"""The store as a whole: append, snapshot, flush, maintain. Everything else in here serves it.

An acknowledged batch is always in exactly one of head, frozen head or blocks, and on disk.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from flamewell_collector.errors import Overloaded, StorageError, StorageUnavailable
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import batch_codec, rebuild, recovery, wal
from flamewell_collector.store.catalog import Block
from flamewell_collector.store.head import Head, concatenated
from flamewell_collector.store.live_blocks import LiveBlocks
from flamewell_collector.store.schema import PROFILES, SAMPLES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stacktable import StackTable
from flamewell_collector.store.state import Snapshot, StorageOptions, StorageState
from flamewell_collector.store.upkeep import Upkeep
from flamewell_collector.store.writer import BLOCKS_FOLDER, BlockWriter, hours

__all__ = ["Snapshot", "Storage", "StorageOptions", "StorageState"]

log = logging.getLogger(__name__)

WAL_FOLDER = "wal"
CATALOG_FILE = "catalog.sqlite"
REMEMBER_BATCHES_MS = 24 * 3_600_000


class _Tenant:
    """What is interned for one tenant."""

    def __init__(self) -> None:
        self.stacks = StackTable()
        self.series = SeriesIndex()


class Storage:
    """The embedded store in one data folder, owned by one process."""

    def __init__(self, data_dir: Path, options: StorageOptions, lock_fd: int) -> None:
        """Use ``open``."""
        self._data_dir = data_dir
        self._options = options
        self._lock_fd = lock_fd
        # Guards head, frozen head, blocks, known batches and tenants: what a snapshot sees.
        self._state_lock = threading.Lock()
        # One flush, compaction or retention at a time. Taken before the log's lock, that before
        # the state lock.
        self._maintenance_lock = threading.Lock()
        self._tenants: dict[str, _Tenant] = {}
        self._head = Head()
        self._frozen: Head | None = None
        self._batch_ids: dict[tuple[str, str], int] = {}
        self._in_flight: set[tuple[str, str]] = set()
        self._failure = ""
        self._wal_skipped_bytes = 0
        self._catalog = rebuild.open_catalog(data_dir / CATALOG_FILE, data_dir, self._wal_dir)
        try:
            self._blocks = LiveBlocks(self._catalog.blocks())
            self._writer = BlockWriter(data_dir)
            self._upkeep = Upkeep(
                data_dir,
                options,
                catalog=self._catalog,
                blocks=self._blocks,
                writer=self._writer,
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
            lock_fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StorageError(f"the data folder {data_dir} can't be used: {error}") from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock_fd)
            raise StorageError(
                f"another collector uses the data folder {data_dir}: stop it, or name another "
                "folder with --data-dir"
            ) from error
        try:
            return cls(data_dir, options, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    def seen(self, tenant: str, batch_id: str) -> bool:
        """Tell whether a batch is durable already."""
        return (tenant, batch_id) in self._batch_ids

    def series(self, tenant: str) -> SeriesIndex:
        """Give the tenant's series."""
        return self._tenant(tenant).series

    def append(self, batch: DecodedBatch) -> bool:
        """Make a batch durable and queryable.

        Returns:
            False where all its batch ids were known: nothing was stored.

        Raises:
            StorageUnavailable: The disk is full or read-only; nothing of the batch counts.
            Overloaded: Some of it is being written, or has just been, by another request: what is
                left of it has to be told apart anew.
        """
        keys = {(batch.tenant, each) for each in batch.batch_ids}
        self._check_room()
        with self._state_lock:
            known = keys & self._batch_ids.keys()
            if keys and known == keys:
                return False
            if known or keys & self._in_flight:
                raise Overloaded("a part of the batch is being written: send it again")
            self._in_flight |= keys
        try:
            self._tenant(batch.tenant).stacks.intern(batch.stacks, batch.frames)
            self._wal.append(batch_codec.encode(batch), lambda: self._into_head(batch))
        except StorageUnavailable as error:
            self._failure = str(error)
            raise
        finally:
            with self._state_lock:
                self._in_flight -= keys
        self._failure = ""
        return True

    @contextmanager
    def snapshot(self, tenant: str, start_ms: int, end_ms: int) -> Iterator[Snapshot]:
        """Give a consistent view of [start_ms, end_ms) for as long as the context is open."""
        symbols = self._tenant(tenant)
        with self._state_lock:
            chosen = self._blocks.overlapping(tenant, start_ms, end_ms)
            self._blocks.pin(chosen)
            heads = [each for each in (self._frozen, self._head) if each is not None]
            profiles = concatenated([each.profiles_of(tenant) for each in heads], PROFILES)
            samples = concatenated([each.samples_of(tenant) for each in heads], SAMPLES)
        try:
            yield Snapshot(
                blocks=tuple(self._data_dir / each.path for each in chosen),
                head_profiles=profiles,
                head_samples=samples,
                stacks=symbols.stacks,
                series=symbols.series,
            )
        finally:
            with self._state_lock:
                self._blocks.unpin(chosen)
            self._upkeep.delete_unread()

    def tenants(self) -> list[str]:
        """Give the tenants that have any series."""
        with self._state_lock:
            return sorted(self._tenants)

    def set_aside(self, block: Path, reason: str) -> None:
        """Take a damaged block out of the store; its files move to the damaged folder."""
        self._upkeep.set_aside(str(block.relative_to(self._data_dir)), reason)

    def flush(self) -> None:
        """Write the head as Parquet blocks and forget its log files.

        Raises:
            StorageUnavailable: The disk is full or read-only; the head stays as it is.
        """
        with self._maintenance_lock:
            self._flush()

    def maintain(self, now_ms: int) -> None:
        """Do what is due: flush by age or size, compaction, retention, forgetting old batch ids.

        Raises:
            StorageUnavailable: The disk is full or read-only; the next call tries again.
        """
        self._probe()
        with self._maintenance_lock:
            oldest = self._head.oldest_monotonic
            aged = oldest is not None and time.monotonic() - oldest >= self._options.flush_seconds
            if aged or self._head.rows >= self._options.flush_rows:
                self._flush()
            # Retention first: it makes room for what follows.
            if self._upkeep.expire(now_ms):
                self._forget_series()
            self._forget_batches(now_ms - REMEMBER_BATCHES_MS)
            self._upkeep.compact(now_ms)

    def close(self) -> None:
        """Flush and let go of the folder; where the flush fails, the log keeps everything."""
        try:
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
            rows = self._rows()
        try:
            self._check_room()
            reason = self._failure
        except StorageUnavailable as error:
            reason = str(error)
        return StorageState(
            writable=not reason,
            reason=reason,
            head_rows=rows,
            wal_bytes=wal.total_bytes(self._wal_dir),
            blocks=len(blocks),
            block_bytes=sum(each.bytes for each in blocks),
            damaged_blocks=len(self._catalog.damaged()),
            disk_free_bytes=shutil.disk_usage(self._data_dir).free,
            wal_skipped_bytes=self._wal_skipped_bytes,
        )

    @property
    def _wal_dir(self) -> Path:
        return self._data_dir / WAL_FOLDER

    def _rows(self) -> int:
        return self._head.rows + (self._frozen.rows if self._frozen else 0)

    def _tenant(self, name: str) -> _Tenant:
        with self._state_lock:
            return self._tenants.setdefault(name, _Tenant())

    def _into_head(self, batch: DecodedBatch) -> None:
        """Count a batch: it is on disk now."""
        now_ms = time.time_ns() // 1_000_000
        with self._state_lock:
            new = self._tenants[batch.tenant].series.add(batch.series)
            self._head.add(batch, received_ms=now_ms)
            self._head.new_series.extend((batch.tenant, each) for each in new)
            self._batch_ids.update(((batch.tenant, each), now_ms) for each in batch.batch_ids)

    def _flush(self) -> None:
        if self._head.empty:
            return
        number = self._wal.rotate(self._freeze)
        frozen = self._frozen
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
            # Whatever went wrong: a frozen head that is not registered goes back into the head.
            with self._state_lock:
                if registered:
                    self._blocks.exchange((), written)
                else:
                    frozen.absorb(self._head)
                    self._head = frozen
                self._frozen = None
            if not registered:
                self._upkeep.delete(written)
        self._remove_logs(number)

    def _freeze(self) -> None:
        with self._state_lock:
            self._frozen, self._head = self._head, Head()

    def _write_blocks(self, head: Head, wal_number: int, written: list[Block]) -> None:
        """Write a block a tenant and hour; after an error ``written`` has what was done."""
        for tenant in sorted(head.tenants):
            symbols = self._tenant(tenant)
            rows = hours(head.profiles_of(tenant), head.samples_of(tenant))
            for hour, profiles, samples in rows:
                written.append(
                    self._writer.write(
                        tenant,
                        hour,
                        profiles=profiles,
                        samples=samples,
                        stacks=symbols.stacks,
                        series=symbols.series,
                        wal_number=wal_number,
                    )
                )

    def _recover(self) -> None:
        """Sweep what a crash left behind, then read the log into the head."""
        flushed = self._catalog.flushed_wal()
        recovery.sweep(self._data_dir, registered={each.path for each in self._blocks.all()})
        for block, reason in recovery.incomplete(self._data_dir, self._blocks.all()):
            self._upkeep.set_aside(block.path, reason)
        for tenant, series in self._catalog.series():
            self._tenant(tenant).series.add_one(series)
        self._batch_ids = {
            (tenant, batch_id): received_ms
            for tenant, batch_id, received_ms in self._catalog.batch_ids()
        }
        recovered = recovery.read_log(self._wal_dir, flushed=flushed)
        self._wal_skipped_bytes = recovered.skipped_bytes
        for batch in recovered.batches:
            keys = {(batch.tenant, each) for each in batch.batch_ids}
            if not keys or not keys <= self._batch_ids.keys():
                self._tenant(batch.tenant).stacks.intern(batch.stacks, batch.frames)
                self._into_head(batch)
        self._wal = wal.Wal(self._wal_dir, number=recovered.last_number + 1)
        self._remove_logs(flushed)

    def _remove_logs(self, flushed: int) -> None:
        # The newest goes first: while it is there, the older ones are (see rebuild).
        for number, path in reversed(wal.files(self._wal_dir)):
            if number <= flushed:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("the flushed log file %s can't be removed: %s", path.name, error)

    def _forget_series(self) -> None:
        """Drop series of which no block and no unflushed row is left."""
        with self._state_lock:
            starts = [each.start_ms for each in self._blocks.all()]
            heads = [each for each in (self._frozen, self._head) if each is not None]
            unused = [
                key
                for key in self._catalog.series_before(min(starts, default=None))
                if not any(key in each.active for each in heads)
            ]
            for tenant, series_id in unused:
                if tenant in self._tenants:
                    self._tenants[tenant].series.discard(series_id)
        self._catalog.drop_series(unused)

    def _forget_batches(self, horizon_ms: int) -> None:
        with self._state_lock:
            old = [key for key, received in self._batch_ids.items() if received < horizon_ms]
            for key in old:
                del self._batch_ids[key]
        if old:
            self._catalog.forget_batches(horizon_ms)

    def _probe(self) -> None:
        """After a failed write find out whether writes work again, so that readiness returns."""
        if not self._failure:
            return
        try:
            recovery.try_write(self._wal_dir)
        except OSError as error:
            log.debug("the data folder still can't be written: %s", error)
        else:
            self._failure = ""

    def _check_room(self) -> None:
        """Refuse before the disk is really full: reads, the catalog and a flush need some room.

        Raises:
            StorageUnavailable: Too little disk is left, or too much waits for a flush.
        """
        free = shutil.disk_usage(self._data_dir).free
        if free < self._options.min_free_bytes:
            raise StorageUnavailable(
                f"the disk of {self._data_dir} has {free >> 20} MiB left, "
                f"{self._options.min_free_bytes >> 20} MiB are kept free: make room or shorten "
                "the retention"
            )
        if self._rows() >= self._options.max_head_rows:
            raise StorageUnavailable(
                f"{self._rows()} rows wait for a flush, which fails or is behind: see the log"
            )
