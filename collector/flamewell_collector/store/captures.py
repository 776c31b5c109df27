"""On-demand captures and their audit lines, in an SQLite file of their own beside the catalog.

Bounded: the newest captures, results and lines are kept. They are no profiles: where the file is
damaged a new one is begun, and where none can be written captures are kept in memory alone.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from flamewell_collector.captures import OPEN_STATES, Capture, Target, Wish
from flamewell_collector.errors import StorageUnavailable

log = logging.getLogger(__name__)

CAPTURES_FILE: Final = "captures.sqlite"
KEPT_CAPTURES: Final = 1_000
KEPT_RESULTS: Final = 64
"""Of at most 1 MiB each."""
KEPT_LINES: Final = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS captures (
    number INTEGER PRIMARY KEY, capture_id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
    state TEXT NOT NULL, document TEXT NOT NULL, result TEXT
);
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, capture_id TEXT NOT NULL, line TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_of_capture ON audit (capture_id);
"""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Who did what, when, to which target.

    Attributes:
        capture_id: Of the capture; empty where it never became one.
        when_ms: Milliseconds since the epoch.
        who: A principal, or ``agent <node>``.
        what: ``create``, ``hand_out``, ``refuse``, ``finish`` or ``cancel``.
        kind: Of the capture.
        target: Its target, the fields that were named.
        seconds: How long was asked for.
        result: What came of it, in words.
    """

    capture_id: str
    when_ms: int
    who: str
    what: str
    kind: str
    target: dict[str, str | int]
    seconds: int
    result: str


class CaptureStore:
    """One connection, one lock: a few commits a capture."""

    def __init__(self, path: Path) -> None:
        """Open or make the file."""
        self._lock = threading.Lock()
        self._db = _open(path)

    def put(self, capture: Capture, line: AuditLine | None) -> None:
        """Write a capture as it is now, and why it changed.

        Raises:
            StorageUnavailable: It could not be written; it counts as before.
        """
        document = asdict(replace(capture, result_text=""))
        self._write(
            lambda db: db.execute(
                "INSERT INTO captures (capture_id, tenant, state, document, result) "
                "VALUES (?, ?, ?, ?, NULLIF(?, '')) ON CONFLICT (capture_id) DO UPDATE SET "
                "state = excluded.state, document = excluded.document, result = excluded.result",
                (
                    capture.capture_id,
                    capture.tenant,
                    capture.state,
                    json.dumps(document),
                    capture.result_text,
                ),
            ),
            line,
        )

    def add_line(self, line: AuditLine) -> None:
        """Write an audit line alone."""
        self._write(lambda _db: None, line)

    def open_captures(self) -> list[Capture]:
        """Give those that may still change, oldest first."""
        marks = ", ".join("?" * len(OPEN_STATES))
        return self._read(f"WHERE state IN ({marks}) ORDER BY number", *OPEN_STATES)

    def newest(self, tenant: str, *, state: str, service: str, limit: int) -> list[Capture]:
        """Give a tenant's captures, newest first, without their results.

        Args:
            tenant: Whose.
            state: Only those; empty for all.
            service: Only those of this service; empty for all.
            limit: At most.
        """
        return self._read(
            "WHERE tenant = ?1 AND (?2 = '' OR state = ?2) AND "
            "(?3 = '' OR json_extract(document, '$.wish.target.service') = ?3) "
            "ORDER BY number DESC LIMIT ?4",
            tenant, state, service, limit, result="NULL",
        )  # fmt: skip

    def get(self, tenant: str, capture_id: str) -> Capture | None:
        """Give one capture with its result."""
        found = self._read("WHERE tenant = ? AND capture_id = ?", tenant, capture_id)
        return found[0] if found else None

    def audit(self, capture_id: str) -> list[AuditLine]:
        """Give the audit lines of one capture, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT line FROM audit WHERE capture_id = ? ORDER BY number", (capture_id,)
            ).fetchall()
        return [AuditLine(**json.loads(line)) for (line,) in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _read(self, rest: str, *values: object, result: str = "result") -> list[Capture]:
        with self._lock:
            rows = self._db.execute(
                f"SELECT document, {result} FROM captures {rest}",  # noqa: S608 - our own words
                values,
            ).fetchall()
        return [_capture(json.loads(document), text or "") for document, text in rows]

    def _write(self, work: Callable[[sqlite3.Connection], object], line: AuditLine | None) -> None:
        with self._lock:
            try:
                with self._db as db:
                    work(db)
                    if line is not None:
                        db.execute(
                            "INSERT INTO audit (capture_id, line) VALUES (?, ?)",
                            (line.capture_id, json.dumps(asdict(line))),
                        )
                    _forget_oldest(db)
            except sqlite3.Error as error:
                raise StorageUnavailable(f"captures can't be written: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        # sqlite3 raises the bare class for a damaged file, subclasses for everything else.
        if type(error) is not sqlite3.DatabaseError:
            return _in_memory(path, error)
        log.error("%s is damaged and put aside, captures begin anew: %s", path, error)
    try:
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(part.with_name(part.name + ".damaged"))
        return _connect(path)
    except (OSError, sqlite3.Error) as error:
        return _in_memory(path, error)


def _in_memory(path: Path, error: Exception) -> sqlite3.Connection:
    log.error("%s can't be used, captures last until the next start: %s", path, error)
    return _connect(Path(":memory:"))


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)
    try:
        # As the catalog: one owner, no shared-memory file.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        db.executescript(_SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _forget_oldest(db: sqlite3.Connection) -> None:
    marks = ", ".join(f"'{state}'" for state in sorted(OPEN_STATES))
    db.execute(
        f"DELETE FROM captures WHERE state NOT IN ({marks}) AND number <= "  # noqa: S608 - our own words
        "(SELECT max(number) FROM captures) - ?",
        (KEPT_CAPTURES,),
    )
    db.execute(
        "UPDATE captures SET result = NULL WHERE number IN (SELECT number FROM captures "
        "WHERE result IS NOT NULL ORDER BY number DESC LIMIT -1 OFFSET ?)",
        (KEPT_RESULTS,),
    )
    db.execute(
        "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?", (KEPT_LINES,)
    )


def _capture(document: dict[str, Any], result_text: str) -> Capture:
    wish = document.pop("wish")
    target = Target(**wish.pop("target"))
    return Capture(**{**document, "wish": Wish(target, **wish), "result_text": result_text})
