"""Merges the blocks of a closed hour into one: fewer files, larger runs, better compression."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.errors import StorageError
from flamewell_collector.store.catalog import Block
from flamewell_collector.store.schema import PROFILES, SAMPLES
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.stacktable import StackTable
from flamewell_collector.store.writer import HOUR_MS, BlockWriter

CLOSED_AFTER_MS = 10 * 60 * 1000
"""An hour is closed this long after its end: most late batches have come by then. Later ones make
a second block, which the next round merges too."""


class DamagedBlock(StorageError):
    """A block can't be read.

    Attributes:
        block: Which.
    """

    def __init__(self, block: Block, reason: str) -> None:
        super().__init__(f"block {block.path} is damaged: {reason}")
        self.block = block


def due(blocks: Iterable[Block], now_ms: int) -> list[list[Block]]:
    """Give the groups of blocks (same tenant and hour, two or more) that should become one."""
    groups: dict[tuple[str, int], list[Block]] = defaultdict(list)
    for block in blocks:
        hour = block.start_ms // HOUR_MS
        if (hour + 1) * HOUR_MS + CLOSED_AFTER_MS <= now_ms:
            groups[block.tenant, hour].append(block)
    return [group for _, group in sorted(groups.items()) if len(group) > 1]


def compact(
    group: list[Block],
    *,
    data_dir: Path,
    writer: BlockWriter,
    stacks: StackTable,
    series: SeriesIndex,
) -> Block:
    """Write the block that replaces a group; the caller registers it.

    Raises:
        DamagedBlock: One of them can't be read.
        StorageUnavailable: The disk is full or read-only.
    """
    profiles, samples = [], []
    for block in group:
        folder = data_dir / block.path
        try:
            stacks.load_block(folder)
            profiles.append(_read(folder / "profiles.parquet", PROFILES))
            samples.append(_read(folder / "samples.parquet", SAMPLES))
        except (StorageError, OSError, pa.ArrowException) as error:
            raise DamagedBlock(block, str(error)) from error
    return writer.write(
        group[0].tenant,
        group[0].start_ms // HOUR_MS,
        profiles=pa.concat_tables(profiles),
        samples=pa.concat_tables(samples),
        stacks=stacks,
        series=series,
        compacted=True,
    )


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    return pq.read_table(path, partitioning=None).cast(schema)
