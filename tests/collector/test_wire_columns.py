"""Columns of many messages: the same as protobuf's own parser gives."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.profiles.v1development import profiles_pb2

from flamewell_collector.wire_columns import Malformed, Records, chunks, spread

INT32 = st.one_of(st.integers(-5, 300), st.integers(-(2**31), 2**31 - 1))
INT64 = st.one_of(st.integers(-5, 300), st.integers(-(2**63), 2**63 - 1))
FIXED = st.integers(0, 2**64 - 1)
SAMPLE = st.builds(
    profiles_pb2.Sample,
    stack_index=INT32,
    values=st.lists(INT64, max_size=5),
    timestamps_unix_nano=st.lists(FIXED, max_size=3),
)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def unpacked(sample: Any) -> bytes:
    """Encode with one field a value, as writers of proto2 do."""
    parts = [b"\x08" + varint(sample.stack_index & (2**64 - 1))]
    parts += [b"\x20" + varint(value & (2**64 - 1)) for value in sample.values]
    parts += [b"\x29" + struct.pack("<Q", each) for each in sample.timestamps_unix_nano]
    return b"".join(parts)


def mixed(sample: Any) -> bytes:
    """Encode half of the values in one way, half in the other, with a field that nobody knows."""
    half = len(sample.values) // 2
    first = profiles_pb2.Sample(values=sample.values[:half])
    rest = profiles_pb2.Sample(
        stack_index=sample.stack_index,
        values=sample.values[half:],
        timestamps_unix_nano=sample.timestamps_unix_nano,
    )
    unknown = b"\xfa\x3e\x03abc" + b"\xfd\x3e1234" + b"\xf8\x3e\x07"
    return first.SerializeToString() + unknown + unpacked(rest)


@settings(max_examples=80, deadline=None)
@given(samples=st.lists(SAMPLE, max_size=12), encodings=st.lists(st.integers(0, 2), min_size=12))
def test_the_columns_are_what_the_parser_gives(samples: list[Any], encodings: list[int]) -> None:
    encode = (lambda each: each.SerializeToString(), unpacked, mixed)
    messages = [encode[which](each) for each, which in zip(samples, encodings, strict=False)]
    samples = [profiles_pb2.Sample.FromString(each) for each in messages]
    fields = Records.of(messages).fields()
    assert fields.scalar(1).tolist() == [each.stack_index for each in samples]
    values, counts = fields.integers(4)
    assert counts.tolist() == [len(each.values) for each in samples]
    assert values.tolist() == [value for each in samples for value in each.values]
    stamps, stamp_counts = fields.fixed64(5)
    assert stamp_counts.tolist() == [len(each.timestamps_unix_nano) for each in samples]
    assert stamps.tolist() == [at for each in samples for at in each.timestamps_unix_nano]


LOCATION = st.builds(
    profiles_pb2.Location,
    address=FIXED,
    lines=st.lists(
        st.builds(profiles_pb2.Line, function_index=INT32, line=INT64, column=INT64), max_size=4
    ),
)


@settings(max_examples=60, deadline=None)
@given(locations=st.lists(LOCATION, max_size=8))
def test_messages_inside_messages(locations: list[Any]) -> None:
    fields = Records.of([each.SerializeToString() for each in locations]).fields()
    assert fields.scalar(2).view(np.uint64).tolist() == [each.address for each in locations]
    lines, owner = fields.messages(3)
    wanted = [(at, line) for at, each in enumerate(locations) for line in each.lines]
    assert owner.tolist() == [at for at, _ in wanted]
    inner = lines.fields()
    assert inner.scalar(1).tolist() == [line.function_index for _, line in wanted]
    assert inner.scalar(2).tolist() == [line.line for _, line in wanted]


@settings(max_examples=200, deadline=None)
@given(messages=st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_what_the_parser_refuses_is_refused(messages: list[bytes]) -> None:
    try:
        fields = Records.of(messages).fields()
        for number in (2, 4):
            fields.integers(number)
        fields.fixed64(5)
    except Malformed:
        return
    for each in messages:
        try:
            profiles_pb2.Sample.FromString(each)
        except DecodeError as error:
            # Groups are nothing that is written any more, the only thing that is stricter here.
            pytest.fail(f"{each!r} was taken: {error}")


@pytest.mark.parametrize(
    "message",
    [
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\x80" * 10 + b"\x01",
        b"\x22\x05\x01",
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x29\x01\x02",
        b"\x2d\x01",
        b"\x0b\x0c",
        b"\x00\x01",
        b"\xed\x80\x80\x80\x10\x00\x00\x00\x00",
        b"\x88\x80\x80\x80\x80\x00\x01",
        b"\x08\x01" * 5_000,
    ],
)
def test_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        Records.of([b"\x08\x01", message, b"\x08\x01"]).fields()


@pytest.mark.parametrize("packed", [b"\x80", b"\x01\x80", b"\x80" * 10 + b"\x01"])
def test_malformed_lists(packed: bytes) -> None:
    message = b"\x22" + varint(len(packed)) + packed
    with pytest.raises(Malformed):
        Records.of([message]).fields().integers(4)


def test_nothing_at_all() -> None:
    fields = Records.of([]).fields()
    assert fields.scalar(1).tolist() == []
    assert [each.tolist() for each in fields.integers(1)] == [[], []]
    assert [each.tolist() for each in Records.of([b"", b""]).fields().integers(1)] == [[], [0, 0]]


def test_spread_and_chunks() -> None:
    starts, sizes = np.array([5, 20, 30]), np.array([2, 0, 3])
    assert spread(starts, sizes).tolist() == [5, 6, 30, 31, 32]
    assert list(chunks(np.array([3, 3, 9, 1, 1]), 6)) == [(0, 2), (2, 3), (3, 5)]
    assert list(chunks(np.zeros(0, dtype=np.int64))) == []
