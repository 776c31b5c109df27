"""The lock of a data folder: one process owns it, and whoever looks can tell whether one does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flamewell_collector.errors import StorageError

LOCK_FILE = "lock"


class FolderInUse(StorageError):
    """Another process owns the data folder."""


def take(data_dir: Path) -> int:
    """Own a data folder until the descriptor that this gives is closed.

    Raises:
        FolderInUse: A collector has it.
        OSError: It can't be written.
    """
    lock_fd = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock_fd)
        raise FolderInUse(
            f"another collector uses the data folder {data_dir}: stop it, or name another "
            "folder with --data-dir"
        ) from error
    return lock_fd


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Own a data folder without writing anything to it, also on a read-only disk.

    Raises:
        FolderInUse: A collector has it.
        StorageError: It is no data folder, or can't be read.
    """
    if not data_dir.is_dir():
        raise StorageError(f"there is no data folder {data_dir}: name it with --data-dir")
    try:
        lock_fd = os.open(data_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # No collector has ever had it, or it was copied without: nobody owns it.
        yield
        return
    except OSError as error:
        raise StorageError(f"the data folder {data_dir} can't be read: {error}") from error
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUse(f"a collector uses the data folder {data_dir}: stop it") from error
        yield
    finally:
        os.close(lock_fd)
