"""Reads many small protobuf messages at once into NumPy columns: no Python loop a message.

protobuf's own parser makes a Python object of each sample, frame and line; walking those costs
0.6 µs a sample. Here all messages of a kind stand behind each other in one buffer and are read in
step: one round reads the next field of every message that has one left.

The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MORE = 128
_LARGEST_KEY, _KEY_BYTES = np.uint64(0xFFFFFFFF), 5
"""Of a field's number and wire type: 32 bits, as every parser of protobuf reads them."""
_LOW = np.uint64(127)
_VARINT_BYTES = 10
_PADDING = bytes(16)
"""Behind the last message: reading ahead stays inside the buffer."""
_MAX_ROUNDS = 4_096
"""Fields of one message. A round costs some 50 µs however few messages are left in it; stacks
without packing have one field a frame, and 1,000 frames are the limit of depth."""
_SMALL_GAP = 8
_CHUNK_BYTES = 256 << 10
"""What is worked on at once: its columns fit the second-level cache, and bound the memory."""


class Malformed(ValueError):
    """The bytes are no protobuf message."""


@dataclass(frozen=True, slots=True)
class Found:
    """One field of some messages, in the order of the buffer.

    Attributes:
        record: Which message, shape (n,), ascending.
        start: Of the value in the buffer, shape (n,).
        end: Behind the value, shape (n,).
        value: Of a varint; nothing otherwise, shape (n,) or (0,).
    """

    record: Int64s
    start: Int64s
    end: Int64s
    value: UInt64s


class Records:
    """Messages of one kind in one buffer.

    Attributes:
        data: The buffer, padded.
        starts: Of each message, ascending, shape (n,).
        ends: Behind each message, shape (n,).
    """

    def __init__(self, data: Bytes, starts: Int64s, ends: Int64s) -> None:
        self.data = data
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, messages: Sequence[bytes]) -> Records:
        """Put messages behind each other."""
        data = np.frombuffer(b"".join((*messages, _PADDING)), dtype=np.uint8)
        ends = np.cumsum(lengths(messages))
        starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
        return cls(data, starts[: len(messages)], ends)

    def __len__(self) -> int:
        return len(self.starts)

    def fields(self) -> Fields:
        """Read the fields of all messages.

        Raises:
            Malformed: One of them is none, or has too many fields.
        """
        found: dict[tuple[int, int], list[Found]] = {}
        record = np.flatnonzero(self.starts < self.ends)
        at, end = self.starts[record], self.ends[record]
        for _ in range(_MAX_ROUNDS):
            if not len(record):
                return Fields(self, found)
            at = self._round(record, at, end, found)
            going = at < end
            if not going.all():
                record, at, end = record[going], at[going], end[going]
        raise Malformed(f"a message has more than {_MAX_ROUNDS} fields")

    def _round(
        self, record: Int64s, at: Int64s, end: Int64s, found: dict[tuple[int, int], list[Found]]
    ) -> Int64s:
        """Read one field of each of these messages; gives where the next one begins."""
        tags = self.data[at]
        first = int(tags[0])
        if first < _MORE and (tags == tags[0]).all():
            # One writer writes its messages alike: most rounds read one field of all of them.
            return self._read(first, record, at + 1, end, found)
        begin = at
        keys, at = read_varints(self.data, begin, end)
        if (keys > _LARGEST_KEY).any() or (at - begin > _KEY_BYTES).any():
            raise Malformed("a field's number is beyond what there can be")
        following = np.empty_like(at)
        for key in np.unique(keys).tolist():
            chosen = np.flatnonzero(keys == np.uint64(key))
            following[chosen] = self._read(key, record[chosen], at[chosen], end[chosen], found)
        return following

    def _read(
        self,
        key: int,
        record: Int64s,
        at: Int64s,
        end: Int64s,
        found: dict[tuple[int, int], list[Found]],
    ) -> Int64s:
        number, kind = key >> 3, key & 7
        value = np.zeros(0, dtype=np.uint64)
        start = at
        if kind == _VARINT:
            value, following = read_varints(self.data, at, end)
        elif kind == _LENGTH:
            sizes, start = read_varints(self.data, at, end)
            # Compared before it is added: a length near 2⁶⁴ must not wrap around.
            if (sizes > (end - start).astype(np.uint64)).any():
                raise Malformed(f"field {number} is longer than its message")
            following = start + sizes.astype(np.int64)
        elif kind in {_FIXED64, _FIXED32}:
            following = at + (8 if kind == _FIXED64 else 4)
        else:
            raise Malformed(f"field {number} has the wire type {kind}")
        if number == 0 or (kind != _VARINT and (following > end).any()):
            raise Malformed(f"field {number} goes beyond its message")
        found.setdefault((number, kind), []).append(Found(record, start, following, value))
        return following


class Fields:
    """The fields of the messages in a buffer, by number."""

    def __init__(self, records: Records, found: dict[tuple[int, int], list[Found]]) -> None:
        self._records = records
        self._found = found

    def scalar(self, number: int) -> Int64s:
        """Give an integer field, 0 where it is missing; the last one counts. Shape (messages,)."""
        values = np.zeros(len(self._records), dtype=np.int64)
        for each in self._found.get((number, _VARINT), ()):
            values[each.record] = each.value.view(np.int64)
        return values

    def integers(self, number: int) -> tuple[Int64s, Int64s]:
        """Give a repeated integer field, packed or not.

        Returns:
            The values of all messages behind each other, and how many each message has.
        """
        counts = np.zeros(len(self._records), dtype=np.int64)
        parts: list[tuple[Int64s, Int64s]] = []
        plain = self._found.get((number, _VARINT), [])
        for each in plain:
            counts[each.record] += 1
            parts.append((each.start, each.value.view(np.int64)))
        packed = self._found.get((number, _LENGTH), [])
        if packed:
            ranges = _in_order(packed)
            values, sizes, positions = unpack(self._records.data, ranges.start, ranges.end)
            np.add.at(counts, ranges.record, sizes)
            parts.append((positions, values))
        if len(parts) == 1:
            return parts[0][1], counts
        if not parts:
            return np.zeros(0, dtype=np.int64), counts
        order = np.argsort(np.concatenate([positions for positions, _ in parts]), kind="stable")
        return np.concatenate([values for _, values in parts])[order], counts

    def messages(self, number: int) -> tuple[Records, Int64s]:
        """Give the messages in a field, and in which message each stands (ascending)."""
        ranges = _in_order(self._found.get((number, _LENGTH), []))
        return Records(self._records.data, ranges.start, ranges.end), ranges.record

    def fixed64(self, number: int) -> tuple[UInt64s, Int64s]:
        """Give a repeated fixed64 field, packed or not, like ``integers``.

        Raises:
            Malformed: A packed one has not a multiple of 8 bytes.
        """
        ranges = _in_order(
            [
                *self._found.get((number, _FIXED64), ()),
                *self._found.get((number, _LENGTH), ()),
            ]
        )
        sizes = ranges.end - ranges.start
        if (sizes % 8).any():
            raise Malformed(f"field {number} has {int(sizes.max())} bytes, 8 a number are expected")
        counts = np.zeros(len(self._records), dtype=np.int64)
        np.add.at(counts, ranges.record, sizes // 8)
        places = spread(ranges.start, sizes)
        return self._records.data[places].view("<u8").astype(np.uint64), counts


def lengths(messages: Sequence[bytes]) -> Int64s:
    """Give the length of each, shape (n,)."""
    return np.fromiter(map(len, messages), np.int64, len(messages))


def chunks(sizes: Int64s, limit: int = _CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """Cut a list into runs of about ``limit`` bytes: (first, behind the last)."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield first, last
        first = last


def spread(starts: Int64s, sizes: Int64s) -> Int64s:
    """Give start, start + 1, … start + size - 1 of each range, behind each other."""
    total = int(sizes.sum())
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(total)


def read_varints(data: Bytes, at: Int64s, end: Int64s) -> tuple[UInt64s, Int64s]:
    """Read one varint at each place; gives values and the places behind them.

    Raises:
        Malformed: One goes beyond its end, or has more than ten bytes.
    """
    first = data[at]
    values = first.astype(np.uint64)
    following = at + 1
    (more,) = (first >= _MORE).nonzero()
    if len(more):
        values[more] &= _LOW
        going = at[more]
        for byte in range(1, _VARINT_BYTES + 1):
            if byte == _VARINT_BYTES:
                raise Malformed("a number has more than ten bytes")
            part = data[np.minimum(going + byte, len(data) - 1)].astype(np.uint64)
            values[more] |= (part & _LOW) << np.uint64(7 * byte)
            following[more] += 1
            longer = part >= _MORE
            if not longer.any():
                break
            more, going = more[longer], going[longer]
    if (following > end).any():
        raise Malformed("a number goes beyond its message")
    return values, following


def unpack(data: Bytes, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Read packed varints.

    Args:
        data: The buffer.
        starts: Of ranges that do not overlap, ascending; a length stands before each.
        ends: Behind them.

    Returns:
        The values of all ranges behind each other, how many each range has, and where in the
        buffer the last byte of each value stands.

    Raises:
        Malformed: A number is not whole, or has more than ten bytes.
    """
    some = starts < ends
    sizes = np.zeros(len(starts), dtype=np.int64)
    if not some.any():
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, sizes, nothing
    begins, behind = starts[some], ends[some]
    if (data[behind - 1] >= _MORE).any():
        raise Malformed("the last number of a list is not whole")
    low = int(begins[0])
    last = data[low : int(behind[-1])] < _MORE
    _clear_between(last, begins - low, behind - low)
    place = np.flatnonzero(last) + low
    # Most numbers have one byte or two. The byte before a list is the last one of its length, so
    # that looking back stops there.
    short = data[place].astype(np.uint16)
    previous = data[place - 1]
    values = np.where(previous >= _MORE, short << 7 | (previous & 127), short).astype(np.uint64)
    # Each round adds one byte more where there is one.
    more = np.flatnonzero(np.diff(place, prepend=place[0] - _VARINT_BYTES) > 2)  # noqa: PLR2004
    more = more[(previous[more] >= _MORE) & (data[place[more] - 2] >= _MORE)]
    before = place[more] - 2
    for byte in range(2, _VARINT_BYTES + 1):
        if not len(more):
            break
        if byte == _VARINT_BYTES:
            raise Malformed("a number has more than ten bytes")
        values[more] = values[more] << np.uint64(7) | (data[before] & 127)
        before -= 1
        going = data[before] >= _MORE
        if not going.all():
            more, before = more[going], before[going]
    sizes[some] = np.searchsorted(place, behind) - np.searchsorted(place, begins)
    return values.view(np.int64), sizes, place


def _clear_between(last: npt.NDArray[np.bool_], starts: Int64s, ends: Int64s) -> None:
    """Take out what stands between the ranges."""
    gaps = starts[1:] - ends[:-1]
    widest = int(gaps.max()) if len(gaps) else 0
    if widest <= _SMALL_GAP:
        for step in range(widest):
            last[ends[:-1][gaps > step] + step] = False
    else:
        last[spread(ends[:-1], gaps)] = False


def _in_order(parts: Sequence[Found]) -> Found:
    """Put what several rounds have found into the order of the buffer."""
    if len(parts) == 1:
        return parts[0]
    nothing = np.zeros(0, dtype=np.int64)
    record = np.concatenate([nothing, *(each.record for each in parts)])
    start = np.concatenate([nothing, *(each.start for each in parts)])
    end = np.concatenate([nothing, *(each.end for each in parts)])
    order = np.argsort(start, kind="stable")
    return Found(record[order], start[order], end[order], np.zeros(0, dtype=np.uint64))
