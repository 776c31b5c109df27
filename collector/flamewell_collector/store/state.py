"""What the store is told and what it shows: options, state, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from flamewell_collector.store.block_files import Wanted
from flamewell_collector.store.changes import Block
from flamewell_collector.store.head import HeadView, concatenated
from flamewell_collector.store.plan import Stored
from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stack_cache import ServiceStacks
from flamewell_collector.store.tiers import ONE_HOUR, RAW, TEN_MINUTES


@dataclass(frozen=True, slots=True)
class SharedOptions:
    """How a store is shared.

    Attributes:
        url: Of the folder of a bucket, or ``file:///`` a common folder.
        endpoint: Of the bucket's server, where it is not the cloud's own.
        instance: Name of this collector, no other's.
        read_only: Only answers questions.
        cache_bytes: Copies of blocks may take this much of the data folder's disk.
        gather_seconds: What comes within this time is written to the log by one request.
        follow_seconds: How often it is looked what others have written.
        lease_seconds: A collector that was silent for so long is taken for dead.
        leads: Merges and removes blocks, whoever else does.
        keep_removed_seconds: Replaced blocks are deleted after this long: others may still read
            them, or may have just begun to.
    """

    url: str
    instance: str
    endpoint: str = ""
    read_only: bool = False
    cache_bytes: int = 10 << 30
    gather_seconds: float = 0.25
    follow_seconds: float = 2
    lease_seconds: float = 60
    leads: bool = False
    keep_removed_seconds: float = 900


@dataclass(frozen=True, slots=True)
class SharedState:
    """How a shared store is.

    Attributes:
        position: Changes of the catalog that were seen.
        collectors: That write and are alive.
        silent: That have not said so for too long.
        leads: Whether this one merges and removes blocks.
        other_rows: Samples that others have not in blocks yet.
        cache_bytes: Size of the copies of blocks.
        fetched_bytes: Read of blocks since the start.
        requests: Kind → how many were sent to the store since the start.
        failures: Kind → how many of them failed.
    """

    position: int
    collectors: int
    silent: int
    leads: bool
    other_rows: int
    cache_bytes: int
    fetched_bytes: int
    requests: Mapping[str, int]
    failures: Mapping[str, int]


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
        shared: Where the store is, if not in the data folder.
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
    shared: SharedOptions | None = None

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
        read_only: Whether it only answers questions, as it should.
        shared: More of a shared store.
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
    read_only: bool = False
    shared: SharedState | None = None

    def of_shared(self, *, reason: str, read_only: bool, shared: SharedState) -> StorageState:
        """Give the same, of a store that is shared."""
        writable = not reason and not read_only
        return replace(self, reason=reason, writable=writable, read_only=read_only, shared=shared)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view of one tenant: each row is in exactly one of blocks or head.

    Attributes:
        data_dir: What paths of blocks are relative to.
        stored: Blocks that may hold rows of the asked range; not deleted while it is open.
        series: The tenant's series.
        heads: The tenant's unflushed rows, of any time.
        stacks: Gives the stacks of a service: (name, blocks whose stacks are wanted).
        fetch: Has to be called before files of blocks are read: brings them here.
    """

    data_dir: Path
    stored: Stored
    series: SeriesIndex
    heads: tuple[HeadView, ...]
    stacks: Callable[[str, Sequence[Path]], ServiceStacks]
    fetch: Callable[[Wanted], None]

    @property
    def head_profiles(self) -> pa.Table:
        """Unflushed PROFILES rows, of any time."""
        return concatenated([each.profiles for each in self.heads], PROFILES)

    @property
    def head_samples(self) -> pa.Table:
        """Unflushed BATCH_SAMPLES rows, of any time, of the services that were asked for."""
        return concatenated([each.samples for each in self.heads], BATCH_SAMPLES)


class Sizes(TypedDict):
    """Number and size of blocks."""

    blocks: int
    block_bytes: int
    rollup_blocks: int
    rollup_bytes: int


def sizes(blocks: Sequence[Block]) -> Sizes:
    """Count blocks of rows as they came, and of sums."""
    raw = [each.bytes for each in blocks if each.tier == RAW]
    sums = [each.bytes for each in blocks if each.tier != RAW]
    return Sizes(
        blocks=len(raw), block_bytes=sum(raw), rollup_blocks=len(sums), rollup_bytes=sum(sums)
    )
