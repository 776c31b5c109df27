"""The manifest: which blocks count, which batches came, which log files are flushed (SQLite)."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flamewell_collector.errors import StorageError, StorageUnavailable
from flamewell_collector.model import Series
from flamewell_collector.store import batch_ledger
from flamewell_collector.store.changes import Block, Change, LogMark, RollupHour
from flamewell_collector.store.dedupe import SeenBatches
from flamewell_collector.store.head import Head
from flamewell_collector.store.schema import FORMAT_VERSION
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.tiers import RAW

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    path TEXT PRIMARY KEY, tenant TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL, compacted INTEGER NOT NULL, tier TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS rollup_hours (
    tenant TEXT NOT NULL, tier TEXT NOT NULL, hour_ms INTEGER NOT NULL, path TEXT NOT NULL,
    PRIMARY KEY (tenant, tier, hour_ms)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rollup_hours_of_block ON rollup_hours (path);
CREATE TABLE IF NOT EXISTS damaged (path TEXT PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (
    tenant TEXT NOT NULL, series_id BLOB NOT NULL, labels TEXT NOT NULL, last_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, series_id)
) WITHOUT ROWID;
"""


_USELESS = "SELECT path FROM blocks WHERE tier != ? AND path NOT IN (SELECT path FROM rollup_hours)"


class CatalogDamaged(StorageError):
    """The file is no readable database any more."""


class Catalog:
    """One connection, one lock: a few commits a minute.

    Attributes:
        created: It was not there before.
    """

    _more_tables = ""

    def __init__(self, path: Path) -> None:
        """Open or make the manifest.

        Raises:
            CatalogDamaged: What is there is no database, or a broken one.
            StorageError: It was written by a newer version, or can't be opened.
        """
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"the catalog {path} can't be opened: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            # sqlite3 raises the bare class for a damaged file, subclasses for everything else.
            kind = CatalogDamaged if type(error) is sqlite3.DatabaseError else StorageError
            raise kind(f"the catalog {path} can't be opened: {error}") from error
        version = self._meta("format_version")
        self.created = version == 0
        if self.created:
            with self._lock, self._transaction() as db:
                db.execute("INSERT INTO meta VALUES ('format_version', ?)", (FORMAT_VERSION,))
        if not self.created and version != FORMAT_VERSION:
            self._db.close()
            newer = version > FORMAT_VERSION
            raise StorageError(
                f"{path} has storage format {version}, this version reads {FORMAT_VERSION}: "
                + (
                    "start the newer collector again"
                    if newer
                    else "export what you need with the version that wrote it, then begin with an "
                    "empty data folder (--data-dir)"
                )
            )

    def _prepare(self) -> None:
        # Exclusive: no shared-memory file, which can't be made on a full disk; the data folder has
        # one owner anyway.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        self._db.executescript(_SCHEMA + batch_ledger.SCHEMA + self._more_tables)

    def flushed_wal(self) -> int:
        """Give the number of the last log file whose content is in blocks."""
        return self._meta("flushed_wal")

    def blocks(self) -> list[Block]:
        """Give all registered blocks."""
        rows = self._rows(
            "SELECT path, tenant, start_ms, end_ms, rows, bytes, compacted, tier FROM blocks"
        )
        return [
            Block(path, tenant, start, end, count, size, compacted=bool(compacted), tier=tier)
            for path, tenant, start, end, count, size, compacted, tier in rows
        ]

    def rollup_hours(self) -> list[RollupHour]:
        """Give which block has the sums of which hour."""
        rows = self._rows("SELECT tenant, tier, hour_ms, path FROM rollup_hours")
        return [RollupHour(*each) for each in rows]

    def series(self) -> list[tuple[str, Series]]:
        """Give all series with their tenants."""
        return [
            (tenant, Series(_number(series_id), json.loads(labels)))
            for tenant, series_id, labels in self._rows(
                "SELECT tenant, series_id, labels FROM series"
            )
        ]

    def series_before(self, before_ms: int | None) -> list[tuple[str, int]]:
        """Give (tenant, series id) of those whose last row is older; of all for None."""
        rows = self._rows(
            "SELECT tenant, series_id FROM series WHERE ?1 IS NULL OR last_ms < ?1", (before_ms,)
        )
        return [(tenant, _number(series_id)) for tenant, series_id in rows]

    def series_to_register(
        self, head: Head, series_of: Callable[[str], SeriesIndex]
    ) -> list[tuple[str, Series]]:
        """Give the series of a head that are perhaps not here yet, with their tenants."""
        del series_of
        return head.new_series

    def drop_series(self, series: Iterable[tuple[str, int]]) -> None:
        """Forget series."""
        self.commit(Change(dropped_series=tuple(series)))

    def seen_batches(self) -> SeenBatches:
        """Give what is known of the batches that came."""
        with self._lock:
            return batch_ledger.read(self._db)

    def register_flush(
        self,
        blocks: Iterable[Block],
        *,
        series: Iterable[tuple[str, Series]],
        active: Mapping[tuple[str, int], int],
        batch_ids: Iterable[tuple[str, str, int]],
        wal_number: int,
        hours: Iterable[RollupHour] = (),
    ) -> None:
        """Register a flush in one transaction: after a crash it happened wholly or not at all.

        Args:
            blocks: What was written.
            series: New series with their tenants.
            active: (tenant, series id) → time of its last row.
            batch_ids: (tenant, batch id, when received).
            wal_number: Log files up to this one are in blocks now.
            hours: Which block has the sums of which hour (a catalog that is made anew).

        Raises:
            StorageUnavailable: It could not be written; nothing of it counts.
        """
        self.commit(
            Change(
                added=tuple(blocks),
                series=tuple(series),
                active=active,
                batch_ids=tuple(batch_ids),
                log=LogMark("", wal_number),
                hours=tuple(hours),
            )
        )

    def replace(
        self, old: Iterable[Block], new: Iterable[Block], hours: Iterable[RollupHour] = ()
    ) -> list[str]:
        """Exchange blocks in one transaction (compaction; retention with nothing new).

        Args:
            old: They do not count any more, nor do the sums that they have.
            new: They count from now on.
            hours: Which of the new ones have the sums of which hours, instead of others.

        Returns:
            Paths of rollups that went besides, because others have the sums of all their hours.
        """
        removed = tuple(each.path for each in old)
        return self.commit(Change(added=tuple(new), removed=removed, hours=tuple(hours)))

    def set_aside(self, path: str, reason: str) -> None:
        """Take a damaged block out of what counts, and remember why."""
        self.commit(Change(damaged=((path, reason),)))

    def commit(self, change: Change) -> list[str]:
        """Do all that a change says, in one transaction.

        Returns:
            Paths of rollups that went besides, because others have the sums of all their hours.

        Raises:
            StorageUnavailable: It could not be written; nothing of it counts.
        """
        return self._apply(change)

    def _apply(self, change: Change, *, position: int | None = None) -> list[str]:
        with self._lock, self._transaction() as db:
            gone = [*change.removed, *(path for path, _ in change.damaged)]
            _delete_blocks(db, gone)
            _insert_blocks(db, change.added)
            _insert_hours(db, change.hours)
            useless: list[str] = []
            if change.removed or change.hours:
                useless = [path for (path,) in db.execute(_USELESS, (RAW,))]
                _delete_blocks(db, useless)
            db.executemany("INSERT OR REPLACE INTO damaged VALUES (?, ?)", change.damaged)
            _write_series(db, change)
            batch_ledger.write(db, change.batch_ids)
            if change.forget_batches_before_ms is not None:
                batch_ledger.forget(db, change.forget_batches_before_ms)
            self._write_log(db, change)
            if position is not None:
                times = [(path, change.at_ms) for path in (*change.removed, *useless)]
                db.executemany("INSERT OR REPLACE INTO removed VALUES (?, ?)", times)
                db.executemany(
                    "DELETE FROM removed WHERE path = ?", [(path,) for path in change.deleted]
                )
                _write_meta(db, "position", position)
        return useless

    def _write_log(self, db: sqlite3.Connection, change: Change) -> None:
        if change.adopted is not None:
            db.execute(
                "INSERT INTO logs VALUES (?, ?, 0, 0, 0) "
                "ON CONFLICT (writer) DO UPDATE SET owner = excluded.owner",
                (change.adopted[0], change.adopted[2]),
            )
        log = change.log
        if log is not None and log.writer:
            db.execute(
                "INSERT INTO logs VALUES (?1, ?1, ?2, ?3, ?4) ON CONFLICT (writer) DO UPDATE SET "
                "number = excluded.number, sequence = excluded.sequence, ended = excluded.ended",
                (log.writer, log.number, log.sequence, int(log.ended)),
            )
        elif log is not None:
            _write_meta(db, "flushed_wal", log.number)

    def damaged(self) -> list[tuple[str, str]]:
        """Give (path, reason) of blocks that were set aside."""
        return self._rows("SELECT path, reason FROM damaged")

    def forget_batches(self, before_ms: int) -> None:
        """Drop batch ids that are too old to come again."""
        self.commit(Change(forget_batches_before_ms=before_ms))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def _meta(self, key: str) -> int:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return int(rows[0][0]) if rows else 0

    def _rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]  # rows of sqlite are untyped
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """Commits or rolls back, and translates what SQLite raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        return self._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._db.commit()
            else:
                self._db.rollback()
        except sqlite3.Error as failure:
            raise StorageUnavailable(f"the catalog can't be written: {failure}") from failure
        if isinstance(error, sqlite3.Error):
            raise StorageUnavailable(f"the catalog can't be written: {error}") from error


def _insert_blocks(db: sqlite3.Connection, blocks: Iterable[Block]) -> None:
    db.executemany(
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                each.path,
                each.tenant,
                each.start_ms,
                each.end_ms,
                each.rows,
                each.bytes,
                int(each.compacted),
                each.tier,
            )
            for each in blocks
        ],
    )


def _insert_hours(db: sqlite3.Connection, hours: Iterable[RollupHour]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO rollup_hours VALUES (?, ?, ?, ?)",
        [(each.tenant, each.tier, each.hour_ms, each.path) for each in hours],
    )


def _delete_blocks(db: sqlite3.Connection, paths: Iterable[str]) -> None:
    keys = [(path,) for path in paths]
    db.executemany("DELETE FROM blocks WHERE path = ?", keys)
    db.executemany("DELETE FROM rollup_hours WHERE path = ?", keys)


def _write_series(db: sqlite3.Connection, change: Change) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO series VALUES (?, ?, ?, 0)",
        [
            (tenant, _key(each.series_id), json.dumps(dict(each.labels)))
            for tenant, each in change.series
        ],
    )
    db.executemany(
        "UPDATE series SET last_ms = MAX(last_ms, ?) WHERE tenant = ? AND series_id = ?",
        [
            (last_ms, tenant, _key(series_id))
            for (tenant, series_id), last_ms in change.active.items()
        ],
    )
    db.executemany(
        "DELETE FROM series WHERE tenant = ? AND series_id = ?",
        [(tenant, _key(series_id)) for tenant, series_id in change.dropped_series],
    )


def _write_meta(db: sqlite3.Connection, key: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _key(series_id: int) -> bytes:
    return series_id.to_bytes(8, "big", signed=True)


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big", signed=True)
