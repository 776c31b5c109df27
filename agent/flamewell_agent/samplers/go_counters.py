"""Counters of Go programs since their start, remembered so that the next ones can be subtracted.

Packed: eight bytes a stack and eight a value; what a hostile program makes up has an end.
"""

from __future__ import annotations

import heapq
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_STACKS_AT_MOST = 50_000
"""Of one endpoint and pull; a large Go service has about 20,000."""
_BYTES_AT_MOST = 8 * 1024 * 1024
_BYTES_OF_EACH_AT_LEAST = 128 * 1024
_WORD_BYTES = 8


class CounterRoom:
    """Shares memory between the counters of all endpoints; safe to use from all threads.

    An endpoint gets what the others left of the limit, and never less than a small share, so that
    one that made up a million stacks takes nothing from those that come after it.
    """

    def __init__(self, limit_bytes: int = _BYTES_AT_MOST) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held: dict[object, int] = {}

    def take(self, owner: object, wanted_bytes: int) -> int:
        """Hold up to ``wanted_bytes``, in place of what the owner held; give how many."""
        with self._lock:
            others = sum(held for each, held in self._held.items() if each != owner)
            left = max(self._limit_bytes - others, _BYTES_OF_EACH_AT_LEAST)
            held = self._held[owner] = min(wanted_bytes, left)
            return held

    def release(self, owner: object) -> None:
        """Give back what an owner held."""
        with self._lock:
            self._held.pop(owner, None)

    @property
    def held_bytes(self) -> int:
        """How much all hold together."""
        with self._lock:
            return sum(self._held.values())


@dataclass(frozen=True, slots=True, eq=False)
class Counters:
    """Cumulative values by stack key, as they were at a time.

    Attributes:
        taken_unix_nanos: When.
        complete: False where some stacks did not fit: one that is not here may be an old one
            then, and how much it grew is not known.
    """

    taken_unix_nanos: int
    complete: bool
    _keys: array[int] = field(repr=False)
    _columns: tuple[array[int], ...] = field(repr=False)

    @classmethod
    def pack(
        cls, taken_unix_nanos: int, rows: Mapping[int, Sequence[int]], columns: int, room_bytes: int
    ) -> Counters:
        """Keep the rows with the largest last values, as many as fit."""
        keys = list(rows)
        complete = len(keys) <= (fitting := _fitting(columns, room_bytes))
        if not complete:
            keys = heapq.nlargest(fitting, keys, key=lambda key: rows[key][-1])
        packed = tuple(array("q", (rows[key][column] for key in keys)) for column in range(columns))
        return cls(taken_unix_nanos, complete, array("q", keys), packed)

    def restarted(self, rows: Mapping[int, Sequence[int]]) -> bool:
        """Tell whether counting began anew: a counter of one program never shrinks or vanishes."""
        for at, key in enumerate(self._keys):
            row = rows.get(key)
            if row is None or any(
                value < column[at] for value, column in zip(row, self._columns, strict=True)
            ):
                return True
        return False

    def deltas(self, rows: Mapping[int, Sequence[int]], column: int) -> tuple[dict[int, int], int]:
        """Give what each stack grew by, and how many stacks it is not known of."""
        before = dict(zip(self._keys, self._columns[column], strict=True))
        if self.complete:
            return {key: row[column] - before.get(key, 0) for key, row in rows.items()}, 0
        known = {key: row[column] - before[key] for key, row in rows.items() if key in before}
        return known, len(rows) - len(known)


def wanted_bytes(stacks: int, columns: int) -> int:
    """Give the memory that the counters of so many stacks want."""
    return min(stacks, _STACKS_AT_MOST) * (columns + 1) * _WORD_BYTES


def _fitting(columns: int, room_bytes: int) -> int:
    return min(_STACKS_AT_MOST, room_bytes // ((columns + 1) * _WORD_BYTES))
