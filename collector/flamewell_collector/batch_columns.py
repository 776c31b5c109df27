"""Makes the Arrow tables of a batch from columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES, SERIES

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Spreads the numbers of profiles over 64 bits."""


@dataclass(frozen=True, slots=True)
class ProfileColumns:
    """The profiles of a batch, one entry each.

    Attributes:
        services: service_name.
        type_ids: Pyroscope profile type id.
        series_ids: Hash of the label set.
        times_ms: When it began.
        durations_ms: How long it was.
        totals: Sum of its values, in the type's unit.
        sample_counts: Raw samples behind it; 0 unknown.
    """

    services: Sequence[str]
    type_ids: Sequence[str]
    series_ids: Sequence[int]
    times_ms: Int64s
    durations_ms: Int64s
    totals: Int64s
    sample_counts: Int64s

    def take(self, chosen: Sequence[int]) -> ProfileColumns:
        """Give some of the profiles."""
        return ProfileColumns(
            services=[self.services[at] for at in chosen],
            type_ids=[self.type_ids[at] for at in chosen],
            series_ids=[self.series_ids[at] for at in chosen],
            times_ms=self.times_ms[chosen],
            durations_ms=self.durations_ms[chosen],
            totals=self.totals[chosen],
            sample_counts=self.sample_counts[chosen],
        )


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """The samples of a batch.

    Attributes:
        profile: Which profile, ascending, shape (n,).
        stack_id: Each once a profile, shape (n,).
        value: Not 0, in the type's unit, shape (n,).
    """

    profile: Int64s
    stack_id: UInt64s
    value: Int64s


def profile_table(columns: ProfileColumns) -> pa.Table:
    """Make PROFILES."""
    return pa.Table.from_arrays(
        [
            pa.array(columns.services, pa.string()),
            pa.array(columns.type_ids, pa.string()),
            pa.array(columns.times_ms),
            pa.array(columns.series_ids, pa.int64()),
            pa.array(columns.durations_ms),
            pa.array(columns.totals),
            pa.array(columns.sample_counts),
        ],
        schema=PROFILES,
    )


def sample_table(profiles: pa.Table, samples: SampleColumns) -> pa.Table:
    """Make BATCH_SAMPLES: each row repeats its profile's first four columns."""
    (batch,) = profiles.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], PROFILES)]
    rows = pa.array(samples.profile)
    columns = [batch.column(name).take(rows) for name in BATCH_SAMPLES.names[:4]]
    columns.append(pa.array(samples.stack_id.view(np.int64)))
    columns.append(pa.array(samples.value))
    return pa.Table.from_arrays(columns, schema=BATCH_SAMPLES)


def series_table(series: Mapping[int, Mapping[str, str]]) -> pa.Table:
    """Make SERIES from series id → labels."""
    ordered = sorted(series.items())
    pairs = [sorted(labels.items()) for _, labels in ordered]
    flat = list(chain.from_iterable(pairs))
    offsets = np.cumsum([0, *(len(each) for each in pairs)]).astype(np.int32)
    return pa.table(
        {
            "series_id": pa.array([series_id for series_id, _ in ordered], pa.int64()),
            "service_name": pa.array(
                [labels["service_name"] for _, labels in ordered], pa.string()
            ),
            "labels": pa.MapArray.from_arrays(
                pa.array(offsets, pa.int32()),
                pa.array([name for name, _ in flat], pa.string()),
                pa.array([value for _, value in flat], pa.string()),
            ),
        },
        schema=SERIES,
    )


def merged(profile: Int64s, stack_id: UInt64s, value: Int64s) -> SampleColumns:
    """Sum the values of equal stacks of a profile (threads with one stack); leave out zeros.

    Args:
        profile: Ascending.
        stack_id: May repeat.
        value: Their values.
    """
    # Sorting single numbers is ten times cheaper than finding the order of pairs. Where no number
    # repeats no pair does; one that repeats by chance only costs the longer way.
    keys = np.sort(stack_id + profile.astype(np.uint64) * _ODD)
    if (keys[1:] == keys[:-1]).any():
        order = np.lexsort((stack_id, profile))
        profile, stack_id, value = profile[order], stack_id[order], value[order]
        new = np.ones(len(profile), dtype=bool)
        new[1:] = (profile[1:] != profile[:-1]) | (stack_id[1:] != stack_id[:-1])
        starts = np.flatnonzero(new)
        if len(starts):
            profile, stack_id = profile[starts], stack_id[starts]
            value = np.add.reduceat(value, starts)
    some = value != 0
    if not some.all():
        profile, stack_id, value = profile[some], stack_id[some], value[some]
    return SampleColumns(profile, stack_id, value)
