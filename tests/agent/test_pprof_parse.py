"""pprof bytes → samples: right on good ones, a reason on any other."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from agent.pprof_bytes import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.samplers.pprof_parse import Limits, parse

DEFAULT = Limits()
CPU = (("samples", "count"), ("cpu", "nanoseconds"))


def stacks(profile) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {
        tuple(f"{each.function}:{each.line}" for each in sample.stack): sample.values
        for sample in profile.samples
    }


def refused(data: bytes, limits: Limits = DEFAULT) -> str:
    with pytest.raises(ProfileFormatError) as caught:
        parse(data, limits)
    return caught.value.reason


def inlined() -> Builder:
    """main calls outer, into which inner was inlined."""
    build = Builder(*CPU)
    inner, outer, main = (build.function(name, "main.go") for name in ("inner", "outer", "main"))
    leaf = build.location((inner, 3), (outer, 7))
    root = build.location((main, 20))
    build.sample([leaf, root], 2, 20)
    build.message.duration_nanos = 5_000_000_000
    return build


def test_inlined_calls_are_expanded_leaf_first():
    profile = parse(inlined().encode())
    assert stacks(profile) == {("inner:3", "outer:7", "main:20"): (2, 20)}
    assert profile.sample_types == CPU
    assert profile.duration_nanos == 5_000_000_000
    assert profile.samples[0].stack[0].file == "main.go"


def test_gzip_and_plain_are_the_same():
    data = inlined().encode()
    assert parse(gzip.compress(data)) == parse(data)


def test_labels_and_addresses_do_not_tell_stacks_apart():
    build = inlined()
    again = build.location((1, 3), (2, 7))  # the same lines at another address
    build.sample([1, 2], 1, 10, label="tenant")
    build.sample([again, 2], 4, 40)
    assert stacks(parse(build.encode())) == {("inner:3", "outer:7", "main:20"): (7, 70)}


def test_keys_are_equal_for_equal_stacks_of_two_profiles():
    first, second = Builder(*CPU), Builder(*CPU)
    first.simple({("a", "b"): (1, 1), ("c",): (2, 2)})
    second.simple({("x",): (9, 9), ("c",): (2, 2), ("a", "b"): (1, 1)})
    one = {each.stack: each.key for each in parse(first.encode()).samples}
    two = {each.stack: each.key for each in parse(second.encode()).samples}
    assert one.items() <= two.items()
    assert len(set(two.values())) == 3


def test_native_code_without_symbols_is_named_by_its_file():
    build = Builder(*CPU)
    build.message.mapping.add(id=1, filename=build.text("/usr/lib/libc.so.6"))
    build.sample([build.location(mapping=1), build.location()], 1, 1)
    assert stacks(parse(build.encode())) == {("[libc.so.6]:0", "<unknown>:0"): (1, 1)}


def test_a_sample_without_a_stack_is_kept():
    build = Builder(*CPU)
    build.sample([], 1, 5)
    assert stacks(parse(build.encode())) == {(): (1, 5)}


def test_an_empty_profile_has_no_samples():
    assert parse(b"").samples == ()


def test_deep_stacks_are_cut_at_the_root_end_and_counted():
    build = Builder(*CPU)
    recursive = build.location((build.function("f"), 1))
    leaf = build.location((build.function("leaf"), 1))
    build.sample([leaf] + [recursive] * 5_000, 1, 1)
    profile = parse(build.encode())
    (sample,) = profile.samples
    assert (len(sample.stack), sample.stack[0].function) == (1_000, "leaf")
    assert profile.truncated_stacks == 1


def test_long_symbols_are_cut():
    build = Builder(*CPU)
    build.sample([build.location((build.function("n" * 100_000), 1))], 1, 1)
    (sample,) = parse(build.encode()).samples
    assert len(sample.stack[0].function) == DEFAULT.symbol_bytes


def test_symbols_that_are_not_unicode_are_shown_with_replacements():
    data = Builder(*CPU).simple({("name",): (1, 1)}).encode().replace(b"name", b"na\xffe")
    assert stacks(parse(data)) == {("na\ufffde:1",): (1, 1)}


def broken_builders() -> dict[str, Builder]:
    missing_location, missing_function, missing_string = Builder(*CPU), Builder(*CPU), Builder(*CPU)
    missing_location.sample([99], 1, 1)
    missing_function.sample([missing_function.location((77, 1))], 1, 1)
    missing_string.message.function.add(id=1, name=1_000)
    missing_string.sample([missing_string.location((1, 1))], 1, 1)
    negative_string = Builder(*CPU)
    negative_string.message.function.add(id=1, name=-1)
    negative_string.sample([negative_string.location((1, 1))], 1, 1)
    few_values, overflow = Builder(*CPU), Builder(*CPU)
    few_values.sample([], 1)
    overflow.sample([], 2**62, 1)
    overflow.sample([], 2**62, 1)
    uneven = Builder(*CPU)
    uneven.sample([], 1, 1)
    uneven.sample([], 1)
    bad_type = Builder()
    bad_type.message.sample_type.add(type=44)
    return {
        "location": missing_location,
        "function": missing_function,
        "string": missing_string,
        "negative string": negative_string,
        "values": few_values,
        "uneven values": uneven,
        "overflow": overflow,
        "type": bad_type,
    }


@pytest.mark.parametrize("name", broken_builders())
def test_what_points_nowhere_is_malformed(name):
    assert refused(broken_builders()[name].encode()) == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>",
        b"\xff" * 20,  # an endless number
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a record of 2^62 bytes
        b"\x12\x05ab",  # shorter than it says
        b"\x13",  # a group
        b"\x00\x00",  # field number 0
        b"\x09\x01",  # half a fixed64
        b"\x12\x02\x0a\xff",  # a sample that is no sample
        gzip.compress(b"\x12\x05ab"),
        gzip.compress(b"")[:-4],
        b"\x1f\x8b\x08 not gzip",
    ],
)
def test_other_bytes_are_malformed(data):
    assert refused(data) == "malformed"


def test_a_decompression_bomb_is_stopped():
    bomb = gzip.compress((b"\x32\x7e" + b"a" * 126) * 500_000)
    tracemalloc.start()
    try:
        assert refused(bomb) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 80 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_plain_bytes_have_the_same_limit():
    assert refused(b"\x32\x01a" * 100, Limits(decompressed_bytes=100)) == "too_large"


def test_a_million_strings_are_stopped():
    assert refused(b"\x32\x00" * 1_000_001) == "too_many_records"


def test_a_million_empty_samples_are_stopped():
    assert refused(b"\x12\x00" * 300_000) == "too_many_samples"


def test_one_huge_record_is_stopped():
    assert refused(b"\x22\x80\x80\x08" + b"\x22\x00" * 65_536) == "too_large"


def test_many_inlined_lines_are_stopped():
    location = b"\x08\x01" + b"\x22\x00" * 30_000
    record = b"\x22" + bytes([0xE2, 0xD4, 0x03]) + location
    assert refused(record * 200) == "too_many_frames"


def test_many_deep_stacks_are_stopped():
    build = Builder(*CPU)
    function = build.function("f")
    wide = build.location(*[(function, line) for line in range(900)])
    tags = [build.location((function, 10_000 + index)) for index in range(300)]
    for tag in tags:
        build.sample([tag, wide], 1, 1)
    assert refused(build.encode(), Limits(frames=100_000)) == "too_many_frames"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_it(data):
    for form in (data, gzip.compress(data, 1), b"\x1f\x8b" + data):
        try:
            parse(form)
        except ProfileFormatError:
            continue


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_good_profile_crashes_it(data):
    good = bytearray(inlined().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for form in (bytes(good), bytes(good[:cut])):
        try:
            profile = parse(form)
        except ProfileFormatError:
            continue
        for sample in profile.samples:
            assert len(sample.values) == len(profile.sample_types)


names = st.sampled_from(["a", "b", "c", "d", "é"])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(names, max_size=6).map(tuple), st.integers(0, 10**9)), max_size=20)
)
def test_totals_are_kept_whatever_is_merged(rows):
    build = Builder(("cpu", "nanoseconds"))
    expected: dict[tuple[str, ...], int] = {}
    numbers = {name: build.location((build.function(name), 1)) for name in "abcdé"}
    for stack, value in rows:
        build.sample([numbers[name] for name in stack], value)
        key = tuple(f"{name}:1" for name in stack)
        expected[key] = expected.get(key, 0) + value
    assert stacks(parse(build.encode())) == {key: (value,) for key, value in expected.items()}


def encoded(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def many_frames(count: int) -> bytes:
    """Each location its own function, name and stack; a value of nine bytes a sample."""
    records = [encoded(1, b"\x08\x01\x10\x02"), b"\x32\x00", encoded(6, b"cpu"), encoded(6, b"ns")]
    for number in range(1, count + 1):
        own = varint(number)
        name = varint(2 + number)
        records.append(encoded(6, b"package/%080d.f" % number))
        records.append(encoded(5, b"\x08" + own + b"\x10" + name + b"\x20" + name))
        line = encoded(4, b"\x08" + own + b"\x10\x80\x80\x01")
        records.append(encoded(4, b"\x08" + own + line))
        records.append(encoded(2, b"\x08" + own + b"\x10" + b"\xff" * 8 + b"\x0f"))
    return b"".join(records)


def deep_stacks(samples: int, depth: int) -> bytes:
    """Distinct stacks of one function's many lines."""
    records = [encoded(1, b"\x08\x01\x10\x02"), b"\x32\x00", encoded(6, b"cpu"), encoded(6, b"f")]
    records.append(encoded(5, b"\x08\x01\x10\x02"))
    for number in range(1, 2_001):
        line = encoded(4, b"\x08\x01\x10" + varint(number))
        records.append(encoded(4, b"\x08" + varint(number) + line))
    for number in range(samples):
        stack = [1 + number % 2000, 1 + number // 2000, *range(1, depth - 1)]
        records.append(encoded(2, encoded(1, b"".join(map(varint, stack))) + b"\x10\x01"))
    return b"".join(records)


def wide_text() -> bytes:
    """Text of four bytes a character in memory."""
    records = [encoded(1, b"\x08\x01\x10\x02"), b"\x32\x00"]
    records += [encoded(6, b"a" * 4_000 + "\U0001f525".encode()) for _ in range(2_000)]
    for number in range(1, 2_000):
        records.append(encoded(5, b"\x08" + varint(number) + b"\x10" + varint(number)))
        records.append(encoded(4, b"\x08" + varint(number) + encoded(4, b"\x08" + varint(number))))
    return b"".join(records)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (many_frames(39_900), ""),
        (many_frames(60_000), "too_many_symbols|too_many_samples"),
        (deep_stacks(9_900, 100), ""),
        (deep_stacks(40_000, 100), "too_many_frames"),
        (wide_text(), "too_large"),
        (encoded(6, b"x" * 4096) * 3_000, "too_large"),
        (encoded(6, b"") * 399_999, ""),
    ],
)
def test_the_worst_that_may_come_takes_little_memory(data, reason):
    packed = gzip.compress(data, 1)
    tracemalloc.start()
    try:
        seen = ""
        try:
            parse(packed)
        except ProfileFormatError as error:
            seen = error.reason
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen in reason.split("|")
    assert peak < 64 * 1024 * 1024
    print(f"peak {peak / 2**20:.1f} MiB")


def test_a_string_beyond_the_chunks_is_cut_and_the_profile_kept():
    data = Builder(*CPU).simple({("n" * 300_000,): (1, 1)}).encode()
    assert parse(gzip.compress(data)) == parse(data)
    assert refused(encoded(6, b"n" * 2_000_000)) == "too_large"
