"""What py-spy writes is read back, whatever a target calls its functions."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.model import Frame
from flamewell_agent.samplers.pyspy_output import (
    failure_reason,
    parse_raw,
    parse_summary,
    target_ended,
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


def test_root_first_lines_become_leaf_first_stacks():
    text = "<module> (/srv/app.py:12);serve (/srv/app.py:3);work (/srv/lib/w.py:7) 42\n"
    assert parse_raw(text) == {
        (
            Frame("work", "/srv/lib/w.py", 7),
            Frame("serve", "/srv/app.py", 3),
            Frame("<module>", "/srv/app.py", 12),
        ): 42
    }


def test_equal_stacks_are_added_up():
    assert parse_raw("f (a.py:1) 2\nf (a.py:1) 3\n") == {(Frame("f", "a.py", 1),): 5}


def test_a_frame_without_a_line_and_paths_with_spaces_and_parentheses():
    text = "<shim> (<native>);run (/home/x (copy)/my app.py:4) 9\n"
    assert parse_raw(text) == {
        (Frame("run", "/home/x (copy)/my app.py", 4), Frame("<shim>", "<native>", 0)): 9
    }


def test_semicolons_and_newlines_in_names_stay_in_their_frame():
    hostile = [Frame("a;b\nc", "/x;y\n.py", 3), Frame("main", "m.py", 1)]
    assert parse_raw(written(hostile, 7)) == {tuple(hostile): 7}


def test_nothing_is_read_from_nothing():
    assert parse_raw("") == {}
    assert parse_raw("\n\n") == {}


def test_what_was_cut_off_is_left_out():
    assert parse_raw("f (a.py:1) 2\ng (b.py:1);h (c.p") == {(Frame("f", "a.py", 1),): 2}


sane = st.text(st.characters(exclude_characters="();\n\r ", exclude_categories=("Cs",)), min_size=1)
names = st.text(st.characters(exclude_characters="()", exclude_categories=("Cs",)), min_size=1)
frames = st.builds(
    Frame, sane, st.builds("/{}.py".format, sane), st.integers(min_value=1, max_value=2**31 - 1)
)


@given(st.dictionaries(st.lists(frames, min_size=1, max_size=6).map(tuple), st.integers(1, 10**9)))
def test_what_is_written_is_read(stacks):
    text = "".join(written(list(stack), count) for stack, count in stacks.items())
    assert parse_raw(text) == stacks


@given(st.lists(st.builds(Frame, names, names, st.integers(1, 99)), min_size=1), st.integers(1, 99))
def test_hostile_names_never_lose_the_count(hostile, count):
    assert sum(parse_raw("ok (a.py:1) 1\n" + written(hostile, count)).values()) >= 1 + count


@given(st.text())
def test_any_text_is_survived(text):
    for stack, count in parse_raw(text).items():
        assert count >= 0
        assert all(isinstance(each, Frame) for each in stack)


def test_a_name_made_to_be_slow_is_not():
    began = time.process_time()
    for seed in ("\n", ";", " (", ")", ";x (", "9", " 9"):
        parse_raw(seed * 400_000 + " (f.py:1) 1\n")
        parse_raw("f (a.py:1) " + seed * 400_000)
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
