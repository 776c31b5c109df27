"""Top tables against a plain reference."""

from __future__ import annotations

from collector.profiles_of_stacks import FRAMES, naive_top, stacks_strategy, tree_of
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.analysis.joining import side_by_side
from flamewell_collector.analysis.top import TopRow, top

MAIN, WORK, WORK_LATER, LIB_WORK, *_ = FRAMES


def test_recursion_counts_once_a_stack() -> None:
    table = top([tree_of([((MAIN, WORK, MAIN, WORK_LATER), 7), ((WORK, MAIN), 2)])])
    assert table.rows == [
        TopRow("work", "app.py", 10, 7, 9),
        TopRow("main", "app.py", 1, 2, 9),
    ]
    assert table.total == 9


def test_same_name_in_two_files_is_two_functions() -> None:
    table = top([tree_of([((WORK,), 3), ((LIB_WORK,), 4)])])
    assert [(row.file, row.self) for row in table.rows] == [("lib.py", 4), ("app.py", 3)]


def test_a_value_without_a_stack_is_in_the_total_only() -> None:
    table = top([tree_of([((), 9)])])
    assert (table.rows, table.total) == ([], 9)


def test_a_function_that_is_called_as_the_root_is() -> None:
    (row,) = top([tree_of([((("total", "", 42),), 3)])]).rows
    assert row == TopRow("total", "", 42, 3, 3)


def test_nothing() -> None:
    assert top([tree_of([])]).rows == []


@given(stacks_strategy)
def test_equals_the_plain_reference(stacks) -> None:
    table = top([tree_of(stacks)])
    shown = {(row.function, row.file): (row.self, row.total) for row in table.rows}
    assert len(shown) == len(table.rows)
    assert shown == naive_top(stacks)
    assert table.total == sum(value for _, value in stacks)
    assert table.rows == sorted(
        table.rows, key=lambda row: (-row.self, -row.total, row.function, row.file)
    )


@given(st.lists(stacks_strategy, min_size=1, max_size=4), st.integers(1, 8))
def test_several_services_are_as_one_and_a_limit_cuts_the_table(services, limit) -> None:
    trees = [tree_of(each) for each in services]
    whole = top([side_by_side(trees)])
    together = top(trees)
    assert [named(row) for row in together.rows] == [named(row) for row in whole.rows]
    assert (together.functions, together.total) == (len(whole.rows), whole.total)
    cut = top(trees, limit=limit)
    assert cut.rows == together.rows[:limit]
    assert (cut.functions, cut.total) == (together.functions, together.total)


def named(row: TopRow) -> tuple[str, str, int, int]:
    """Leave the line out: which of several that a function has is shown is left open."""
    return row.function, row.file, row.self, row.total
