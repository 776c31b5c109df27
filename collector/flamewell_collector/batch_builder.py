"""Puts the profiles, samples and stacks of one request together into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flamewell_collector.batch_columns import (
    ProfileColumns,
    merged,
    profile_table,
    sample_table,
    series_table,
)
from flamewell_collector.model import DecodedBatch
from flamewell_collector.stack_columns import Stacks
from flamewell_collector.stack_trees import TreeBuilder

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_FLAGS = 16 << 20
"""Up to so many (service, stack) pairs are told apart by a flag each, more by sorting."""


class Known(Protocol):
    """Which stacks the store's log has already."""

    @property
    def epoch(self) -> int:
        """The log file that this is about."""
        ...

    def unknown(self, service: str, stack_ids: UInt64s) -> Bools:
        """Tell which of a service's stacks are not in it, shape (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Profiles:
    """Profiles that may be stored.

    Attributes:
        columns: One entry a profile.
        series: Series id → labels, of these profiles and perhaps more.
        profile: Of each sample, ascending, shape (samples,).
        stack: Number in ``stacks``, not bad, shape (samples,).
        value: In the type's unit, shape (samples,).
    """

    columns: ProfileColumns
    series: Mapping[int, Mapping[str, str]]
    profile: Int64s
    stack: Int64s
    value: Int64s


@dataclass(frozen=True, slots=True)
class Built:
    """A batch, and what had no room in it.

    Attributes:
        batch: What is left.
        refused: Profiles whose stacks would make the tree too large, shape (profiles,).
        truncated_stacks: Stacks that lost frames.
    """

    batch: DecodedBatch
    refused: Bools
    truncated_stacks: int


def build(
    profiles: Profiles,
    stacks: Stacks,
    *,
    tenant: str,
    batch_ids: Sequence[str],
    known: Known | None,
    max_nodes: int,
) -> Built:
    """Make a batch.

    Args:
        profiles: What is in it.
        stacks: What the samples refer to.
        tenant: Whose it is.
        batch_ids: What deduplication remembers.
        known: What need not be written again.
        max_nodes: Of all trees together; profiles that need more are refused.
    """
    columns = profiles.columns
    services = {name: at for at, name in enumerate(dict.fromkeys(columns.services))}
    service = np.array([services[each] for each in columns.services], dtype=np.int64)
    pairs = service[profiles.profile] * len(stacks) + profiles.stack
    distinct = _distinct(pairs, len(services) * len(stacks))
    trees = TreeBuilder(stacks, max_nodes=max_nodes)
    full: list[Int64s] = []
    bounds = np.searchsorted(distinct, np.arange(len(services) + 1) * len(stacks))
    for name, at in services.items():
        mine = distinct[bounds[at] : bounds[at + 1]]
        numbers = mine - at * len(stacks)
        if known is not None:
            new = known.unknown(name, stacks.ids[numbers])
            mine, numbers = mine[new], numbers[new]
        if len(numbers):
            full.append(mine[trees.add(name, numbers)])
    refused = np.zeros(len(columns.services), dtype=bool)
    if any(map(len, full)):
        refused[profiles.profile[np.isin(pairs, np.concatenate(full))]] = True
    profile, stack, value = profiles.profile, profiles.stack, profiles.value
    if refused.any():
        kept = ~refused[profile]
        renumbered = np.cumsum(~refused) - 1
        profile, stack, value = renumbered[profile[kept]], stack[kept], value[kept]
        columns = columns.take(np.flatnonzero(~refused).tolist())
    stack_rows, frame_rows = trees.tables()
    table = profile_table(columns)
    used = set(columns.series_ids)
    cut = np.unique(stack[stacks.cut[stack]]) if stacks.cut.any() else stack[:0]
    return Built(
        batch=DecodedBatch(
            tenant=tenant,
            batch_ids=tuple(batch_ids),
            series=series_table({k: v for k, v in profiles.series.items() if k in used}),
            profiles=table,
            samples=sample_table(table, merged(profile, stacks.ids[stack], value)),
            stacks=stack_rows,
            frames=frame_rows,
            epoch=known.epoch if known is not None else None,
        ),
        refused=refused,
        truncated_stacks=len(cut),
    )


def _distinct(pairs: Int64s, size: int) -> Int64s:
    if size > _FLAGS:
        return np.unique(pairs)
    flags = np.zeros(size, dtype=bool)
    flags[pairs] = True
    return np.flatnonzero(flags)
