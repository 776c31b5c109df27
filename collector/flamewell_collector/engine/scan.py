"""The seam between questions and whatever engine answers them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.stack_cache import ServiceStacks

Columns = Mapping[str, npt.NDArray[Any]]
"""A result: equally long arrays by column name."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Slots of a rollup block.

    Attributes:
        block: Its folder.
        ranges: Starts of the slots that count, half open, in ms since the epoch.
    """

    block: Path
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """The rows that a statement sees.

    Attributes:
        blocks: Folders of raw blocks.
        head_profiles: PROFILES rows that are in no block yet.
        head_samples: BATCH_SAMPLES rows that are in no block yet.
        start_ms: First time that counts.
        end_ms: First time that does not count any more.
        type_ids: Profile types; empty for all.
        services: Service names, so that row groups of others are not read; None for all.
        series_ids: Series; None for all of these services.
        every_service: All that there are: their names need not be compared.
        sums: What counts in the place of samples that are not among the blocks.
        totals: What counts in the place of profiles that are not among the blocks.
    """

    blocks: tuple[Path, ...]
    head_profiles: pa.Table
    head_samples: pa.Table
    start_ms: int
    end_ms: int
    type_ids: tuple[str, ...] = ()
    services: tuple[str, ...] | None = None
    series_ids: npt.NDArray[np.int64] | None = None
    every_service: bool = False
    sums: tuple[Sums, ...] = ()
    totals: tuple[Sums, ...] = ()

    def sample_folders(self) -> list[Path]:
        """Give the folders of the blocks whose samples, or sums of them, count."""
        return [*self.blocks, *(each.block for each in self.sums)]

    def folders(self) -> list[Path]:
        """Give the folders of all blocks, each once."""
        rolled_up = (each.block for each in (*self.sums, *self.totals))
        return list(dict.fromkeys((*self.blocks, *rolled_up)))

    def without(self, folders: Collection[Path]) -> Scan:
        """Leave blocks out."""
        return replace(
            self,
            blocks=tuple(each for each in self.blocks if each not in folders),
            sums=tuple(each for each in self.sums if each.block not in folders),
            totals=tuple(each for each in self.totals if each.block not in folders),
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """One question in SQL.

    Attributes:
        reads: Relations that hold the scan's rows and no others: ``profiles`` as they came,
            ``slots`` of its sums, ``totals``: profiles and what counts in their place; of blocks
            alone ``samples``, ``rollups`` and the ``stacks`` of both.
        sql: The text; ``$name`` stands for a parameter.
    """

    reads: tuple[str, ...]
    sql: str


@dataclass(frozen=True, slots=True)
class ServiceSums:
    """Values of one service by the nodes of its tree.

    Attributes:
        service: Its name.
        tree: Its stacks.
        by_readings: Readings a minute of the series that were summed up (1 for deltas) → sums,
            int64, shape (nodes,).
    """

    service: str
    tree: PrefixTree
    by_readings: Mapping[int, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class StackSums:
    """Values of a scan by service.

    Attributes:
        services: Those that have any, in the scan's order.
        buckets: Of gauges: how many minutes have a reading; 1 for deltas.
    """

    services: tuple[ServiceSums, ...]
    buckets: int


StacksOf = Callable[[str, Sequence[Path]], ServiceStacks]
"""Gives the stacks of a service in some blocks, and in memory."""


class Engine(Protocol):
    """Answers questions about scans."""

    def run(self, statement: Statement, scan: Scan, **parameters: int) -> Columns:
        """Give the statement's result over the rows of the scan."""
        ...

    def sum_stacks(self, scan: Scan, stacks_of: StacksOf, *, gauge: bool) -> StackSums:
        """Sum the samples of a scan of one profile type by stack.

        Args:
            scan: The rows.
            stacks_of: Gives their stacks.
            gauge: Keep values apart by how often their series was read in the minute.
        """
        ...
