"""What a start does: remove what a crash left half done, and read the log."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flamewell_collector.errors import StorageError
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store import batch_codec, wal
from flamewell_collector.store.changes import Block
from flamewell_collector.store.writer import TEMPORARY_FOLDER, block_folders

DAMAGED_FOLDER = "damaged"

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
            log.error("the log file %s can't be read and is set aside: %s", path.name, error)
            set_aside(path, folder.parent)
            continue
        skipped += replayed.torn_bytes + replayed.damaged_bytes
        if replayed.torn_bytes:
            log.warning(
                "the log file %s ends in %d bytes of a frame that was never acknowledged; they are "
                "left out",
                path.name,
                replayed.torn_bytes,
            )
        if replayed.damaged_bytes:
            log.error(
                "the log file %s has %d damaged bytes between its frames: what they held is lost",
                path.name,
                replayed.damaged_bytes,
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


def remove_logs(folder: Path, flushed: int) -> None:
    """Remove log files whose content is in blocks: those up to a number."""
    # The newest goes first: while it is there, the older ones are (see rebuild).
    for number, path in reversed(wal.files(folder)):
        if number <= flushed:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("the flushed log file %s can't be removed: %s", path.name, error)


def set_aside(path: Path, data_dir: Path) -> None:
    """Move what is damaged out of the way, never delete it."""
    target = data_dir / DAMAGED_FOLDER / path.name
    try:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    except OSError as error:
        log.warning("%s could not be moved to %s: %s", path, target.parent, error)


def incomplete(data_dir: Path, blocks: Iterable[Block]) -> Iterator[tuple[Block, str]]:
    """Give blocks whose files are missing or have another size than when they were written."""
    for block in blocks:
        try:
            size = sum(each.stat().st_size for each in (data_dir / block.path).iterdir())
        except OSError as error:
            yield block, f"its files can't be looked at: {error}"
        else:
            if size != block.bytes:
                yield block, f"its files have {size} bytes, {block.bytes} were written"


def try_write(folder: Path) -> None:
    """Write and remove a small file.

    Raises:
        OSError: That does not work.
    """
    path = folder / "probe"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, bytes(4096))
        os.fsync(fd)
    finally:
        os.close(fd)
        path.unlink()


def sweep(data_dir: Path, *, registered: set[str]) -> None:
    """Remove temporary folders and block folders that were never registered."""
    shutil.rmtree(data_dir / TEMPORARY_FOLDER, ignore_errors=True)
    for block in block_folders(data_dir):
        if str(block.relative_to(data_dir)) not in registered:
            shutil.rmtree(block, ignore_errors=True)
