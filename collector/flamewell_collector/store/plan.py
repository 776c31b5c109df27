"""Which rows answer a question: raw ones, or sums of them where those say the same (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from flamewell_collector.store.changes import Block
from flamewell_collector.store.tiers import HOUR_MS, ONE_HOUR, TEN_MINUTES

Ranges = tuple[tuple[int, int], ...]
"""Half open, ascending, in ms since the epoch."""


@dataclass(frozen=True, slots=True)
class RolledUp:
    """A rollup block and the slots of it that count.

    Attributes:
        path: Of the block.
        ranges: Of the starts of slots.
    """

    path: str
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read; no row counts twice.

    Attributes:
        raw: Raw blocks.
        sums: In the place of samples.
        totals: In the place of profiles of which no raw rows are left.
    """

    raw: tuple[str, ...]
    sums: tuple[RolledUp, ...]
    totals: tuple[RolledUp, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """What there is of a tenant.

    Attributes:
        raw: All raw blocks of the hours in question, each within one. One that compaction has made
            is summed up in its hour's rollups, others came later.
        rollups: Tier → hour's start in ms → block.
        head_hours: Starts of the hours that rows in memory are of.
    """

    raw: Collection[Block]
    rollups: Mapping[str, Mapping[int, Block]]
    head_hours: Collection[int]


def make_plan(stored: Stored, start_ms: int, end_ms: int, *, gauge: bool, sums_do: bool) -> Plan:
    """Choose for each hour of [start_ms, end_ms).

    Args:
        stored: What there is.
        start_ms: First time that counts.
        end_ms: First time that does not count any more.
        gauge: Averages are asked for: sums do where nothing else came of the hour, since readings
            of one minute count together. Where raw rows are gone they have to do.
        sums_do: Samples are asked for, of all series of some services: sums know no other labels.
    """
    hours: dict[int, list[Block]] = defaultdict(list)
    for block in stored.raw:
        hours[block.start_ms // HOUR_MS * HOUR_MS].append(block)
    for found in stored.rollups.values():
        for hour in found:
            hours.setdefault(hour, [])
    raw: list[Block] = []
    sums: dict[Block, list[tuple[int, int]]] = defaultdict(list)
    totals: dict[Block, list[tuple[int, int]]] = defaultdict(list)
    for hour, blocks in sorted(hours.items()):
        first, last = max(hour, start_ms), min(hour + HOUR_MS, end_ms)
        if first >= last:
            continue
        whole = last - first == HOUR_MS
        sixty = stored.rollups.get(ONE_HOUR, {}).get(hour)
        ten = stored.rollups.get(TEN_MINUTES, {}).get(hour)
        summed = [each for each in blocks if each.compacted]
        late = [each for each in blocks if not each.compacted]
        if not summed and (sixty or ten):
            finest = ten or sixty
            coarse = sixty if whole and sixty else finest
            assert finest is not None and coarse is not None  # noqa: S101, PT018 - see above
            totals[finest].append((first, last))
            if sums_do:
                sums[coarse].append((first, last))
            raw.extend(late)
        elif sums_do and whole and sixty and not (gauge and (late or hour in stored.head_hours)):
            sums[sixty].append((first, last))
            raw.extend(late)
        else:
            raw.extend(blocks)
    whole_range = (start_ms, end_ms)
    return Plan(
        tuple(each.path for each in raw if each.overlaps(start_ms, end_ms)),
        _spans(sums, whole_range),
        _spans(totals, whole_range),
    )


def _spans(
    found: Mapping[Block, list[tuple[int, int]]], whole_range: tuple[int, int]
) -> tuple[RolledUp, ...]:
    """Give the ranges of each block; where all that it has in the range counts, the range itself.

    Blocks with one and the same range are read together.
    """
    spans = []
    for block, ranges in found.items():
        joined = _joined(ranges)
        first = max(block.start_ms // HOUR_MS * HOUR_MS, whole_range[0])
        last = min(block.end_ms // HOUR_MS * HOUR_MS + HOUR_MS, whole_range[1])
        everything = len(joined) == 1 and joined[0][0] <= first and joined[0][1] >= last
        spans.append(RolledUp(block.path, (whole_range,) if everything else joined))
    return tuple(spans)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)
