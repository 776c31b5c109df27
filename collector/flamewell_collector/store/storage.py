"""The store as a whole: append, snapshot, flush, maintain. Everything else in here serves it.

What holds at every moment: an acknowledged batch is in exactly one of head, frozen head or blocks,
and on disk in a log file or a registered block.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa

from flamewell_collector.errors import Overloaded, StorageError, StorageUnavailable
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import batch_codec, compactor, recovery, retention, wal
from flamewell_collector.store.catalog import Block, Catalog
from flamewell_collector.store.head import Head, concatenated
from flamewell_collector.store.schema import PROFILES, SAMPLES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stacktable import StackTable
from flamewell_collector.store.writer import BLOCKS_FOLDER, BlockWriter, hours

log = logging.getLogger(__name__)

WAL_FOLDER = "wal"
DAMAGED_FOLDER = "damaged"
REMEMBER_BATCHES_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How the store behaves.

    Attributes:
        flush_seconds: The head becomes Parquet when its oldest row is this old.
        flush_rows: ... or when it has this many rows.
        keep_ms: Blocks older than this are removed; 0 keeps for ever.
        keep_bytes: The oldest blocks go until the rest fits; 0 is no limit.
        min_free_bytes: Below this much free disk nothing new is taken; reads go on.
    """

    flush_seconds: float = 300
    flush_rows: int = 2_000_000
    keep_ms: int = 0
    keep_bytes: int = 0
    min_free_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class StorageState:
    """What /ready, /api/v1/status and the metrics show."""

    writable: bool
    reason: str
    head_rows: int
    wal_bytes: int
    blocks: int
    block_bytes: int
    damaged_blocks: int
    disk_free_bytes: int
    wal_skipped_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view of one tenant: each row is in exactly one of blocks or head.

    Attributes:
        blocks: Folders that may hold rows of the asked range; not deleted while it is open.
        head_profiles: Unflushed PROFILES rows, of any time.
        head_samples: Unflushed SAMPLES rows, of any time.
        stacks: The tenant's stacks; call ``load_block`` for each block first.
        series: The tenant's series.
    """

    blocks: tuple[Path, ...]
    head_profiles: pa.Table
    head_samples: pa.Table
    stacks: StackTable
    series: SeriesIndex


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
        self._state_lock = threading.Lock()
        self._maintenance_lock = threading.Lock()
        self._tenants: dict[str, _Tenant] = {}
        self._head = Head()
        self._frozen: Head | None = None
        self._batch_ids: dict[tuple[str, str], int] = {}
        self._in_flight: set[tuple[str, str]] = set()
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._failure = ""
        self._wal_skipped_bytes = 0
        self._catalog = Catalog(data_dir / "catalog.sqlite")
        self._blocks = {each.path: each for each in self._catalog.blocks()}
        self._writer = BlockWriter(data_dir)
        self._recover()

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
        """Give a tenant's series."""
        return self._tenant(tenant).series

    def append(self, batch: DecodedBatch) -> bool:
        """Make a batch durable and queryable.

        Returns:
            False where all its batch ids were known: nothing was stored.

        Raises:
            StorageUnavailable: The disk is full or read-only; nothing of the batch counts.
            Overloaded: The same batch is being written by another request.
        """
        keys = {(batch.tenant, each) for each in batch.batch_ids}
        self._check_space()
        with self._state_lock:
            if keys and all(each in self._batch_ids for each in keys):
                return False
            if keys & self._in_flight:
                raise Overloaded("the same batch is being written; come again")
            self._in_flight |= keys
        try:
            self._intern(batch)
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
        with self._state_lock:
            chosen = [
                each
                for each in self._blocks.values()
                if each.tenant == tenant and each.start_ms < end_ms and each.end_ms >= start_ms
            ]
            self._pins.update(each.path for each in chosen)
            heads = [each for each in (self._frozen, self._head) if each is not None]
            profiles = concatenated([each.profiles_of(tenant) for each in heads], PROFILES)
            samples = concatenated([each.samples_of(tenant) for each in heads], SAMPLES)
        symbols = self._tenant(tenant)
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
                self._pins.subtract(each.path for each in chosen)
                self._pins = +self._pins
            self._remove_doomed()

    def tenants(self) -> list[str]:
        """Give the tenants that have any series."""
        with self._state_lock:
            return sorted(self._tenants)

    def set_aside(self, block: Path, reason: str) -> None:
        """Take a damaged block out of the store; its files move to the damaged folder."""
        relative = str(block.relative_to(self._data_dir))
        with self._state_lock:
            known = self._blocks.pop(relative, None)
        if known is None:
            return
        log.error("block %s is damaged and set aside: %s", relative, reason)
        self._catalog.set_aside(relative, reason)
        target = self._data_dir / DAMAGED_FOLDER / block.name
        try:
            target.parent.mkdir(exist_ok=True)
            block.rename(target)
        except OSError as error:
            log.warning("the damaged block %s could not be moved: %s", relative, error)

    def flush(self) -> None:
        """Write the head as Parquet blocks and forget its log files.

        Raises:
            StorageUnavailable: The disk is full or read-only; the head stays as it is.
        """
        with self._maintenance_lock:
            if self._head.rows == 0 and not self._head.batch_ids:
                return
            number = self._wal.rotate(self._freeze)
            frozen = self._frozen
            assert frozen is not None  # noqa: S101 - set by _freeze, which rotate has called
            try:
                written = list(self._write_blocks(frozen))
                self._catalog.register_flush(
                    written,
                    series=frozen.new_series,
                    batch_ids=frozen.batch_ids,
                    wal_number=number,
                )
            except StorageError:
                with self._state_lock:
                    frozen.absorb(self._head)
                    self._head, self._frozen = frozen, None
                raise
            with self._state_lock:
                self._blocks.update({each.path: each for each in written})
                self._frozen = None
            self._remove_logs(number)

    def maintain(self, now_ms: int) -> None:
        """Do what is due: flush by age or size, compaction, retention, forgetting old batch ids.

        Raises:
            StorageUnavailable: The disk is full or read-only; the next call tries again.
        """
        oldest = self._head.oldest_monotonic
        aged = oldest is not None and time.monotonic() - oldest >= self._options.flush_seconds
        if aged or self._head.rows >= self._options.flush_rows:
            self.flush()
        self._compact(now_ms)
        self._expire(now_ms)

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
            blocks = list(self._blocks.values())
            rows = self._head.rows + (self._frozen.rows if self._frozen else 0)
        free = shutil.disk_usage(self._data_dir).free
        reason = self._failure
        if free < self._options.min_free_bytes:
            reason = f"only {free >> 20} MiB of disk are free"
        return StorageState(
            writable=not reason,
            reason=reason,
            head_rows=rows,
            wal_bytes=sum(path.stat().st_size for _, path in wal.files(self._wal_dir)),
            blocks=len(blocks),
            block_bytes=sum(each.bytes for each in blocks),
            damaged_blocks=len(self._catalog.damaged()),
            disk_free_bytes=free,
            wal_skipped_bytes=self._wal_skipped_bytes,
        )

    @property
    def _wal_dir(self) -> Path:
        return self._data_dir / WAL_FOLDER

    def _tenant(self, name: str) -> _Tenant:
        with self._state_lock:
            return self._tenants.setdefault(name, _Tenant())

    def _intern(self, batch: DecodedBatch) -> None:
        """Make stacks and series known before the first row that uses them can be read."""
        tenant = self._tenant(batch.tenant)
        tenant.stacks.intern(batch.stacks, batch.frames)
        new = tenant.series.add(batch.series)
        with self._state_lock:
            self._head.new_series.extend((batch.tenant, each) for each in new)

    def _into_head(self, batch: DecodedBatch) -> None:
        """Count a batch: it is on disk now."""
        now_ms = time.time_ns() // 1_000_000
        with self._state_lock:
            self._head.add(batch, received_ms=now_ms)
            self._batch_ids.update(((batch.tenant, each), now_ms) for each in batch.batch_ids)

    def _freeze(self) -> None:
        with self._state_lock:
            self._frozen, self._head = self._head, Head()

    def _write_blocks(self, head: Head) -> Iterator[Block]:
        for tenant in sorted(head.tenants):
            symbols = self._tenant(tenant)
            rows = hours(head.profiles_of(tenant), head.samples_of(tenant))
            for hour, profiles, samples in rows:
                yield self._writer.write(
                    tenant,
                    hour,
                    profiles=profiles,
                    samples=samples,
                    stacks=symbols.stacks,
                    series=symbols.series,
                )

    def _recover(self) -> None:
        """Sweep what a crash left behind, then read the log into the head."""
        recovery.sweep(self._data_dir, registered=set(self._blocks))
        for tenant, series in self._catalog.series():
            self._tenant(tenant).series.add_one(series)
        self._batch_ids = {
            (tenant, batch_id): received_ms
            for tenant, batch_id, received_ms in self._catalog.batch_ids()
        }
        recovered = recovery.read_log(self._wal_dir, flushed=self._catalog.flushed_wal())
        self._wal_skipped_bytes = recovered.skipped_bytes
        for batch in recovered.batches:
            keys = {(batch.tenant, each) for each in batch.batch_ids}
            if not keys or not keys <= self._batch_ids.keys():
                self._intern(batch)
                self._into_head(batch)
        self._wal = wal.Wal(self._wal_dir, number=recovered.last_number + 1)
        self._remove_logs(self._catalog.flushed_wal())

    def _remove_logs(self, flushed: int) -> None:
        for number, path in wal.files(self._wal_dir):
            if number <= flushed:
                path.unlink(missing_ok=True)

    def _compact(self, now_ms: int) -> None:
        with self._state_lock:
            groups = compactor.due(self._blocks.values(), now_ms)
        for group in groups:
            symbols = self._tenant(group[0].tenant)
            try:
                merged = compactor.compact(
                    group,
                    data_dir=self._data_dir,
                    writer=self._writer,
                    stacks=symbols.stacks,
                    series=symbols.series,
                )
            except compactor.DamagedBlock as error:
                self.set_aside(self._data_dir / error.block.path, str(error))
                continue
            self._exchange(group, [merged])

    def _expire(self, now_ms: int) -> None:
        with self._state_lock:
            gone = retention.expired(
                self._blocks.values(),
                now_ms=now_ms,
                keep_ms=self._options.keep_ms,
                keep_bytes=self._options.keep_bytes,
            )
        if gone:
            self._exchange(gone, [])
        with self._state_lock:
            horizon = now_ms - REMEMBER_BATCHES_MS
            forgotten = [key for key, received in self._batch_ids.items() if received < horizon]
            for key in forgotten:
                del self._batch_ids[key]
        if forgotten:
            self._catalog.forget_batches(horizon)

    def _exchange(self, old: list[Block], new: list[Block]) -> None:
        self._catalog.replace(old, new)
        with self._state_lock:
            for each in old:
                self._blocks.pop(each.path, None)
            self._blocks.update({each.path: each for each in new})
            self._doomed.update(each.path for each in old)
        self._remove_doomed()

    def _remove_doomed(self) -> None:
        """Delete replaced blocks that no snapshot holds."""
        with self._state_lock:
            free = {path for path in self._doomed if not self._pins[path]}
            self._doomed -= free
        for path in free:
            shutil.rmtree(self._data_dir / path, ignore_errors=True)

    def _check_space(self) -> None:
        """Refuse before the disk is really full: reads, the catalog and a flush need some room.

        Raises:
            StorageUnavailable: Too little is left.
        """
        free = shutil.disk_usage(self._data_dir).free
        if free < self._options.min_free_bytes:
            raise StorageUnavailable(
                f"the disk of {self._data_dir} has {free >> 20} MiB left, "
                f"{self._options.min_free_bytes >> 20} MiB are kept free: make room or shorten "
                "the retention"
            )
