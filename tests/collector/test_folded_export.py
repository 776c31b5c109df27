"""Folded stacks, and that no name can confuse a reader."""

from __future__ import annotations

from collections import Counter

from collector.profiles_of_stacks import FRAMES, tree_of
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.exports.folded import encode

MAIN, WORK, WORK_LATER, *_ = FRAMES


def read(text: str) -> Counter:
    """Read as flamegraph.pl does: split at the last blank, then at semicolons."""
    found: Counter = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        found[tuple(stack.split(";"))] += int(count)
    return found


def test_root_first_with_file_and_line() -> None:
    text = encode(tree_of([((MAIN, WORK), 5), ((MAIN, WORK_LATER), 2), ((MAIN,), 1)]))
    assert text.splitlines() == [
        "main (app.py:1) 1",
        "main (app.py:1);work (app.py:10) 5",
        "main (app.py:1);work (app.py:12) 2",
    ]


def test_what_is_not_known_is_left_out() -> None:
    text = encode(tree_of([((("f", "", 0), ("g", "x.so", 0), ("", "", 0)), 1), ((), 4)]))
    assert text == "[no stack] 4\nf;g (x.so);[unknown] 1\n"


def test_separators_in_names_are_replaced_and_equal_lines_added_up() -> None:
    hostile = [((("a;b\nc 7", "d;e", 1),), 1), ((("a:b c 7", "d:e", 1),), 2)]
    assert encode(tree_of(hostile)) == "a:b c 7 (d:e:1) 3\n"


def test_nothing_is_an_empty_file() -> None:
    assert encode(tree_of([])) == ""


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(
                    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                    st.text(st.sampled_from("a; \n\r\x0b\x85\u2028\t"), max_size=3),
                    st.integers(0, 3),
                ),
                min_size=1,
                max_size=4,
            ).map(tuple),
            st.integers(1, 99),
        ),
        max_size=8,
    )
)
def test_whatever_the_names_a_reader_sees_the_same_depths_and_values(stacks) -> None:
    shown = read(encode(tree_of(stacks)))
    by_depth, expected = Counter(), Counter()
    for stack, value in shown.items():
        assert all(stack), "an empty frame would vanish in readers"
        by_depth[len(stack)] += value
    for stack, value in stacks:
        expected[len(stack)] += value
    assert by_depth == expected
