"""When memory will be full. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from flamewell_collector.analysis.leaks.ladder import SCALES
from flamewell_collector.analysis.leaks.trend import Floats, Trends

_BAND: Final = np.float32(1.6)
"""Growth changes its pace by more than a window shows. bench/leaks.py prints how often the truth
lies within the band."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until the limit, as arrays of one length; NaN without a limit, inf if never.

    Attributes:
        seconds: By the slope, see ``Trends.ahead``.
        earliest: By the upper end of the slopes, and no later than ``_BAND`` says.
        latest: By their lower end, and no earlier.
    """

    seconds: Floats
    earliest: Floats
    latest: Floats


def forecast(seen: Trends, limit: Floats, swing: Floats, scale: int) -> Forecast:
    """Go on along the line, until what comes and goes above it meets the limit.

    Args:
        seen: Windows of one scale.
        limit: Of each, in their unit; NaN without one.
        swing: How far readings go above the lowest of their bin, growth included.
        scale: Index of the scale.
    """
    left = np.where(
        np.isfinite(limit),
        np.maximum(limit - seen.level - np.maximum(swing - seen.slope, 0), 0),
        np.nan,
    )
    seconds = 60.0 * SCALES[scale][0]

    def until(slope: Floats) -> Floats:
        found: Floats = np.where(slope > 0, left / np.maximum(slope, 1e-9) * seconds, np.inf)
        return np.where(np.isnan(left), np.nan, found).astype(np.float32)

    seconds_left = until(seen.ahead)
    return Forecast(
        seconds_left,
        np.minimum(until(seen.ahead_high), seconds_left / _BAND),
        np.maximum(until(seen.ahead_low), seconds_left * _BAND),
    )
