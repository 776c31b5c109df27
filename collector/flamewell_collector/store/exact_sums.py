"""Sums by number in 64-bit integers: no rounding, and no wrapping round (pure)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer]

LARGEST = (1 << 63) - 1
_SAFE = float(1 << 62)
"""Amounts below it stay within 64 bits, whatever rounding the check of them did."""
_ROWS_AT_ONCE = 1 << 16
"""Their numbers and values stay in a core's cache: half the time of all rows at once."""


def sums_by(numbers: Numbers, values: Numbers, count: int) -> Int64s:
    """Sum values by number.

    Args:
        numbers: Shape (n,), each from 0 to ``count`` - 1.
        values: Shape (n,).
        count: Length of the result.

    Returns:
        Shape (count,); a sum beyond 64 bits stays at the largest number of that sign.
    """
    sums = np.zeros(count, np.int64)
    add_by(sums, numbers, values)
    return sums


def add_by(sums: Int64s, numbers: Numbers, values: Numbers) -> None:
    """Add values to sums by number, in place; limits as for ``sums_by``."""
    if amount(sums) + amount(values) >= _SAFE:
        _add_large(sums, numbers, values)
        return
    for first in range(0, len(values), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        np.add.at(sums, numbers[some].astype(np.intp, copy=False), values[some])


def amount(values: Numbers) -> float:
    """Give a bound of what any sum of some of these values may come to."""
    if not len(values):
        return 0.0
    largest = max(float(values.max()), -float(values.min()))
    if largest * len(values) < _SAFE:
        return largest * len(values)
    return float(np.abs(values.astype(np.float64)).sum())


def clamped(number: int) -> int:
    """Keep a number within 64 bits."""
    return max(-LARGEST - 1, min(LARGEST, number))


def _add_large(sums: Int64s, numbers: Numbers, values: Numbers) -> None:
    exact: npt.NDArray[Any] = sums.astype(object)
    np.add.at(exact, numbers.astype(np.intp, copy=False), values.astype(object))
    sums[:] = [clamped(each) for each in exact.tolist()]
