"""pprof bytes → samples with whole stacks. Pure; bounded in time and memory whatever comes in.

The top level of the message is walked here, record by record, and only one small record at a time
is given to protobuf: a hostile profile (millions of empty messages in two bytes each) can fill
neither memory nor time, since records, samples and frames are counted on the way.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Frame, Stack
from flamewell_wire import pprof

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_CHUNK_BYTES = 64 * 1024
_STRING_BYTES = 1024 * 1024  # of a string before it is cut; of any record
_WORD = "Q"
_VALUES_OF_SAMPLE_AT_MOST = 8
_DECODED_AT_MOST = 2  # times text_bytes; text beyond ASCII takes up to four times its bytes
_INT64_MAX = 2**63 - 1
_UNKNOWN = Frame("<unknown>")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a profile may have at most.

    A Go service of 20,000 stacks in 40 frames each needs 3 MB, 60,000 records and 800,000 frames.
    The worst that passes them takes 50 MiB while it is read (tests/agent/test_pprof_parse.py).
    """

    decompressed_bytes: int = 32 * 1024 * 1024
    records: int = 400_000
    record_bytes: int = 64 * 1024
    samples: int = 40_000
    symbols: int = 40_000  # locations, functions, mappings, distinct frames: of each
    frames: int = 2_000_000  # as locations of samples, lines of locations, and expanded
    depth: int = 1_000
    symbol_bytes: int = 4 * 1024
    text_bytes: int = 8 * 1024 * 1024


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
    try:
        return _Reader(limits).read(_chunks(data, limits.decompressed_bytes))
    except (DecodeError, IndexError, KeyError, OverflowError) as error:
        # IndexError: the bytes end within a record, or a string that is not there; KeyError: an
        # id that nothing has; OverflowError: a value that is no 64-bit number.
        raise ProfileFormatError("malformed", f"{type(error).__name__}: {error}") from error


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

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._strings = bytearray()
        self._string_ends = array(_WORD)
        self._text_bytes = 0
        self._decoded: dict[int, str] = {}
        self._functions: dict[int, tuple[int, int]] = {}  # id → name, file (string numbers)
        self._mappings: dict[int, int] = {}  # id → file (string number)
        # Packed, 8 bytes a number: objects would take ten times as much.
        self._locations: dict[int, bytes] = {}  # id → mapping, then function and line in turn
        self._samples: dict[bytes, list[int]] = {}  # location ids → values
        self._sample_types: list[tuple[int, int]] = []
        self._sample_count = 0
        self._value_count = 0
        self._frame_count = 0
        self._duration_nanos = 0

    def read(self, chunks: Iterable[bytes]) -> ParsedProfile:
        self._read_records(chunks)
        types = tuple((self._text(kind), self._text(unit)) for kind, unit in self._sample_types)
        for values in self._samples.values():
            if len(values) != len(types):
                raise ProfileFormatError(
                    "malformed", f"{len(values)} values for {len(types)} types"
                )
        samples, truncated = self._build_stacks()
        return ParsedProfile(types, samples, self._duration_nanos, truncated)

    def _read_records(self, chunks: Iterable[bytes]) -> None:
        add_by_number = {
            _NUMBER["sample_type"]: self._add_sample_type,
            _NUMBER["sample"]: self._add_sample,
            _NUMBER["mapping"]: self._add_mapping,
            _NUMBER["location"]: self._add_location,
            _NUMBER["function"]: self._add_function,
        }
        string_table, duration = _NUMBER["string_table"], _NUMBER["duration_nanos"]
        records = _walk(chunks)
        for count, (number, buffer, begin, end) in enumerate(records):
            if count >= self._limits.records:
                raise ProfileFormatError("too_many_records", f"over {self._limits.records}")
            add = add_by_number.get(number)
            if add is not None:
                if end - begin > self._limits.record_bytes:
                    raise ProfileFormatError("too_large", f"a record of {end - begin} bytes")
                add(_CLASS[number].FromString(buffer[begin:end]))
            elif number == string_table:
                self._add_string(buffer[begin : min(end, begin + self._limits.symbol_bytes)])
            elif number == duration:
                self._duration_nanos = min(_varint(buffer, begin)[0], _INT64_MAX)

    def _add_string(self, text: bytes) -> None:
        self._strings += text
        self._string_ends.append(len(self._strings))
        if len(self._strings) > self._limits.text_bytes:
            raise ProfileFormatError("too_large", f"over {self._limits.text_bytes} bytes of text")

    def _count_symbols(self, symbols: Sized) -> None:
        if len(symbols) > self._limits.symbols:
            raise ProfileFormatError("too_many_symbols", f"over {self._limits.symbols}")

    def _add_sample_type(self, message: Any) -> None:
        self._count_symbols(self._sample_types)
        self._sample_types.append((message.type, message.unit))

    def _add_sample(self, message: Any) -> None:
        self._sample_count += 1
        if self._sample_count > self._limits.samples:
            raise ProfileFormatError("too_many_samples", f"over {self._limits.samples}")
        self._count_frames(len(message.location_id))
        locations, values = array(_WORD, message.location_id).tobytes(), list(message.value)
        self._value_count += len(values)
        if self._value_count > _VALUES_OF_SAMPLE_AT_MOST * self._limits.samples:
            raise ProfileFormatError("too_large", "too many values")
        known = self._samples.setdefault(locations, values)
        if known is not values:
            if len(known) != len(values):
                raise ProfileFormatError("malformed", "samples differ in their number of values")
            known[:] = map(_bounded_sum, known, values)

    def _add_mapping(self, message: Any) -> None:
        self._mappings[message.id] = message.filename
        self._count_symbols(self._mappings)

    def _add_location(self, message: Any) -> None:
        self._count_frames(len(message.line))
        packed = array(_WORD, (message.mapping_id,))
        for line in message.line:
            packed.append(line.function_id)
            packed.append(max(0, line.line))
        self._locations[message.id] = packed.tobytes()
        self._count_symbols(self._locations)

    def _count_frames(self, count: int) -> None:
        self._frame_count += count
        if self._frame_count > self._limits.frames:
            raise ProfileFormatError("too_many_frames", f"over {self._limits.frames}")

    def _add_function(self, message: Any) -> None:
        self._functions[message.id] = (message.name, message.filename)
        self._count_symbols(self._functions)

    def _build_stacks(self) -> tuple[tuple[ParsedSample, ...], int]:
        """Expand locations to frames and merge what became equal (other addresses, same lines)."""
        frames: dict[tuple[int, int], Frame] = {}
        expanded = {
            number: self._expand(packed, frames) for number, packed in self._locations.items()
        }
        self._locations.clear()
        hashes = {number: hash(chain) for number, chain in expanded.items()}
        merged: dict[int, list[int]] = {}
        stacks: dict[int, Stack] = {}
        truncated = 0
        for packed, values in self._samples.items():
            locations = array(_WORD, packed)
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
        self, expanded: dict[int, tuple[Frame, ...]], locations: Iterable[int]
    ) -> tuple[Stack, bool]:
        """Chain the locations' frames up to the depth limit; tell whether some were left out."""
        stack: list[Frame] = []
        for number in locations:
            stack.extend(expanded[number])
            if len(stack) > self._limits.depth:
                return tuple(stack[: self._limits.depth]), True
        return tuple(stack), False

    def _expand(self, packed: bytes, frames: dict[tuple[int, int], Frame]) -> tuple[Frame, ...]:
        mapping, *lines = array(_WORD, packed)
        if not lines:
            return (self._unsymbolized(mapping),)
        chain = []
        for function, line in zip(lines[::2], lines[1::2], strict=True):
            frame = frames.get((function, line))
            if frame is None:
                name, file = self._functions[function]
                frame = Frame(self._text(name) or _UNKNOWN.function, self._text(file), line)
                frames[function, line] = frame
                self._count_symbols(frames)
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
            begin = self._string_ends[number - 1] if number else 0
            text = self._strings[begin : self._string_ends[number]].decode("utf-8", "replace")
            self._text_bytes += getsizeof(text)
            if self._text_bytes > _DECODED_AT_MOST * self._limits.text_bytes:
                raise ProfileFormatError("too_large", "too much text")
            known = self._decoded[number] = text
        return known


def _bounded_sum(left: int, right: int) -> int:
    total = left + right
    if not -_INT64_MAX <= total <= _INT64_MAX:
        raise ProfileFormatError("malformed", "the sum of the values is beyond 64 bits")
    return total


def _chunks(data: bytes, limit: int) -> Iterator[bytes]:
    """Give the plain bytes piece by piece: all of them are never in memory."""
    if not data.startswith(_GZIP_MAGIC):
        if len(data) > limit:
            raise ProfileFormatError("too_large", f"over {limit} bytes")
        for at in range(0, len(data), _CHUNK_BYTES):
            yield data[at : at + _CHUNK_BYTES]
        return
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    total = 0
    for at in range(0, len(data), _CHUNK_BYTES):
        rest = data[at : at + _CHUNK_BYTES]
        while rest and not stream.eof:
            try:
                plain = stream.decompress(rest, _CHUNK_BYTES)
            except zlib.error as error:
                raise ProfileFormatError("malformed", str(error)) from error
            total += len(plain)
            if total > limit:
                raise ProfileFormatError("too_large", f"over {limit} bytes decompressed")
            yield plain
            rest = stream.unconsumed_tail
    if not stream.eof:
        raise ProfileFormatError("malformed", "the compressed data is cut off")


def _walk(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes, int, int]]:
    """Give field number, and bytes, begin and end of the content of each top-level record."""
    buffer, position = b"", 0
    for chunk in chunks:
        buffer, position = buffer[position:] + chunk, 0
        while position < len(buffer):
            try:
                number, begin, end = _next_record(buffer, position)
            except IndexError:
                break  # the numbers before its content go on in the next chunk
            if number == 0 or end - begin > _INT64_MAX // 2:
                raise ProfileFormatError("malformed", "a record without a number or an end")
            if end > len(buffer):
                if end - begin > _STRING_BYTES:
                    raise ProfileFormatError("too_large", f"a record of {end - begin} bytes")
                break
            yield number, buffer, begin, end
            position = end
    if position < len(buffer):
        raise ProfileFormatError("malformed", "a record reaches beyond the end")


def _next_record(buffer: bytes, position: int) -> tuple[int, int, int]:
    """Give field number, begin and end of the record at a position.

    Raises:
        IndexError: The buffer ends before its content begins.
    """
    tag, begin = _varint(buffer, position)
    wire_type = tag & 7
    if wire_type == _BYTES:
        length, begin = _varint(buffer, begin)
        end = begin + length
    elif wire_type == _VARINT:
        end = _varint(buffer, begin)[1]
    elif wire_type in _FIXED_BYTES:
        end = begin + _FIXED_BYTES[wire_type]
    else:
        raise ProfileFormatError("malformed", f"wire type {wire_type}")
    return tag >> 3, begin, end


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
