"""One transaction on the catalog: what counts from now on, and what does not any more.

A change is data, so that collectors that share a store can hand it to each other.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import zstandard

from flamewell_collector.errors import StorageError
from flamewell_collector.model import Series
from flamewell_collector.store.tiers import RAW

_MAX_BYTES = 1 << 30
"""A change that becomes larger when it is decompressed was not written by a collector."""


@dataclass(frozen=True, slots=True)
class Block:
    """A registered block.

    Attributes:
        path: Relative to the data folder, or to the store's URL.
        tenant: Whose.
        start_ms: Time of its first row.
        end_ms: Time of its last row (inclusive).
        rows: Of samples, or of sums.
        bytes: Of all its files.
        compacted: Whether it is the result of a compaction, and so in its hour's rollups.
        tier: ``raw``, or the length of a slot.
    """

    path: str
    tenant: str
    start_ms: int
    end_ms: int
    rows: int
    bytes: int
    compacted: bool
    tier: str = RAW

    def overlaps(self, start_ms: int, end_ms: int) -> bool:
        """Tell whether it may hold rows of [start_ms, end_ms)."""
        return self.start_ms < end_ms and self.end_ms >= start_ms


@dataclass(frozen=True, slots=True)
class RollupHour:
    """The block that has the sums of an hour; a later one takes its place.

    Attributes:
        tenant: Whose.
        tier: Length of the slots.
        hour_ms: Start of the hour.
        path: Of the block.
    """

    tenant: str
    tier: str
    hour_ms: int
    path: str


@dataclass(frozen=True, slots=True)
class LogMark:
    """How far a log is in blocks.

    Attributes:
        writer: Whose log; empty in a store of one collector.
        number: Its files up to this one are.
        sequence: Of a shared store: its objects up to this one are.
        ended: Nothing comes after it.
    """

    writer: str
    number: int
    sequence: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction does; all of it or nothing.

    Attributes:
        added: Blocks that count from now on.
        removed: Paths of blocks that do not any more, nor the sums that they have.
        hours: Which block has the sums of which hour, instead of others.
        series: New series with their tenants.
        active: (tenant, series id) → time of its last row.
        batch_ids: (tenant, batch id, when received) of batches that are in blocks now.
        log: How far the log of those is.
        damaged: (path, reason) of blocks that are set aside, which are removed, too.
        dropped_series: (tenant, series id) of which no row is left.
        forget_batches_before_ms: Batches that came earlier can't come again.
        adopted: (log, former owner, new owner): who writes the rows of a log as blocks, since its
            owner has fallen silent.
        deleted: Paths of removed blocks whose files are gone, too.
        at_ms: When it was made.
        name: One of its own, for telling whether it was written where that is in doubt.
    """

    added: tuple[Block, ...] = ()
    removed: tuple[str, ...] = ()
    hours: tuple[RollupHour, ...] = ()
    series: tuple[tuple[str, Series], ...] = ()
    active: Mapping[tuple[str, int], int] = field(default_factory=dict)
    batch_ids: tuple[tuple[str, str, int], ...] = ()
    log: LogMark | None = None
    damaged: tuple[tuple[str, str], ...] = ()
    dropped_series: tuple[tuple[str, int], ...] = ()
    forget_batches_before_ms: int | None = None
    adopted: tuple[str, str, str] | None = None
    deleted: tuple[str, ...] = ()
    at_ms: int = 0
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


def encode(change: Change) -> bytes:
    """Write a change down: JSON, zstd."""
    log = change.log
    document = {
        "added": [
            [each.path, each.tenant, each.start_ms, each.end_ms, each.rows, each.bytes,
             each.compacted, each.tier]
            for each in change.added
        ],
        "removed": change.removed,
        "hours": [[each.tenant, each.tier, each.hour_ms, each.path] for each in change.hours],
        "series": [[tenant, each.series_id, dict(each.labels)] for tenant, each in change.series],
        "active": [[*key, last_ms] for key, last_ms in change.active.items()],
        "batch_ids": change.batch_ids,
        "log": log and [log.writer, log.number, log.sequence, log.ended],
        "damaged": change.damaged,
        "dropped_series": change.dropped_series,
        "forget_batches_before_ms": change.forget_batches_before_ms,
        "adopted": change.adopted,
        "deleted": change.deleted,
        "at_ms": change.at_ms,
        "name": change.name,
    }  # fmt: skip
    return zstandard.ZstdCompressor().compress(orjson.dumps(document))


def decode(data: bytes) -> Change:
    """Read what ``encode`` wrote.

    Raises:
        StorageError: It is something else.
    """
    try:
        text = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_BYTES)
        found: dict[str, Any] = orjson.loads(text)
        return Change(
            added=tuple(Block(*each) for each in found["added"]),
            removed=tuple(found["removed"]),
            hours=tuple(RollupHour(*each) for each in found["hours"]),
            series=tuple(
                (tenant, Series(series_id, labels)) for tenant, series_id, labels in found["series"]
            ),
            active={(tenant, series_id): last for tenant, series_id, last in found["active"]},
            batch_ids=tuple((tenant, each, ms) for tenant, each, ms in found["batch_ids"]),
            log=LogMark(*found["log"]) if found["log"] else None,
            damaged=tuple((path, reason) for path, reason in found["damaged"]),
            dropped_series=tuple((tenant, each) for tenant, each in found["dropped_series"]),
            forget_batches_before_ms=found["forget_batches_before_ms"],
            adopted=_three(*found["adopted"]) if found["adopted"] else None,
            deleted=tuple(found["deleted"]),
            at_ms=found["at_ms"],
            name=found["name"],
        )
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise StorageError(f"a change of the catalog can't be read: {error}") from error


def _three(log: str, former: str, owner: str) -> tuple[str, str, str]:
    return log, former, owner
