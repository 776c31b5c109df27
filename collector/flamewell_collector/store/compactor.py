"""Merges the blocks of a closed hour into one and sums it up; merges a day's sums.

A service's rows of one type are all that is in memory at once. Nothing counts until the caller has
registered it, so that it may be killed anywhere.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.store import rollups
from flamewell_collector.store.block_stacks import BlockStacks, joined, nodes_of
from flamewell_collector.store.changes import Block, RollupHour
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.reader import BlockReader, equal_to
from flamewell_collector.store.sample_rows import SampleRows, int64s
from flamewell_collector.store.schema import PROFILES
from flamewell_collector.store.stack_numbers import StackNumbers, StackRows
from flamewell_collector.store.tiers import (
    DAY_MS,
    HOUR_MS,
    ONE_HOUR,
    ROLLED_UP,
    SLOT_MS,
    TEN_MINUTES,
)
from flamewell_collector.store.writer import BlockDraft, BlockWriter, Origin
from flamewell_wire import profile_types

Int32s = npt.NDArray[np.int32]

_PROFILE_ORDER = [(name, "ascending") for name in ("profile_type", "time", "series_id")]


class DamagedBlock(StorageError):
    """A block can't be read.

    Attributes:
        block: Which.
    """

    def __init__(self, block: Block, reason: str) -> None:
        super().__init__(f"block {block.path} is damaged: {reason}")
        self.block = block


class Stopped(Exception):
    """The caller does not want it any more."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What takes the place of others.

    Attributes:
        blocks: What was written.
        hours: Which of them has the sums of which hour.
    """

    blocks: tuple[Block, ...]
    hours: tuple[RollupHour, ...]


def due_hours(
    raw: Iterable[Block], hours: Iterable[RollupHour], closed_ms: int
) -> list[list[Block]]:
    """Give the groups of raw blocks (same tenant and hour) that should become one.

    Args:
        raw: All of them.
        hours: Which hours are summed up.
        closed_ms: Hours that end until then are closed.
    """
    groups: dict[tuple[str, int], list[Block]] = defaultdict(list)
    for block in raw:
        groups[block.tenant, block.start_ms // HOUR_MS * HOUR_MS].append(block)
    summed: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in hours:
        summed[each.tenant, each.hour_ms].add(each.tier)
    return [
        sorted(group, key=lambda each: each.start_ms)
        for key, group in sorted(groups.items())
        if key[1] + HOUR_MS <= closed_ms
        and (not all(each.compacted for each in group) or summed[key] < set(ROLLED_UP))
        # Sums whose rows are gone stay: those of what came later would take their place.
        and (any(each.compacted for each in group) or not summed[key])
    ]


def due_days(hours: Iterable[RollupHour], closed_ms: int) -> list[list[RollupHour]]:
    """Give the groups of hours (same tenant, tier and day) whose sums should be in one block."""
    groups: dict[tuple[str, str, int], list[RollupHour]] = defaultdict(list)
    for each in hours:
        groups[each.tenant, each.tier, each.hour_ms // DAY_MS * DAY_MS].append(each)
    return [
        sorted(group, key=lambda each: each.hour_ms)
        for key, group in sorted(groups.items())
        if key[2] + DAY_MS <= closed_ms and len({each.path for each in group}) > 1
    ]


def compact_hour(
    group: Sequence[Block],
    *,
    data_dir: Path,
    writer: BlockWriter,
    stopped: Callable[[], bool] = lambda: False,
) -> Compacted:
    """Write the block that replaces a group, and its sums; the caller registers them.

    Raises:
        Stopped: ``stopped`` said so.
        DamagedBlock: One of them can't be read.
        StorageUnavailable: The disk is full or read-only.
    """
    tenant, hour_ms = group[0].tenant, group[0].start_ms // HOUR_MS * HOUR_MS
    with ExitStack() as held:
        sources = [_Source(each, held.enter_context(_reader(data_dir, each))) for each in group]
        replaces = tuple(Path(each.path).name for each in group)
        raw = held.enter_context(writer.draft(tenant, hour_ms, origin=Origin(replaces=replaces)))
        origin = Origin(hours={hour_ms: raw.name})
        sums = {
            tier: held.enter_context(writer.draft(tenant, hour_ms, tier=tier, origin=origin))
            for tier in ROLLED_UP
        }
        for service in _unless(stopped, _services(sources)):
            _compact_service(service, sources, raw, sums)
        blocks = _finished([raw, *sums.values()], data_dir)
    hours = [RollupHour(tenant, each.tier, hour_ms, each.path) for each in blocks[1:]]
    return Compacted(tuple(blocks), tuple(hours))


def compact_day(
    group: Sequence[RollupHour],
    origins: Sequence[Origin],
    *,
    blocks: Sequence[Block],
    data_dir: Path,
    writer: BlockWriter,
    stopped: Callable[[], bool] = lambda: False,
) -> Compacted:
    """Write the block that has the sums of a group of hours; the caller registers it.

    Args:
        group: Hours of one tenant, tier and day, in order.
        origins: Of the block of each hour.
        blocks: Of each hour.
        data_dir: The data folder.
        writer: Writes.
        stopped: Asked before each service.

    Raises:
        Stopped: ``stopped`` said so.
        DamagedBlock: One of them can't be read.
        StorageUnavailable: The disk is full or read-only.
    """
    tenant, tier = group[0].tenant, group[0].tier
    day_ms = group[0].hour_ms // DAY_MS * DAY_MS
    covers = {
        each.hour_ms: origin.hours.get(each.hour_ms, "")
        for each, origin in zip(group, origins, strict=True)
    }
    replaces = tuple(dict.fromkeys(Path(each.path).name for each in group))
    with ExitStack() as held:
        readers: dict[str, _Source] = {}
        for block in blocks:
            if block.path not in readers:
                readers[block.path] = _Source(block, held.enter_context(_reader(data_dir, block)))
        parts = [(each.hour_ms, readers[each.path]) for each in group]
        draft = held.enter_context(
            writer.draft(tenant, day_ms, tier=tier, origin=Origin(replaces=replaces, hours=covers))
        )
        for service in _unless(stopped, _services(readers.values())):
            _join_sums(service, parts, draft)
        (block,) = _finished([draft], data_dir)
    hours = tuple(RollupHour(tenant, tier, each.hour_ms, block.path) for each in group)
    return Compacted((block,), hours)


@dataclass(frozen=True, slots=True)
class _Source:
    """A block and what reads it."""

    block: Block
    reader: BlockReader

    def rows(self, table: str, service: str, profile_type: str | None = None) -> pa.Table:
        try:
            return self.reader.rows(table, service, profile_type)
        except StorageError as error:
            raise DamagedBlock(self.block, str(error)) from error

    def samples(self, service: str, kind: str, nodes: Int32s) -> SampleRows:
        """Read samples; their stacks become nodes, given by number."""
        rows = SampleRows.of(self.rows("samples", service, kind))
        return rows.with_stack(self.nodes_of(nodes, rows.stack))

    def nodes_of(self, nodes: Int32s, stack: npt.NDArray[np.integer]) -> Int32s:
        try:
            return nodes_of(nodes, stack)
        except StorageError as error:
            raise DamagedBlock(self.block, str(error)) from error

    def stacks(self, service: str) -> BlockStacks:
        try:
            return self.reader.stacks(service)
        except StorageError as error:
            raise DamagedBlock(self.block, str(error)) from error

    def services(self) -> list[str]:
        try:
            return self.reader.services()
        except StorageError as error:
            raise DamagedBlock(self.block, str(error)) from error


def _compact_service(
    service: str, sources: Sequence[_Source], raw: BlockDraft, sums: dict[str, BlockDraft]
) -> None:
    profiles = pa.concat_tables(each.rows("profiles", service) for each in sources)
    profiles = profiles.sort_by(_PROFILE_ORDER)
    series = _series(service, sources)
    tree, nodes = _merged_stacks(service, sources)
    numbers = StackNumbers(tree)
    summed: dict[str, list[pa.Table]] = {tier: [] for tier in sums}
    for kind in sorted(profiles.column("profile_type").unique().to_pylist()):
        parts = [
            each.samples(service, kind, mine) for each, mine in zip(sources, nodes, strict=True)
        ]
        rows = SampleRows.joined(parts)
        rows = rows.with_stack(numbers.of(rows.stack)).by_stack()
        raw.add_samples(service, kind, rows)
        mine = profiles.filter(equal_to(profiles.column("profile_type"), kind))
        gauge = profile_types.parse_id(kind).kind == "gauge"
        found = None
        for tier in (TEN_MINUTES, ONE_HOUR):
            slot_ms = SLOT_MS[tier]
            if found is not None:
                found = rollups.sums_of_sums(found, slot_ms)
            elif gauge:
                found = rollups.sums_of_gauge(rows, mine, slot_ms)
            else:
                found = rollups.sums_of_deltas(rows, slot_ms)
            sums[tier].add_rollup(service, kind, found)
            if gauge:
                sums[tier].add_slots(service, kind, rollups.minutes_with_data(mine, slot_ms))
            summed[tier].append(rollups.profile_sums(mine, slot_ms, gauge=gauge))
    stacks = StackRows.of(service, numbers)
    raw.end_service(profiles, series, stacks)
    for tier, draft in sums.items():
        draft.end_service(_concatenated(summed[tier]), series, stacks)


def _merged_stacks(service: str, sources: Sequence[_Source]) -> tuple[PrefixTree, list[Int32s]]:
    """Give the stacks of all sources, and for each source number → node."""
    found = [each.stacks(service) for each in sources]
    return joined(PrefixTree.empty(), found)


def _join_sums(service: str, parts: Sequence[tuple[int, _Source]], draft: BlockDraft) -> None:
    """Put the sums of hours behind each other: no slot is in two hours."""
    sources = list({id(each): each for _, each in parts}.values())
    profiles = pa.concat_tables(
        _within(each.rows("profiles", service), hour_ms) for hour_ms, each in parts
    ).sort_by(_PROFILE_ORDER)
    tree, nodes = _merged_stacks(service, sources)
    node_of = {id(each): mine for each, mine in zip(sources, nodes, strict=True)}
    numbers = StackNumbers(tree)
    for kind in sorted(profiles.column("profile_type").unique().to_pylist()):
        sums, slots = [], []
        read = {id(each): each.rows("rollups", service, kind) for each in sources}
        minutes = {id(each): each.rows("slots", service, kind) for each in sources}
        for hour_ms, each in parts:
            found = _columns(_within(read[id(each)], hour_ms))
            found["stack"] = each.nodes_of(node_of[id(each)], found["stack"])
            sums.append(found)
            slots.append(_columns(_within(minutes[id(each)], hour_ms)))
        together = _behind(sums)
        together["stack"] = numbers.of(together["stack"])
        draft.add_rollup(service, kind, rollups.in_order(together))
        draft.add_slots(service, kind, _behind(slots))
    if profiles.num_rows:
        stacks = StackRows.of(service, numbers)
        draft.end_service(profiles, _series(service, sources), stacks)


def _columns(rows: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """Give the columns behind the names of service and type, without the block's."""
    names = [each for each in rows.column_names[2:] if each != "block_id"]
    return {name: rows.column(name).to_numpy() for name in names}


def _behind(parts: Sequence[dict[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def _unless(stopped: Callable[[], bool], services: Iterable[str]) -> Iterator[str]:
    for service in services:
        if stopped():
            raise Stopped
        yield service


def _within(rows: pa.Table, hour_ms: int) -> pa.Table:
    time = int64s(rows, "time")
    return rows.filter(pa.array((time >= hour_ms) & (time < hour_ms + HOUR_MS)))


def _series(service: str, sources: Sequence[_Source]) -> pa.Table:
    """Give the series of a service, each once, sorted by id."""
    rows = pa.concat_tables(each.rows("series", service) for each in sources)
    _, first = np.unique(int64s(rows, "series_id"), return_index=True)
    return rows.take(pa.array(first))


def _services(sources: Iterable[_Source]) -> list[str]:
    return sorted({service for each in sources for service in each.services()})


def _finished(drafts: Sequence[BlockDraft], data_dir: Path) -> list[Block]:
    """Finish all or none."""
    done: list[Block] = []
    try:
        done.extend(each.finish() for each in drafts)
    except BaseException:
        for block in done:
            shutil.rmtree(data_dir / block.path, ignore_errors=True)
        raise
    return done


def _reader(data_dir: Path, block: Block) -> BlockReader:
    return BlockReader(data_dir / block.path)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables) if tables else PROFILES.empty_table()
