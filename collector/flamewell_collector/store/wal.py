"""The write-ahead log: numbered files of frames, made durable in groups.

A frame is ``FWAL``, payload length (u32), CRC32 of the payload (u32), payload; little endian. A
file is never appended to after a restart: recovery reads it, a fresh one takes what comes next. It
is made with the first frame, so that a store on a full disk can be opened and read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flamewell_collector.errors import StaleBatch, StorageUnavailable

log = logging.getLogger(__name__)

MAGIC = b"FWAL"
_FRAME = struct.Struct("<4sII")
_SUFFIX = ".wal"


@dataclass(slots=True)
class _Ticket:
    payload: bytes
    on_durable: Callable[[], None]
    number: int | None = None
    done: bool = False
    stale: bool = False
    error: OSError | StorageUnavailable | None = field(default=None)


class LogSink(Protocol):
    """Where frames are written to."""

    def write(self, number: int, data: bytes) -> None:
        """Make frames of a log file durable; after an error none of them counts.

        Raises:
            OSError: They can't be written.
            StorageUnavailable: Likewise.
        """
        ...

    def settle(self, number: int) -> None:
        """Find out what became of writes that failed, where that is in doubt.

        Raises:
            StorageUnavailable: That can't be found out.
        """
        ...

    def end(self) -> None:
        """Note that nothing more comes of the file."""
        ...


class LogFiles:
    """Log files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; nothing is written yet."""
        self._folder = folder
        self._size = 0
        self._fd: int | None = None

    def write(self, number: int, data: bytes) -> None:
        """Write and sync.

        Raises:
            OSError: That did not work.
        """
        try:
            if self._fd is None:
                self._fd = self._open(number)
            _write_all(self._fd, data, self._size)
            os.fdatasync(self._fd)
        except OSError:
            self._undo()
            raise
        self._size += len(data)

    def settle(self, number: int) -> None:
        """Do nothing: what failed was cut off again."""

    def end(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._size = None, 0

    def _undo(self) -> None:
        """Cut the file back to its last good frame.

        Where that fails too, the next write goes over what is left: each has its offset.
        """
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            log.warning("the log could not be cut back after a failed write: %s", error)

    def _open(self, number: int) -> int:
        # A file of this number that is there already was made by a try that failed: it is empty.
        path = self._folder / f"{number:012d}{_SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            sync_folder(self._folder)
        except OSError:
            os.close(fd)
            raise
        return fd


class Wal:
    """Appends frames; one write covers all that wait (group commit).

    Attributes:
        number: Of the current file.
    """

    def __init__(self, sink: LogSink, *, number: int, gather_seconds: float = 0) -> None:
        """Take where frames go to; nothing is written yet.

        Args:
            sink: Where to.
            number: Of the file to come.
            gather_seconds: For so long others may join a write, where each one costs.
        """
        self._sink = sink
        self._gather_seconds = gather_seconds
        self._pending: list[_Ticket] = []
        self._pending_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self.number = number
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """Size of the current file."""
        return self._size

    def append(
        self, payload: bytes, on_durable: Callable[[], None], *, number: int | None = None
    ) -> None:
        """Write one frame and return once it is on disk.

        Args:
            payload: What to keep.
            on_durable: Called exactly once when it is, before anything later is written and never
                across a ``rotate``: what it changes belongs to the file that holds the frame.
            number: The only file that it may stand in, where it matters.

        Raises:
            StaleBatch: Another file has begun meanwhile; nothing was written.
            StorageUnavailable: It could not be written; nothing of it counts.
        """
        ticket = _Ticket(payload, on_durable, number)
        with self._pending_lock:
            self._pending.append(ticket)
        # Whoever comes first commits for all that have queued up meanwhile.
        with self._commit_lock:
            if not ticket.done:
                if self._gather_seconds:
                    time.sleep(self._gather_seconds)
                self._commit()
        if ticket.stale:
            raise StaleBatch(f"log file {number} is closed")
        if isinstance(ticket.error, StorageUnavailable):
            raise ticket.error
        if ticket.error is not None:
            raise StorageUnavailable(
                f"the write-ahead log can't be written: {ticket.error.strerror or ticket.error}"
            ) from ticket.error

    def rotate(self, on_rotated: Callable[[], None], *, sink: LogSink | None = None) -> int:
        """Close the file and start the next one; gives the closed file's number.

        Args:
            on_rotated: Called between the two, while nothing can be appended.
            sink: Where frames go to from now on, if elsewhere; the former one is given up.

        Raises:
            StorageUnavailable: It is in doubt what the file holds; it goes on.
        """
        with self._commit_lock:
            if sink is None:
                self._sink.settle(self.number)
            self._end()
            closed, self.number = self.number, self.number + 1
            self._sink = sink or self._sink
            on_rotated()
            return closed

    def settle(self) -> None:
        """Find out what became of writes that failed, where that is in doubt.

        Raises:
            StorageUnavailable: That can't be found out.
        """
        with self._commit_lock:
            self._sink.settle(self.number)

    def close(self) -> None:
        """Close the file."""
        with self._commit_lock:
            self._end()

    def _commit(self) -> None:
        with self._pending_lock:
            waiting, self._pending = self._pending, []
        for ticket in waiting:
            ticket.stale = ticket.done = ticket.number not in {None, self.number}
        group = [ticket for ticket in waiting if not ticket.stale]
        if not group:
            return
        data = b"".join(
            part
            for ticket in group
            for part in (
                _FRAME.pack(MAGIC, len(ticket.payload), zlib.crc32(ticket.payload)),
                ticket.payload,
            )
        )
        try:
            self._sink.write(self.number, data)
        except (OSError, StorageUnavailable) as error:
            for ticket in group:
                ticket.error, ticket.done = error, True
            return
        self._size += len(data)
        for ticket in group:
            ticket.on_durable()
            ticket.done = True

    def _end(self) -> None:
        self._sink.end()
        self._size = 0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a log file held.

    Attributes:
        payloads: Valid frames, in order.
        torn_bytes: After the last valid frame: a write that was never acknowledged.
        damaged_bytes: Before or between valid frames: those were whole once.
    """

    payloads: tuple[bytes, ...]
    torn_bytes: int
    damaged_bytes: int


def replay(path: Path) -> Replayed:
    """Read a log file, skipping what is damaged.

    Raises:
        OSError: It can't be read at all.
    """
    return replay_bytes(path.read_bytes())


def replay_bytes(data: bytes) -> Replayed:
    """Read what a log file holds, as ``replay``."""
    payloads: list[bytes] = []
    end = damaged = 0
    for at, payload in _frames(data):
        damaged += at - end
        end = at + _FRAME.size + len(payload)
        payloads.append(payload)
    return Replayed(tuple(payloads), torn_bytes=len(data) - end, damaged_bytes=damaged)


def files(folder: Path) -> list[tuple[int, Path]]:
    """Give the log files by number, ascending."""
    found = [(int(path.stem), path) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdigit()]
    return sorted(found)


def total_bytes(folder: Path) -> int:
    """Give the size of all log files; one that goes away meanwhile counts nothing."""
    size = 0
    for _, path in files(folder):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give (offset, payload) of valid frames; after a bad one look for the next magic."""
    at = 0
    while at + _FRAME.size <= len(data):
        magic, length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if magic == MAGIC and len(payload) == length and zlib.crc32(payload) == checksum:
            yield at, payload
            at += _FRAME.size + length
            continue
        following = data.find(MAGIC, at + 1)
        if following < 0:
            return
        at = following


def _write_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        at, view = at + written, view[written:]
