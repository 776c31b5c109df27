"""Sums of raw rows over the series of a service and a slot of time (pure).

Deltas are summed. A gauge's samples are summed apart by how many readings their series had in the
sample's minute, so that averages are the same from sums as from raw rows: see schema.ROLLUPS.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.exact_sums import sums_by
from flamewell_collector.store.sample_rows import SampleRows, int64s, run_starts
from flamewell_collector.store.schema import PROFILES
from flamewell_collector.store.tiers import MINUTE_MS

Int64s = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer]
Columns = Mapping[str, Numbers]
"""ROLLUPS or SLOTS without the names of service and type."""

_SPARSE, _SMALL = 4, 1 << 20
"""Sums of all (slot, stack, readings) that may be are kept while they are that few: 4 a row."""


def sums_of_deltas(rows: SampleRows, slot_ms: int) -> Columns:
    """Sum the values of each stack in each slot."""
    slot = rows.time // slot_ms * slot_ms
    return _summed(slot, rows.stack, np.ones(len(rows), np.int64), rows.value)


def sums_of_gauge(rows: SampleRows, profiles: pa.Table, slot_ms: int) -> Columns:
    """Sum the values of each stack in each slot, apart by readings a minute of their series.

    Args:
        rows: Of one service and type.
        profiles: PROFILES of the same.
        slot_ms: Length of a slot, whole minutes.
    """
    series, time = int64s(profiles, "series_id"), int64s(profiles, "time")
    # A reading is a (series, time), however many profiles came of it.
    order = np.lexsort((time, series))
    series, time = series[order], time[order]
    new = np.ones(len(time), dtype=bool)
    new[1:] = (series[1:] != series[:-1]) | (time[1:] != time[:-1])
    series, minute = series[new], time[new] // MINUTE_MS
    first = np.ones(len(series), dtype=bool)
    first[1:] = (series[1:] != series[:-1]) | (minute[1:] != minute[:-1])
    starts = np.flatnonzero(first)
    counts = np.diff(starts, append=len(series))
    readings = _looked_up(
        (series[starts], minute[starts]), counts, (rows.series_id, rows.time // MINUTE_MS)
    )
    slot = rows.time // slot_ms * slot_ms
    known = readings > 0
    return _summed(slot[known], rows.stack[known], readings[known], rows.value[known])


def sums_of_sums(sums: Columns, slot_ms: int) -> Columns:
    """Sum shorter slots over longer ones."""
    slot = sums["time"] // slot_ms * slot_ms
    return _summed(slot, sums["stack"], sums["readings"], sums["value"])


def minutes_with_data(profiles: pa.Table, slot_ms: int) -> Columns:
    """Tell in which minutes of each slot there was a reading: SLOTS without the names."""
    minute = np.unique(int64s(profiles, "time") // MINUTE_MS)
    slot = minute * MINUTE_MS // slot_ms * slot_ms
    bits = np.left_shift(np.int64(1), minute - slot // MINUTE_MS)
    found, first = np.unique(slot, return_index=True)
    masks = np.bitwise_or.reduceat(bits, first) if len(found) else bits
    return {"time": found, "minutes": masks}


def profile_sums(profiles: pa.Table, slot_ms: int, *, gauge: bool) -> pa.Table:
    """Give one PROFILES row a series and slot, of one service and type.

    Args:
        profiles: PROFILES, at least one.
        slot_ms: Length of a slot.
        gauge: Average the readings, instead of summing.
    """
    series, time = int64s(profiles, "series_id"), int64s(profiles, "time")
    slot = time // slot_ms * slot_ms
    order = np.lexsort((time, series, slot))
    series, time, slot = series[order], time[order], slot[order]
    total, count = int64s(profiles, "total")[order], int64s(profiles, "sample_count")[order]
    new = np.ones(len(slot), dtype=bool)
    new[1:] = (slot[1:] != slot[:-1]) | (series[1:] != series[:-1])
    starts = np.flatnonzero(new)
    totals = _clamped_sums(total, starts)
    if gauge:
        reading = new.copy()
        reading[1:] |= time[1:] != time[:-1]
        readings = np.add.reduceat(reading.astype(np.int64), starts)
        totals = np.rint(totals / readings).astype(np.int64)
    return pa.table(
        {
            "service_name": profiles.column("service_name").slice(0, 1).take([0] * len(starts)),
            "profile_type": profiles.column("profile_type").slice(0, 1).take([0] * len(starts)),
            "time": slot[starts],
            "series_id": series[starts],
            "duration_ms": np.full(len(starts), slot_ms),
            "total": totals,
            "sample_count": np.add.reduceat(count, starts),
        },
        schema=PROFILES,
    )


def in_order(sums: Columns) -> Columns:
    """Order ROLLUPS by (time, stack, readings)."""
    order = np.lexsort((sums["readings"], sums["stack"], sums["time"]))
    return {name: column[order] for name, column in sums.items()}


def _summed(slot: Numbers, stack: Numbers, readings: Numbers, value: Numbers) -> Columns:
    """Sum values by (slot, stack, readings), in that order."""
    slots, slot_at = _numbered(slot)
    kinds, kind_at = _numbered(readings)
    stacks = int(stack.max(initial=-1)) + 1
    size = len(slots) * stacks * len(kinds)
    key = (slot_at * stacks + stack) * len(kinds) + kind_at
    if size > _SPARSE * len(key) + _SMALL:
        found, key = np.unique(key, return_inverse=True)
        sums = sums_by(key, value, len(found))
    else:
        there = np.zeros(size, bool)
        there[key] = True
        found = np.flatnonzero(there)
        sums = sums_by(key, value, size)[found]
    rest, kind = np.divmod(found, max(1, len(kinds)))
    at, number = np.divmod(rest, max(1, stacks))
    return {
        "time": slots[at],
        "stack": number.astype(np.int32),
        "readings": kinds[kind],
        "value": sums,
    }


def _numbered(values: Numbers) -> tuple[Numbers, Int64s]:
    """Give the different values in order, and the place of each value among them.

    Runs are looked at instead of rows: neighbours are mostly equal.
    """
    starts = run_starts(values)
    found, place = np.unique(values[starts], return_inverse=True)
    return found, np.repeat(place, np.diff(starts, append=len(values)))


def _clamped_sums(values: Int64s, starts: Int64s) -> Int64s:
    """Sum runs; a sum beyond 64 bits stays at the largest number, as in the engine's."""
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return sums_by(run, values, len(starts))


def _looked_up(keys: tuple[Int64s, Int64s], found: Int64s, wanted: tuple[Int64s, Int64s]) -> Int64s:
    """Give what belongs to each wanted pair, 0 for none; ``keys`` are sorted pairs."""
    series, place = np.unique(keys[0], return_inverse=True)
    base = int(min(keys[1].min(), wanted[1].min())) if len(wanted[1]) else 0
    width = int(max(keys[1].max(), wanted[1].max())) - base + 1 if len(wanted[1]) else 1
    at = np.searchsorted(series, wanted[0])
    at[at == len(series)] = 0
    combined = place * width + (keys[1] - base)
    wanted_keys = at * width + (wanted[1] - base)
    row = np.searchsorted(combined, wanted_keys)
    row[row == len(combined)] = 0
    hit = (series[at] == wanted[0]) & (combined[row] == wanted_keys)
    return np.where(hit, found[row], 0)
