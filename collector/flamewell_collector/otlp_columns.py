"""Collects decoded profiles and makes the Arrow tables of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.model import DecodedBatch
from flamewell_collector.otlp_stacks import DictionaryStacks
from flamewell_collector.store.schema import PROFILES, SAMPLES, SERIES

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A profile that is taken.

    Attributes:
        type_id: Pyroscope profile type id.
        time_ms: When it began.
        duration_ms: How long it was.
        total: Sum of its values, in the type's unit.
        sample_count: Raw samples behind it; 0 unknown.
        nodes: Tree nodes, each once, shape (n,).
        values: Their values, in the type's unit, shape (n,).
    """

    type_id: str
    time_ms: int
    duration_ms: int
    total: int
    sample_count: int
    nodes: Int64s
    values: Int64s


class Columns:
    """The profiles of a request, as they are taken."""

    def __init__(self) -> None:
        self._rows: list[ProfileRow] = []
        self._services: list[str] = []
        self._series_ids: list[int] = []
        self._series: dict[int, dict[str, str]] = {}

    @property
    def profiles(self) -> int:
        """How many there are."""
        return len(self._rows)

    def add(self, row: ProfileRow, *, series_id: int, labels: dict[str, str]) -> None:
        """Add a profile."""
        self._series[series_id] = labels
        self._series_ids.append(series_id)
        self._services.append(labels["service_name"])
        self._rows.append(row)

    def batch(self, tenant: str, batch_ids: list[str], stacks: DictionaryStacks) -> DecodedBatch:
        """Make the tables."""
        rows = self._rows
        none = np.zeros(0, dtype=np.int64)
        nodes = np.concatenate([none, *(each.nodes for each in rows)])
        values = np.concatenate([none, *(each.values for each in rows)])
        stack_rows, frame_rows = stacks.tables(nodes)
        profiles = pa.table(
            {
                "service_name": pa.array(self._services, pa.string()),
                "profile_type": pa.array([each.type_id for each in rows], pa.string()),
                "time": [each.time_ms for each in rows],
                "series_id": pa.array(self._series_ids, pa.uint64()),
                "duration_ms": [each.duration_ms for each in rows],
                "total": [each.total for each in rows],
                "sample_count": [each.sample_count for each in rows],
            },
            schema=PROFILES,
        )
        # One row a sample repeats its profile's first four columns.
        lengths = np.array([len(each.nodes) for each in rows], dtype=np.int64)
        profile_of_sample = np.repeat(np.arange(len(rows)), lengths)
        samples = profiles.select(SAMPLES.names[:4]).take(pa.array(profile_of_sample))
        samples = samples.append_column(
            "stack_id", pa.array(stacks.stack_ids()[nodes], pa.uint64())
        )
        samples = samples.append_column("value", pa.array(values, pa.int64()))
        return DecodedBatch(
            tenant=tenant,
            batch_ids=tuple(batch_ids),
            series=self._series_table(),
            profiles=profiles,
            samples=samples.cast(SAMPLES),
            stacks=stack_rows,
            frames=frame_rows,
        )

    def _series_table(self) -> pa.Table:
        ordered = sorted(self._series.items())
        pairs = [sorted(labels.items()) for _, labels in ordered]
        flat = list(chain.from_iterable(pairs))
        offsets = np.cumsum([0, *(len(each) for each in pairs)]).astype(np.int32)
        return pa.table(
            {
                "series_id": pa.array([series_id for series_id, _ in ordered], pa.uint64()),
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
