"""What py-spy reads is the target's: whatever it finds there, a window ends with an answer."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from agent.conftest import TARGETS
from agent.pyspy_windows import count_of, functions, held, one, window
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.model import Batch, Frame, Resource, WindowResult
from flamewell_agent.otlp import encode
from flamewell_agent.samplers import pyspy_output
from flamewell_agent.weighting import cpu_profiles

MIB = 1 << 20
SHOP = Resource.of({"service.name": "shop"})
STATES = str(TARGETS / "hostile_state.py")
NAMES = str(TARGETS / "hostile_code_names.py")
SENT_AT_MOST = 4 * MIB
WAYS = [
    "a_circle_of_threads",
    "a_circle_of_frames",
    "a_wild_frame",
    "a_wild_code",
    "a_wild_thread",
    "a_huge_name",
    "a_negative_name",
    "code_that_is_no_code",
]
HOSTILE_NAMES = ["endless", "wide", "nul", "ansi", "separators", "surrogates", "bidi", "empty"]


def sent(result: WindowResult, *, python_share: float = 1.0) -> bytes:
    """Weigh and encode a window as the daemon would."""
    profiles = cpu_profiles(
        result, SHOP, cpu_nanos=10**9, python_share=python_share, start_unix_nanos=1
    )
    payload = encode(Batch(1, tuple(profiles)), agent_id="a")
    assert isinstance(payload, bytes)
    return payload


def burns(pid: int) -> None:
    """Wait until a target does; its own start takes less than that."""
    deadline = time.monotonic() + 20
    while (process_cpu_nanos(pid) or 0) < 200_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)


def survived(result: WindowResult, pid: int) -> None:
    """Check what holds of each window: it ended, let go of its target, and can be sent."""
    assert result.wall_seconds < 30
    assert result.memory_bytes < 1100 * MIB
    assert held(pid) == []
    assert Path(f"/proc/{pid}/stat").exists()
    assert len(sent(result)) < SENT_AT_MOST


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the offsets are those of 3.11")
def test_targets_that_spoil_their_own_state(spy, spawn, burning):
    """All at once, looked at in both ways, and a sane one beside them, which must not notice."""
    pids = {way: spawn(sys.executable, STATES, way).pid for way in WAYS}
    sane = burning(sys.executable, str(TARGETS / "shares.py"))
    for pid in pids.values():
        burns(pid)
    cpu = [window(pid, threads=True) for pid in pids.values()]
    wall = [window(pid, kind="wall", rate_hz=19) for pid in pids.values()]
    *results, other = spy.run([*cpu, *wall, window(sane)], threading.Event())
    for (way, pid), result in zip([*pids.items()] * 2, results, strict=True):
        print(way, result.failure, result.detail, count_of(result), result.errors)
        survived(result, pid)
    assert other.failure == ""
    assert functions(other)["burn_sixty"] > 0


def test_targets_with_hostile_names(spy, spawn):
    pids = {name: spawn(sys.executable, NAMES, name).pid for name in HOSTILE_NAMES}
    for pid in pids.values():
        burns(pid)
    orders = [window(pid, threads=True) for pid in pids.values()]
    results = spy.run(orders, threading.Event())
    for (name, pid), result in zip(pids.items(), results, strict=True):
        print(name, result.failure, result.detail, count_of(result), result.errors)
        survived(result, pid)
        assert result.failure == "", name
        for stack, _ in result.samples:
            for frame in stack:
                frame.function.encode()
                frame.file.encode()


def test_a_name_that_looks_like_stacks_adds_no_samples(spy, burning):
    """One look finds the GIL held once at most, whatever numbers stand in a function's name."""
    result = one(spy, window(burning(sys.executable, NAMES, "separators")))
    assert result.failure == ""
    assert 0 < count_of(result) <= result.intervals


def test_a_recursion_of_five_thousand_calls(spy, burning):
    pid = burning(sys.executable, str(TARGETS / "deep.py"), "5000")
    result = one(spy, window(pid, rate_hz=19))
    survived(result, pid)


def test_two_hundred_threads(spy, burning):
    pid = burning(sys.executable, str(TARGETS / "threads.py"), "200")
    cpu, wall = spy.run(
        [window(pid, threads=True), window(pid, kind="wall", rate_hz=5, threads=True)],
        threading.Event(),
    )
    for result in (cpu, wall):
        survived(result, pid)
    assert functions(cpu)["spin"] > 0
    assert len(set(wall.thread_names)) <= 101


def line(frames: str, count: str) -> str:
    return f"{frames} {count}\n"


counts = st.one_of(
    st.integers(0, 2**70).map(str),
    st.sampled_from(["9" * 5000, "-1", "1_0", "\uff11", "²", "+3", "1e9", ""]),
)
pieces = st.text(
    st.one_of(st.sampled_from("();: \n\r\0\x1b\x85\u2028x9"), st.characters(codec="utf-8"))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(pieces, counts), max_size=8), st.booleans(), st.booleans())
@example([("f (a.py:1)", "9" * 5000)], False, False)
@example([("thread (1): x;f (a.py:" + "9" * 5000 + ")", "1")], True, True)
def test_whatever_py_spy_writes_can_be_weighed_and_sent(lines, threads, native):
    text = "".join(line(frames, count) for frames, count in lines)
    found = pyspy_output.parse_raw(text, threads=threads, native=native)
    result = WindowResult(
        window(os.getpid()),
        samples=tuple((stack, count) for (_, stack), count in found.items()),
        thread_names=tuple(name for name, _ in found) if threads else (),
        intervals=100,
        wall_seconds=1.0,
    )
    for stack, count in result.samples:
        assert 0 <= count < 2**32
        assert all(isinstance(frame, Frame) and 0 <= frame.line < 2**31 for frame in stack)
    sent(result)
    sent(result, python_share=0.3)


@given(st.text(max_size=300))
@example("Samples: " + "9" * 5000 + " Errors: 1")
@example("Samples: 1 Errors: " + "9" * 5000)
@example("Samples: \uff11 Errors: ²")
@example("Samples: 99999999999999999999999 Errors: 99999999999999999999999")
def test_whatever_py_spy_says_is_survived(said):
    found = pyspy_output.parse_summary(said)
    if found is not None:
        assert all(0 <= each < 2**63 for each in found)
    reason, detail = pyspy_output.failure_reason(said)
    assert reason
    assert len(detail) <= 300


def test_many_distinct_stacks_are_read_in_bounded_time_and_memory():
    """32 MiB is what a window may write: here each line is another stack of a few frames."""
    text = "".join(f"m (a.py:1);f{n} (b.py:{n}) 1\n" for n in range(60_000))
    began = time.process_time()
    assert len(pyspy_output.parse_raw(text)) == 60_000
    assert time.process_time() - began < 60  # no measurement
