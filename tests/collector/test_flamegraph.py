"""Flame graphs against a plain reference."""

from __future__ import annotations

import numpy as np
from collector.profiles_of_stacks import FRAMES, naive_nodes, paths_of, stacks_strategy, tree_of
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.analysis.flamegraph import build, build_diff
from flamewell_collector.model import Frames, StackTree

MAIN, WORK, WORK_LATER, LIB_WORK, *_ = FRAMES


def check_sums(depth, own, total) -> None:
    """Every total is the node's own value and its children's totals."""
    below = np.zeros(depth.size, np.int64)
    open_nodes: list[int] = []
    for node, level in enumerate(depth.tolist()):
        del open_nodes[level:]
        if open_nodes:
            below[open_nodes[-1]] += total[node]
        open_nodes.append(node)
    assert (total == own + below).all()


def test_one_stack_by_hand() -> None:
    columns = build(tree_of([((MAIN, WORK), 5), ((MAIN, WORK_LATER), 2), ((MAIN,), 1)]))
    assert columns.functions == ["total", "main", "work"]
    assert columns.files == ["", "app.py", "app.py"]
    assert columns.lines == [0, 1, 10]
    assert columns.name.tolist() == [0, 1, 2]
    assert columns.depth.tolist() == [0, 1, 2]
    assert columns.self.tolist() == [0, 1, 7]
    assert columns.total.tolist() == [8, 8, 7]
    assert not columns.pruned


def test_types_are_those_promised() -> None:
    columns = build(tree_of([((MAIN,), 1)]))
    assert (columns.name.dtype, columns.depth.dtype) == (np.int32, np.int32)
    assert (columns.self.dtype, columns.total.dtype) == (np.int64, np.int64)


def test_nothing_is_one_root() -> None:
    columns = build(tree_of([]))
    assert (columns.functions, columns.total.tolist()) == (["total"], [0])


def test_totals_are_exact_beyond_what_floats_hold() -> None:
    columns = build(tree_of([((MAIN, WORK), 2**60 + 1), ((MAIN, LIB_WORK), 2**60 + 2)]))
    assert columns.total[0] == 2**61 + 3


def test_a_stack_of_five_thousand_frames() -> None:
    count = 5_001
    frame = np.arange(-1, count - 1, dtype=np.int32) % 7
    frame[0] = -1
    deep = StackTree(
        np.arange(-1, count - 1, dtype=np.int32),
        frame,
        np.ones(count, np.int64),
        Frames([f"f{n}" for n in range(7)], [""] * 7, np.zeros(7, np.int32)),
    )
    columns = build(deep)
    assert columns.depth.tolist() == list(range(count))
    assert columns.total.tolist() == list(range(count, 0, -1))
    assert build(deep, max_nodes=100).total[0] == count


@given(stacks_strategy)
def test_equals_the_plain_reference(stacks) -> None:
    columns = build(tree_of(stacks))
    values = zip(columns.self.tolist(), columns.total.tolist(), strict=True)
    shown = dict(zip(paths_of(columns), values, strict=True))
    assert len(shown) == columns.name.size
    assert shown == naive_nodes(stacks)
    check_sums(columns.depth, columns.self, columns.total)


@given(stacks_strategy)
def test_siblings_are_sorted_by_function_then_file(stacks) -> None:
    paths = paths_of(build(tree_of(stacks)))
    assert paths == sorted(paths)


@given(stacks_strategy, st.randoms(use_true_random=False))
def test_the_order_of_stacks_does_not_matter(stacks, random) -> None:
    shuffled = list(stacks)
    random.shuffle(shuffled)
    one, other = build(tree_of(stacks)), build(tree_of(shuffled))
    assert paths_of(one) == paths_of(other)
    assert (one.self == other.self).all()


@given(stacks_strategy, st.integers(2, 30))
def test_pruning_keeps_totals_exact(stacks, max_nodes) -> None:
    whole = build(tree_of(stacks))
    columns = build(tree_of(stacks), max_nodes=max_nodes)
    assert columns.name.size <= max_nodes
    assert columns.pruned == (whole.name.size > max_nodes)
    assert columns.total[0] == whole.total[0]
    check_sums(columns.depth, columns.self, columns.total)
    known = naive_nodes(stacks)
    paths = paths_of(columns)
    folds = columns.name >= columns.first_fold
    for path, total, fold in zip(paths, columns.total.tolist(), folds.tolist(), strict=True):
        if not fold:
            assert total == known[path][1]


@given(stacks_strategy, st.integers(2, 30))
def test_folds_stand_for_the_smallest_and_say_how_many(stacks, max_nodes) -> None:
    columns = build(tree_of(stacks), max_nodes=max_nodes)
    known = naive_nodes(stacks)
    paths = paths_of(columns)
    is_fold = (columns.name >= columns.first_fold).tolist()
    kept = {path for path, fold in zip(paths, is_fold, strict=True) if not fold}
    folded_under = {path[:-1] for path, fold in zip(paths, is_fold, strict=True) if fold}
    largest_cut = 0
    for path, own, fold in zip(paths, columns.self.tolist(), is_fold, strict=True):
        if fold:
            cut = [
                total
                for other, (_, total) in known.items()
                if other and other[:-1] == path[:-1] and other not in kept
            ]
            assert path[-1][0] == f"({len(cut)} smaller)"
            assert own == sum(cut)
            largest_cut = max(largest_cut, *cut)
    for path in kept:
        if known[path][1] < largest_cut:
            assert path[:-1] not in folded_under, "kept, though a fold stands beside it"
            assert not any(other[:-1] == path for other in known if other), "and it calls others"


def test_the_smallest_are_cut_and_the_fold_comes_last() -> None:
    many = [((("main", "", 0), (f"f{n:02}", "", 0)), n + 1) for n in range(20)]
    columns = build(tree_of(many), max_nodes=6)
    assert [columns.functions[name] for name in columns.name] == [
        "total",
        "main",
        "f17",
        "f18",
        "f19",
        "(17 smaller)",
    ]
    assert columns.total.tolist() == [210, 210, 18, 19, 20, 153]
    assert columns.lines[columns.name[-1]] == 0


def test_a_lonely_leaf_is_not_folded() -> None:
    stacks = [((MAIN, WORK), 5), ((MAIN, LIB_WORK, WORK), 4), ((MAIN, LIB_WORK, MAIN), 1)]
    columns = build(tree_of(stacks), max_nodes=5)
    assert columns.name.size == 5
    assert [columns.functions[name] for name in columns.name][-1] == "(2 smaller)"
    columns = build(tree_of([*stacks[:2], ((MAIN, LIB_WORK, LIB_WORK, WORK), 1)]), max_nodes=6)
    assert [columns.functions[name] for name in columns.name].count("(1 smaller)") == 1


def test_a_function_without_any_value_is_left_out() -> None:
    columns = build(tree_of([((MAIN, WORK), 0), ((MAIN,), 3)]))
    assert columns.name.size == 2


@given(stacks_strategy)
def test_a_diff_with_itself_is_symmetric(stacks) -> None:
    tree = tree_of(stacks)
    columns, alone = build_diff(tree, tree), build(tree)
    assert (columns.self == columns.base_self).all()
    assert (columns.total == columns.base_total).all()
    assert (columns.self == alone.self).all()
    assert paths_of(columns) == paths_of(alone)


@given(stacks_strategy, stacks_strategy)
def test_a_diff_holds_both(base, later) -> None:
    columns = build_diff(tree_of(base), tree_of(later))
    before, after = naive_nodes(base), naive_nodes(later)
    paths = paths_of(columns)
    assert set(paths) == set(before) | set(after)
    for row, path in enumerate(paths):
        assert (columns.self[row], columns.total[row]) == after.get(path, (0, 0))
        assert (columns.base_self[row], columns.base_total[row]) == before.get(path, (0, 0))


@given(stacks_strategy, stacks_strategy, st.integers(2, 20))
def test_a_pruned_diff_keeps_both_totals_exact(base, later, max_nodes) -> None:
    columns = build_diff(tree_of(base), tree_of(later), max_nodes=max_nodes)
    assert columns.name.size <= max_nodes
    check_sums(columns.depth, columns.self, columns.total)
    check_sums(columns.depth, columns.base_self, columns.base_total)
    assert columns.total[0] == naive_nodes(later)[()][1]
    assert columns.base_total[0] == naive_nodes(base)[()][1]


def test_different_frame_tables_meet() -> None:
    columns = build_diff(
        tree_of([((LIB_WORK, MAIN), 3)]), tree_of([((MAIN,), 1), ((LIB_WORK, MAIN), 2)])
    )
    assert paths_of(columns) == [
        (),
        (("main", "app.py"),),
        (("work", "lib.py"),),
        (("work", "lib.py"), ("main", "app.py")),
    ]
    assert columns.self.tolist() == [0, 1, 0, 2]
    assert columns.base_self.tolist() == [0, 0, 0, 3]
