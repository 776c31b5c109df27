"""Weights add up to the CPU time that was used, and native code is told only where it is."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.model import Frame, Process, ProcessKey, Resource, Window, WindowResult
from flamewell_agent.pictures import Picture
from flamewell_agent.weighting import (
    LOOKS_THAT_TELL,
    NATIVE_STACK,
    OTHER_THREADS,
    UNSAMPLED_STACK,
    Evidence,
    add_evidence,
    can_be_sampled,
    can_be_told,
    cpu_profiles,
    extrapolated_profiles,
    thread_label,
    unsampled_profile,
    wall_profiles,
)
from flamewell_wire.profile_types import CPU, WALL

RESOURCE = Resource.of({"service.name": "shop"})
PROCESS = Process(ProcessKey(1, 1), "cpython", "3.11", "python3.11", ("python", "shop.py"))
A, B = (Frame("a"), Frame("main")), (Frame("b"), Frame("main"))
SECOND = 1_000_000_000


def window_result(
    samples: dict[tuple[Frame, ...], int],
    *,
    cpu_nanos: int,
    rate_hz: int = 97,
    seconds: int = 15,
    errors: int = 0,
) -> WindowResult:
    return WindowResult(
        Window(PROCESS, rate_hz, seconds, 0.1),
        samples=tuple(samples.items()),
        intervals=rate_hz * seconds,
        errors=errors,
        wall_seconds=float(seconds),
        target_cpu_nanos=cpu_nanos,
    )


def amounts(profiles) -> dict[tuple[Frame, ...], int]:
    found: dict[tuple[Frame, ...], int] = {}
    for profile in profiles:
        for stack, value in profile.samples:
            found[stack] = found.get(stack, 0) + value * profile.period
    return found


def told(result: WindowResult, *, cpu_nanos: int, share: float) -> dict[tuple[Frame, ...], int]:
    return amounts(
        cpu_profiles(result, RESOURCE, cpu_nanos=cpu_nanos, python_share=share, start_unix_nanos=7)
    )


@given(
    st.lists(st.integers(1, 10**6), max_size=8),
    st.integers(0, 10**13),
    st.floats(0, 1),
)
def test_the_profiles_of_a_window_add_up_to_its_cpu_time(counts, cpu_nanos, share):
    samples = {(Frame(f"f{at}"),): count for at, count in enumerate(counts)}
    result = window_result(samples, cpu_nanos=cpu_nanos)
    found = told(result, cpu_nanos=cpu_nanos, share=share)
    assert sum(found.values()) == cpu_nanos
    assert all(amount > 0 for amount in found.values())


def test_samples_share_python_time_and_the_rest_is_native():
    result = window_result({A: 300, B: 100}, cpu_nanos=10 * SECOND)
    found = told(result, cpu_nanos=10 * SECOND, share=0.4)
    assert found == {A: 3 * SECOND, B: SECOND, NATIVE_STACK: 6 * SECOND}


def test_profiles_say_what_a_sample_stands_for():
    result = window_result({A: 3, B: 1}, cpu_nanos=SECOND)
    counted, rest = cpu_profiles(
        result, RESOURCE, cpu_nanos=SECOND + 2, python_share=1.0, start_unix_nanos=7
    )
    assert (counted.type_id, counted.period, counted.samples) == (
        CPU.id,
        SECOND // 4,
        ((A, 3), (B, 1)),
    )
    assert (counted.start_unix_nanos, counted.duration_nanos) == (7, 15 * SECOND)
    assert (rest.period, rest.samples) == (1, ((A, 2),))


def test_cpu_time_of_earlier_cycles_is_shared_the_same_way():
    result = window_result({A: 1, B: 3}, cpu_nanos=SECOND)
    assert told(result, cpu_nanos=8 * SECOND, share=1.0) == {A: 2 * SECOND, B: 6 * SECOND}


def test_a_pure_python_burner_shows_no_native_time():
    result = window_result({A: 15 * 97 - 1}, cpu_nanos=15 * SECOND)
    share = add_evidence(None, result).python_share
    assert share == pytest.approx(1.0, abs=0.005)


def test_errors_count_as_looks_that_found_the_gil_held():
    result = window_result({A: 1000}, cpu_nanos=15 * SECOND, errors=455)
    assert add_evidence(None, result).python_share == 1.0


def test_half_native_is_shown_as_half_native():
    result = window_result({A: 15 * 97 // 2}, cpu_nanos=15 * SECOND)
    assert add_evidence(None, result).python_share == pytest.approx(0.5, abs=0.01)


def test_native_code_without_the_gil_is_told_without_a_sample():
    result = window_result({}, cpu_nanos=15 * SECOND)
    evidence = add_evidence(None, result)
    assert evidence.python_share == 0.0
    assert can_be_told(result, evidence)
    assert told(result, cpu_nanos=SECOND, share=0.0) == {NATIVE_STACK: SECOND}


def test_a_light_process_without_a_sample_is_carried_not_called_native():
    result = window_result({}, cpu_nanos=SECOND // 100, rate_hz=7)
    evidence = add_evidence(None, result)
    assert evidence.looks < LOOKS_THAT_TELL
    assert not can_be_told(result, evidence)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("cpu_share", [0.004, 0.02, 0.1, 0.5])
def test_shares_of_light_processes_are_right_over_many_windows(share, cpu_share):
    """Sampled at 7 Hz: a window finds a light process a few times, or never."""
    dice = random.Random(int(1000 * cpu_share))
    evidence, carried, native, python = None, 0, 0, 0
    for _ in range(2000):
        cpu_nanos = int(15 * SECOND * cpu_share)
        hits = sum(dice.random() < cpu_share * share for _ in range(15 * 7))
        result = window_result({A: hits} if hits else {}, cpu_nanos=cpu_nanos, rate_hz=7)
        evidence = add_evidence(evidence, result)
        carried += cpu_nanos
        if can_be_told(result, evidence):
            found = told(result, cpu_nanos=carried, share=evidence.python_share)
            native += found.get(NATIVE_STACK, 0)
            python += found.get(A, 0)
            carried = 0
    assert python / (native + python) == pytest.approx(share, abs=0.07)


def test_evidence_fades_as_fast_as_new_comes_in():
    busy_python = window_result({A: 1454}, cpu_nanos=15 * SECOND)
    busy_native = window_result({}, cpu_nanos=15 * SECOND)
    evidence = add_evidence(add_evidence(None, busy_python), busy_native)
    assert evidence.python_share == 0.0
    light_native = window_result({}, cpu_nanos=SECOND // 10)
    assert add_evidence(add_evidence(None, busy_python), light_native).python_share > 0.98


def test_nothing_used_is_nothing_told():
    assert (
        cpu_profiles(
            window_result({A: 5}, cpu_nanos=0),
            RESOURCE,
            cpu_nanos=0,
            python_share=1.0,
            start_unix_nanos=0,
        )
        == []
    )
    assert Evidence().python_share == 1.0


def test_names_of_threads_become_labels_and_nothing_is_lost():
    c = (Frame("c"), Frame("main"))
    result = replace(
        window_result({A: 3, B: 4, c: 3}, cpu_nanos=SECOND),
        thread_names=("pool-1_17", "pool-2_3", "MainThread"),
    )
    profiles = cpu_profiles(
        result, RESOURCE, cpu_nanos=SECOND + 3, python_share=0.5, start_unix_nanos=7
    )
    labels = [dict(each.resource.attributes).get("label.thread") for each in profiles]
    assert labels == ["pool-N_N", "MainThread", None]
    assert [each.samples for each in profiles[:2]] == [((A, 3), (B, 4)), ((c, 3),)]
    assert sum(amounts(profiles).values()) == SECOND + 3


def test_the_number_of_thread_labels_is_bounded():
    samples = {(Frame(f"f{at}"),): 1 for at in range(100)}
    names = tuple(f"worker-{'x' * at}" for at in range(100))
    result = replace(window_result(samples, cpu_nanos=SECOND), thread_names=names)
    profiles = cpu_profiles(
        result, RESOURCE, cpu_nanos=SECOND, python_share=1.0, start_unix_nanos=7
    )
    labels = {dict(each.resource.attributes)["label.thread"] for each in profiles}
    assert len(labels) == 33
    assert OTHER_THREADS in labels
    assert sum(amounts(profiles).values()) == SECOND
    assert thread_label("") == "unnamed"


@given(st.lists(st.integers(1, 100), max_size=8), st.integers(0, 10**13), st.floats(0, 1))
def test_extrapolated_profiles_add_up_and_are_marked(counts, cpu_nanos, share):
    picture = Picture(tuple(((Frame(f"f{at}"),), n) for at, n in enumerate(counts)), share)
    profiles = extrapolated_profiles(
        picture, RESOURCE, cpu_nanos=cpu_nanos, start_unix_nanos=1, duration_nanos=2
    )
    assert sum(amounts(profiles).values()) == cpu_nanos
    assert all(dict(each.resource.attributes)["label.extrapolated"] == "true" for each in profiles)


def test_each_look_of_a_wall_window_stands_for_an_equal_part_of_the_time():
    """Two threads, one of which waits all the time: two thread-seconds in each second."""
    result = replace(window_result({A: 100, B: 300}, cpu_nanos=0), intervals=200, wall_seconds=10.0)
    (profile,) = wall_profiles(result, RESOURCE, wall_nanos=20 * SECOND, start_unix_nanos=7)
    assert profile.type_id == WALL.id
    assert amounts([profile]) == {A: 10 * SECOND, B: 30 * SECOND}
    nothing = replace(result, intervals=0)
    assert wall_profiles(nothing, RESOURCE, wall_nanos=SECOND, start_unix_nanos=7) == []


def test_unsampled_time_is_shown_as_such():
    profile = unsampled_profile(RESOURCE, cpu_nanos=5, start_unix_nanos=1, duration_nanos=2)
    assert amounts([profile]) == {UNSAMPLED_STACK: 5}


@pytest.mark.parametrize(
    ("runtime", "unreadable", "reason"),
    [
        ("cpython", "", ""),
        ("cpython", "not_permitted: /proc/1/maps", "not_permitted"),
        ("cpython", "free_threaded", "free_threaded"),
        ("go", "", "go_has_pprof"),
        ("other", "zombie", "not_python"),
    ],
)
def test_who_can_be_sampled(runtime, unreadable, reason):
    process = Process(ProcessKey(1, 1), runtime, "", "x", (), unreadable=unreadable)
    assert can_be_sampled(process) == reason


def test_a_window_that_did_not_keep_pace_says_nothing_about_native_code():
    slow = replace(window_result({A: 3}, cpu_nanos=15 * SECOND), kept_pace=False)
    assert add_evidence(None, slow).python_share == 1.0
    known = add_evidence(None, window_result({A: 700}, cpu_nanos=15 * SECOND))
    assert add_evidence(known, slow) == known
