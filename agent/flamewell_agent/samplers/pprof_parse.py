"""pprof bytes → samples with whole stacks. Pure; bounded in time and memory whatever comes in.

The top level of the message is walked here, record by record, and only one small record at a time
is given to protobuf: a hostile profile (millions of empty messages in two bytes each) can fill
neither memory nor time, since records, samples and frames are counted on the way.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Frame, Stack
from flamewell_wire import pprof

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INT64_MAX = 2**63 - 1
_UNKNOWN = Frame("<unknown>")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a profile may have at most.

    A Go service of 20,000 stacks in 40 frames each needs 3 MB and 60,000 records.
    """

    decompressed_bytes: int = 32 * 1024 * 1024
    records: int = 1_000_000
    record_bytes: int = 64 * 1024
    samples: int = 200_000
    frames: int = 4_000_000  # as locations of samples, lines of locations, and expanded
    depth: int = 1_000
    symbol_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class ParsedSample:
    """One distinct stack.

    Attributes:
        key: Equal for equal stacks, also of two profiles, while the agent runs.
        stack: Leaf first, inlined calls expanded.
        values: One for each sample type.
    """

    key: int
    stack: Stack
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ParsedProfile:
    """A profile with equal stacks merged (labels are not kept).

    Attributes:
        sample_types: Type and unit of each value, e.g. ``("cpu", "nanoseconds")``.
        samples: Distinct stacks.
        duration_nanos: As the profile says, 0 where it does not.
        truncated_stacks: How many were deeper than the limit; their leaf ends were kept.
    """

    sample_types: tuple[tuple[str, str], ...]
    samples: tuple[ParsedSample, ...]
    duration_nanos: int
    truncated_stacks: int


def parse(data: bytes, limits: Limits = Limits()) -> ParsedProfile:
    """Read a profile, gzip-compressed or plain.

    Raises:
        ProfileFormatError: ``malformed``, ``too_large``, ``too_many_records``,
            ``too_many_samples`` or ``too_many_frames``.
    """
    if data.startswith(_GZIP_MAGIC):
        data = _decompress(data, limits.decompressed_bytes)
    elif len(data) > limits.decompressed_bytes:
        raise ProfileFormatError("too_large", f"over {limits.decompressed_bytes} bytes")
    try:
        return _Reader(data, limits).read()
    except (DecodeError, IndexError, KeyError) as error:
        # IndexError: the bytes end within a record, or a string that is not there; KeyError: an
        # id that nothing has.
        raise ProfileFormatError("malformed", f"{type(error).__name__}: {error}") from error


def _decompress(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        plain = stream.decompress(data, limit)
        if stream.unconsumed_tail and stream.decompress(stream.unconsumed_tail, 1):
            raise ProfileFormatError("too_large", f"over {limit} bytes decompressed")
    except zlib.error as error:
        raise ProfileFormatError("malformed", str(error)) from error
    if not stream.eof:
        raise ProfileFormatError("malformed", "the compressed data is cut off")
    return plain


def _message_class(field: str) -> Any:
    descriptor = pprof.Profile.DESCRIPTOR.fields_by_name[field].message_type
    return message_factory.GetMessageClass(descriptor)


_NUMBER = {field.name: field.number for field in pprof.Profile.DESCRIPTOR.fields}
_CLASS = {
    _NUMBER[name]: _message_class(name)
    for name in ("sample_type", "sample", "mapping", "location", "function")
}


class _Reader:
    """One pass over the records, then stacks are put together."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._strings: list[tuple[int, int]] = []  # where each begins and ends
        self._decoded: dict[int, str] = {}
        self._functions: dict[int, tuple[int, int]] = {}  # id → name, file (string numbers)
        self._mappings: dict[int, int] = {}  # id → file (string number)
        self._locations: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {}
        self._samples: dict[tuple[int, ...], list[int]] = {}  # location ids → values
        self._sample_types: list[tuple[int, int]] = []
        self._sample_count = 0
        self._frame_count = 0
        self._duration_nanos = 0

    def read(self) -> ParsedProfile:
        self._read_records()
        types = tuple((self._text(kind), self._text(unit)) for kind, unit in self._sample_types)
        for values in self._samples.values():
            if len(values) != len(types):
                raise ProfileFormatError(
                    "malformed", f"{len(values)} values for {len(types)} types"
                )
        samples, truncated = self._build_stacks()
        return ParsedProfile(types, samples, self._duration_nanos, truncated)

    def _read_records(self) -> None:
        add_by_number = {
            _NUMBER["sample_type"]: self._add_sample_type,
            _NUMBER["sample"]: self._add_sample,
            _NUMBER["mapping"]: self._add_mapping,
            _NUMBER["location"]: self._add_location,
            _NUMBER["function"]: self._add_function,
        }
        string_table, duration = _NUMBER["string_table"], _NUMBER["duration_nanos"]
        for count, (number, begin, end) in enumerate(_walk(self._data)):
            if count >= self._limits.records:
                raise ProfileFormatError("too_many_records", f"over {self._limits.records}")
            add = add_by_number.get(number)
            if add is not None:
                if end - begin > self._limits.record_bytes:
                    raise ProfileFormatError("too_large", f"a record of {end - begin} bytes")
                add(_CLASS[number].FromString(self._data[begin:end]))
            elif number == string_table:
                self._strings.append((begin, end))
            elif number == duration:
                self._duration_nanos = min(_varint(self._data, begin)[0], _INT64_MAX)

    def _add_sample_type(self, message: Any) -> None:
        self._sample_types.append((message.type, message.unit))

    def _add_sample(self, message: Any) -> None:
        self._sample_count += 1
        if self._sample_count > self._limits.samples:
            raise ProfileFormatError("too_many_samples", f"over {self._limits.samples}")
        self._count_frames(len(message.location_id))
        locations, values = tuple(message.location_id), list(message.value)
        known = self._samples.setdefault(locations, values)
        if known is not values:
            if len(known) != len(values):
                raise ProfileFormatError("malformed", "samples differ in their number of values")
            known[:] = map(_bounded_sum, known, values)

    def _add_mapping(self, message: Any) -> None:
        self._mappings[message.id] = message.filename

    def _add_location(self, message: Any) -> None:
        self._count_frames(len(message.line))
        lines = tuple((line.function_id, line.line) for line in message.line)
        self._locations[message.id] = (message.mapping_id, lines)

    def _count_frames(self, count: int) -> None:
        self._frame_count += count
        if self._frame_count > self._limits.frames:
            raise ProfileFormatError("too_many_frames", f"over {self._limits.frames}")

    def _add_function(self, message: Any) -> None:
        self._functions[message.id] = (message.name, message.filename)

    def _build_stacks(self) -> tuple[tuple[ParsedSample, ...], int]:
        """Expand locations to frames and merge what became equal (other addresses, same lines)."""
        frames: dict[tuple[int, int], Frame] = {}
        expanded = {
            number: self._expand(mapping, lines, frames)
            for number, (mapping, lines) in self._locations.items()
        }
        hashes = {number: hash(chain) for number, chain in expanded.items()}
        merged: dict[int, list[int]] = {}
        stacks: dict[int, Stack] = {}
        truncated = 0
        for locations, values in self._samples.items():
            key = hash(tuple([hashes[number] for number in locations]))
            known = merged.setdefault(key, values)
            if known is not values:
                known[:] = map(_bounded_sum, known, values)
                continue
            stack, cut = self._join(expanded, locations)
            truncated += cut
            self._count_frames(len(stack))
            stacks[key] = stack
        samples = (ParsedSample(key, stacks[key], tuple(merged[key])) for key in merged)
        return tuple(samples), truncated

    def _join(
        self, expanded: dict[int, tuple[Frame, ...]], locations: tuple[int, ...]
    ) -> tuple[Stack, bool]:
        """Chain the locations' frames up to the depth limit; tell whether some were left out."""
        stack: list[Frame] = []
        for number in locations:
            stack.extend(expanded[number])
            if len(stack) > self._limits.depth:
                return tuple(stack[: self._limits.depth]), True
        return tuple(stack), False

    def _expand(
        self,
        mapping: int,
        lines: tuple[tuple[int, int], ...],
        frames: dict[tuple[int, int], Frame],
    ) -> tuple[Frame, ...]:
        if not lines:
            return (self._unsymbolized(mapping),)
        chain = []
        for function, line in lines:
            frame = frames.get((function, line))
            if frame is None:
                name, file = self._functions[function]
                shown_line = line if 0 < line <= _INT64_MAX else 0
                frame = Frame(self._text(name) or _UNKNOWN.function, self._text(file), shown_line)
                frames[function, line] = frame
            chain.append(frame)
        return tuple(chain)

    def _unsymbolized(self, mapping: int) -> Frame:
        """Name native code by its file: addresses would make a new stack at each start."""
        file = self._text(self._mappings.get(mapping, 0))
        return Frame(f"[{file.rpartition('/')[2]}]", file) if file else _UNKNOWN

    def _text(self, number: int) -> str:
        known = self._decoded.get(number)
        if known is None:
            if number < 0:
                raise IndexError(f"string {number}")
            begin, end = self._strings[number]
            end = min(end, begin + self._limits.symbol_bytes)
            known = self._decoded[number] = self._data[begin:end].decode("utf-8", "replace")
        return known


def _bounded_sum(left: int, right: int) -> int:
    total = left + right
    if not -_INT64_MAX <= total <= _INT64_MAX:
        raise ProfileFormatError("malformed", "the sum of the values is beyond 64 bits")
    return total


def _walk(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Give field number, begin and end of the content of each record of the top level."""
    position, size = 0, len(data)
    while position < size:
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _BYTES:
            length, begin = _varint(data, position)
            position = begin + length
        else:
            begin = position
            if wire_type == _VARINT:
                position = _varint(data, position)[1]
            elif wire_type == _FIXED64:
                position += 8
            elif wire_type == _FIXED32:
                position += 4
            else:
                raise ProfileFormatError("malformed", f"wire type {wire_type}")
        if position > size or number == 0:
            raise ProfileFormatError("malformed", "a record reaches beyond the end")
        yield number, begin, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a base-128 number of at most ten bytes; give it and the position after it."""
    byte = data[position]
    if byte < 0x80:  # noqa: PLR2004 - the continuation bit; most are one byte
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while shift < 70:  # noqa: PLR2004 - ten bytes of seven bits
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - as above
            return value, position + 1
        shift += 7
    raise ProfileFormatError("malformed", "a number of more than ten bytes")
