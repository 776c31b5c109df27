"""What other collectors have in their logs and not in blocks yet, read object by object."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from flamewell_collector.errors import StorageError
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import batch_codec
from flamewell_collector.store.shared.log_objects import LogObject, read_log_object
from flamewell_collector.store.shared.objects import Objects

log = logging.getLogger(__name__)


class FollowedLogs:
    """How far each log has been read.

    Attributes:
        skipped_bytes: In no whole frame, or in one that can't be decoded.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._next: dict[str, int] = {}
        self.skipped_bytes = 0

    def read(self, writer: str, *, flushed: int) -> Iterator[tuple[int, list[DecodedBatch]]]:
        """Give (number of the log file, batches) of each object that has come since.

        Args:
            writer: Name of the log.
            flushed: Its objects up to this one are in blocks.
        """
        sequence = max(self._next.get(writer, 1), flushed + 1)
        while True:
            found = read_log_object(self._objects, writer, sequence)
            if found is None or found.is_end:
                self._next[writer] = sequence
                return
            batches, skipped = decoded([found])
            self.skipped_bytes += skipped
            sequence += 1
            self._next[writer] = sequence
            yield found.number, batches

    def forget(self, writers: Iterable[str]) -> None:
        """Forget logs other than these."""
        kept = set(writers)
        self._next = {name: at for name, at in self._next.items() if name in kept}


def decoded(objects: Iterable[LogObject]) -> tuple[list[DecodedBatch], int]:
    """Decode the frames of log objects; gives (batches, bytes that had to be skipped)."""
    batches: list[DecodedBatch] = []
    skipped = 0
    for each in objects:
        skipped += each.damaged_bytes
        if each.damaged_bytes:
            log.error("a log object has %d damaged bytes: they are lost", each.damaged_bytes)
        for payload in each.payloads:
            try:
                batches.append(batch_codec.decode(payload))
            except StorageError as error:
                skipped += len(payload)
                log.error("a frame of a log is skipped: %s", error)
    return batches, skipped
