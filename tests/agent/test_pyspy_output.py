"""What py-spy writes is read back, whatever a target calls its functions."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.model import Frame, Stack
from flamewell_agent.samplers import pyspy_output
from flamewell_agent.samplers.pyspy_output import (
    failure_reason,
    parse_raw,
    parse_summary,
    target_ended,
    thread_name,
)

SUMMARY = "py-spy> Wrote raw flamegraph data to 'out'. Samples: 1234 Errors: 5\n"


def written(frames: list[Frame], count: int) -> str:
    """Write a stack (leaf first) as py-spy does."""
    shown = (
        f"{each.function} ({each.file}:{each.line})"
        if each.line
        else f"{each.function} ({each.file})"
        for each in reversed(frames)
    )
    return f"{';'.join(shown)} {count}\n"


def unnamed(text: str) -> dict[Stack, int]:
    """Read what was written without the names of threads."""
    found = parse_raw(text)
    assert all(name == "" for name, _ in found)
    return {stack: count for (_, stack), count in found.items()}


def test_root_first_lines_become_leaf_first_stacks():
    text = "<module> (/srv/app.py:12);serve (/srv/app.py:3);work (/srv/lib/w.py:7) 42\n"
    assert unnamed(text) == {
        (
            Frame("work", "/srv/lib/w.py", 7),
            Frame("serve", "/srv/app.py", 3),
            Frame("<module>", "/srv/app.py", 12),
        ): 42
    }


def test_equal_stacks_are_added_up():
    assert unnamed("f (a.py:1) 2\nf (a.py:1) 3\n") == {(Frame("f", "a.py", 1),): 5}


def test_a_frame_without_a_line_and_paths_with_spaces_and_parentheses():
    text = "<shim> (<native>);run (/home/x (copy)/my app.py:4) 9\n"
    assert unnamed(text) == {
        (Frame("run", "/home/x (copy)/my app.py", 4), Frame("<shim>", "<native>", 0)): 9
    }


def test_semicolons_and_newlines_in_names_stay_in_their_frame():
    hostile = [Frame("a;b\nc", "/x;y\n.py", 3), Frame("main", "m.py", 1)]
    assert unnamed(written(hostile, 7)) == {tuple(hostile): 7}


def test_nothing_is_read_from_nothing():
    assert unnamed("") == {}
    assert unnamed("\n\n") == {}


def test_a_count_that_was_cut_off_is_not_taken_for_a_smaller_one():
    assert unnamed("f (a.py:1) 2\ng (b.py:1) 12") == {(Frame("f", "a.py", 1),): 2}


def test_what_was_cut_off_is_left_out():
    assert unnamed("f (a.py:1) 2\ng (b.py:1);h (c.p") == {(Frame("f", "a.py", 1),): 2}


sane = st.text(st.characters(exclude_characters="();\n\r ", exclude_categories=("Cs",)), min_size=1)
names = st.text(st.characters(exclude_characters="()", exclude_categories=("Cs",)), min_size=1)
frames = st.builds(
    Frame, sane, st.builds("/{}.py".format, sane), st.integers(min_value=1, max_value=2**31 - 1)
)


@given(st.dictionaries(st.lists(frames, min_size=1, max_size=6).map(tuple), st.integers(1, 10**9)))
def test_what_is_written_is_read(stacks):
    text = "".join(written(list(stack), count) for stack, count in stacks.items())
    assert unnamed(text) == stacks


@given(st.lists(st.builds(Frame, names, names, st.integers(1, 99)), min_size=1), st.integers(1, 99))
def test_hostile_names_never_lose_the_count(hostile, count):
    assert sum(unnamed("ok (a.py:1) 1\n" + written(hostile, count)).values()) >= 1 + count


@given(st.text())
def test_any_text_is_survived(text):
    for stack, count in unnamed(text).items():
        assert count >= 0
        assert all(isinstance(each, Frame) for each in stack)


def test_a_name_made_to_be_slow_is_not():
    began = time.process_time()
    for seed in ("\n", ";", " (", ")", ";x (", "9", " 9"):
        for threads in (False, True):
            parse_raw(seed * 400_000 + " (f.py:1) 1\n", threads=threads)
            parse_raw("f (a.py:1) " + seed * 400_000 + "\n", threads=threads)
            parse_raw(f"thread (1): {seed * 400_000}f (a.py:1) 1\n", threads=threads)
    # Quadratic behaviour would take minutes; this is no measurement.
    assert time.process_time() - began < 30


def test_the_summary():
    assert parse_summary(SUMMARY) == (1234, 5)
    assert parse_summary("Error: no") is None


def test_the_end_of_the_target():
    assert target_ended("py-spy> Stopped sampling because process exited\n")
    assert not target_ended(SUMMARY)


def test_failures_have_reasons_and_keep_the_words():
    said = (
        "Error: Failed to open process 12 for reading\n\nCaused by:\n    Permission denied: Try "
        "running again with elevated permissions by going 'sudo env \"PATH=$PATH\" !!'\n"
    )
    reason, detail = failure_reason(said)
    assert reason == "not_permitted"
    assert detail.startswith("Error: Failed to open process 12")
    assert "\n" not in detail
    assert failure_reason("thread 'main' panicked at x")[0] == "sampler_failed"
    assert len(failure_reason("x" * 10_000)[1]) <= 300


MAIN = (Frame("main", "m.py", 1),)


def test_the_thread_is_told_apart_from_the_stack():
    text = "thread (57): MainThread;main (m.py:1) 3\nthread (58): io;main (m.py:1) 4\n"
    assert parse_raw(text, threads=True) == {("MainThread", MAIN): 3, ("io", MAIN): 4}


def test_a_thread_without_a_name_and_one_with_the_id_in_hexadecimal():
    text = "thread (57);main (m.py:1) 3\nthread (0x7F1A): x;main (m.py:1) 4\n"
    assert parse_raw(text, threads=True) == {("", MAIN): 3, ("x", MAIN): 4}


def test_a_thread_name_may_hold_what_separates():
    text = (
        "thread (57): wor;ker (1):\n x;main (m.py:1) 3\nthread (57): a (b.py:1);main (m.py:1) 4\n"
    )
    assert parse_raw(text, threads=True) == {("wor;ker (1): x", MAIN): 3, ("a (b.py:1)", MAIN): 4}


def test_a_line_without_its_thread_is_kept():
    assert parse_raw("main (m.py:1) 3\n", threads=True) == {("", MAIN): 3}
    assert parse_raw("thread (5): main (m.py:1) 3\n", threads=True) == {("main (m.py:1)", ()): 3}


def test_names_of_threads_are_fit_for_labels():
    assert thread_name("\x1b[31mred\x1b[0m\n line") == "[31mred [0m line"
    assert thread_name("x" * 10_000) == "x" * 64
    assert thread_name("Thread-123 (process_request_thread)") == (
        "Thread-N (process_request_thread)"
    )
    assert thread_name("ThreadPoolExecutor-3_12") == "ThreadPoolExecutor-N"
    assert thread_name("shard-7") == "shard-7"
    assert thread_name("\n\t") == ""


def test_names_of_threads_without_end_become_other():
    text = "".join(f"thread ({n}): t{n};main (m.py:1) 1\n" for n in range(500))
    found = parse_raw(text, threads=True)
    assert len(found) == 101
    assert found["(other)", MAIN] == 400


def test_addresses_without_a_symbol_become_their_file():
    text = (
        "0x7f7eeb9278ec (/usr/lib/libc.so.6);f (a.c) 3\n"
        "0x7f00000008ec (/usr/lib/libc.so.6);f (a.c) 4\n"
    )
    expected = (Frame("f", "a.c"), Frame("[libc.so.6]", "/usr/lib/libc.so.6"))
    assert parse_raw(text, native=True) == {("", expected): 7}


@given(st.text(max_size=200), st.lists(frames, min_size=1, max_size=6), st.integers(1, 99))
def test_hostile_thread_names_never_lose_the_count_nor_the_leaf(name, stack, count):
    text = f"ok (a.py:1) 1\nthread (7): {name};{written(stack, count)}"
    found = parse_raw(text, threads=True)
    assert sum(found.values()) >= 1 + count
    assert any(each and each[0] == stack[0] for _, each in found)
    assert all(len(each) <= 64 and each.isprintable() for each, _ in found)


@given(st.text(), st.booleans(), st.booleans())
def test_any_text_is_survived_in_any_mode(text, threads, native):
    for (name, stack), count in parse_raw(text, threads=threads, native=native).items():
        assert count >= 0
        assert len(name) <= 64
        assert all(isinstance(each, Frame) for each in stack)


def test_a_frame_is_made_once_however_often_it_is_written():
    text = "".join(f"{';'.join(['f (/x.py:1)'] * 4000)};g{at} (/x.py:2) 1\n" for at in range(20))
    stacks = [stack for _, stack in parse_raw(text)]
    assert [len(stack) for stack in stacks] == [4001] * 20
    assert len({id(frame) for stack in stacks for frame in stack}) == 21


def test_endlessly_many_frames_are_bounded(monkeypatch):
    monkeypatch.setattr(pyspy_output, "_FRAMES_AT_MOST", 2)
    found = unnamed("a (/x.py:1);b (/x.py:2);c (/x.py:3);a (/x.py:1) 7\n")
    a, b, other = Frame("a", "/x.py", 1), Frame("b", "/x.py", 2), Frame("(other)")
    assert found == {(a, other, b, a): 7}
