"""A store's life from the first batch to retention, killed with SIGKILL at a named point of it.

Usage: store_victim.py DATA_FOLDER STAGE POINT SIDE COUNT. Prints each batch's number once it is
acknowledged. Ends with 0 where the stage did not reach the point COUNT times.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collector.stored import HOUR_MS, cpu_batch

from flamewell_collector.store import recovery
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.storage import Storage, StorageOptions
from flamewell_collector.store.tiers import DAY_MS
from flamewell_collector.store.upkeep import Upkeep
from flamewell_collector.store.wal import Wal
from flamewell_collector.store.writer import BlockDraft

MIDNIGHT_MS = 1_800_000_000_000 // DAY_MS * DAY_MS
KEEP_RAW_MS = 5 * DAY_MS
POINTS: dict[str, tuple[Any, str]] = {
    "log_commit": (os, "fdatasync"),
    "log_rotate": (Wal, "rotate"),
    "block_samples": (BlockDraft, "add_samples"),
    "block_sums": (BlockDraft, "add_rollup"),
    "block_finish": (BlockDraft, "finish"),
    "register_flush": (Catalog, "commit"),
    "remove_logs": (recovery, "remove_logs"),
    "replace": (Catalog, "replace"),
    "delete_unread": (Upkeep, "delete_unread"),
}


class Trap:
    """Kills at the n-th time that an armed point is reached."""

    def __init__(self, point: str, side: str, count: int) -> None:
        self.armed = False
        self.left = count
        owner, name = POINTS[point]
        setattr(owner, name, self._trapped(getattr(owner, name), side))

    def _trapped(self, work: Callable[..., Any], side: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if side == "before":
                self._spring()
            result = work(*arguments, **options)
            if side == "after":
                self._spring()
            return result

        return run

    def _spring(self) -> None:
        if self.armed:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Life:
    """What a store goes through."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage.open(folder, StorageOptions(keep_raw_ms=KEEP_RAW_MS))
        self.number = 0

    def take(self, hour: int) -> None:
        for _ in range(3):
            batch = cpu_batch(self.number, time_ms=MIDNIGHT_MS + hour * HOUR_MS)
            assert self.storage.append(batch)
            print(self.number, flush=True)
            self.number += 1

    def ingest(self) -> None:
        for hour in (1, 2):
            self.take(hour)

    def flush(self) -> None:
        self.storage.flush()

    def compaction(self) -> None:
        self.storage.maintain(MIDNIGHT_MS + 4 * HOUR_MS)

    def late(self) -> None:
        self.take(1)
        self.storage.flush()
        self.storage.maintain(MIDNIGHT_MS + 5 * HOUR_MS)

    def day(self) -> None:
        self.storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)

    def retention(self) -> None:
        self.storage.maintain(MIDNIGHT_MS + KEEP_RAW_MS + DAY_MS)

    def end(self) -> None:
        self.take(30)
        self.storage.close()


def main() -> None:
    folder, stage, point, side, count = sys.argv[1:]
    trap = Trap(point, side, int(count))
    life = Life(Path(folder))
    stages = (life.ingest, life.flush, life.compaction, life.late, life.day, life.retention)
    for each in (*stages, life.end):
        trap.armed = each.__name__ == stage
        each()


main()
