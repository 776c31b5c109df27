"""The store that several collectors share: each has its own log, all have the same blocks.

What others have in their logs is read every few seconds, so that every collector answers for all.
The data folder holds copies only. Read docs/decisions/0017 first.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from flamewell_collector.errors import (
    LogTaken,
    StorageError,
    StorageUnavailable,
)
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import data_folder, wal
from flamewell_collector.store.block_files import BlockFiles
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import Change, LogMark
from flamewell_collector.store.data_folder import CATALOG_FILE
from flamewell_collector.store.flushing import Flush
from flamewell_collector.store.head import Head
from flamewell_collector.store.shared.adoption import WHOLE_LOG, Adoption
from flamewell_collector.store.shared.block_objects import BlockObjects
from flamewell_collector.store.shared.cleaning import Cleaning
from flamewell_collector.store.shared.counted import CountedObjects
from flamewell_collector.store.shared.followed_logs import FollowedLogs, decoded
from flamewell_collector.store.shared.log_objects import (
    LogObject,
    LogObjects,
    delete_log_objects,
)
from flamewell_collector.store.shared.objects import open_objects
from flamewell_collector.store.shared.peers import Peers
from flamewell_collector.store.shared.shared_catalog import SharedCatalog
from flamewell_collector.store.state import SharedOptions, SharedState, StorageOptions, StorageState
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.writer import BLOCKS_FOLDER, ROLLUPS_FOLDER, TEMPORARY_FOLDER

log = logging.getLogger(__name__)

_NAME_DIGITS: Final = 8


class SharedStorage(Storage):
    """One collector's view of a shared store."""

    def __init__(self, data_dir: Path, options: StorageOptions, lock_fd: int) -> None:
        """Use ``open``."""
        if options.shared is None:
            raise StorageError("a shared store needs a URL")
        self._shared: SharedOptions = options.shared
        self._objects = CountedObjects(open_objects(self._shared.url, self._shared.endpoint))
        self._peers = Peers(self._objects, lease_seconds=self._shared.lease_seconds)
        self._name = self._new_name()
        self._sink = LogObjects(self._objects, self._name, self._found)
        self._followed = FollowedLogs(self._objects)
        self._follow_lock = threading.Lock()
        self._follow_failure = ""
        self._taken_over = False
        # Log → number of its last file that is in blocks, and the batches of those that are not.
        self._in_blocks: dict[str, int] = {}
        self._in_logs: dict[tuple[str, int], set[tuple[str, str]]] = {}
        self._cleaning = Cleaning(
            self._objects, keep_removed_ms=round(self._shared.keep_removed_seconds * 1000)
        )
        super().__init__(data_dir, options, lock_fd)

    @classmethod
    def _check_kind(cls, data_dir: Path, options: StorageOptions) -> None:
        data_folder.mark_shared(data_dir, options.shared.url if options.shared else "")

    def append(self, batch: DecodedBatch) -> bool:
        """Make a batch durable in the store, and queryable.

        Raises:
            StorageUnavailable: The store can't be reached; nothing of the batch counts, though it
                may be shown for a short time.
        """
        if self._taken_over:
            self._begin_anew()
        try:
            return super().append(batch)
        except LogTaken:
            self._taken_over = True
            raise

    def check_room(self) -> None:
        """Refuse where nothing can be taken.

        Raises:
            StorageUnavailable: As in a store of one's own; or only questions are answered here.
        """
        if self._shared.read_only:
            raise StorageUnavailable(
                "this collector only answers questions (read_only): send profiles to one that "
                "takes them"
            )
        super().check_room()

    def flush_if_due(self) -> None:
        """Flush where the head is old or large."""
        if not self._shared.read_only:
            super().flush_if_due()

    def follow(self) -> None:
        """Take in what other collectors have written since.

        Raises:
            StorageUnavailable: The store can't be reached.
            StorageError: It is damaged, or this collector slept for a day and has to be restarted.
        """
        with self._follow_lock:
            try:
                # In this order: who has left by now has flushed, which is read next; what is
                # flushed and deleted while its log is read comes with the second reading.
                self._peers.look()
                self._catalog_.pull()
                others = [each for each in self._peers.all() if each != self._name]
                self._followed.forget(others)
                for writer in others:
                    self._read_log(writer)
                self._catalog_.pull()
            except StorageError as error:
                self._follow_failure = str(error)
                raise
            self._follow_failure = ""
        if self._taken_over:
            self._begin_anew()

    def watch_peers(self) -> None:
        """Say that this collector is alive; see that it has not slept for too long.

        Raises:
            StorageUnavailable: The store can't be reached.
            StorageError: What others have written is deleted already.
        """
        if not self._shared.read_only:
            self._peers.beat(self._name)
        if self._catalog_.is_behind():
            raise StorageError(
                "changes of the catalog that this collector has not seen are deleted: restart it"
            )

    def close(self, *, flush: bool = True) -> None:
        """Flush, leave, and let go of the folder; what is left in the log others take over."""
        self.stop_upkeep()
        left = flush and not self._shared.read_only
        if left:
            try:
                with self._upkeep_lock:
                    self.flush()
                    self.flush()  # the first may only have settled one that was in doubt
                self._peers.leave(self._name)
            except StorageError as error:
                log.warning("the log stays in the store, others take it over: %s", error)
        elif not self._shared.read_only and self._heads.rows == 0:
            self._peers.leave(self._name)
        super().close(flush=False)
        self._files_.close()

    @property
    def state(self) -> StorageState:
        """Say how the store is."""
        own = super().state
        reason = self._follow_failure or own.reason
        with self._state_lock:
            other_rows = sum(each.rows for each in self._heads.others.values())
        silent = self._peers.silent()
        return own.of_shared(
            reason=reason,
            read_only=self._shared.read_only,
            shared=SharedState(
                position=self._catalog_.position,
                collectors=len(self._peers.all()) - len(silent),
                silent=len(silent),
                leads=self._leads(),
                other_rows=other_rows,
                cache_bytes=self._files_.nbytes,
                fetched_bytes=self._files_.fetched_bytes,
                requests=dict(self._objects.requests),
                failures=dict(self._objects.failures),
            ),
        )

    @property
    def _catalog_(self) -> SharedCatalog:
        assert isinstance(self._catalog, SharedCatalog)  # noqa: S101 - made by _open_catalog
        return self._catalog

    @property
    def _files_(self) -> BlockObjects:
        assert isinstance(self._files, BlockObjects)  # noqa: S101 - made by _open_files
        return self._files

    def _open_catalog(self) -> Catalog:
        for name in (BLOCKS_FOLDER, ROLLUPS_FOLDER, TEMPORARY_FOLDER):
            shutil.rmtree(self._data_dir / name, ignore_errors=True)
        return SharedCatalog.begin(
            self._data_dir / CATALOG_FILE, self._objects, writer=self._name, clock=_now_ms
        )

    def _open_files(self) -> BlockFiles:
        return BlockObjects(
            self._objects,
            self._data_dir,
            max_bytes=self._shared.cache_bytes,
            in_use=self._is_read,
        )

    def _is_read(self, path: str) -> bool:
        with self._state_lock:
            return self._blocks.is_pinned(path)

    def _recover(self) -> None:
        self._read_catalog()
        self._wal = wal.Wal(self._sink, number=1, gather_seconds=self._shared.gather_seconds)
        self._known.reset(self._wal.number)
        self._catalog_.on_change = self._take_in
        self._peers.look()
        # Two collectors of one name take over from each other once, at the start, and go on.
        named = f"{self._shared.instance}-"
        former = {each for each in self._peers.all() if each[:-_NAME_DIGITS] == named}
        self._adoption = Adoption(
            self._objects,
            self._catalog_,
            self._peers,
            self._flushing,
            former=former,
            series_of=self.series,
            count=self._count_adopted,
        )
        self.watch_peers()
        if not self._shared.read_only:
            self._adoption.begin(self._name)
        self.follow()

    def _found(self, written: LogObject) -> None:
        """Count batches that are in the log, although the write of them seemed to fail."""
        batches, skipped = decoded([written])
        self._wal_skipped_bytes += skipped
        for batch in batches:
            self._into_head(batch)

    def _into_head(self, batch: DecodedBatch) -> None:
        # It may have been sent again, and its first copy was found just before the second.
        if batch.batch_ids and all(self._seen.seen(batch.tenant, each) for each in batch.batch_ids):
            return
        super()._into_head(batch)

    def _flush(self) -> None:
        try:
            self._wal.settle()
            super()._flush()
        except LogTaken:
            self._taken_over = True
            raise

    def _mark_of(self, number: int) -> LogMark:
        return LogMark(self._name, number, self._sink.sequence)

    def _try_write(self) -> None:
        self._wal.settle()
        self._peers.beat(self._name)

    def _remove_logs(self, flushed: LogMark) -> None:
        try:
            delete_log_objects(self._objects, flushed.writer, flushed.sequence)
        except StorageUnavailable as error:
            log.warning("flushed log objects can't be deleted yet: %s", error)

    def _keep_up(self, now_ms: int) -> None:
        if self._shared.read_only:
            return
        self._adoption.adopt_all(self._name)
        if self._leads():
            super()._keep_up(now_ms)
            self._cleaning.clean(self._catalog_, now_ms)

    def _leads(self) -> bool:
        if self._shared.read_only:
            return False
        return self._shared.leads or self._peers.leads(self._name)

    def _count_adopted(self, adopted: Flush, writer: str) -> None:
        for tenant, batch_id, received_ms in adopted.change.batch_ids:
            self._seen.add(tenant, batch_id, received_ms)
        with self._state_lock:
            self._blocks.exchange((), adopted.blocks)
            self._drop_log(writer, WHOLE_LOG)

    def _take_in(self, change: Change, gone: list[str]) -> None:
        """Let questions see what another collector has changed."""
        for tenant, each in change.series:
            self.series(tenant).add_one(each)
        for tenant, batch_id, received_ms in change.batch_ids:
            self._seen.add(tenant, batch_id, received_ms)
        old = [*change.removed, *(path for path, _ in change.damaged), *gone]
        with self._state_lock:
            self._blocks.exchange(old, change.added, change.hours)
            if change.log is not None:
                number = WHOLE_LOG if change.log.ended else change.log.number
                self._drop_log(change.log.writer, number)
            for tenant, series_id in change.dropped_series:
                if tenant in self._series and not self._heads.active((tenant, series_id)):
                    self._series[tenant].discard(series_id)
        self._stacks.forget(self._data_dir / path for path in old)
        self._upkeep.delete_unread()
        if change.adopted is not None and change.adopted[0] == self._name:
            log.error("another collector has taken over: this one was silent for too long")
            self._taken_over = True

    def _drop_log(self, writer: str, number: int) -> None:
        """Forget rows of a log that are in blocks now; the state lock is held."""
        self._in_blocks[writer] = number
        self._heads.drop(writer, number)
        for key in [key for key in self._in_logs if key[0] == writer and key[1] <= number]:
            del self._in_logs[key]

    def _read_log(self, writer: str) -> None:
        _, ended = self._catalog_.owner(writer)
        if ended:
            return
        _, flushed = self._catalog_.flushed(writer)
        for number, batches in self._followed.read(writer, flushed=flushed):
            self._add_of_others(writer, number, batches)

    def _add_of_others(self, writer: str, number: int, batches: Iterable[DecodedBatch]) -> None:
        now_ms = _now_ms()
        for batch in batches:
            self.series(batch.tenant).add(batch.series)
            keys = {(batch.tenant, each) for each in batch.batch_ids}
            with self._state_lock:
                if number <= self._in_blocks.get(writer, 0):
                    return
                # Whole ids, not watermarks: a batch whose writer was not sure comes twice.
                known = self._in_logs.setdefault((writer, number), set())
                if keys and keys <= known:
                    continue
                known |= keys
                head = self._heads.others.setdefault((writer, number), Head())
                head.add(batch, received_ms=now_ms)
            for batch_id in batch.batch_ids:
                self._seen.add(batch.tenant, batch_id, now_ms)

    def _begin_anew(self) -> None:
        """Go on with another log, since somebody else has ended this one's."""
        with self._flush_lock:
            if not self._taken_over:
                return
            former, self._name = self._name, self._new_name()
            log.warning("this collector goes on as %s", self._name)
            self._peers.beat(self._name)
            self._sink = LogObjects(self._objects, self._name, self._found)
            self._unsettled = None

            self._wal.rotate(self._give_up, sink=self._sink)
            self._catalog_.rename(self._name)
            self._taken_over = False
        # What this one had taken it sees as the others do, until it is in blocks.
        with self._follow_lock:
            self._read_log(former)

    def _give_up(self) -> None:
        with self._state_lock:
            self._heads.give_up()
        self._known.reset(self._wal.number)

    def _new_name(self) -> str:
        return f"{self._shared.instance}-{uuid.uuid4().hex[:_NAME_DIGITS]}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
