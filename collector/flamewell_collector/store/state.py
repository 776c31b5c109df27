"""What the store is told and what it shows: options, state, snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stacktable import StackTable


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How the store behaves.

    Attributes:
        flush_seconds: The head becomes Parquet when its oldest row is this old.
        flush_rows: ... or when it has this many rows.
        max_head_rows: Above, nothing new is taken until a flush has succeeded.
        keep_ms: Blocks older than this are removed; 0 keeps for ever.
        keep_bytes: The oldest blocks go until the rest fits; 0 is no limit.
        min_free_bytes: Below this much free disk nothing new is taken; reads go on.
        compact_after_seconds: An hour is compacted this long after its end: most late batches have
            come by then. Later ones make further blocks, which the next round merges too.
    """

    flush_seconds: float = 300
    flush_rows: int = 2_000_000
    max_head_rows: int = 10_000_000
    keep_ms: int = 0
    keep_bytes: int = 0
    min_free_bytes: int = 64 << 20
    compact_after_seconds: int = 600


@dataclass(frozen=True, slots=True)
class StorageState:
    """What /ready, /api/v1/status and the metrics show.

    Attributes:
        writable: Whether batches are taken; ``reason`` says why not.
        reason: Empty where all is well.
        head_rows: Samples that are not in blocks yet.
        wal_bytes: Of all log files.
        blocks: How many are registered.
        block_bytes: Their size.
        damaged_blocks: How many were set aside.
        disk_free_bytes: Left on the disk of the data folder.
        wal_skipped_bytes: Bytes of the log that belonged to no whole frame at the last start.
    """

    writable: bool
    reason: str
    head_rows: int
    wal_bytes: int
    blocks: int
    block_bytes: int
    damaged_blocks: int
    disk_free_bytes: int
    wal_skipped_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view of one tenant: each row is in exactly one of blocks or head.

    Attributes:
        blocks: Folders that may hold rows of the asked range; not deleted while it is open.
        head_profiles: Unflushed PROFILES rows, of any time.
        head_samples: Unflushed SAMPLES rows, of any time.
        stacks: The tenant's stacks; call ``load_block`` for each block first.
        series: The tenant's series.
    """

    blocks: tuple[Path, ...]
    head_profiles: pa.Table
    head_samples: pa.Table
    stacks: StackTable
    series: SeriesIndex
