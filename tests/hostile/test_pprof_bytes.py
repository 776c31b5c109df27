"""Bytes that claim to be a profile are read, or refused with a reason, within bounds."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from agent.pprof_bytes import Builder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Batch, Profile, Resource
from flamewell_agent.otlp import encode
from flamewell_agent.samplers.pprof_parse import Limits, ParsedProfile, parse
from flamewell_wire import pprof
from flamewell_wire.profile_types import CPU

MIB = 1 << 20
PEAK_BYTES = 64 * MIB
REASONS = {
    "malformed",
    "too_large",
    "too_many_records",
    "too_many_samples",
    "too_many_frames",
    "too_many_symbols",
}
SHOP = Resource.of({"service.name": "shop"})


def read(data: bytes) -> ParsedProfile | None:
    """Read a profile, and make of it what would be sent; None where it is refused."""
    try:
        found = parse(data)
    except ProfileFormatError as error:
        return refused(error)
    samples = tuple(
        (each.stack, each.values[0]) for each in found.samples if each.values and each.values[0] > 0
    )
    encode(Batch(1, (Profile(SHOP, CPU.id, 1, 1, 1, samples),)), agent_id="a")
    return found


def refused(error: ProfileFormatError) -> None:
    assert error.reason in REASONS


def bounded(data: bytes, *, peak_bytes: int = PEAK_BYTES) -> ParsedProfile | None:
    """Read a profile without taking much more memory than its own bytes, or for ever."""
    began = time.process_time()
    tracemalloc.start()
    found = None
    try:
        found = parse(data)
    except ProfileFormatError as error:
        refused(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak - len(data) < peak_bytes
    assert time.process_time() - began < 60  # no measurement
    return found


def as_go_writes_it() -> bytes:
    """Make a profile with all that Go puts there: mappings, labels, comments, inlining."""
    build = Builder(("samples", "count"), ("cpu", "nanoseconds"))
    build.message.mapping.add(
        id=1,
        memory_start=4096,
        memory_limit=1 << 20,
        filename=build.text("/app/orders"),
        has_functions=True,
    )
    functions = [build.function(f"main.f{n}", f"/src/{n}.go") for n in range(12)]
    inlined = build.location((functions[0], 3), (functions[1], 4), mapping=1)
    locations = [build.location((each, 7), mapping=1) for each in functions]
    for depth in range(1, 12):
        build.sample([inlined, *locations[:depth]], depth, depth * 10_000_000, label="request")
    build.message.comment.append(build.text("a comment"))
    build.message.period = 10_000_000
    build.message.duration_nanos = 10**10
    build.message.time_nanos = 1_700_000_000 * 10**9
    return build.encode()


GOOD = as_go_writes_it()
INT64 = st.one_of(
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**31, 2**32, 10**6]),
    st.integers(-(2**63), 2**63 - 1),
)
UINT64 = st.one_of(st.sampled_from([0, 1, 2, 3, 2**64 - 1, 2**63]), st.integers(0, 20))


def test_the_good_one_is_good():
    found = read(gzip.compress(GOOD))
    assert found is not None
    assert len(found.samples) == 11


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_pieces_cut_out_doubled_and_changed(data):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 5))):
        begin = data.draw(st.integers(0, len(damaged)))
        end = min(len(damaged), begin + data.draw(st.integers(0, 40)))
        piece = data.draw(
            st.one_of(st.just(b""), st.just(bytes(damaged[begin:end]) * 2), st.binary(max_size=12))
        )
        damaged[begin:end] = piece
    for form in (bytes(damaged), gzip.compress(bytes(damaged), 1)):
        read(form)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 600), st.integers(0, 255), st.integers(0, 600))
def test_a_damaged_gzip_stream(at, byte, cut):
    packed = bytearray(gzip.compress(GOOD))
    packed[at % len(packed)] = byte
    read(bytes(packed))
    read(bytes(packed[: cut % len(packed)]))
    read(bytes(packed) + bytes(packed))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_messages_that_are_well_formed_and_wrong(data):
    """What protobuf accepts: numbers of things that are not there, or of each other."""
    message = pprof.Profile.FromString(GOOD)
    for sample in message.sample:
        if data.draw(st.booleans()):
            sample.location_id[:] = data.draw(st.lists(UINT64, max_size=8))
            sample.value[:] = data.draw(st.lists(INT64, max_size=4))
    for location in message.location:
        if data.draw(st.booleans()):
            location.id, location.mapping_id = data.draw(UINT64), data.draw(UINT64)
            for line in location.line:
                line.function_id, line.line = data.draw(UINT64), data.draw(INT64)
    for function in message.function:
        if data.draw(st.booleans()):
            function.id, function.name = data.draw(UINT64), data.draw(INT64)
            function.filename = data.draw(INT64)
    message.period, message.duration_nanos = data.draw(INT64), data.draw(INT64)
    read(message.SerializeToString())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12))
@example([b"\xff" * 40, b"\xed\xa0\x80", b"\0", b"a;b\n (c)", b"\xf4\x90\x80\x80"])
def test_names_of_any_bytes(names):
    text = b"".join(b"\x32" + bytes([len(each)]) + each for each in names)
    read(GOOD + text)
    marked = GOOD.replace(b"main.f3", names[0][:7].ljust(7, b"\xff"))
    read(marked)


def deep_recursion() -> bytes:
    build = Builder(("samples", "count"))
    location = build.location((build.function("f"), 1))
    build.sample([location] * 60_000, 1)
    return build.encode()


def endless_labels() -> bytes:
    build = Builder(("samples", "count"))
    location = build.location((build.function("f"), 1))
    build.sample([location], 1)
    sample = build.message.sample[0]
    for number in range(20_000):
        sample.label.add(key=1, num=number)
    return build.encode()


def endless_label_text() -> bytes:
    """Each sample with a label text of its own, as request ids would be."""
    message = pprof.Profile.FromString(GOOD)
    for number in range(10_000):
        message.string_table.append(f"request-{number:0200d}")
        sample = message.sample.add(location_id=[1, 2], value=[1, 1])
        sample.label.add(key=1, str=len(message.string_table) - 1)
    return message.SerializeToString()


def endless_name() -> bytes:
    return Builder(("samples", "count")).simple({("n" * (24 * MIB),): (1,)}).encode()


def one_location_of_many_lines() -> bytes:
    build = Builder(("samples", "count"))
    function = build.function("f")
    wide = build.location(*[(function, line) for line in range(5_000)])
    for _ in range(300):
        build.sample([wide] * 300, 1)
    return build.encode()


def unknown_fields() -> bytes:
    return GOOD + b"\xfa\x01\x7f" + b"x" * 127 + b"\xa0\x7f\x01" * 40_000


def nested() -> bytes:
    """A record in a record in a record: nothing that a profile has, deep enough for a stack."""
    inner = b""
    for _ in range(5_000):
        size = len(inner)
        head = b""
        while size > 127:
            head += bytes([size & 127 | 128])
            size >>= 7
        inner = b"\x12" + head + bytes([size]) + inner
    return inner


@pytest.mark.parametrize(
    "make",
    [
        deep_recursion,
        endless_labels,
        endless_label_text,
        endless_name,
        one_location_of_many_lines,
        unknown_fields,
        nested,
    ],
)
def test_what_has_no_end_takes_little(make: Callable[[], bytes]):
    plain = make()
    for form in (plain, gzip.compress(plain, 1)):
        found = bounded(form)
        if found is not None:
            assert all(len(each.stack) <= Limits().depth for each in found.samples)


def zipped_twice() -> bytes:
    return gzip.compress(gzip.compress(b"\x32\x00" * (20 * MIB)))


def bomb_of_one_name() -> bytes:
    size = 2 << 30
    packer = zlib.compressobj(1, wbits=31)
    head = b"\x32" + bytes(
        [
            size & 127 | 128,
            size >> 7 & 127 | 128,
            size >> 14 & 127 | 128,
            size >> 21 & 127 | 128,
            size >> 28,
        ]
    )
    return (
        packer.compress(head)
        + b"".join(packer.compress(bytes(MIB)) for _ in range(200))
        + packer.flush()
    )


def bomb_of_zeros() -> bytes:
    return gzip.compress(bytes(100 * MIB))


def many_streams() -> bytes:
    """A gzip file may have many members: each is nothing, all together without an end."""
    return gzip.compress(b"") * 200_000


@pytest.mark.parametrize("make", [zipped_twice, bomb_of_one_name, many_streams, bomb_of_zeros])
def test_bombs_are_stopped(make: Callable[[], bytes]):
    bounded(make())


def test_every_byte_wrong_once():
    data = GOOD
    for at in range(0, len(data), 2):
        for value in (0, 0x7F, 0x80, 0xFF):
            read(data[:at] + bytes([value]) + data[at + 1 :])
