"""What a start does: remove what a crash left half done, and read the log."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from flamewell_collector.errors import StorageError
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import batch_codec, wal
from flamewell_collector.store.writer import BLOCKS_FOLDER, TEMPORARY_FOLDER

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """What the log files held beyond what is flushed.

    Attributes:
        batches: In the order in which they were acknowledged.
        last_number: The highest file number there is, or the flushed one.
        skipped_bytes: Bytes that belong to no valid frame.
    """

    batches: list[DecodedBatch]
    last_number: int
    skipped_bytes: int


def read_log(folder: Path, *, flushed: int) -> RecoveredLog:
    """Read all log files after ``flushed``; what is damaged is skipped, counted and logged."""
    batches: list[DecodedBatch] = []
    skipped = 0
    last_number = flushed
    for number, path in wal.files(folder):
        last_number = max(last_number, number)
        if number <= flushed:
            continue
        try:
            replayed = wal.replay(path)
        except OSError as error:
            log.error("the log file %s can't be read and is left as it is: %s", path.name, error)
            continue
        if replayed.skipped_bytes:
            skipped += replayed.skipped_bytes
            log.warning(
                "the log file %s has %d bytes that belong to no whole frame (a write that was "
                "never acknowledged, or damage)",
                path.name,
                replayed.skipped_bytes,
            )
        for payload in replayed.payloads:
            try:
                batches.append(batch_codec.decode(payload))
            except StorageError as error:
                skipped += len(payload)
                log.error("a frame of %s is skipped: %s", path.name, error)
    if batches:
        log.info("%d batches were recovered from the log", len(batches))
    return RecoveredLog(batches, last_number, skipped)


def sweep(data_dir: Path, *, registered: set[str]) -> None:
    """Remove temporary folders and block folders that were never registered."""
    shutil.rmtree(data_dir / TEMPORARY_FOLDER, ignore_errors=True)
    for block in (data_dir / BLOCKS_FOLDER).glob("tenant=*/date=*/hour=*/block=*"):
        if str(block.relative_to(data_dir)) not in registered:
            shutil.rmtree(block, ignore_errors=True)
