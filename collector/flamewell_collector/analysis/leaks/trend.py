"""What a window of memory readings looks like: its slope, and what speaks for and against a trend.

Pure and vectorised: thousands of windows at once.

Sources: Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968); Kendall,
"A new measure of rank correlation" (1938) and his partial tau (Rank Correlation Methods, 1948).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

BINS: Final = 24
"""Bins of a window: enough that Kendall's tau of noise seldom exceeds .3 (its deviation is .14)."""

_EARLIER, _LATER = np.triu_indices(BINS, 1)
_DISTANCE: Final = (_LATER - _EARLIER).astype(np.float32)
_LATE_PAIRS: Final = np.flatnonzero(_EARLIER >= BINS // 2)
_LONG: Final = np.flatnonzero(_DISTANCE >= BINS // 3)
_LATE_LONG: Final = np.flatnonzero((_EARLIER >= BINS // 2) & (_DISTANCE >= BINS // 3 // 2))
_KINK: Final = 0.15
"""A slope of the later half that differs by this share from that of the whole is gone on with: the
growth began within the window, or does not go straight."""
_THIRD: Final = BINS // 3
_FILLED_AT_LEAST: Final = 18
_FILLED_IN_THIRD: Final = 4
_DEVIATION_OF_MEDIAN: Final = np.float32(1.4826)
"""A normal distribution's standard deviation over its median absolute deviation."""
_TINY: Final = np.float32(1e-6)
_CHUNK: Final = 4_096
"""Windows at once: 276 pairs of each stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Trends:
    """Of each window, as arrays of one length; amounts are in the unit of the windows.

    Attributes:
        filled: There are bins enough to say anything.
        level: Median of the last three bins.
        slope: Theil-Sen, per bin.
        ahead: Slope that a forecast goes on with: that of the window, or of its later half.
        ahead_low: 10th percentile of the slopes over a third of what ``ahead`` is of: growth is
            uneven, so an interval for the median of slopes would be too narrow by far.
        ahead_high: 90th percentile.
        rise: What the slope makes over the window.
        order: Kendall's tau of amount and time: 1 where each bin is above all before.
        order_beside_cpu: The same with CPU use held constant (partial tau); ``order`` without CPU.
        noise: Robust standard deviation around the fitted line.
        bend: Twice the gain from middle to last third, over that from first to last: 1 is straight,
            below it the growth slows down.
        step: The greatest gain from one bin to the next, as a share of the rise.
        drop: The deepest fall below an earlier bin, as a share of the rise.
        fit: Share of the variance that the line explains.
        highest: The highest bin.
    """

    filled: Bools
    level: Floats
    slope: Floats
    ahead: Floats
    ahead_low: Floats
    ahead_high: Floats
    rise: Floats
    order: Floats
    order_beside_cpu: Floats
    noise: Floats
    bend: Floats
    step: Floats
    drop: Floats
    fit: Floats
    highest: Floats

    def take(self, chosen: npt.NDArray[np.int64] | Bools) -> Trends:
        """Give some of the windows."""
        return Trends(**{each.name: getattr(self, each.name)[chosen] for each in fields(Trends)})


def trends(windows: Floats, cpu: Floats) -> Trends:
    """Look at windows.

    Args:
        windows: (n, BINS) amounts, oldest first; NaN where nothing was read.
        cpu: (n, BINS) CPU use beside them, in any unit; NaN where it is not known.
    """
    parts = [
        _trends(windows[at : at + _CHUNK], cpu[at : at + _CHUNK])
        for at in range(0, max(1, len(windows)), _CHUNK)
    ]
    return Trends(
        **{
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Trends)
        }
    )


def bends(windows: Floats) -> Floats:
    """Give the bend of windows alone, 1 where too little is known; see ``Trends.bend``."""
    first, middle, last = _thirds(filled_in(windows))
    gain = last - first
    bend = _bend(middle, last, gain)
    enough = np.isfinite(windows).sum(axis=1) >= BINS // 2
    return np.where(enough & (gain > _TINY), bend, 1).astype(np.float32)


def filled_in(windows: Floats) -> Floats:
    """Put the last reading before a gap into it, and the first of all before it; 0 without any."""
    known = np.isfinite(windows)
    at = np.where(known, np.arange(windows.shape[1]), -1)
    before = np.maximum.accumulate(at, axis=1)
    first = np.argmax(known, axis=1)
    chosen = np.where(before >= 0, before, first[:, None])
    found = np.take_along_axis(windows, chosen, axis=1)
    return np.nan_to_num(found, nan=0.0)


def _trends(windows: Floats, cpu: Floats) -> Trends:
    known = np.isfinite(windows)
    thirds = known.reshape(len(windows), 3, _THIRD).sum(axis=2)
    filled = (known.sum(axis=1) >= _FILLED_AT_LEAST) & (thirds >= _FILLED_IN_THIRD).all(axis=1)
    values = filled_in(windows)
    gains = values[:, _LATER] - values[:, _EARLIER]
    slopes = gains / _DISTANCE
    late = np.median(slopes[:, _LATE_PAIRS], axis=1)
    late_low, late_high = _spread(slopes[:, _LATE_LONG])
    low, high = _spread(slopes[:, _LONG])
    slope = np.median(slopes, axis=1)
    kinked = np.abs(late - slope) > _KINK * np.abs(slope)
    rise = slope * (BINS - 1)
    time_order = np.sign(gains)
    order = time_order.mean(axis=1)
    at = np.arange(BINS, dtype=np.float32)
    aside = values - slope[:, None] * at
    aside -= np.median(aside, axis=1)[:, None]
    noise = _DEVIATION_OF_MEDIAN * np.median(np.abs(aside), axis=1)
    first, middle, last = _thirds(values)
    gain = last - first
    scale = np.maximum(rise, _TINY)
    spread = np.maximum(values.var(axis=1), _TINY)
    fall = (np.maximum.accumulate(values, axis=1) - values).max(axis=1)
    return Trends(
        filled=filled,
        level=np.median(values[:, -3:], axis=1),
        slope=slope,
        ahead=np.where(kinked, late, slope),
        ahead_low=np.where(kinked, late_low, low),
        ahead_high=np.where(kinked, late_high, high),
        rise=rise,
        order=order,
        order_beside_cpu=_partial(order, time_order, cpu),
        noise=noise,
        bend=_bend(middle, last, gain),
        step=np.diff(values, axis=1).max(axis=1) / scale,
        drop=fall / scale,
        fit=np.clip(1 - aside.var(axis=1) / spread, 0, 1),
        highest=values.max(axis=1),
    )


def _spread(slopes: Floats) -> tuple[Floats, Floats]:
    """Give the 10th and the 90th percentile; reorders the slopes."""
    tenth = slopes.shape[1] // 10
    slopes.partition((tenth, slopes.shape[1] - 1 - tenth), axis=1)
    return slopes[:, tenth], slopes[:, slopes.shape[1] - 1 - tenth]


def _bend(middle: Floats, last: Floats, gain: Floats) -> Floats:
    return (2 * (last - middle) / np.where(gain > _TINY, gain, np.inf)).astype(np.float32)


def _thirds(values: Floats) -> tuple[Floats, Floats, Floats]:
    means = values.reshape(len(values), 3, _THIRD).mean(axis=2)
    return means[:, 0], means[:, 1], means[:, 2]


def _partial(order: Floats, time_order: Floats, cpu: Floats) -> Floats:
    """Give Kendall's partial tau of amount and time, CPU use held constant."""
    known = np.isfinite(cpu).sum(axis=1) >= _FILLED_AT_LEAST
    if not known.any():
        return order
    values = filled_in(cpu[known])
    use = np.sign(values[:, _LATER] - values[:, _EARLIER])
    with_time = use.mean(axis=1)
    with_amount = (use * time_order[known]).mean(axis=1)
    apart = np.sqrt(np.maximum((1 - with_time**2) * (1 - with_amount**2), 1e-4))
    found = order.copy()
    found[known] = np.clip((order[known] - with_time * with_amount) / apart, -1, 1)
    return found
