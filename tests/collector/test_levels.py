"""Pyroscope's levels decode back to the tree that they were made of."""

from __future__ import annotations

from collector.profiles_of_stacks import FRAMES, stacks_strategy, tree_of
from hypothesis import given

from flamewell_collector.analysis.flamegraph import build, build_diff, diff_levels, levels

MAIN, WORK, _, LIB_WORK, *_ = FRAMES


def decode(levels_of_numbers, *, at: int, width: int) -> list[list[tuple[int, int, int, int]]]:
    """Turn each level into (x, total, self, name) with absolute x, as a viewer does."""
    decoded = []
    for numbers in levels_of_numbers:
        bars, end = [], 0
        flat = numbers.tolist()
        for start in range(0, len(flat), width):
            x, total, own = flat[start + at : start + at + 3]
            x += end
            end = x + total
            bars.append((x, total, own, flat[start + width - 1]))
        decoded.append(bars)
    return decoded


def check_inside_one(above: list[tuple[int, int, int, int]], x: int, total: int) -> None:
    """A bar stands below the part of one bar that is behind that one's own value."""
    assert any(bar[0] + bar[2] <= x and x + total <= bar[0] + bar[1] for bar in above)


def test_two_levels_by_hand() -> None:
    bearer = levels(build(tree_of([((MAIN, WORK), 5), ((MAIN,), 2), ((LIB_WORK,), 1)])))
    assert bearer.names == ["total", "main", "work", "work"]
    assert [each.tolist() for each in bearer.levels] == [
        [0, 8, 0, 0],
        [0, 7, 2, 1, 0, 1, 1, 3],
        [2, 5, 5, 2],
    ]
    assert (bearer.total, bearer.max_self) == (8, 5)


def test_cut_nodes_are_called_other() -> None:
    many = [((("main", "", 0), (f"f{n}", "", 0)), n + 1) for n in range(20)]
    bearer = levels(build(tree_of(many), max_nodes=5))
    (*_, name) = bearer.levels[-1].tolist()
    assert bearer.names[name] == "other"


def test_a_function_called_like_a_fold_keeps_its_name() -> None:
    bearer = levels(build(tree_of([((("(3 smaller)", "", 0),), 1)])))
    assert bearer.names == ["total", "(3 smaller)"]


def test_an_empty_profile_is_one_bar() -> None:
    bearer = levels(build(tree_of([])))
    assert [each.tolist() for each in bearer.levels] == [[0, 0, 0, 0]]


@given(stacks_strategy)
def test_levels_decode_to_the_same_bars(stacks) -> None:
    columns = build(tree_of(stacks))
    decoded = decode(levels(columns).levels, at=0, width=4)
    rows = list(
        zip(
            columns.depth.tolist(),
            columns.total.tolist(),
            columns.self.tolist(),
            columns.name.tolist(),
            strict=True,
        )
    )
    for depth, bars in enumerate(decoded):
        assert [bar[1:] for bar in bars] == [row[1:] for row in rows if row[0] == depth]
        for x, total, _, _ in bars if depth else ():
            check_inside_one(decoded[depth - 1], x, total)


@given(stacks_strategy, stacks_strategy)
def test_diff_levels_decode_to_both_sides(base, later) -> None:
    columns = build_diff(tree_of(base), tree_of(later))
    bearer = diff_levels(columns)
    assert (bearer.left_total, bearer.right_total) == (columns.base_total[0], columns.total[0])
    left = decode(bearer.levels, at=0, width=7)
    right = decode(bearer.levels, at=3, width=7)
    depths = columns.depth.tolist()
    for depth, (left_bars, right_bars) in enumerate(zip(left, right, strict=True)):
        rows = [row for row, at in enumerate(depths) if at == depth]
        assert [bar[1:] for bar in left_bars] == [
            (columns.base_total[row], columns.base_self[row], columns.name[row]) for row in rows
        ]
        assert [bar[1:] for bar in right_bars] == [
            (columns.total[row], columns.self[row], columns.name[row]) for row in rows
        ]
        for bars, above in ((left_bars, left), (right_bars, right)):
            for x, total, _, _ in bars if depth else ():
                check_inside_one(above[depth - 1], x, total)
