from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from collector.batches import as_stacks, trees_of
from collector.otlp_requests import CPU_ID, NOW_MS, Request
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_agent import otlp as agent_otlp
from flamewell_agent.model import Batch, Frame, Profile, Resource
from flamewell_collector.errors import InvalidRequest
from flamewell_collector.limits import Limits
from flamewell_collector.otlp import Decoded, Decoder
from flamewell_collector.otlp_wire import parse_request
from flamewell_collector.store import schema
from flamewell_wire.profile_types import ALL


def decoded(
    request: Request | Any,
    *,
    limits: Limits | None = None,
    seen: Callable[[str, str], bool] = lambda _tenant, _id: False,
    room: Callable[[str, int], bool] = lambda _tenant, _series: True,
) -> Decoded:
    message = (
        parse_request(request.encoded(), as_json=False) if isinstance(request, Request) else request
    )
    decoder = Decoder(limits or Limits(), seen=seen, room_for_series=room)
    found = decoder.decode(message, "tenant", NOW_MS)
    if found.batch is not None:
        for name, wanted in schema.BATCH_TABLES.items():
            assert getattr(found.batch, name).schema.equals(wanted)
    return found


def stacks_of(found: Decoded) -> dict[str, int]:
    assert found.batch is not None
    table = trees_of(found.batch.stacks, found.batch.frames)
    return as_stacks(
        table.tree(
            found.batch.samples.column("stack_id").to_numpy(),
            found.batch.samples.column("value").to_numpy(),
        )
    )


def labels_of(found: Decoded) -> list[dict[str, str]]:
    assert found.batch is not None
    return [dict(each) for each in found.batch.series.column("labels").to_pylist()]


def rows(found: Decoded) -> list[dict[str, Any]]:
    assert found.batch is not None
    return found.batch.profiles.to_pylist()


def test_counts_with_a_period_become_amounts() -> None:
    request = Request()
    resource = request.resource(service__name="payments")
    stack = request.stack("f", "main")
    resource.profile(
        [(stack, 3), (request.stack("main"), 1), (stack, 2)],
        sample_type=("samples", "count"),
        period=10_000_000,
    )
    found = decoded(request)
    assert stacks_of(found) == {"main f": 50_000_000, "main": 10_000_000}
    (row,) = rows(found)
    assert row["profile_type"] == CPU_ID
    assert (row["total"], row["sample_count"], row["duration_ms"]) == (60_000_000, 6, 15_000)
    assert row["time"] == NOW_MS
    assert found.batch is not None
    assert found.batch.samples.num_rows == 2, "equal stacks are one row"


FRAME = st.builds(
    Frame,
    st.text("abcé\n;[]<", min_size=1, max_size=5),
    st.sampled_from(["", "a.py", "/srv/ü.py"]),
    st.integers(0, 3),
)
STACK = st.lists(FRAME, max_size=6).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.tuples(STACK, st.integers(0, 10**9)), max_size=20),
    profile_type=st.sampled_from(ALL),
    period=st.sampled_from([1, 20_408_163]),
)
def test_what_the_agent_encodes_comes_back(
    samples: list[tuple[tuple[Frame, ...], int]], profile_type: Any, period: int
) -> None:
    if profile_type.sample_unit != "nanoseconds":
        period = 1
    resource = Resource.of({"service.name": "payments", "label.team": "money"})
    profile = Profile(resource, profile_type.id, NOW_MS * 1_000_000, 10**9, period, tuple(samples))
    body = agent_otlp.encode(Batch(3, (profile,)), agent_id="node-1")
    found = decoded(parse_request(body, as_json=False))
    assert found.batch is not None
    assert found.batch.batch_ids == ("node-1-3-0",)
    assert not found.rejected
    wanted: Counter[str] = Counter()
    for stack, value in samples:
        wanted[repr([(each.function, each.file, each.line) for each in reversed(stack)])] += value
    assert spelled(found) == {k: v * period for k, v in wanted.items() if v}
    (row,) = rows(found)
    assert row["profile_type"] == profile_type.id
    assert row["total"] == period * sum(value for _, value in samples)
    assert labels_of(found) == [{"service_name": "payments", "team": "money"}]


def spelled(found: Decoded) -> dict[str, int]:
    assert found.batch is not None
    table = trees_of(found.batch.stacks, found.batch.frames)
    tree = table.tree(
        found.batch.samples.column("stack_id").to_numpy(),
        found.batch.samples.column("value").to_numpy(),
    )
    stacks: list[list[tuple[str, str, int]]] = []
    values: dict[str, int] = {}
    for parent, frame, value in zip(
        tree.parent.tolist(), tree.frame.tolist(), tree.value.tolist(), strict=True
    ):
        names = tree.frames
        here = [] if frame < 0 else [
            *stacks[parent],
            (names.function[frame], names.file[frame], int(names.line[frame])),
        ]  # fmt: skip
        stacks.append(here)
        if value:
            values[repr(here)] = value
    return values


def test_inlined_lines_and_missing_symbols() -> None:
    request = Request()
    resource = request.resource(service__name="s")
    main = request.stack("main")
    table = request.dictionary
    for name in ("inner", "outer"):
        table.function_table.add(name_strindex=request.string(name))
    inlined = table.location_table.add()
    inlined.lines.add(function_index=len(table.function_table) - 2, line=1)
    inlined.lines.add(function_index=len(table.function_table) - 1, line=2)
    mapping = request.string("/usr/lib/libc.so.6")
    table.mapping_table.add(filename_strindex=mapping)
    table.location_table.add(mapping_index=1, address=0xABC)
    table.location_table.add(address=0x12)
    first = len(table.location_table) - 3
    root = table.stack_table[main].location_indices[0]
    table.stack_table.add(location_indices=[first, root])
    table.stack_table.add(location_indices=[first + 1, root])
    table.stack_table.add(location_indices=[first + 2, root])
    resource.profile([(main + 1, 1), (main + 2, 2), (main + 3, 4)])
    assert stacks_of(decoded(request)) == {
        "main outer inner": 1,
        "main libc.so.6+0xabc": 2,
        "main 0x12": 4,
    }


BLOCK_DELAY = "block:delay:nanoseconds:contentions:count"


@pytest.mark.parametrize(
    ("sample_type", "period_type", "stated", "wanted"),
    [
        ("cpu/nanoseconds", "cpu/nanoseconds", "", CPU_ID),
        ("samples/count", "cpu/nanoseconds", "", CPU_ID),
        ("samples/count", "wall/nanoseconds", "", "wall:wall:nanoseconds:wall:nanoseconds"),
        ("inuse_space/bytes", "space/bytes", "", "memory:inuse_space:bytes:space:bytes"),
        ("goroutines/count", "/", "", "goroutine:goroutine:count:goroutine:count"),
        ("a:b/events", "/", "", "other:a_b:events::"),
        ("delay/nanoseconds", "contentions/count", BLOCK_DELAY, BLOCK_DELAY),
        ("x/y", "/", "my:own:type:of:mine", "my:own:type:of:mine"),
    ],
)
def test_profile_types(sample_type: str, period_type: str, stated: str, wanted: str) -> None:
    request = Request()
    request.resource(service__name="s").profile(
        [(0, 3)],
        sample_type=split(sample_type),
        period_type=split(period_type),
        period=7,
        type_id=stated,
    )
    (row,) = rows(decoded(request))
    assert row["profile_type"] == wanted
    assert row["total"] == (21 if sample_type == "samples/count" else 3)


def split(text: str) -> tuple[str, str]:
    name, _, unit = text.partition("/")
    return name, unit


def test_a_name_that_is_no_utf8_costs_nothing_but_its_letters() -> None:
    request = Request()
    resource = request.resource(service__name="s")
    resource.profile([(request.stack("fine", "main"), 1), (request.stack("xxxx"), 2)])
    body = request.encoded().replace(b"xxxx", b"x\xff\xfex")
    assert stacks_of(decoded(parse_request(body, as_json=False))) == {
        "main fine": 1,
        "x\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}x": 2,
    }


def test_timestamps_without_values_count_one_each() -> None:
    request = Request()
    profile = request.resource(service__name="s").profile(
        sample_type=("samples", "count"), period=2
    )
    profile.time_unix_nano = 0
    stamps = [NOW_MS * 1_000_000 - at * 10**9 for at in range(3)]
    profile.samples.add(stack_index=request.stack("f"), timestamps_unix_nano=stamps)
    (row,) = rows(decoded(request))
    assert (row["total"], row["sample_count"], row["time"]) == (6, 3, NOW_MS - 2_000)


def test_a_profile_without_any_time_is_from_now() -> None:
    request = Request()
    request.resource(service__name="s").profile([(0, 1)], time_ms=0)
    assert rows(decoded(request))[0]["time"] == NOW_MS


def test_labels() -> None:
    request = Request()
    request.resource(
        service__name="payments",
        host__name="a-pod",
        k8s__node__name="node-1",
        process__pid=42,
        label__team="money",
        label__service_name="somebody-else",
        **{"label.my-own.label": True, "label.7": 1.5, "label.": "x", "label.empty": ""},
    ).profile([(0, 1)])
    request.resource().profile([(0, 1)])
    found = decoded(request)
    assert sorted(labels_of(found), key=len) == [
        {"service_name": "unknown_service"},
        {
            "service_name": "payments",
            "node": "node-1",
            "team": "money",
            "my_own_label": "true",
            "_7": "1.5",
        },
    ]


def test_keys_and_values_by_number() -> None:
    request = Request()
    resource = request.resource()
    pair = resource.entry.resource.attributes.add(key_strindex=request.string("service.name"))
    pair.value.string_value_strindex = request.string("by-number")
    resource.profile([(0, 1)])
    assert labels_of(decoded(request)) == [{"service_name": "by-number"}]


def bad_stack(request: Request, profile: Any) -> None:
    profile.samples.add(stack_index=99, values=[1])


def negative_stack(request: Request, profile: Any) -> None:
    profile.samples.add(stack_index=-1, values=[1])


def bad_location(request: Request, profile: Any) -> None:
    request.dictionary.stack_table.add(location_indices=[77])
    profile.samples.add(stack_index=len(request.dictionary.stack_table) - 1, values=[1])


def bad_function(request: Request, profile: Any) -> None:
    stack = request.stack("x")
    request.dictionary.location_table[-1].lines[0].function_index = -3
    profile.samples.add(stack_index=stack, values=[1])


def bad_name(request: Request, profile: Any) -> None:
    stack = request.stack("x")
    request.dictionary.function_table[-1].name_strindex = 1000
    profile.samples.add(stack_index=stack, values=[1])


def bad_mapping(request: Request, profile: Any) -> None:
    stack = request.stack("x")
    location = request.dictionary.location_table[-1]
    del location.lines[:]
    location.mapping_index = 9
    profile.samples.add(stack_index=stack, values=[1])


def bad_attribute(request: Request, profile: Any) -> None:
    profile.attribute_indices.append(-1)


def bad_unit(request: Request, profile: Any) -> None:
    profile.sample_type.unit_strindex = 400


def bad_type_id(request: Request, profile: Any) -> None:
    profile.attribute_indices.append(request.attribute("flamewell.profile_type", "cpu"))


def no_type(request: Request, profile: Any) -> None:
    profile.ClearField("sample_type")


def negative(request: Request, profile: Any) -> None:
    profile.samples.add(stack_index=0, values=[-1])


def negative_among_several(request: Request, profile: Any) -> None:
    profile.samples.add(stack_index=0, values=[5, -1])


def overflow(request: Request, profile: Any) -> None:
    profile.samples.add(stack_index=0, values=[2**62])
    profile.samples.add(stack_index=0, values=[2**62])


def overflow_by_period(request: Request, profile: Any) -> None:
    profile.sample_type.type_strindex = request.string("samples")
    profile.sample_type.unit_strindex = request.string("count")
    profile.period = 2**40
    profile.samples.add(stack_index=0, values=[2**40])


def too_old(request: Request, profile: Any) -> None:
    profile.time_unix_nano = (NOW_MS - 3_600_001) * 1_000_000


def too_new(request: Request, profile: Any) -> None:
    profile.time_unix_nano = (NOW_MS + 600_001) * 1_000_000


def too_many_samples(request: Request, profile: Any) -> None:
    profile.samples.extend([profile.samples[0]] * 16_000)


def too_large(request: Request, profile: Any) -> None:
    profile.original_payload = bytes((4 << 20) + 1)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (bad_stack, "bad_index"),
        (negative_stack, "bad_index"),
        (bad_location, "bad_index"),
        (bad_function, "bad_index"),
        (bad_name, "bad_index"),
        (bad_mapping, "bad_index"),
        (bad_attribute, "bad_index"),
        (bad_unit, "bad_index"),
        (bad_type_id, "bad_profile_type"),
        (no_type, "no_profile_type"),
        (negative, "negative_value"),
        (negative_among_several, "negative_value"),
        (overflow, "value_out_of_range"),
        (overflow_by_period, "value_out_of_range"),
        (too_old, "too_old"),
        (too_new, "too_new"),
        (too_many_samples, "too_many_samples"),
        (too_large, "profile_too_large"),
    ],
)
def test_a_bad_profile_is_rejected_and_the_others_are_kept(
    harm: Callable[[Request, Any], None], reason: str
) -> None:
    request = Request()
    resource = request.resource(service__name="s")
    stack = request.stack("f", "main")
    resource.profile([(stack, 5)])
    victim = resource.profile([(stack, 100)])
    resource.profile([(stack, 7)])
    harm(request, victim)
    found = decoded(request)
    assert found.rejected == {reason: 1}
    assert found.rejected_samples == {reason: len(victim.samples)}
    assert found.rejected_bytes == {reason: victim.ByteSize()}
    assert found.message.startswith(reason)
    assert stacks_of(found) == {"main f": 12}
    assert [each["total"] for each in rows(found)] == [5, 7]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({f"label.l{at}": "x" for at in range(30)}, "too_many_labels"),
        ({"label." + "n" * 1025: "x"}, "label_name_too_long"),
        ({"label.n": "ü" * 1025}, "label_value_too_long"),
        ({"flamewell.batch_id": "x" * 600}, "bad_batch_id"),
    ],
)
def test_a_bad_resource_is_rejected_with_all_its_profiles(
    attributes: dict[str, str], reason: str
) -> None:
    request = Request()
    bad = request.resource(service__name="bad", **attributes)
    bad.profile([(0, 1)])
    bad.profile([(0, 1)])
    request.resource(service__name="good").profile([(0, 1)])
    found = decoded(request)
    assert found.rejected == {reason: 2}
    assert labels_of(found) == [{"service_name": "good"}]


def test_a_bad_string_number_in_a_resource_rejects_it() -> None:
    request = Request()
    bad = request.resource()
    bad.entry.resource.attributes.add(key_strindex=500)
    bad.profile([(0, 1)])
    assert decoded(request).rejected == {"bad_index": 1}


def test_the_series_limit() -> None:
    request = Request()
    for name in ("a", "b"):
        request.resource(service__name=name).profile([(0, 1)])
    answers = iter([True, False])
    found = decoded(request, room=lambda _tenant, _series: next(answers))
    assert found.rejected == {"series_limit": 1}
    assert labels_of(found) == [{"service_name": "a"}]


def test_known_batches_are_skipped() -> None:
    request = Request()
    for name in ("a", "b", "c"):
        request.resource(service__name=name, flamewell__batch_id=f"id-{name}").profile([(0, 1)])
    found = decoded(request, seen=lambda tenant, each: (tenant, each) == ("tenant", "id-b"))
    assert found.duplicates == 1
    assert found.batch is not None
    assert found.batch.batch_ids == ("id-a", "id-c")
    assert [each["service_name"] for each in labels_of(found)] in (["a", "c"], ["c", "a"])


def test_agents_may_be_late_by_a_day() -> None:
    request = Request()
    request.resource(service__name="s", flamewell__batch_id="x").profile(
        [(0, 1)], time_ms=NOW_MS - 23 * 3_600_000
    )
    request.resource(service__name="s", flamewell__batch_id="y").profile(
        [(0, 1)], time_ms=NOW_MS - 25 * 3_600_000
    )
    found = decoded(request)
    assert found.rejected == {"too_old": 1}
    assert len(rows(found)) == 1


def test_deep_stacks_and_long_symbols_are_cut() -> None:
    request = Request()
    resource = request.resource(service__name="s")
    deep = request.stack(*(f"f{at}" for at in range(5)))
    long = request.stack("ü" * 10)
    resource.profile([(deep, 1), (long, 2)])
    resource.profile([(deep, 4)])
    found = decoded(request, limits=Limits(stack_depth=3, symbol_bytes=7))
    assert stacks_of(found) == {"f4 f3 f2": 5, "ü" * 3: 2}
    assert found.truncated_stacks == 1, "each stack counts once a request"
    assert found.truncated_symbols == 2, "a function and its file"


def test_a_tree_that_gets_too_large_rejects_what_needs_it() -> None:
    request = Request()
    resource = request.resource(service__name="s")
    resource.profile([(request.stack("f", "main"), 1)])
    resource.profile([(request.stack(*(f"g{at}" for at in range(9))), 1)])
    found = decoded(request, limits=Limits(batch_nodes=6))
    assert found.rejected == {"too_many_frames": 1}
    assert stacks_of(found) == {"main f": 1}


def test_an_empty_dictionary_and_an_empty_request() -> None:
    assert decoded(parse_request(b"", as_json=False)).batch is None
    request = Request()
    request.resource(service__name="s").profile([(0, 9)], type_id="")
    request.message.ClearField("dictionary")
    assert decoded(request).rejected == {"bad_index": 1}


def test_json_is_the_same() -> None:
    request = Request()
    resource = request.resource(service__name="s", flamewell__batch_id="x")
    resource.profile([(request.stack("f", "main"), 2**53 + 1)])
    body = json_format.MessageToJson(request.message).encode()
    assert b'"9007199254740993"' in body
    parsed = parse_request(body, as_json=True)
    assert parsed == parse_request(request.encoded(), as_json=False)
    assert stacks_of(decoded(parsed)) == {"main f": 2**53 + 1}


@pytest.mark.parametrize(
    ("body", "as_json"),
    [
        (b"\xff\xff", False),
        (b"{", True),
        (b"[]", True),
        (b"", True),
        (b'{"resourceProfiles": 7}', True),
        (b"\xff\xfe", True),
        (b'{"resourceProfiles":[{"resource":{"attributes":[{"key":"\\ud800"}]}}]}', True),
        (b"[" * 100_000, True),
    ],
)
def test_bodies_that_are_none(body: bytes, as_json: bool) -> None:
    with pytest.raises(InvalidRequest, match="not an ExportProfilesServiceRequest"):
        parse_request(body, as_json=as_json)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_requests_never_raise_anything_else(data: st.DataObject) -> None:
    request = Request()
    resource = request.resource(service__name="s", flamewell__batch_id="x")
    resource.profile([(request.stack("f", "main"), 5), (request.stack("g"), 6)], period=3)
    body = bytearray(request.encoded())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decoded(parse_request(bytes(body), as_json=False))
    except InvalidRequest:
        return
    if found.batch is not None:
        assert sum(each["total"] for each in rows(found)) == sum(stacks_of(found).values())
