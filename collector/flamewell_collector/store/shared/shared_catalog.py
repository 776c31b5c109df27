"""The catalog of a shared store: numbered changes as objects, applied by each collector in order.

Only one collector can make the object of a number, so that all see the same changes in the same
order. Each keeps the result in SQLite; now and then one of them puts a copy of that aside, from
which a start begins.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import zstandard

from flamewell_collector.errors import (
    InDoubt,
    LogTaken,
    StorageError,
    StorageUnavailable,
    Superseded,
)
from flamewell_collector.model import Series
from flamewell_collector.store import changes
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import Change
from flamewell_collector.store.head import Head
from flamewell_collector.store.schema import FORMAT_VERSION
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.shared.objects import Objects

log = logging.getLogger(__name__)

COMMITS: Final = "commits"
CHECKPOINTS: Final = "checkpoints"
FORMAT_KEY: Final = "format"
CHECKPOINT_EVERY: Final = 100
"""So many changes are read one by one at most when a collector starts."""
_MAX_CATALOG_BYTES: Final = 16 << 30

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS logs (
    writer TEXT PRIMARY KEY, owner TEXT NOT NULL, number INTEGER NOT NULL,
    sequence INTEGER NOT NULL, ended INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removed (path TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
"""


class SharedCatalog(Catalog):
    """Changes go to the store first, then into SQLite; others' are applied as they come.

    Attributes:
        position: Number of the last change that is applied.
        on_change: Told of each change of another collector, with the paths that went besides.
    """

    _more_tables = _TABLES

    def __init__(self, path: Path, objects: Objects, writer: str, clock: Callable[[], int]) -> None:
        """Use ``begin``."""
        super().__init__(path)
        self._path = path
        self._objects = objects
        self.writer = writer
        self._clock = clock
        # One change at a time, ours or another's.
        self._turn = threading.RLock()
        self._ours: set[str] = set()
        self._tried: set[str] = set()
        self._done: dict[str, tuple[Change, list[str]]] = {}
        self.position = self._meta("position")
        self.on_change: Callable[[Change, list[str]], None] = lambda _change, _gone: None

    @classmethod
    def begin(cls, path: Path, objects: Objects, *, writer: str, clock: Callable[[], int]) -> Self:
        """Make the SQLite file from what the store has.

        Args:
            path: Where to; what is there is replaced.
            objects: The store; an empty one becomes a store of ours.
            writer: Name of this collector's log.
            clock: ms since the epoch.

        Raises:
            StorageUnavailable: The store can't be reached.
            StorageError: It has another format, or is damaged.
        """
        _check_format(objects)
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        newest = max(objects.listed(CHECKPOINTS), key=lambda each: each.key, default=None)
        if newest is not None:
            data = objects.get(newest.key)
            if data is None:
                raise StorageUnavailable(f"{newest.key} went away while it was read: try again")
            try:
                text = zstandard.ZstdDecompressor().decompress(
                    data, max_output_size=_MAX_CATALOG_BYTES
                )
            except zstandard.ZstdError as error:
                raise StorageError(f"{newest.key} is damaged: {error}") from error
            path.write_bytes(text)
        catalog = cls(path, objects, writer, clock)
        catalog.pull()
        return catalog

    def pull(self) -> int:
        """Apply what others have changed; gives how many changes that were.

        Raises:
            StorageUnavailable: The store can't be reached, or the disk is full.
            StorageError: A change can't be read.
        """
        count = 0
        with self._turn:
            while (data := self._objects.get(_commit_key(self.position + 1))) is not None:
                change = changes.decode(data)
                gone = self._apply(change, position=self.position + 1)
                self.position += 1
                count += 1
                if change.name in self._ours:
                    self._done[change.name] = change, gone
                else:
                    self.on_change(change, gone)
        return count

    def commit(self, change: Change) -> list[str]:
        """Do all that a change says, for all collectors.

        Raises:
            Superseded: Blocks that it removes do not count any more, or it takes over a log that
                somebody else has.
            LogTaken: It is about a log that is not this collector's any more.
            InDoubt: The store can't be reached, and it is not known whether it was written. What
                flushes this collector's log has to be committed again until that is known; other
                changes come with a later ``pull`` if they were.
            StorageUnavailable: It can't be reached; nothing of it counts.
        """
        change = replace(change, at_ms=self._clock())
        with self._turn:
            self._ours.add(change.name)
            try:
                gone = self._commit(change)
            except InDoubt:
                if not self._is_own_flush(change):
                    self._ours.discard(change.name)
                raise
            except BaseException:
                self._ours.discard(change.name)
                raise
            self._ours.discard(change.name)
            if self.position % CHECKPOINT_EVERY == 0:
                self._put_checkpoint()
            return gone

    def _commit(self, change: Change) -> list[str]:
        while True:
            try:
                # Our own is applied here as well: should the disk be full, a later call does it.
                self.pull()
                if change.name in self._done:
                    self._tried.discard(change.name)
                    return self._done.pop(change.name)[1]
                self._check(change)
                self._tried.add(change.name)
                self._objects.put_new(_commit_key(self.position + 1), changes.encode(change))
            except (LogTaken, Superseded):
                # It was true when it was tried, so that somebody else has its number since.
                self._tried.discard(change.name)
                raise
            except StorageUnavailable as error:
                if change.name not in self._tried:
                    raise
                if not self._is_own_flush(change):
                    self._tried.discard(change.name)
                raise InDoubt(str(error)) from error

    def rename(self, writer: str) -> None:
        """Go on with another log; flushes of the former one are now like those of others."""
        with self._turn:
            self.writer = writer
            done, self._done = self._done, {}
            self._ours.clear()
            self._tried.clear()
            for change, gone in done.values():
                self.on_change(change, gone)

    def _is_own_flush(self, change: Change) -> bool:
        return change.log is not None and change.log.writer == self.writer

    def _check(self, change: Change) -> None:
        """Refuse what is not true any more."""
        gone = [*change.removed, *(path for path, _ in change.damaged)]
        if gone:
            there = {each.path for each in self.blocks()}
            for path in gone:
                if path not in there:
                    raise Superseded(f"block {path} was replaced by another collector meanwhile")
        if change.log is not None:
            owner, ended = self.owner(change.log.writer)
            if owner != self.writer or ended:
                raise LogTaken(
                    f"another collector has taken over the log {change.log.writer}, since this one "
                    "was silent for too long"
                )
        if change.adopted is not None:
            log_name, former, _ = change.adopted
            owner, ended = self.owner(log_name)
            if owner != former or ended:
                raise Superseded(f"the log {log_name} is taken over by {owner}")

    def series_to_register(
        self, head: Head, series_of: Callable[[str], SeriesIndex]
    ) -> list[tuple[str, Series]]:
        """Give all of them: another collector may have dropped some that were here."""
        found = ((tenant, series_of(tenant).get(each)) for tenant, each in head.active)
        return [(tenant, each) for tenant, each in found if each is not None]

    def owner(self, log_name: str) -> tuple[str, bool]:
        """Give who writes the rows of a log as blocks, and whether the log is at its end."""
        rows = self._rows("SELECT owner, ended FROM logs WHERE writer = ?", (log_name,))
        return (rows[0][0], bool(rows[0][1])) if rows else (log_name, False)

    def flushed(self, log_name: str) -> tuple[int, int]:
        """Give (number of the last file, of the last object) of a log that is in blocks."""
        rows = self._rows("SELECT number, sequence FROM logs WHERE writer = ?", (log_name,))
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    def removed_before(self, at_ms: int) -> list[str]:
        """Give the paths of blocks that have not counted since then."""
        rows = self._rows("SELECT path FROM removed WHERE at_ms < ?", (at_ms,))
        return [path for (path,) in rows]

    def known_paths(self) -> set[str]:
        """Give the paths of all blocks whose files may still be needed."""
        rows = self._rows(
            "SELECT path FROM blocks UNION SELECT path FROM removed UNION SELECT path FROM damaged"
        )
        return {path for (path,) in rows}

    def is_behind(self) -> bool:
        """Tell whether changes that come next are deleted already: only a start helps then."""
        newest = max((each.key for each in self._objects.listed(CHECKPOINTS)), default="")
        return _number(newest) > self.position and not self.pull()

    def delete_old_changes(self, before_ms: int) -> None:
        """Delete changes and checkpoints from which no start begins any more."""
        checkpoints = sorted(self._objects.listed(CHECKPOINTS), key=lambda each: each.key)
        if len(checkpoints) < 2:  # noqa: PLR2004 - the newest is perhaps being read
            return
        kept = _number(checkpoints[-2].key)
        old = [
            each.key
            for each in (*self._objects.listed(COMMITS), *checkpoints[:-2])
            if _number(each.key) <= kept and each.changed_ms < before_ms
        ]
        self._objects.delete(old)

    def _put_checkpoint(self) -> None:
        """Put a copy of the catalog aside; where that fails the next one will do."""
        copy = self._path.with_name("checkpoint.sqlite")
        try:
            copy.unlink(missing_ok=True)
            with self._lock:
                self._db.execute("VACUUM INTO ?", (str(copy),))
            data = zstandard.ZstdCompressor().compress(copy.read_bytes())
            self._objects.put_new(f"{CHECKPOINTS}/{self.position:012d}.sqlite.zst", data)
        except (OSError, StorageUnavailable) as error:
            log.warning("no checkpoint of the catalog could be written: %s", error)
        finally:
            copy.unlink(missing_ok=True)


def _commit_key(number: int) -> str:
    return f"{COMMITS}/{number:012d}.json.zst"


def _number(key: str) -> int:
    name = key.rpartition("/")[2].partition(".")[0]
    return int(name) if name.isdigit() else 0


def _check_format(objects: Objects) -> None:
    expected = f"flamewell store {FORMAT_VERSION}\n".encode()
    found = objects.get(FORMAT_KEY)
    if found is None and objects.put_new(FORMAT_KEY, expected):
        if objects.put_new(FORMAT_KEY, b"another"):
            raise StorageError(
                "the store ignores conditional writes (If-None-Match): collectors would overwrite "
                "each other's changes in it; use a server or a version that knows them"
            )
        return
    found = objects.get(FORMAT_KEY) if found is None else found
    if found != expected:
        raise StorageError(
            f"the store has the format {found!r}, this version reads {expected!r}: use the version "
            "that wrote it, or an empty folder of the bucket"
        )
