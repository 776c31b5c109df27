"""A collector's log as objects, numbered without a gap: each holds what one commit has gathered.

An object that another collector has put in the way ends the log: its owner, silent for too long,
can't write after it, whatever it believes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from flamewell_collector.errors import LogTaken
from flamewell_collector.store import wal
from flamewell_collector.store.shared.objects import Objects

LOGS: Final = "logs"
_HEADER: Final = struct.Struct("<4sQ")
_FRAMES: Final = b"FLOG"
_END: Final = b"FEND"


@dataclass(frozen=True, slots=True)
class LogObject:
    """One object of a log.

    Attributes:
        number: Of the log file that it is a part of.
        payloads: Of its frames; none where it ends the log.
        is_end: Whether it does.
        damaged_bytes: What is in no whole frame.
    """

    number: int
    payloads: tuple[bytes, ...]
    is_end: bool
    damaged_bytes: int


class LogObjects:
    """Where a collector's frames are written to: the objects of its log.

    Attributes:
        sequence: Number of the last object.
    """

    def __init__(
        self, objects: Objects, writer: str, on_found: Callable[[LogObject], None]
    ) -> None:
        """Take the store.

        Args:
            objects: The store.
            writer: Name of the log.
            on_found: Told of an object that was written although that had seemed to fail: others
                may have read it meanwhile, so that it has to count.
        """
        self._objects = objects
        self._writer = writer
        self._on_found = on_found
        self.sequence = 0
        self._in_doubt: set[bytes] = set()

    def write(self, number: int, data: bytes) -> None:
        """Write an object.

        Raises:
            LogTaken: The log is ended.
            StorageUnavailable: The store can't be reached; should the object be there all the
                same, a later call finds it.
        """
        body = _HEADER.pack(_FRAMES, number) + data
        mine = _digest(body)
        while True:
            key = log_key(self._writer, self.sequence + 1)
            self._in_doubt.add(mine)
            there = body
            if not self._objects.put_new(key, body):
                there = self._objects.get(key) or b""
            found = _digest(there)
            if found not in self._in_doubt:
                raise LogTaken(f"another collector has ended the log {self._writer}")
            self.sequence += 1
            self._in_doubt.clear()
            if found == mine:
                return
            self._on_found(_parsed(there))

    def settle(self, number: int) -> None:
        """Find out whether an object is there whose write failed.

        Raises:
            LogTaken: The log is ended.
            StorageUnavailable: The store can't be reached.
        """
        if self._in_doubt:
            self.write(number, b"")

    def end(self) -> None:
        """Do nothing: each object says which file it is of."""


def end_log(objects: Objects, writer: str, sequence: int) -> list[LogObject]:
    """Keep the owner of a log from writing on, and read it.

    Args:
        objects: The store.
        writer: Name of the log.
        sequence: First object that is wanted.
    """
    found: list[LogObject] = []
    while True:
        each = read_log_object(objects, writer, sequence)
        if each is None:
            if objects.put_new(log_key(writer, sequence), _HEADER.pack(_END, 0)):
                return found
            continue
        if each.is_end:
            return found
        found.append(each)
        sequence += 1


def read_log_object(objects: Objects, writer: str, sequence: int) -> LogObject | None:
    """Read an object of a log; None where there is none (yet)."""
    data = objects.get(log_key(writer, sequence))
    return None if data is None else _parsed(data)


def delete_log_objects(objects: Objects, writer: str, sequence: int) -> None:
    """Delete the objects of a log up to one; what ends the log stays.

    A collector that was asleep must find that it has been given up, whenever it wakes.
    """
    found = [each.key for each in objects.listed(f"{LOGS}/{writer}")]
    last = log_key(writer, sequence)
    objects.delete([key for key in found if key <= last])


def log_key(writer: str, sequence: int) -> str:
    """Give the key of an object of a log."""
    return f"{LOGS}/{writer}/{sequence:012d}"


def _parsed(data: bytes) -> LogObject:
    if len(data) < _HEADER.size:
        return LogObject(0, (), is_end=False, damaged_bytes=len(data))
    magic, number = _HEADER.unpack_from(data)
    replayed = wal.replay_bytes(data[_HEADER.size :])
    damaged = replayed.torn_bytes + replayed.damaged_bytes
    return LogObject(number, replayed.payloads, is_end=magic == _END, damaged_bytes=damaged)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
