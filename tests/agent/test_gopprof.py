"""Go programs through the sampler: pull by pull, and whole, against a real Go program."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent.go_sampling import TARGET, Seen, built, collect, running, sampling, until
from agent.pprof_bytes import Builder
from agent.pprof_server import PprofServer
from end_to_end.go_toolchain import go_executable

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Process, ProcessKey, Profile, Resource
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_pulls import PULLS, Converter, Span
from flamewell_agent.samplers.pprof_parse import parse
from flamewell_wire import profile_types

CPU, HEAP, GOROUTINE, MUTEX, BLOCK = PULLS
HELD_MIB = 24
RESOURCE = Resource.of({"service.name": "orders"})
HEAP_TYPES = (
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
)


def heap(stacks: dict[tuple[str, ...], tuple[int, ...]]) -> bytes:
    return Builder(*HEAP_TYPES).simple(stacks).encode()


def mutex(stacks: dict[tuple[str, ...], tuple[int, ...]]) -> bytes:
    return Builder(("contentions", "count"), ("delay", "nanoseconds")).simple(stacks).encode()


def convert(converter: Converter, data: bytes, pull=HEAP, start: int = 0) -> dict[str, Profile]:
    span = Span(start, 1, start)
    profiles = converter.convert(parse(data), pull, resource=RESOURCE, span=span)
    return {each.type_id: each for each in profiles}


def values(profile: Profile) -> dict[tuple[str, ...], int]:
    return {tuple(frame.function for frame in stack): value for stack, value in profile.samples}


def test_in_use_is_taken_as_it_is_and_the_first_counters_are_dropped():
    first = convert(Converter(), heap({("a",): (10, 1000, 5, 500), ("b",): (3, 30, 0, 0)}))
    assert set(first) == {profile_types.INUSE_SPACE.id, profile_types.INUSE_OBJECTS.id}
    assert values(first[profile_types.INUSE_SPACE.id]) == {("a",): 500}
    assert first[profile_types.INUSE_SPACE.id].duration_nanos == 0


def test_counters_are_turned_into_what_was_added_since():
    converter = Converter()
    convert(converter, heap({("a",): (10, 1000, 5, 500), ("b",): (3, 30, 1, 10)}), start=100)
    later = {("a",): (14, 1400, 5, 500), ("b",): (3, 30, 1, 10), ("c",): (1, 7, 0, 0)}
    second = convert(converter, heap(later), start=400)
    space = second[profile_types.ALLOC_SPACE.id]
    assert values(space) == {("a",): 400, ("c",): 7}
    assert (space.start_unix_nanos, space.duration_nanos, space.period) == (100, 300, 1)
    assert values(second[profile_types.ALLOC_OBJECTS.id]) == {("a",): 4, ("c",): 1}
    assert values(second[profile_types.INUSE_OBJECTS.id]) == {("a",): 5, ("b",): 1}


@pytest.mark.parametrize(
    "after",
    [
        {("a",): (2, 200, 1, 100), ("b",): (9, 900, 0, 0)},  # a counter shrank
        {("b",): (90, 9000, 0, 0)},  # a stack vanished
        {},
    ],
)
def test_a_restarted_program_is_seen_and_its_first_counters_dropped(after):
    converter = Converter()
    convert(converter, heap({("a",): (10, 1000, 0, 0)}))
    restarted = convert(converter, heap(after))
    assert profile_types.ALLOC_SPACE.id not in restarted
    grown = {("n",): (1, 1, 0, 0)} | {
        stack: tuple(value * 2 for value in amounts) for stack, amounts in after.items()
    }
    third = convert(converter, heap(grown))
    assert values(third[profile_types.ALLOC_SPACE.id]) == {
        ("n",): 1,
        **{stack: amounts[1] for stack, amounts in after.items()},
    }


def test_another_process_at_the_same_address_starts_anew():
    converter = Converter()
    convert(converter, heap({("a",): (1, 100, 0, 0)}))
    converter.forget()
    assert not convert(converter, heap({("a",): (5, 500, 0, 0)}))


def test_contention_is_a_delta_of_both_values():
    converter = Converter()
    assert not convert(converter, mutex({("lock",): (3, 300)}), MUTEX)
    assert not convert(converter, mutex({("lock",): (3, 300)}), MUTEX)
    third = convert(converter, mutex({("lock",): (5, 900)}), MUTEX)
    assert values(third[profile_types.MUTEX_CONTENTIONS.id]) == {("lock",): 2}
    assert values(third[profile_types.MUTEX_DELAY.id]) == {("lock",): 600}


def test_cpu_is_of_the_window_that_the_profile_names():
    data = Builder(("samples", "count"), ("cpu", "nanoseconds")).simple({("f", "main"): (2, 20)})
    data.message.duration_nanos = 5_000
    (profile,) = convert(Converter(), data.encode(), CPU, start=77).values()
    assert (profile.start_unix_nanos, profile.duration_nanos, profile.period) == (77, 5_000, 1)
    assert values(profile) == {("f", "main"): 20}


def test_another_kind_of_profile_is_refused():
    with pytest.raises(ProfileFormatError) as caught:
        convert(Converter(), mutex({("lock",): (3, 300)}), HEAP)
    assert caught.value.reason == "missing_type"


def test_an_endpoint_without_a_local_process_is_named_by_the_configuration():
    with (
        PprofServer({"heap": heap({("a",): (1, 100, 1, 100)})}) as server,
        sampling(("orders", server.url), ("", server.url + "/pprof")) as sampler,
    ):
        wanted = {profile_types.INUSE_SPACE.id}
        names = set()

        def both() -> bool:
            names.update(profile.resource for profile in collect(sampler, wanted).values())
            return len(names) == 2

        until(both)
    assert names == {
        Resource.of({"host.name": "node-1", "process.runtime.name": "go", "service.name": name})
        for name in ("orders", f"127.0.0.1:{server.port}")
    }


def test_failures_are_counted_by_reason_and_the_rest_goes_on():
    seen = Seen()
    answers = {
        "profile": (500, b"cpu profiling already in use"),
        "heap": heap({("a",): (1, 100, 1, 100)}),
        "mutex": b"<html>",
        "goroutine": b"\x12\x00" * 300_000,
    }
    with PprofServer(answers) as server, sampling(("o", server.url), seen=seen) as sampler:
        collect(sampler, {profile_types.INUSE_SPACE.id})
        until(lambda: seen["not_found"] >= 1)
    assert seen["cpu_profile_in_use"] >= 1
    assert seen["malformed"] >= 1
    assert seen["too_many_samples"] >= 1


def test_a_window_beyond_the_servers_write_timeout_is_halved():
    with (
        PprofServer(
            {"profile": (400, b"profile duration exceeds server's WriteTimeout")}
        ) as server,
        sampling(("o", server.url), cycle_seconds=4) as sampler,
    ):
        sampler.observe(())
        until(lambda: any("seconds=2" in each for each in server.requests))
    assert server.requests[0].endswith("/profile?seconds=4")


def test_stop_ends_a_window_that_is_under_way():
    def hang(_handler) -> None:
        time.sleep(5)

    with PprofServer({"profile": hang}) as server:
        with sampling(("o", server.url), cycle_seconds=20) as sampler:
            sampler.observe(())
            until(lambda: bool(server.requests))
            began = time.monotonic()
        assert time.monotonic() - began < 4


def test_where_nobody_drains_the_oldest_make_room(monkeypatch):
    monkeypatch.setattr("flamewell_agent.samplers.gopprof._WAITING_SAMPLES_AT_MOST", 5)
    seen = Seen()
    answers = {"heap": heap({(f"f{index}",): (1, 1, 1, 1) for index in range(3)})}
    with PprofServer(answers) as server, sampling(("o", server.url), seen=seen) as sampler:
        sampler.observe(())
        until(lambda: seen["not_drained"] >= 1)
        assert sum(len(each.samples) for each in sampler.drain()) <= 5


@pytest.fixture
def program(tmp_path_factory) -> Iterator[tuple[Process, str]]:
    """A Go program with known functions, and its base URL."""
    with running(built(tmp_path_factory, TARGET), "-hold", str(HELD_MIB)) as (process, address):
        yield process, f"http://{address}"


def go_top(raw: Path, index: str) -> dict[str, tuple[int, int]]:
    """Give function → (self, total) as ``go tool pprof`` has them."""
    text = subprocess.run(
        [
            *(go_executable(), "tool", "pprof", "-top", "-nodefraction=0", "-edgefraction=0"),
            *("-nodecount=100000", f"-sample_index={index}", f"-unit={UNITS[index]}", str(raw)),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = {}
    for line in text.partition("flat%")[2].splitlines()[1:]:
        own, _, _, total, _, name = line.split(maxsplit=5)
        rows[name.removesuffix(" (inline)").removesuffix(" (partial-inline)")] = (
            int(re.match(r"\d+", own).group()),
            int(re.match(r"\d+", total).group()),
        )
    return rows


def own_top(profile: Profile) -> dict[str, tuple[int, int]]:
    own, total = Counter(), Counter()
    for stack, value in profile.samples:
        if not stack:
            continue  # a goroutine that has not begun yet
        own[stack[0].function] += value
        for function in {frame.function for frame in stack}:
            total[function] += value
    return {name: (own[name], total[name]) for name in total}


UNITS = {"cpu": "ns", "inuse_space": "B", "inuse_objects": "count", "goroutine": "count"}


@pytest.mark.go
@pytest.mark.parametrize(
    ("pull", "path", "kind"),
    [
        (CPU, "profile?seconds=2", profile_types.CPU),
        (HEAP, "heap", profile_types.INUSE_SPACE),
        (HEAP, "heap", profile_types.INUSE_OBJECTS),
        (GOROUTINE, "goroutine", profile_types.GOROUTINE),
    ],
)
def test_self_and_total_equal_go_tool_pprof(program, tmp_path, pull, path, kind):
    data = PprofClient(program[1]).get(path, timeout_seconds=20, max_bytes=1 << 24)
    raw = tmp_path / "raw.pb.gz"
    raw.write_bytes(data)
    profile = convert(Converter(), data, pull)[kind.id]
    assert own_top(profile) == go_top(raw, kind.sample_type)
    assert len(own_top(profile)) >= 3


@pytest.mark.go
def test_a_go_program_is_found_by_its_own_port_and_fully_profiled(program):
    process, _ = program
    wanted = {kind.id for pull in PULLS for kind in pull.types}
    seen = Seen()
    with sampling(detect=True, seen=seen) as sampler:
        got = collect(sampler, wanted, (process,))
        (coverage,) = sampler.coverage()
    assert (coverage.state, coverage.reason, coverage.service_name) == (
        "sampled",
        "pprof",
        process.executable,
    )
    assert {each.resource for each in got.values()} == {
        Resource.of({"service.name": process.executable, "process.runtime.name": "go"})
    }
    assert seen["ok"] > 10
    cpu = own_top(got[profile_types.CPU.id])
    assert cpu["main.burnMost"][1] > cpu["main.burnSome"][1] > 0
    assert any("main.hold" in stack for stack in values(got[profile_types.INUSE_SPACE.id]))
    held = own_top(got[profile_types.INUSE_SPACE.id])["main.hold"][1]
    # Each block is seen (see MemProfileRate in the target), and the list that holds them.
    assert HELD_MIB << 20 <= held < (HELD_MIB + 1) << 20
    assert own_top(got[profile_types.GOROUTINE.id])["main.park"][1] == 10
    assert own_top(got[profile_types.ALLOC_SPACE.id])["main.allocate"][1] > 0
    assert own_top(got[profile_types.MUTEX_DELAY.id])["main.contend"][1] > 0
    assert own_top(got[profile_types.BLOCK_CONTENTIONS.id])["main.contend"][1] > 0


@pytest.mark.go
def test_a_configured_endpoint_gets_its_local_process_and_its_given_name(program):
    process, url = program
    with sampling(("orders", url)) as sampler:
        got = collect(sampler, {profile_types.CPU.id}, (process,))
        until(lambda: sampler.coverage()[0].reason == "pprof")
        (coverage,) = sampler.coverage()
    assert (coverage.process, coverage.service_name) == (process, "orders")
    attributes = dict(got[profile_types.CPU.id].resource.attributes)
    assert attributes == {"service.name": "orders", "process.runtime.name": "go"}


@pytest.mark.go
def test_without_detection_a_go_program_is_skipped_and_other_runtimes_are_not_ours(program):
    process, _ = program
    python = Process(ProcessKey(1, 1), "cpython", "3.11", "python", ("python",))
    with sampling() as sampler:
        sampler.observe((process, python))
        until(lambda: sampler.coverage()[0].reason == "go_detection_off")
        assert len(sampler.coverage()) == 1
        assert sampler.coverage()[0].state == "skipped"


@pytest.mark.go
def test_a_program_that_ends_is_let_go(program):
    process, _ = program
    seen = Seen()
    with sampling(detect=True, seen=seen) as sampler:
        sampler.observe((process,))
        until(lambda: sampler.coverage()[0].reason in {"pprof_started", "pprof"})
        sampler.observe(())
        until(lambda: not sampler._workers)
        assert sampler.coverage() == []


def test_a_program_that_moves_to_another_port_is_found_there():
    process = Process(ProcessKey(os.getpid(), 1), "go", "go1", "orders", ("orders",))
    answers = {"cmdline": b"orders", "heap": heap({("a",): (1, 100, 1, 100)})}

    def pulled_from(url: str) -> bool:
        sampler.observe((process,))
        return url in sampler._workers

    with sampling(detect=True) as sampler:
        with PprofServer(answers) as server:
            collect(sampler, {profile_types.INUSE_SPACE.id}, (process,))
            assert pulled_from(server.url)
            former = server.url
        with PprofServer(answers) as server:
            until(lambda: pulled_from(server.url))
            assert former not in sampler._workers
