from __future__ import annotations

import gzip
import random
from typing import Any

import pyarrow as pa
import pytest
from collector.batches import as_stacks, trees_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.errors import CollectorError, InvalidRequest, ProfileRejected, TooLarge
from flamewell_collector.limits import Limits
from flamewell_collector.pprof import DecodedPprof, PprofDecoder, Upload
from flamewell_collector.store import schema
from flamewell_wire import pprof

NOW_MS = 1_800_000_000_000
CPU_ID = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
COUNT_ID = "process_cpu:samples:count:cpu:nanoseconds"
PAYMENTS = Upload({"service_name": "payments"})


class Made:
    """A profile that grows with what is added."""

    def __init__(self, *types: tuple[str, str], period: tuple[str, str] = ("", "")) -> None:
        self.message = pprof.Profile()
        self.message.string_table.append("")
        self.message.time_nanos = NOW_MS * 1_000_000
        self.message.duration_nanos = 10 * 10**9
        for kind, unit in types or (("cpu", "nanoseconds"),):
            self.message.sample_type.add(type=self.string(kind), unit=self.string(unit))
        kind, unit = period if period != ("", "") else ("cpu", "nanoseconds")
        self.message.period_type.type = self.string(kind)
        self.message.period_type.unit = self.string(unit)

    def string(self, text: str) -> int:
        table = self.message.string_table
        if text not in table:
            table.append(text)
        return list(table).index(text)

    def location(self, *functions: str) -> int:
        """Add a location of inlined functions, innermost first."""
        message = self.message
        location = message.location.add(id=len(message.location) + 1)
        for name in functions:
            function = message.function.add(id=len(message.function) + 1)
            function.name, function.filename = self.string(name), self.string(f"{name}.go")
            location.line.add(function_id=function.id, line=7)
        return int(location.id)

    def sample(self, stack: str, *values: int, **labels: str) -> Any:
        """Add a sample; the stack leaf first."""
        sample = self.message.sample.add(value=values)
        sample.location_id.extend(self.location(each) for each in stack.split())
        for key, text in labels.items():
            sample.label.add(key=self.string(key), str=self.string(text))
        return sample

    @property
    def body(self) -> bytes:
        return gzip.compress(self.message.SerializeToString())


def decoded(
    made: Made | bytes,
    upload: Upload = PAYMENTS,
    *,
    limits: Limits | None = None,
    room: bool = True,
) -> DecodedPprof:
    decoder = PprofDecoder(limits or Limits(), room_for_series=lambda _tenant, _series: room)
    found = decoder.decode(made.body if isinstance(made, Made) else made, upload, "t", NOW_MS)
    for name, wanted in schema.BATCH_TABLES.items():
        assert getattr(found.batch, name).schema.equals(wanted)
    return found


def by_series(found: DecodedPprof) -> dict[tuple[str, str], dict[str, int]]:
    """(type, labels without service) → stack → value."""
    table = trees_of(found.batch.stacks, found.batch.frames)
    labels = {
        each["series_id"]: " ".join(f"{k}={v}" for k, v in each["labels"] if k != "service_name")
        for each in found.batch.series.to_pylist()
    }
    answer: dict[tuple[str, str], dict[str, int]] = {}
    for row in found.batch.profiles.to_pylist():
        answer[row["profile_type"], labels[row["series_id"]]] = {}
    samples = found.batch.samples
    for (kind, name), stacks in answer.items():
        mine = [
            at
            for at, row in enumerate(samples.to_pylist())
            if (row["profile_type"], labels[row["series_id"]]) == (kind, name)
        ]
        part = samples.take(pa.array(mine, pa.int64()))
        stacks.update(as_stacks(table.tree(part["stack_id"].to_numpy(), part["value"].to_numpy())))
    return answer


def test_every_sample_type_is_a_profile() -> None:
    made = Made(("samples", "count"), ("cpu", "nanoseconds"))
    made.sample("f main", 3, 30)
    made.sample("main", 1, 10)
    made.sample("f main", 2, 20)
    found = decoded(made)
    assert by_series(found) == {
        (COUNT_ID, ""): {"main f": 5, "main": 1},
        (CPU_ID, ""): {"main f": 50, "main": 10},
    }
    rows = found.batch.profiles.to_pylist()
    assert [(each["total"], each["time"], each["duration_ms"]) for each in rows] == [
        (6, NOW_MS, 10_000),
        (60, NOW_MS, 10_000),
    ]
    assert found.batch.samples.num_rows == 4, "equal stacks are one row"
    assert decoded(made.message.SerializeToString()).batch.samples.equals(found.batch.samples)


def test_heap_types_and_a_stated_group() -> None:
    heap = Made(("alloc_space", "bytes"), ("inuse_space", "bytes"), period=("space", "bytes"))
    heap.sample("f", 7, 0)
    assert by_series(decoded(heap)) == {
        ("memory:alloc_space:bytes:space:bytes", ""): {"f": 7},
        ("memory:inuse_space:bytes:space:bytes", ""): {},
    }
    locks = Made(
        ("contentions", "count"), ("delay", "nanoseconds"), period=("contentions", "count")
    )
    locks.sample("f", 1, 5)
    kinds = {kind for kind, _ in by_series(decoded(locks))}
    assert kinds == {
        "mutex:contentions:count:contentions:count",
        "mutex:delay:nanoseconds:contentions:count",
    }
    stated = Upload({"service_name": "s", "__name__": "block"})
    found = decoded(locks, stated)
    assert {kind.split(":")[0] for kind, _ in by_series(found)} == {"block"}
    assert found.batch.series.to_pylist()[0]["labels"] == [("service_name", "s")]
    own = Made(("a:b", "events"), period=("", ""))
    own.sample("f", 1)
    assert {kind for kind, _ in by_series(decoded(own))} == {"other:a_b:events:cpu:nanoseconds"}


def test_labels_of_samples_are_series_but_ids_of_requests() -> None:
    made = Made()
    made.sample("f", 1, tenant="a", span_id="1")
    made.sample("f", 2, tenant="b", trace_id="2")
    made.sample("f", 4, profile_id="3", tenant="a")
    made.sample("g", 8)
    made.sample("g", 16, **{"my-label": "x", "tenant": "a"})
    sample = made.sample("h", 32)
    sample.label.add(key=made.string("bytes"), num=4096)
    assert by_series(decoded(made)) == {
        (CPU_ID, "tenant=a"): {"f": 5},
        (CPU_ID, "tenant=b"): {"f": 2},
        (CPU_ID, "my_label=x tenant=a"): {"g": 16},
        (CPU_ID, ""): {"g": 8, "h": 32},
    }


def test_what_the_sender_says_wins_over_labels_of_samples() -> None:
    made = Made()
    made.sample("f", 1, service_name="mallory", pod="p")
    assert by_series(decoded(made)) == {(CPU_ID, "pod=p"): {"f": 1}}
    assert decoded(made).batch.samples["service_name"].to_pylist() == ["payments"]


def test_inlining_missing_symbols_and_ids_in_any_order() -> None:
    made = Made()
    message = made.message
    message.mapping.add(
        id=9, memory_start=0x400000, memory_limit=0x500000, filename=made.string("/bin/app")
    )
    message.mapping.add(
        id=4,
        memory_start=0x7F0000000000,
        memory_limit=0x7F0000100000,
        file_offset=0x1000,
        filename=made.string("/lib/libc.so.6"),
    )
    inlined = made.location("inner", "outer")
    message.location[-1].id = 70
    message.location.add(id=50, mapping_id=9, address=0x401234)
    message.location.add(id=60, mapping_id=4, address=0x7F0000000ABC)
    message.location.add(id=5)
    message.location.add(id=6, address=0x12)
    del inlined
    message.sample.add(location_id=[70], value=[1])
    message.sample.add(location_id=[50, 70], value=[2])
    message.sample.add(location_id=[60, 50], value=[4])
    message.sample.add(location_id=[5], value=[8])
    message.sample.add(location_id=[6], value=[16])
    message.sample.add(value=[32])
    assert by_series(decoded(made)) == {
        (CPU_ID, ""): {
            "outer inner": 1,
            "outer inner app+0x401234": 2,
            "app+0x401234 libc.so.6+0x1abc": 4,
            "[unknown]": 8,
            "0x12": 16,
            "": 32,
        }
    }


def test_time_is_the_profile_s_the_sender_s_or_now() -> None:
    made = Made()
    made.sample("f", 1)
    made.message.time_nanos = 0
    assert decoded(made).batch.profiles["time"].to_pylist() == [NOW_MS]
    upload = Upload({}, time_ms=NOW_MS - 5_000)
    assert decoded(made, upload).batch.profiles["time"].to_pylist() == [NOW_MS - 5_000]
    assert decoded(made, upload).batch.profiles["service_name"].to_pylist() == ["unknown_service"]


def refused(made: Made | bytes, **options: Any) -> str:
    with pytest.raises(ProfileRejected) as caught:
        decoded(made, **options)
    return caught.value.reason


def test_what_is_rejected_whole() -> None:
    def one(change: Any = None) -> Made:
        made = Made()
        made.sample("f main", 1)
        if change is not None:
            change(made.message)
        return made

    def change(field: str, value: Any) -> Any:
        return lambda message: setattr(message, field, value)

    late, early = (NOW_MS - 3_600_001) * 1_000_000, (NOW_MS + 600_001) * 1_000_000
    assert refused(one(change("time_nanos", late))) == "too_old"
    assert refused(one(change("time_nanos", early))) == "too_new"
    assert refused(one(), limits=Limits(profile_bytes=20)) == "profile_too_large"
    assert refused(one(lambda m: m.sample.add(value=[-1]))) == "negative_value"
    assert refused(one(lambda m: m.sample.add(value=[2**63 - 1]))) == "value_out_of_range"
    assert refused(one(lambda m: m.sample.add(value=[1], location_id=[99]))) == "bad_index"
    assert refused(one(lambda m: m.sample.add(value=[1], location_id=[0]))) == "bad_index"
    assert refused(one(lambda m: m.sample[0].label.add(key=99, str=1))) == "bad_index"
    assert refused(one(lambda m: setattr(m.function[0], "name", -3))) == "bad_index"
    assert refused(one(lambda m: setattr(m.location[0].line[0], "function_id", 9))) == "bad_index"
    assert refused(one(lambda m: setattr(m.sample_type[0], "type", 77))) == "bad_index"
    many = one(lambda m: m.sample.extend([m.sample[0]] * 16_000))
    assert refused(many) == "too_many_samples"
    twice = Made(("cpu", "nanoseconds"), ("cpu", "nanoseconds"))
    twice.sample("f", 1, 1)
    assert refused(twice) == "bad_profile_type"


def test_what_is_rejected_by_label_set() -> None:
    made = Made()
    made.sample("f", 1, pod="x" * 3_000)
    made.sample("g", 2)
    found = decoded(made)
    assert by_series(found) == {(CPU_ID, ""): {"g": 2}}
    assert found.rejected == {"label_value_too_long": 1}
    assert found.rejected_samples == {"label_value_too_long": 1}
    assert found.message.startswith("label_value_too_long: ")
    full = decoded(made, room=False)
    assert full.batch.profiles.num_rows == 0
    assert full.rejected == {"label_value_too_long": 1, "series_limit": 1}


def test_cuts_are_counted() -> None:
    made = Made()
    made.sample("a b c d e", 1)
    made.sample("ü" * 10, 2)
    found = decoded(made, limits=Limits(stack_depth=3, symbol_bytes=7))
    assert by_series(found)[CPU_ID, ""] == {"e d c": 1, "ü" * 3: 2}
    assert (found.truncated_stacks, found.truncated_symbols) == (1, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x1f\x8b",
        b"not a profile",
        gzip.compress(b""),
        gzip.compress(b"\xff\xff"),
        b"\x0a\x00" + b"\x12\x02\x08",
    ],
)
def test_bodies_that_are_none(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decoded(body)


def test_a_bomb_is_stopped() -> None:
    with pytest.raises(TooLarge):
        decoded(gzip.compress(bytes(3 << 20)), limits=Limits(body_bytes=1 << 20))


FRAMES = st.sampled_from("abcdefgh")
STACKS = st.lists(FRAMES, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(
        st.tuples(
            STACKS, st.integers(0, 10**12), st.integers(0, 9), st.sampled_from(["", "x", "y"])
        ),
        max_size=25,
    )
)
def test_any_profile_adds_up(samples: list[tuple[list[str], int, int, str]]) -> None:
    made = Made(("cpu", "nanoseconds"), ("samples", "count"))
    wanted: dict[tuple[str, str], dict[str, int]] = {}
    for stack, nanos, count, label in samples:
        made.sample(" ".join(stack), nanos, count, **({"l": label} if label else {}))
        for kind, value in ((CPU_ID, nanos), (COUNT_ID, count)):
            stacks = wanted.setdefault((kind, f"l={label}" if label else ""), {})
            name = " ".join(reversed(stack))
            stacks[name] = stacks.get(name, 0) + value
    found = {k: v for k, v in by_series(decoded(made)).items() if k in wanted or v}
    assert found == {k: {n: v for n, v in each.items() if v} for k, each in wanted.items()}


def test_damaged_profiles_never_raise_anything_else() -> None:
    made = Made(("samples", "count"), ("cpu", "nanoseconds"))
    for at in range(12):
        made.sample(f"f{at} g{at % 3} main", at, at * 10, pod=f"p{at % 2}")
    whole = made.message.SerializeToString()
    chance = random.Random(5)
    taken = 0
    for _ in range(1_500):
        body = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(body))
            how = chance.randrange(3)
            if how == 0:
                body[at] = chance.randrange(256)
            elif how == 1:
                del body[at : at + chance.randrange(1, 9)]
            else:
                body[at:at] = chance.randbytes(chance.randrange(1, 9))
        try:
            found = decoded(bytes(body))
        except CollectorError:
            continue
        taken += 1
        totals = sum(found.batch.profiles["total"].to_pylist())
        assert totals == sum(found.batch.samples["value"].to_pylist())
    assert taken > 5
