"""What the store is told and what it shows: options, state, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from flamewell_collector.store.head import HeadView, concatenated
from flamewell_collector.store.plan import Stored
from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stack_cache import ServiceStacks
from flamewell_collector.store.tiers import ONE_HOUR, RAW, TEN_MINUTES


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How the store behaves.

    Attributes:
        flush_seconds: The head becomes Parquet when its oldest row is this old.
        flush_rows: ... or when it has this many rows.
        max_head_rows: Above, nothing new is taken until a flush has succeeded.
        keep_raw_ms: Raw blocks older than this are removed; 0 keeps for ever.
        keep_10m_ms: The same for sums of ten minutes.
        keep_1h_ms: The same for sums of an hour.
        keep_bytes: Blocks go until the rest fits, raw ones first; 0 is no limit.
        min_free_bytes: Below this much free disk nothing new is taken; reads go on.
        compact_after_seconds: An hour is compacted this long after its end: most late batches have
            come by then. Later ones make further blocks, which the next round merges too.
        stack_cache_bytes: Memory for stacks of blocks, by service; more are read again.
    """

    flush_seconds: float = 300
    flush_rows: int = 2_000_000
    max_head_rows: int = 10_000_000
    keep_raw_ms: int = 0
    keep_10m_ms: int = 0
    keep_1h_ms: int = 0
    keep_bytes: int = 0
    min_free_bytes: int = 64 << 20
    compact_after_seconds: int = 600
    stack_cache_bytes: int = 512 << 20

    @property
    def keep_ms_by_tier(self) -> dict[str, int]:
        """How long each tier is kept, 0 for ever."""
        return {RAW: self.keep_raw_ms, TEN_MINUTES: self.keep_10m_ms, ONE_HOUR: self.keep_1h_ms}


@dataclass(frozen=True, slots=True)
class StorageState:
    """What /ready, /api/v1/status and the metrics show.

    Attributes:
        writable: Whether batches are taken; ``reason`` says why not.
        reason: Empty where all is well.
        head_rows: Samples that are not in blocks yet.
        wal_bytes: Of all log files.
        blocks: How many raw ones are registered.
        block_bytes: Their size.
        rollup_blocks: How many blocks of sums are registered.
        rollup_bytes: Their size.
        stack_cache_bytes: Memory that stacks of blocks take.
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
    rollup_blocks: int
    rollup_bytes: int
    stack_cache_bytes: int
    damaged_blocks: int
    disk_free_bytes: int
    wal_skipped_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view of one tenant: each row is in exactly one of blocks or head.

    Attributes:
        data_dir: What paths of blocks are relative to.
        stored: Blocks that may hold rows of the asked range; not deleted while it is open.
        series: The tenant's series.
        heads: The tenant's unflushed rows, of any time.
        stacks: Gives the stacks of a service: (name, blocks whose stacks are wanted).
    """

    data_dir: Path
    stored: Stored
    series: SeriesIndex
    heads: tuple[HeadView, ...]
    stacks: Callable[[str, Sequence[Path]], ServiceStacks]

    @property
    def head_profiles(self) -> pa.Table:
        """Unflushed PROFILES rows, of any time."""
        return concatenated([each.profiles for each in self.heads], PROFILES)

    @property
    def head_samples(self) -> pa.Table:
        """Unflushed BATCH_SAMPLES rows, of any time, of the services that were asked for."""
        return concatenated([each.samples for each in self.heads], BATCH_SAMPLES)
