"""Merges the blocks of a closed hour into one: fewer files, larger runs, better compression."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.store.catalog import Block
from flamewell_collector.store.reader import read_table
from flamewell_collector.store.schema import PROFILES, SAMPLES, SERIES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stacktable import StackTable
from flamewell_collector.store.writer import HOUR_MS, BlockWriter


class DamagedBlock(StorageError):
    """A block can't be read.

    Attributes:
        block: Which.
    """

    def __init__(self, block: Block, reason: str) -> None:
        super().__init__(f"block {block.path} is damaged: {reason}")
        self.block = block


def due(blocks: Iterable[Block], closed_ms: int) -> list[list[Block]]:
    """Give the groups of blocks (same tenant and hour, two or more) that should become one.

    Args:
        blocks: All of them.
        closed_ms: Hours that end until then are closed.
    """
    groups: dict[tuple[str, int], list[Block]] = defaultdict(list)
    for block in blocks:
        hour = block.start_ms // HOUR_MS
        if (hour + 1) * HOUR_MS <= closed_ms:
            groups[block.tenant, hour].append(block)
    return [group for _, group in sorted(groups.items()) if len(group) > 1]


def compact(group: list[Block], *, data_dir: Path, writer: BlockWriter) -> Block:
    """Write the block that replaces a group; the caller registers it.

    Stacks and series come from the blocks themselves: nothing stays in memory afterwards.

    Raises:
        DamagedBlock: One of them can't be read.
        StorageUnavailable: The disk is full or read-only.
    """
    profiles, samples = [], []
    stacks, series = StackTable(), SeriesIndex()
    for block in group:
        folder = data_dir / block.path
        try:
            stacks.load_block(folder)
            series.add(read_table(folder / "series.parquet", SERIES))
            profiles.append(read_table(folder / "profiles.parquet", PROFILES))
            samples.append(read_table(folder / "samples.parquet", SAMPLES))
        except (StorageError, OSError, pa.ArrowException) as error:
            raise DamagedBlock(block, str(error)) from error
    return writer.write(
        group[0].tenant,
        group[0].start_ms // HOUR_MS,
        profiles=pa.concat_tables(profiles),
        samples=pa.concat_tables(samples),
        stacks=stacks,
        series=series,
        replaces=[Path(each.path).name for each in group],
    )
