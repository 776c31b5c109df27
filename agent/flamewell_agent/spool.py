"""A bounded queue of encoded batches on disk: between sampling, which never waits, and sending.

One file a batch: a header with a checksum, then the compressed payload, exactly as it is sent.
A file appears by an atomic rename after an fsync (a batch each few seconds: a few ms of disk), so
that after kill -9 or a power cut it is whole or not there. What is damaged later is set aside and
counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from flamewell_agent.errors import StateError

Encoding = Literal["zstd", "gzip"]

_log = logging.getLogger(__name__)
_SUFFIX = ".batch"
_TEMPORARY_SUFFIX = ".tmp"
_CORRUPT_DIR = "corrupt"
_KEPT_CORRUPT = 10
_MAGIC = b"FWB1"
_HEADER = struct.Struct("<4sB3xIQQ")
"""Magic, encoding, CRC-32 of the rest of the header and the payload, payload size, unix ms."""
_ENCODINGS: tuple[Encoding, ...] = ("zstd", "gzip")
# CPU for a batch of 160 kB: zstd 3 1.4 ms, gzip 6 12 ms; zstd 9 and gzip 9 saved under 5 % more.
_ZSTD_LEVEL, _GZIP_LEVEL = 3, 6


@dataclass(frozen=True, slots=True)
class Segment:
    """One spooled batch.

    Attributes:
        sequence: Its place in the queue.
        payload: Compressed by ``encoding``.
        encoding: As in the HTTP header Content-Encoding.
        created_unix_ms: When it was put.
    """

    sequence: int
    payload: bytes
    encoding: Encoding
    created_unix_ms: int


class Spool:
    """The queue. Any thread may call any method.

    Args:
        directory: Made if it is not there; one agent at a time may use it.
        max_bytes: Size of all batches together; the oldest are dropped to make room.
        encoding: How new batches are compressed; those on disk keep theirs.
        on_drop: Told the reason and the number of batches that were given up: ``spool_full``,
            ``too_large``, ``write_failed`` or ``corrupt``.
        clock: Seconds since the epoch.

    Raises:
        StateError: The directory cannot be used, or another agent uses it.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        encoding: Encoding = "zstd",
        on_drop: Callable[[str, int], None] = lambda _reason, _count: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._encoding: Encoding = encoding
        self._on_drop = on_drop
        self._clock = clock
        self._changed = threading.Condition()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = _lock(directory / "lock")
            self._sizes = self._recover()
        except OSError as error:
            raise StateError(f"the spool {directory} cannot be used: {error}") from error
        self._next_sequence = max(self._sizes, default=0) + 1

    @property
    def size_bytes(self) -> int:
        """Disk taken by waiting batches."""
        with self._changed:
            return sum(self._sizes.values())

    def __len__(self) -> int:
        """Count waiting batches."""
        with self._changed:
            return len(self._sizes)

    def put(self, payload: bytes) -> bool:
        """Compress and store one encoded batch; False where it had to be given up (counted)."""
        body = _compress(payload, self._encoding)
        size = _HEADER.size + len(body)
        if size > self._max_bytes:
            self._on_drop("too_large", 1)
            return False
        with self._changed:
            self._make_room(size)
            sequence = self._next_sequence
            self._next_sequence += 1
            try:
                self._write(sequence, body)
            except OSError as error:  # a full or read-only disk must not end the sampling
                _log.warning("a batch could not be spooled: %s", error)
                self._on_drop("write_failed", 1)
                return False
            self._sizes[sequence] = size
            self._changed.notify_all()
        return True

    def oldest(self) -> Segment | None:
        """Read the batch that has waited longest; it stays until ``remove``."""
        while True:
            with self._changed:
                sequence = next(iter(self._sizes), None)  # puts keep them in order
                if sequence is None:
                    return None
                try:
                    return _read(self._path(sequence), sequence)
                except (OSError, ValueError) as error:
                    self._set_aside(sequence, error)

    def remove(self, sequence: int) -> None:
        """Forget a batch that was sent or refused; it may be gone already."""
        with self._changed:
            if self._sizes.pop(sequence, None) is not None:
                self._unlink(sequence)

    def wait(self, timeout: float) -> bool:
        """Wait until there is a batch, or ``wake`` is called; tell whether there is one."""
        with self._changed:
            if not self._sizes:
                self._changed.wait(timeout)
            return bool(self._sizes)

    def wake(self) -> None:
        """End every ``wait``."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let another agent use the directory."""
        self._lock_file.close()

    def _recover(self) -> dict[int, int]:
        """Find what a former run left: whole batches stay, half-written ones go."""
        sizes: dict[int, int] = {}
        for entry in sorted(self._directory.iterdir()):
            if entry.suffix == _TEMPORARY_SUFFIX:
                entry.unlink()
            elif entry.suffix == _SUFFIX and entry.stem.isdecimal():
                sizes[int(entry.stem)] = entry.stat().st_size
        return sizes

    def _make_room(self, size: int) -> None:
        total = sum(self._sizes.values())
        dropped = 0
        while self._sizes and total + size > self._max_bytes:
            sequence = next(iter(self._sizes))
            total -= self._sizes.pop(sequence)
            self._unlink(sequence)
            dropped += 1
        if dropped:
            self._on_drop("spool_full", dropped)

    def _write(self, sequence: int, body: bytes) -> None:
        fields = (_ENCODINGS.index(self._encoding), len(body), int(self._clock() * 1000))
        path = self._path(sequence)
        temporary = path.with_suffix(_TEMPORARY_SUFFIX)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(
                    _HEADER.pack(_MAGIC, fields[0], _checksum(fields, body), fields[1], fields[2])
                )
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _sync_directory(self._directory)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _set_aside(self, sequence: int, error: Exception) -> None:
        """Move a damaged batch out of the queue, for people to look at; keep a few of them."""
        _log.warning("batch %d in the spool is damaged, set aside: %s", sequence, error)
        self._sizes.pop(sequence)
        corrupt = self._directory / _CORRUPT_DIR
        with contextlib.suppress(OSError):
            corrupt.mkdir(mode=0o700, exist_ok=True)
            self._path(sequence).rename(corrupt / self._path(sequence).name)
            for old in sorted(corrupt.iterdir())[:-_KEPT_CORRUPT]:
                old.unlink()
        self._unlink(sequence)
        self._on_drop("corrupt", 1)

    def _unlink(self, sequence: int) -> None:
        try:
            self._path(sequence).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("batch %d cannot be deleted: %s", sequence, error)

    def _path(self, sequence: int) -> Path:
        return self._directory / f"{sequence:020d}{_SUFFIX}"


def _lock(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StateError(
            f"another agent uses {path.parent}; stop it or set state_dir to another directory"
        ) from error
    return file


def _compress(payload: bytes, encoding: Encoding) -> bytes:
    if encoding == "gzip":
        return gzip.compress(payload, _GZIP_LEVEL, mtime=0)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(payload)


def _checksum(fields: tuple[int, int, int], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<BQQ", *fields)))


def _read(path: Path, sequence: int) -> Segment:
    """Read and check one file.

    Raises:
        ValueError: It is not what was written.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        content = file.read()
    if len(content) < _HEADER.size:
        raise ValueError("shorter than its header")
    magic, encoding, checksum, size, created = _HEADER.unpack_from(content)
    body = content[_HEADER.size :]
    if magic != _MAGIC or encoding >= len(_ENCODINGS) or size != len(body):
        raise ValueError("header and size do not match")
    if checksum != _checksum((encoding, size, created), body):
        raise ValueError("the checksum does not match")
    return Segment(sequence, body, _ENCODINGS[encoding], created)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
