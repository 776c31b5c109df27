"""Diff tables against a plain reference."""

from __future__ import annotations

from collector.profiles_of_stacks import FRAMES, naive_top, stacks_strategy, tree_of
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.analysis.diff import DiffRow, top_diff
from flamewell_collector.analysis.joining import side_by_side

MAIN, WORK, *_ = FRAMES


def test_new_and_gone_functions() -> None:
    table = top_diff([tree_of([((MAIN,), 10)])], [tree_of([((MAIN,), 9), ((WORK,), 5)])])
    assert [(row.function, row.base_self, row.self) for row in table.rows] == [
        ("work", 0, 5),
        ("main", 10, 9),
    ]
    assert (table.base_total, table.total) == (10, 14)


@given(stacks_strategy, stacks_strategy)
def test_equals_the_plain_reference(base, later) -> None:
    table = top_diff([tree_of(base)], [tree_of(later)])
    before, after = naive_top(base), naive_top(later)
    assert {(row.function, row.file) for row in table.rows} == set(before) | set(after)
    for row in table.rows:
        assert (row.self, row.total) == after.get((row.function, row.file), (0, 0))
        assert (row.base_self, row.base_total) == before.get((row.function, row.file), (0, 0))
    changes = [abs(row.self - row.base_self) for row in table.rows]
    assert changes == sorted(changes, reverse=True)


@given(stacks_strategy)
def test_a_diff_with_itself_has_no_change(stacks) -> None:
    tree = tree_of(stacks)
    assert all(
        (row.self, row.total) == (row.base_self, row.base_total)
        for row in top_diff([tree], [tree]).rows
    )


@given(
    st.lists(stacks_strategy, min_size=1, max_size=3),
    st.lists(stacks_strategy, min_size=1, max_size=3),
    st.integers(1, 8),
)
def test_several_services_are_as_one_and_a_limit_cuts_the_table(before, after, limit) -> None:
    base, later = ([tree_of(each) for each in services] for services in (before, after))
    whole = top_diff([side_by_side(base)], [side_by_side(later)])
    together = top_diff(base, later)
    assert [values(row) for row in together.rows] == [values(row) for row in whole.rows]
    assert (together.total, together.base_total) == (whole.total, whole.base_total)
    cut = top_diff(base, later, limit=limit)
    assert cut.rows == together.rows[:limit]
    assert cut.functions == together.functions == len(whole.rows)


def values(row: DiffRow) -> tuple:
    """Leave the line out: which of several that a function has is shown is left open."""
    return row.function, row.file, row.self, row.total, row.base_self, row.base_total
