"""Flame graphs of many services at once are those of all their stacks in one tree."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from collector.profiles_of_stacks import FRAMES, stacks_strategy, tree_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.analysis import joining
from flamewell_collector.analysis.flamegraph import (
    DiffColumns,
    FlameColumns,
    build,
    build_diff,
    build_diff_together,
    build_together,
)
from flamewell_collector.analysis.joining import joined, side_by_side
from flamewell_collector.model import StackTree

MAIN, WORK, WORK_LATER, LIB_WORK, *_ = FRAMES


def shown(columns: FlameColumns | DiffColumns) -> dict[str, object]:
    """Give all but the lines: which of several that a function has is shown is left open."""
    found = {each.name: getattr(columns, each.name) for each in fields(columns)}
    del found["lines"]
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


@settings(max_examples=300, deadline=None)
@given(
    services=st.lists(stacks_strategy, min_size=2, max_size=5),
    max_nodes=st.integers(1, 40),
)
def test_the_same_as_of_one_tree(services: list, max_nodes: int) -> None:
    trees = [tree_of(each) for each in services]
    whole = build(side_by_side(trees), max_nodes=max_nodes)
    assert shown(build_together(trees, max_nodes=max_nodes)) == shown(whole)


@settings(max_examples=200, deadline=None)
@given(
    before=st.lists(stacks_strategy, min_size=1, max_size=4),
    after=st.lists(stacks_strategy, min_size=1, max_size=4),
    max_nodes=st.integers(1, 40),
)
def test_comparisons_too(before: list, after: list, max_nodes: int) -> None:
    base, later = ([tree_of(each) for each in services] for services in (before, after))
    whole = build_diff(side_by_side(base), side_by_side(later), max_nodes=max_nodes)
    together = build_diff_together(base, later, max_nodes=max_nodes)
    assert shown(together) == shown(whole)


@settings(max_examples=100, deadline=None)
@given(
    services=st.lists(stacks_strategy, min_size=2, max_size=5),
    max_nodes=st.integers(1, 40),
)
def test_few_cells_change_nothing(services: list, max_nodes: int) -> None:
    """Paths that share a cell of the table only make more of them be looked at."""
    trees = [tree_of(each) for each in services]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "_MIN_CELL_BITS", 1)
        patch.setattr(joining, "_MAX_CELL_BITS", 2)
        together = build_together(trees, max_nodes=max_nodes)
    assert shown(together) == shown(build(side_by_side(trees), max_nodes=max_nodes))


def test_little_is_put_together() -> None:
    """200 services of 1,000 paths each, of which 50 nodes are to be shown."""
    chance = np.random.default_rng(1)
    trees = []
    for service in range(200):
        frames = [(f"f{number}", f"s{service}.py", 1) for number in range(1_000)]
        weights = chance.zipf(1.5, 1_000).clip(max=10**6).tolist()
        stacks = [((MAIN, frame), weight) for frame, weight in zip(frames, weights, strict=True)]
        trees.append(tree_of(stacks))
    (found,) = joined([trees], 50) or ()
    assert found.value.sum() == sum(each.value.sum() for each in trees)
    assert shown(build(found, max_nodes=50)) == shown(build(side_by_side(trees), max_nodes=50))


@pytest.mark.parametrize("value", [-1, 2**62])
def test_values_that_cannot_be_added_up_by_parts(value: int) -> None:
    trees = [tree_of([((MAIN, WORK), value)]), tree_of([((MAIN, LIB_WORK), 2)])]
    assert joined([trees], 10) is None
    assert build_together(trees).total[0] == value + 2


def test_services_without_values() -> None:
    nothing: list[StackTree] = [tree_of([]), tree_of([((MAIN,), 0)])]
    assert build_together(nothing).total.tolist() == [0]
    some = [*nothing, tree_of([((MAIN, WORK_LATER), 3)])]
    assert build_together(some).total.tolist() == [3, 3, 3]
