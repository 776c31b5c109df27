"""Where each series' life began, and how high it was before. Pure.

A life is a container from a start of its oldest process to its end. Growth is judged inside one
life; earlier lives tell what is usual, unless they ended because memory was full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flamewell_collector.analysis.leaks.ladder import SCALES, Minutes
from flamewell_collector.analysis.leaks.trend import Bools, Floats

ENDED_FULL: Final = 0.92
"""A life whose last reading was above this share of the limit ended because memory was full."""


_KEPT: Final = (
    "born",
    "known_since",
    "full_in_a_row",
    "_share",
    "_oldest",
    "_left",
    "_high",
    "_former",
)


@dataclass(frozen=True, slots=True)
class Minute:
    """What is known of all series for one minute, as arrays of one length.

    Attributes:
        at: Minutes since the epoch.
        anon: Lowest anonymous memory, NaN without a reading.
        peak: Highest.
        cpu: Use, NaN if not known.
        limit: Of the container, NaN without one.
        born: In which minute the oldest process was started; -1 if not known.
    """

    at: int
    anon: Floats
    peak: Floats
    cpu: Floats
    limit: Floats
    born: Minutes


class Lives:
    """The lives of many series."""

    def __init__(self) -> None:
        """Begin with room for none."""
        self.born = np.zeros(0, np.int64)
        self.known_since = np.zeros(0, np.int64)
        self.full_in_a_row = np.zeros(0, np.int64)
        self._share = np.zeros(0, np.float32)
        self._oldest = np.zeros((len(SCALES), 0), np.float32)
        self._left, self._high, self._former = (self._oldest.copy() for _ in range(3))

    def __len__(self) -> int:
        """How many series there is room for."""
        return len(self.born)

    def grow(self, series: int) -> None:
        """Make room for so many series."""
        more = series - len(self)
        self.born = np.pad(self.born, (0, more), constant_values=-1)
        self.known_since = np.pad(self.known_since, (0, more), constant_values=-1)
        self.full_in_a_row = np.pad(self.full_in_a_row, (0, more))
        self._share = np.pad(self._share, (0, more))
        self._oldest, self._left, self._high, self._former = (
            np.pad(each, ((0, 0), (0, more)), constant_values=np.nan)
            for each in (self._oldest, self._left, self._high, self._former)
        )

    def forget(self, at: Minutes) -> None:
        """Let series go; their places can be used again."""
        self.born[at] = self.known_since[at] = -1
        self.full_in_a_row[at] = 0
        self._share[at] = 0
        for each in (self._oldest, self._left, self._high, self._former):
            each[:, at] = np.nan

    def inherit(self, at: int, relatives: Minutes) -> None:
        """Let a series that is new know what other containers of its workload have shown.

        Args:
            at: The new one.
            relatives: Others, alive or gone; those that ended full tell nothing of what is usual.
        """
        known = self.known_since[relatives]
        if not (known >= 0).any():
            return
        self.known_since[at] = known[known >= 0].min()
        calm = relatives[self._share[relatives] < ENDED_FULL]
        if len(calm):
            highs = np.fmax(self._high[:, calm], self._former[:, calm])
            self._former[:, at] = np.fmax.reduce(highs, axis=1)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Give all that is known, by name, to be kept."""
        return {name: getattr(self, name) for name in _KEPT}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take back what ``state`` gave."""
        for name in _KEPT:
            setattr(self, name, state[name])

    def observe(self, now: Minute) -> Bools:
        """Take a minute in; tell whose life is new, after another."""
        read = np.isfinite(now.anon)
        self.known_since = np.where(read & (self.known_since < 0), now.at, self.known_since)
        unknown = np.where(self.born >= 0, self.born, now.at)
        born = np.where(now.born >= 0, now.born, unknown)
        # Starts are rounded to a minute, from two clocks: no life is shorter than that.
        new = read & (born > self.born + 1)
        anew = new & (self.born >= 0)
        full = anew & (self._share >= ENDED_FULL)
        self.full_in_a_row = np.where(
            anew, np.where(full, self.full_in_a_row + 1, 0), self.full_in_a_row
        )
        calm = anew & ~full
        self._former[:, calm] = np.fmax(self._former[:, calm], self._high[:, calm])
        for each in (self._oldest, self._left, self._high):
            each[:, anew] = np.nan
        self.born = np.where(new, born, self.born)
        share = now.anon / now.limit
        self._share = np.where(np.isfinite(share), share, self._share)
        return anew

    def fold(self, scale: int, windows: Floats) -> None:
        """Take in that the windows of a scale went on by one bin.

        Args:
            scale: Index of the scale.
            windows: (series, bins), without what is of former lives.
        """
        self._left[scale] = np.fmax(self._left[scale], self._oldest[scale])
        self._oldest[scale] = windows[:, 0]
        self._high[scale] = np.fmax(self._high[scale], windows[:, -1])

    def highest_before(self, scale: int, at: Minutes) -> Floats:
        """Give the highest bin before the window, in this life or one that ended calmly; or NaN."""
        found: Floats = np.fmax(self._left[scale][at], self._former[scale][at])
        return found


__all__ = ["ENDED_FULL", "Lives", "Minute"]
