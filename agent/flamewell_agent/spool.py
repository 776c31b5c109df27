"""A bounded queue of encoded batches on disk: between sampling, which never waits, and sending.

``put`` hands over to a writing thread: however slow the disk is, the caller goes on. A disk that
does not keep pace costs the oldest batches that still wait for it, counted, never time or memory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from pathlib import Path

from flamewell_agent import spool_files
from flamewell_agent.errors import StateError, UnreadableBatchError
from flamewell_agent.spool_files import Encoding, Segment, Waiting

__all__ = ["Encoding", "Segment", "Spool"]

_log = logging.getLogger(__name__)
_CORRUPT_DIR = "corrupt"
_KEPT_CORRUPT = 10
_HANDED_OVER_BATCHES, _HANDED_OVER_BYTES = 8, 16 * 1024 * 1024
"""What may wait in memory for the disk: two minutes of cycles of 15 s."""
_BATCHES_AT_MOST = 100_000
"""Files in the directory: 17 days of one batch each 15 s; 20 MB of memory at most."""
DEFAULT_MAX_AGE_SECONDS = 24 * 3600.0
_CLOSE_SECONDS = 5.0


class Spool:
    """The queue. Any thread may call any method.

    Args:
        directory: Made if it is not there; one agent at a time may use it.
        max_bytes: Size of all batches together; the oldest are dropped to make room.
        encoding: How new batches are compressed; those on disk keep theirs.
        max_age_seconds: Older batches are dropped: no collector would take them.
        on_drop: Told the reason and the number of batches that were given up: ``spool_full``,
            ``spool_busy`` (the disk is too slow), ``disk_full`` (older ones made room),
            ``too_large``, ``too_old``, ``write_failed`` or ``corrupt``.
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
        max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS,
        on_drop: Callable[[str, int], None] = lambda _reason, _count: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._encoding: Encoding = encoding
        self._max_age = max_age_seconds
        self._on_drop = on_drop
        self._clock = clock
        lock = threading.RLock()
        # Two kinds of news under one lock: for the writer, and for those who wait for batches.
        self._handed = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        self._handed_over: deque[bytes] = deque()
        self._handed_over_bytes = 0
        self._writing = False
        self._closing = False
        self._abandoned = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = spool_files.lock(directory / "lock")
            # In the order of their numbers. Ordered, since the first entry of a plain dict whose
            # head has been removed entry by entry takes longer and longer to find.
            self._waiting = OrderedDict(spool_files.recover(directory))
        except OSError as error:
            raise StateError(f"the spool {directory} cannot be used: {error}") from error
        self._claimed: set[int] = set()
        self._size_bytes = sum(each.size_bytes for each in self._waiting.values())
        self._next_sequence = max(self._waiting, default=0) + 1
        self._writer = threading.Thread(target=self._write_all, name="spool-writer", daemon=True)
        self._writer.start()

    @property
    def size_bytes(self) -> int:
        """Disk taken by waiting batches."""
        return self._size_bytes

    def __len__(self) -> int:
        """Count waiting batches, those that are still on their way to the disk included."""
        with self._changed:
            return len(self._waiting) + len(self._handed_over) + self._writing

    def put(self, payload: bytes) -> bool:
        """Hand one encoded batch over to be compressed and stored; never waits for the disk.

        Returns:
            Whether it was taken. What is lost later is counted by ``on_drop``.
        """
        dropped = 0
        with self._changed:
            if self._closing:
                self._on_drop("spool_busy", 1)
                return False
            self._handed_over.append(payload)
            self._handed_over_bytes += len(payload)
            while len(self._handed_over) > 1 and self._too_much_handed_over():
                self._handed_over_bytes -= len(self._handed_over.popleft())
                dropped += 1
            self._handed.notify()
        if dropped:
            self._on_drop("spool_busy", dropped)
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put is on disk (or given up); tell whether it is."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._handed_over or self._writing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def claim(self, passing_over: Collection[int] = ()) -> Segment | None:
        """Read the batch that has waited longest, for the caller alone.

        Until ``release`` or ``remove`` nobody else gets it, and it is not dropped.

        Args:
            passing_over: Sequences to leave alone.

        Raises:
            UnreadableBatchError: The disk does not give it just now: it stays.
        """
        while True:
            self._drop_old()
            with self._changed:
                taken = {*passing_over, *self._claimed}
                sequence = next((each for each in self._waiting if each not in taken), None)
                if sequence is None:
                    return None
                self._claimed.add(sequence)
            try:  # outside the lock: a disk that hangs must not hold up put()
                return spool_files.read(self._path(sequence), sequence)
            except (FileNotFoundError, ValueError) as error:
                self._set_aside(sequence, error)
            except OSError as error:
                self.release(sequence)
                raise UnreadableBatchError(sequence, str(error)) from error

    def release(self, sequence: int) -> None:
        """Give a claimed batch back; it may be gone already."""
        with self._changed:
            self._claimed.discard(sequence)
            self._changed.notify_all()

    def remove(self, sequence: int) -> None:
        """Forget a batch that was sent or refused; it may be gone already."""
        with self._changed:
            known = self._forget(sequence)
        if known:
            self._unlink(sequence)

    def wait(self, timeout: float) -> bool:
        """Wait until a batch can be claimed, or for ``wake``; tell whether one can."""
        with self._changed:
            if not self._claimable():
                self._changed.wait(timeout)
            return self._claimable()

    def wake(self) -> None:
        """End every ``wait``."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Store what was handed over, and let another agent use the directory."""
        with self._changed:
            self._closing = True
            self._handed.notify()
        self._writer.join(_CLOSE_SECONDS)
        with self._changed:
            lost = len(self._handed_over) + self._writing
            self._abandoned = True
            self._handed_over.clear()
        if lost:
            _log.warning("%d batches could not be written in time", lost)
            self._on_drop("spool_busy", lost)
        if not self._writer.is_alive():
            # A writer that hangs in the disk keeps the lock: nobody else may number files now.
            self._lock_file.close()

    def _claimable(self) -> bool:
        return len(self._waiting) > len(self._claimed)

    def _too_much_handed_over(self) -> bool:
        return (
            len(self._handed_over) > _HANDED_OVER_BATCHES
            or self._handed_over_bytes > _HANDED_OVER_BYTES
        )

    def _write_all(self) -> None:
        """Write what is handed over until the spool is closed: the writing thread."""
        while True:
            with self._changed:
                while not self._handed_over and not self._closing:
                    self._handed.wait()
                if not self._handed_over or self._abandoned:
                    return
                payload = self._handed_over.popleft()
                self._handed_over_bytes -= len(payload)
                self._writing = True
            try:
                self._store(payload)
            except Exception:  # noqa: BLE001 - the stage's boundary: storing goes on, it is counted
                _log.exception("a batch could not be spooled")
                self._on_drop("write_failed", 1)
            finally:
                with self._changed:
                    self._writing = False
                    self._changed.notify_all()

    def _store(self, payload: bytes) -> None:
        body = spool_files.compress(payload, self._encoding)
        size = spool_files.HEADER_BYTES + len(body)
        if size > self._max_bytes:
            _log.warning("a batch of %d bytes is larger than the whole spool", size)
            self._on_drop("too_large", 1)
            return
        self._make_room(size)
        now = self._clock()
        sequence = self._next_sequence  # only this thread changes it
        self._next_sequence += 1
        try:
            self._write(sequence, body, int(now * 1000))
        except OSError as error:  # a full or read-only disk must not end the sampling
            _log.warning("a batch could not be spooled: %s", error)
            self._on_drop("write_failed", 1)
            return
        with self._changed:
            self._waiting[sequence] = Waiting(size, now)
            self._size_bytes += size
            self._changed.notify_all()

    def _write(self, sequence: int, body: bytes, created_unix_ms: int) -> None:
        """Write a batch; where the disk is full the oldest ones give it their place.

        Raises:
            OSError: It cannot be written.
        """
        path = self._path(sequence)
        try:
            spool_files.write(path, body, self._encoding, created_unix_ms)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            with self._changed:
                wanted = self._size_bytes - spool_files.HEADER_BYTES - len(body)
                if wanted < 0:
                    raise  # all of them together are too little
                dropped = self._forget_oldest(lambda: self._size_bytes > wanted)
            self._give_up(dropped, "disk_full")
            spool_files.write(path, body, self._encoding, created_unix_ms)

    def _make_room(self, size: int) -> None:
        with self._changed:
            dropped = self._forget_oldest(
                lambda: (
                    self._size_bytes + size > self._max_bytes
                    or len(self._waiting) >= _BATCHES_AT_MOST
                )
            )
        self._give_up(dropped, "spool_full")

    def _forget_oldest(self, goes_on: Callable[[], bool]) -> list[int]:
        """Take the oldest that nobody is sending out of the books; the lock is held."""
        dropped: list[int] = []
        spared = []
        # From the head, and put back there: a walk over the whole queue would be done for each.
        while self._waiting and goes_on():
            sequence = next(iter(self._waiting))
            if sequence in self._claimed:
                spared.append((sequence, self._waiting.pop(sequence)))
                continue
            self._forget(sequence)
            dropped.append(sequence)
        for sequence, known in reversed(spared):
            self._waiting[sequence] = known
            self._waiting.move_to_end(sequence, last=False)
        return dropped

    def _drop_old(self) -> None:
        """Drop what no collector would take any more.

        The times are the wall clock's. Where that was set back nothing looks old; where it was set
        forward, the collector would take the old times for old as well.
        """
        limit = self._clock() - self._max_age
        with self._changed:
            dropped = self._forget_oldest(
                lambda: next(iter(self._waiting.values())).created_unix < limit
            )
        self._give_up(dropped, "too_old")

    def _give_up(self, sequences: list[int], reason: str) -> None:
        for sequence in sequences:
            self._unlink(sequence)
        if sequences:
            self._on_drop(reason, len(sequences))

    def _forget(self, sequence: int) -> bool:
        """Take a batch out of the books; the lock is held."""
        self._claimed.discard(sequence)
        known = self._waiting.pop(sequence, None)
        if known is not None:
            self._size_bytes -= known.size_bytes
        return known is not None

    def _set_aside(self, sequence: int, error: Exception) -> None:
        """Move a damaged batch out of the queue, for people to look at; keep a few of them."""
        with self._changed:
            if not self._forget(sequence):
                return  # dropped to make room between the look and the read
        _log.warning("batch %d in the spool is damaged, set aside: %s", sequence, error)
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
        return spool_files.path_of(self._directory, sequence)
