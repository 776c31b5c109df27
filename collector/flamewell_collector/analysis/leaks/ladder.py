"""Readings kept at three steps: what a detector looks at, bounded whatever the time (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from flamewell_collector.analysis.leaks.trend import BINS, Floats

Minutes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rung:
    """Bins of one length.

    Attributes:
        minutes: How long a bin is.
        bins: How many are kept.
        scales: Bin lengths, in minutes, of the windows that are made of them.
    """

    minutes: int
    bins: int
    scales: tuple[int, ...]


RUNGS: Final = (
    Rung(1, 121, (1, 2, 3, 5)),
    Rung(5, 289, (10, 15, 20, 30, 45, 60)),
    Rung(60, 337, (120, 180, 360, 720)),
)
"""Windows from 24 minutes to 12 days; 9 KB a series."""

_HOURS_FOR_LOAD: Final = 6
SCALES: Final = tuple((scale, rung) for rung in RUNGS for scale in rung.scales)


class Ladder:
    """The readings of many series, as rings of bins.

    Amounts are kept as the lowest of a bin: what is allocated and freed within it is no growth. The
    highest is kept as well: that is what meets the limit. CPU use is kept as the mean.
    """

    def __init__(self, series: int = 0) -> None:
        """Make room for so many series; ``grow`` makes more."""
        shapes = [(series, rung.bins) for rung in RUNGS]
        self._low = [np.full(shape, np.nan, np.float32) for shape in shapes]
        self._high = [np.full(shape, np.nan, np.float32) for shape in shapes]
        self._cpu = [np.full(shape, np.nan, np.float32) for shape in shapes]

    def __len__(self) -> int:
        """How many series there is room for."""
        return len(self._low[0])

    def grow(self, series: int) -> None:
        """Make room for so many series."""
        more = series - len(self)
        for rings in (self._low, self._high, self._cpu):
            rings[:] = [np.pad(ring, ((0, more), (0, 0)), constant_values=np.nan) for ring in rings]

    def forget(self, at: Minutes) -> None:
        """Let series go; their places can be used again."""
        for ring in (*self._low, *self._high, *self._cpu):
            ring[at] = np.nan

    def state(self) -> dict[str, Floats]:
        """Give all bins, by name, to be kept."""
        named = (("low", self._low), ("high", self._high), ("cpu", self._cpu))
        return {f"{name}_{at}": ring for name, rings in named for at, ring in enumerate(rings)}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take back what ``state`` gave."""
        for name, rings in (("low", self._low), ("high", self._high), ("cpu", self._cpu)):
            rings[:] = [state[f"{name}_{at}"].astype(np.float32) for at in range(len(RUNGS))]

    def push(self, minute: int, low: Floats, high: Floats, cpu: Floats) -> None:
        """Take one minute of all series.

        Args:
            minute: Since the epoch; minutes come in order, none is left out.
            low: (series,) the lowest reading of the minute, NaN without one.
            high: (series,) the highest.
            cpu: (series,) CPU use, NaN where it is not known.
        """
        place = minute % RUNGS[0].bins
        for rings, values in ((self._low, low), (self._high, high), (self._cpu, cpu)):
            rings[0][:, place] = values
        for at, (above, rung) in enumerate(pairwise(RUNGS), 1):
            if (minute + 1) % rung.minutes:
                return
            count = rung.minutes // above.minutes
            slots = _slots(above, minute, count)
            place = minute // rung.minutes % rung.bins
            self._low[at][:, place] = _lowest(self._low[at - 1][:, slots])
            self._high[at][:, place] = _highest(self._high[at - 1][:, slots])
            self._cpu[at][:, place] = _mean(self._cpu[at - 1][:, slots])

    def windows(self, scale: int, rung: Rung, minute: int) -> tuple[Floats, Floats]:
        """Give the windows that end with a minute: amounts and CPU use, (series, BINS) each.

        Args:
            scale: Minutes a bin, one of the rung's.
            rung: Where the bins are.
            minute: The last minute; a bin of the scale ends with it.
        """
        index, each = RUNGS.index(rung), scale // rung.minutes
        slots = _slots(rung, minute, BINS * each)
        shape = (len(self), BINS, each)
        low = self._low[index][:, slots].reshape(shape)
        cpu = self._cpu[index][:, slots].reshape(shape)
        if each == 1:
            return low[:, :, 0], cpu[:, :, 0]
        return _lowest(low), _mean(cpu)

    def swing(self, scale: int, rung: Rung, minute: int, at: Minutes) -> Floats:
        """Give how far readings go above the lowest of their bin: the median bin of each window."""
        index, each = RUNGS.index(rung), scale // rung.minutes
        places = np.ix_(at, _slots(rung, minute, BINS * each))
        shape = (len(at), BINS, each)
        low = _lowest(self._low[index][places].reshape(shape))
        high = _highest(self._high[index][places].reshape(shape))
        return np.nan_to_num(median(high - low), nan=0.0)

    def lives(self, minute: int, born: Minutes, at: Minutes) -> Floats:
        """Give BINS readings, evenly spread over each series' life of a day at most."""
        rung = RUNGS[1]
        newest = (minute + 1) // rung.minutes - 1
        oldest = np.maximum(-(-born[at] // rung.minutes), newest - rung.bins + 2)
        share = np.linspace(0, 1, BINS)
        bins = np.rint(oldest[:, None] + share * (newest - oldest)[:, None]).astype(np.int64)
        found: Floats = self._low[1][at[:, None], bins % rung.bins]
        return found

    def per_cpu_before(self, minute: int, minutes: int, at: Minutes) -> Floats:
        """Give what a unit of CPU use has gone along with, in the day before the last minutes.

        The slope of hourly amounts over hourly CPU use, by least squares, times the share of the
        variance that it explains: where load has told little of memory, little is put down to it.

        Returns:
            Amounts per unit of CPU use, never negative; 0 where too little is known.
        """
        rung = RUNGS[1]
        count = rung.bins - 1 - -(-minutes // rung.minutes)
        hours = count * rung.minutes // 60
        if hours < _HOURS_FOR_LOAD:
            return np.zeros(len(at), np.float32)
        slots = _slots(rung, minute, rung.bins - 1)[count - hours * 60 // rung.minutes : count]
        shape = (len(at), hours, 60 // rung.minutes)
        low = _mean(self._low[1][np.ix_(at, slots)].reshape(shape))
        cpu = _mean(self._cpu[1][np.ix_(at, slots)].reshape(shape))
        known = np.isfinite(low) & np.isfinite(cpu)
        hours_known = np.maximum(known.sum(axis=1, keepdims=True), 1)
        low, cpu = np.where(known, low, 0), np.where(known, cpu, 0)
        low = np.where(known, low - low.sum(axis=1, keepdims=True) / hours_known, 0)
        cpu = np.where(known, cpu - cpu.sum(axis=1, keepdims=True) / hours_known, 0)
        both, alone = (low * cpu).sum(axis=1), (cpu * cpu).sum(axis=1)
        spread = (low * low).sum(axis=1)
        slope = np.where(alone > 0, both / np.maximum(alone, 1e-12), 0)
        explained = np.where(spread > 0, slope * both / np.maximum(spread, 1e-12), 0)
        enough = hours_known[:, 0] >= _HOURS_FOR_LOAD
        return np.where(enough, np.maximum(slope, 0) * explained, 0).astype(np.float32)

    def cpu_before(self, minute: int, minutes: int, at: Minutes) -> Floats:
        """Give the median CPU use of the day before the last so many minutes; NaN if unknown."""
        rung = RUNGS[1]
        skipped = -(-minutes // rung.minutes)
        count = rung.bins - 1 - skipped
        if count < 1:
            return np.full(len(at), np.nan, np.float32)
        slots = (_slots(rung, minute, count + skipped))[:count]
        return median(self._cpu[1][np.ix_(at, slots)])


def median(values: Floats) -> Floats:
    """Give the median of each row without its NaN; NaN where there is nothing else."""
    known = np.isfinite(values).sum(axis=1)
    ordered = np.sort(values, axis=1)
    rows = np.arange(len(values))
    middle = np.maximum(known - 1, 0)
    low, high = ordered[rows, middle // 2], ordered[rows, (middle + 1) // 2]
    return np.asarray((low + high) / 2, np.float32)


def _slots(rung: Rung, minute: int, count: int) -> Minutes:
    newest = (minute + 1) // rung.minutes - 1
    return np.arange(newest - count + 1, newest + 1) % rung.bins


def _lowest(values: Floats) -> Floats:
    found: Floats = np.fmin.reduce(values, axis=-1)
    return found


def _highest(values: Floats) -> Floats:
    found: Floats = np.fmax.reduce(values, axis=-1)
    return found


def _mean(values: Floats) -> Floats:
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
