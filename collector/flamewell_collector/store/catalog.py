"""The manifest: which blocks count, which batches came, which log files are flushed (SQLite)."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flamewell_collector.errors import StorageError, StorageUnavailable
from flamewell_collector.model import Series
from flamewell_collector.store.schema import FORMAT_VERSION

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    path TEXT PRIMARY KEY, tenant TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL, compacted INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS damaged (path TEXT PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (
    tenant TEXT NOT NULL, series_id BLOB NOT NULL, labels TEXT NOT NULL, last_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, series_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    tenant TEXT NOT NULL, batch_id TEXT NOT NULL, received_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, batch_id)
) WITHOUT ROWID;
"""


class CatalogDamaged(StorageError):
    """The file is no readable database any more."""


@dataclass(frozen=True, slots=True)
class Block:
    """A registered block.

    Attributes:
        path: Relative to the data folder.
        tenant: Whose.
        start_ms: Time of its first row.
        end_ms: Time of its last row (inclusive).
        rows: Rows of samples.
        bytes: Of all its files.
        compacted: Whether it is the result of a compaction.
    """

    path: str
    tenant: str
    start_ms: int
    end_ms: int
    rows: int
    bytes: int
    compacted: bool


class Catalog:
    """One connection, one lock: a few commits a minute.

    Attributes:
        created: It was not there before.
    """

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
        if version > FORMAT_VERSION:
            self._db.close()
            raise StorageError(
                f"{path} has storage format {version}, this version reads up to {FORMAT_VERSION}: "
                "start the newer collector again"
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
        self._db.executescript(_SCHEMA)

    def flushed_wal(self) -> int:
        """Give the number of the last log file whose content is in blocks."""
        return self._meta("flushed_wal")

    def blocks(self) -> list[Block]:
        """Give all registered blocks."""
        rows = self._rows(
            "SELECT path, tenant, start_ms, end_ms, rows, bytes, compacted FROM blocks"
        )
        return [
            Block(path, tenant, start, end, count, size, compacted=bool(compacted))
            for path, tenant, start, end, count, size, compacted in rows
        ]

    def series(self) -> list[tuple[str, Series]]:
        """Give all series with their tenants."""
        return [
            (tenant, Series(int.from_bytes(series_id, "big"), json.loads(labels)))
            for tenant, series_id, labels in self._rows(
                "SELECT tenant, series_id, labels FROM series"
            )
        ]

    def series_before(self, before_ms: int | None) -> list[tuple[str, int]]:
        """Give (tenant, series id) of those whose last row is older; of all for None."""
        rows = self._rows(
            "SELECT tenant, series_id FROM series WHERE ?1 IS NULL OR last_ms < ?1", (before_ms,)
        )
        return [(tenant, int.from_bytes(series_id, "big")) for tenant, series_id in rows]

    def drop_series(self, series: Iterable[tuple[str, int]]) -> None:
        """Forget series."""
        with self._lock, self._transaction() as db:
            db.executemany(
                "DELETE FROM series WHERE tenant = ? AND series_id = ?",
                [(tenant, series_id.to_bytes(8, "big")) for tenant, series_id in series],
            )

    def batch_ids(self) -> list[tuple[str, str, int]]:
        """Give (tenant, batch id, when received) of what may come again."""
        return self._rows("SELECT tenant, batch_id, received_ms FROM batches")

    def register_flush(
        self,
        blocks: Iterable[Block],
        *,
        series: Iterable[tuple[str, Series]],
        active: Mapping[tuple[str, int], int],
        batch_ids: Iterable[tuple[str, str, int]],
        wal_number: int,
    ) -> None:
        """Register a flush in one transaction: after a crash it happened wholly or not at all.

        Args:
            blocks: What was written.
            series: New series with their tenants.
            active: (tenant, series id) → time of its last row.
            batch_ids: (tenant, batch id, when received).
            wal_number: Log files up to this one are in blocks now.

        Raises:
            StorageUnavailable: It could not be written; nothing of it counts.
        """
        with self._lock, self._transaction() as db:
            _insert_blocks(db, blocks)
            db.executemany(
                "INSERT OR IGNORE INTO series VALUES (?, ?, ?, 0)",
                [
                    (tenant, each.series_id.to_bytes(8, "big"), json.dumps(dict(each.labels)))
                    for tenant, each in series
                ],
            )
            db.executemany(
                "UPDATE series SET last_ms = MAX(last_ms, ?) WHERE tenant = ? AND series_id = ?",
                [
                    (last_ms, tenant, series_id.to_bytes(8, "big"))
                    for (tenant, series_id), last_ms in active.items()
                ],
            )
            db.executemany("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", list(batch_ids))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('flushed_wal', ?)", (wal_number,))

    def replace(self, old: Iterable[Block], new: Iterable[Block]) -> None:
        """Exchange blocks in one transaction (compaction; retention with nothing new)."""
        with self._lock, self._transaction() as db:
            db.executemany("DELETE FROM blocks WHERE path = ?", [(each.path,) for each in old])
            _insert_blocks(db, new)

    def set_aside(self, path: str, reason: str) -> None:
        """Take a damaged block out of what counts, and remember why."""
        with self._lock, self._transaction() as db:
            db.execute("DELETE FROM blocks WHERE path = ?", (path,))
            db.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?)", (path, reason))

    def damaged(self) -> list[tuple[str, str]]:
        """Give (path, reason) of blocks that were set aside."""
        return self._rows("SELECT path, reason FROM damaged")

    def forget_batches(self, before_ms: int) -> None:
        """Drop batch ids that are too old to come again."""
        with self._lock, self._transaction() as db:
            db.execute("DELETE FROM batches WHERE received_ms < ?", (before_ms,))

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
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                each.path,
                each.tenant,
                each.start_ms,
                each.end_ms,
                each.rows,
                each.bytes,
                int(each.compacted),
            )
            for each in blocks
        ],
    )
