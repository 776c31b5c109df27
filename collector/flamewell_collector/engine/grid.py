"""From rows to a regular grid of points in time (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flamewell_collector.engine.scan import Columns

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

BUCKET_MS: Final = 60_000
"""Gauges are averaged in buckets of this length: two scrapes a minute count as one, and pods that
were replaced within the range are not added to those that came after."""

LEAD_MS: Final = 300_000
"""Profiles that last longer than this and began before the range are missing in its first steps."""

_CELLS_PER_STEP: Final = (10, 6, 5, 4, 3, 2)
_SHORTEST_CELL_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Grid:
    """Points from ``start_ms`` on, every ``step_ms``, up to ``end_ms``; cells divide the steps."""

    start_ms: int
    end_ms: int
    step_ms: int
    cell_ms: int

    @property
    def points(self) -> int:
        """How many steps begin in the range."""
        return -(-(self.end_ms - self.start_ms) // self.step_ms)

    @property
    def cells(self) -> int:
        """How many cells all the steps have."""
        return self.points * self.step_ms // self.cell_ms

    @property
    def cells_in_range(self) -> int:
        """How many cells begin before the end: the last step may reach beyond it."""
        return -(-(self.end_ms - self.start_ms) // self.cell_ms)

    @property
    def lead_cells(self) -> int:
        """How many cells before the start are read: what began there may reach into the range."""
        return -(-LEAD_MS // self.cell_ms)

    @property
    def read_from_ms(self) -> int:
        """Time of the first cell that is read; never negative."""
        return max(self.start_ms % self.cell_ms, self.start_ms - self.lead_cells * self.cell_ms)


def amounts_grid(start_ms: int, end_ms: int, step_ms: int) -> Grid:
    """Divide steps into cells of a second or more, so that a profile is spread over its time."""
    parts = (
        each
        for each in _CELLS_PER_STEP
        if step_ms % each == 0 and step_ms // each >= _SHORTEST_CELL_MS
    )
    return Grid(start_ms, end_ms, step_ms, step_ms // next(parts, 1))


def readings_grid(start_ms: int, end_ms: int, step_ms: int) -> Grid:
    """Divide steps into buckets of a minute where they are longer than that."""
    parts = max(1, round(step_ms / BUCKET_MS))
    while step_ms % parts:
        parts -= 1
    return Grid(start_ms, end_ms, step_ms, step_ms // parts)


def rates(rows: Columns, grid: Grid) -> Float64s:
    """Turn amounts into amounts per second at each point, NaN where nothing was profiled.

    An amount is spread evenly over the cells that its profile covers. The last step may be shorter
    than the others.

    Args:
        rows: cell (counted from ``grid.read_from_ms``), cells, total.
        grid: Where the points are.
    """
    first, span = _first_cells(rows, grid), np.maximum(_int64(rows["cells"]), 1)
    total = rows["total"].astype(np.float64)
    single = span == 1
    amount = np.zeros(grid.cells)
    profiled = _spread(first, span, np.ones(len(first), np.int64), grid.cells) > 0
    inside = single & (first >= 0) & (first < grid.cells)
    np.add.at(amount, first[inside], total[inside])
    long = ~single
    amount += _spread(first[long], span[long], total[long] / span[long], grid.cells)
    amount[grid.cells_in_range :] = 0
    per_step = amount.reshape(grid.points, -1).sum(axis=1)
    covered = profiled.reshape(grid.points, -1).any(axis=1)
    starts = grid.start_ms + np.arange(grid.points, dtype=np.int64) * grid.step_ms
    seconds = np.minimum(grid.end_ms - starts, grid.step_ms) / 1_000
    points: Float64s = np.where(covered, per_step / seconds, np.nan)
    return points


def averages(rows: Columns, grid: Grid) -> Float64s:
    """Turn readings into the average of the sum over series, NaN where there was none.

    A reading holds until the series' next, a bucket at most, so that steps shorter than the time
    between two scrapes do not show a gap for each.

    Args:
        rows: series_id, cell (counted from ``grid.read_from_ms``), reading; sorted by series, then
            cell.
        grid: Where the points are.
    """
    series, cell = rows["series_id"], _first_cells(rows, grid)
    reading = rows["reading"].astype(np.float64)
    hold = np.full(len(cell), max(1, -(-BUCKET_MS // grid.cell_ms)), np.int64)
    same = series[1:] == series[:-1]
    hold[:-1] = np.where(same, np.minimum(hold[:-1], cell[1:] - cell[:-1]), hold[:-1])
    count = _spread(cell, hold, np.ones(len(cell), np.int64), grid.cells)
    total = _spread(cell, hold, reading, grid.cells)
    read = (count > 0) & (np.arange(grid.cells) < grid.cells_in_range)
    total = np.where(read, total, 0.0).reshape(grid.points, -1)
    cells_read = read.reshape(grid.points, -1).sum(axis=1)
    with np.errstate(invalid="ignore"):
        points: Float64s = total.sum(axis=1) / cells_read
    return points


def minutes_with_data(slots: Columns) -> int:
    """Count the minutes in which any of the slots has a reading.

    Args:
        slots: time, minutes (bit i: minute i of the slot); a time may repeat.
    """
    if not len(slots["time"]):
        return 0
    order = np.argsort(slots["time"], kind="stable")
    time = slots["time"][order]
    first = np.flatnonzero(np.append(True, time[1:] != time[:-1]))
    masks = np.bitwise_or.reduceat(slots["minutes"][order].astype(np.int64), first)
    return int(np.bitwise_count(masks).sum())


def _spread(first: Int64s, span: Int64s, value: npt.NDArray[Any], cells: int) -> npt.NDArray[Any]:
    """Add each value to ``span`` cells from ``first`` on, as far as there are cells."""
    begin, end = np.clip(first, 0, cells), np.clip(first + span, 0, cells)
    change = np.zeros(cells + 1, dtype=value.dtype)
    np.add.at(change, begin, value)
    np.subtract.at(change, end, value)
    spread: npt.NDArray[Any] = np.cumsum(change[:-1])
    return spread


def _first_cells(rows: Columns, grid: Grid) -> Int64s:
    """Give the cells counted from the grid's start: negative for what began before it."""
    return _int64(rows["cell"]) - (grid.start_ms - grid.read_from_ms) // grid.cell_ms


def _int64(column: npt.NDArray[Any]) -> Int64s:
    return column.astype(np.int64)
