"""Samples as arrays of one service and type, in the order in which blocks have them (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class SampleRows:
    """Samples of one service and type. Shape (n,), int64 but for ``stack``.

    Attributes:
        time: ms since the epoch.
        series_id: Of each row.
        stack: A number in whatever the rows go with: a block's numbers, a tree's nodes.
        value: In the type's unit.
    """

    time: Int64s
    series_id: Int64s
    stack: Numbers
    value: Int64s

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def of(cls, samples: pa.Table) -> SampleRows:
        """Take the columns of SAMPLES of one service and type."""
        time, series, value = (int64s(samples, name) for name in ("time", "series_id", "value"))
        return cls(time, series, samples.column("stack").to_numpy(), value)

    @classmethod
    def joined(cls, parts: Sequence[SampleRows]) -> SampleRows:
        """Put rows behind each other, in order."""
        if len(parts) == 1:
            return parts[0].in_order()
        rows = cls(*(np.concatenate([getattr(each, name) for each in parts]) for name in _NAMES))
        return rows.in_order()

    def in_order(self) -> SampleRows:
        """Order rows by (time, series_id); rows of one profile stay as they are."""
        starts = run_starts(self.time, self.series_id)
        time, series = self.time[starts], self.series_id[starts]
        later = time[1:] > time[:-1]
        if (later | ((time[1:] == time[:-1]) & (series[1:] >= series[:-1]))).all():
            return self
        order = rows_of_runs(starts, len(self), np.lexsort((series, time)))
        return self.take(order)

    def with_stack(self, stack: Numbers) -> SampleRows:
        """Give the same rows with other numbers of their stacks."""
        return replace(self, stack=stack)

    def by_stack(self) -> SampleRows:
        """Order rows by (time, series_id, stack), where they are in order but for the stack.

        Numbers that ascend compress better, and values with them: a stack's are alike.
        """
        starts = run_starts(self.time, self.series_id)
        profile = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(self)))
        key = profile * (int(self.stack.max(initial=0)) + 1) + self.stack
        if (key[1:] >= key[:-1]).all():
            return self
        return self.take(np.argsort(key, kind="stable"))

    def take(self, rows: Int64s | slice) -> SampleRows:
        """Give some of the rows."""
        return SampleRows(self.time[rows], self.series_id[rows], self.stack[rows], self.value[rows])


_NAMES = ("time", "series_id", "stack", "value")


def by_hour_and_kind(
    samples: pa.Table, stack: Numbers, hour_ms: int
) -> Iterator[tuple[int, str, SampleRows]]:
    """Split a service's samples: (hours since the epoch, type, rows), in that order.

    Args:
        samples: BATCH_SAMPLES.
        stack: What the rows are to have as their stack's number.
        hour_ms: What counts as an hour.
    """
    if not samples.num_rows:
        return
    kind, kinds = _ranks(samples.column("profile_type"))
    time, series, value = (int64s(samples, name) for name in ("time", "series_id", "value"))
    rows = SampleRows(time, series, stack, value)
    # A profile's rows come behind each other: its runs are sorted, 150 times fewer than its rows.
    starts = run_starts(rows.time, rows.series_id, kind)
    hour = rows.time[starts] // hour_ms
    keys = (rows.series_id[starts], rows.time[starts], kind[starts], hour)
    order = np.lexsort(keys)
    ordered = rows.take(rows_of_runs(starts, len(rows), order))
    lengths = np.diff(starts, append=len(rows))[order]
    ends = np.cumsum(lengths)
    group = np.stack([key[order] for key in keys[2:]])
    first = np.flatnonzero(np.append(True, (group[:, 1:] != group[:, :-1]).any(axis=0)))
    bounds = np.append(ends[first] - lengths[first], len(rows)).tolist()
    for at, run in enumerate(first.tolist()):
        kind_number, hour_number = group[:, run].tolist()
        yield hour_number, kinds[kind_number], ordered.take(slice(bounds[at], bounds[at + 1]))


def rows_of_runs(starts: Int64s, length: int, order: Int64s) -> Int64s:
    """Give the rows of runs, runs in another order.

    Args:
        starts: First row of each run, ascending.
        length: How many rows there are.
        order: Runs.
    """
    sizes = np.diff(starts, append=length)[order]
    ends = np.cumsum(sizes)
    rows: Int64s = np.arange(length) + np.repeat(starts[order] - (ends - sizes), sizes)
    return rows


def int64s(table: pa.Table, column: str) -> Int64s:
    """Give a column as an array."""
    return np.asarray(table.column(column).to_numpy(), dtype=np.int64)


def run_starts(*columns: npt.NDArray[np.integer]) -> Int64s:
    """Give the first row of each run of equal rows."""
    length = len(columns[0])
    if not length:
        return np.zeros(0, dtype=np.int64)
    new = np.zeros(length, dtype=bool)
    new[0] = True
    for each in columns:
        new[1:] |= each[1:] != each[:-1]
    return np.flatnonzero(new)


def _ranks(column: pa.ChunkedArray) -> tuple[Int64s, list[str]]:
    """Number the names of a column by their order."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = encoded.dictionary.to_pylist()
    ordered = sorted(names)
    place = {name: at for at, name in enumerate(ordered)}
    rank = np.array([place[name] for name in names], dtype=np.int64)
    return rank[encoded.indices.to_numpy(zero_copy_only=False)], ordered
