"""Copies an SQLite database whose owner may be writing to it, without asking the owner.

The owner has it in WAL mode and locked for itself, so SQLite's own backup can't be used. The main
file changes only when frames of the current log go there, and the log starts over with a new salt.
So where the log's header is the same before the main file is read and after the log is, every page
of the main file that has changed meanwhile is in the log too: the copy is what a crash would have
left, and SQLite recovers it (https://www.sqlite.org/wal.html, https://www.sqlite.org/walformat.html).
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final

from flamewell_collector.errors import StorageError

_TRIES: Final = 50
_PAUSE_SECONDS: Final = 0.1
_HEADER_BYTES: Final = 32
"""Of a log: magic, version, page size, checkpoint number, two salts, checksums."""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as one file without a log.

    Raises:
        StorageError: It is damaged, or changed all the time.
        OSError: It can't be read, or the copy can't be written.
    """
    reason = "it changed all the time"
    for _ in range(_TRIES):
        before = _header(source)
        _copy_pair(source, target)
        if _header(source) == before:
            problem = _settle(target)
            if not problem:
                return
            reason = problem
            break
        time.sleep(_PAUSE_SECONDS)
    _remove(target)
    raise StorageError(f"the database {source} can't be copied: {reason}")


def _header(path: Path) -> tuple[bytes, int, int]:
    """Give what tells that the log has started over; without a log, that the file is another."""
    try:
        with _log_of(path).open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    if header:
        return header, 0, 0
    found = path.stat()
    return header, found.st_mtime_ns, found.st_size


def _copy_pair(source: Path, target: Path) -> None:
    _remove(target)
    shutil.copyfile(source, target)
    try:
        shutil.copyfile(_log_of(source), _log_of(target))
    except FileNotFoundError:
        _log_of(target).unlink(missing_ok=True)


def _settle(target: Path) -> str:
    """Bring the log into the copy; tells what is wrong with it, empty where nothing is."""
    db = sqlite3.connect(target)
    try:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            return str(verdict)
        db.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        return str(error)
    finally:
        db.close()
    return ""


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
