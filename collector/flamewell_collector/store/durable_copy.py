"""Copies files so that they are on disk when the call returns, with their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from flamewell_collector.store.backup_manifest import Entry

_PART_BYTES: Final = 1 << 20


def copy_file(source: Path, target: Path) -> Entry:
    """Copy a file and make it durable.

    Raises:
        FileNotFoundError: There is no source.
        OSError: It can't be read, or the target can't be written.
    """
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("wb") as write:
        while part := read.read(_PART_BYTES):
            digest.update(part)
            size += len(part)
            write.write(part)
        write.flush()
        os.fsync(write.fileno())
    return Entry(size, digest.hexdigest())


def link_file(source: Path, target: Path) -> Entry | None:
    """Make a hard link; None where the file system can't.

    Raises:
        FileNotFoundError: There is no source.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    return Entry(target.stat().st_size, checksum(target))


def checksum(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
