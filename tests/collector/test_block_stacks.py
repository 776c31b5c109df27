"""Stacks of several blocks on one tree: each number finds its stack, whatever was there before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from collector.batches import P, as_stacks, batch, stack_id, trees_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.errors import StorageError
from flamewell_collector.store.block_stacks import BlockStacks, joined
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.stack_numbers import StackNumbers, StackRows

STACK = st.lists(st.sampled_from("abcdef"), min_size=0, max_size=7).map(" ".join)
STACKS_OF_A_BLOCK = st.lists(STACK, max_size=15, unique=True)


def tree_of(stacks: list[str]) -> PrefixTree:
    each = batch([P({"service_name": "s"}, 1, dict.fromkeys(stacks, 1))], batch_id="b")
    return trees_of(each.stacks, each.frames)


def ids_of(stacks: list[str]) -> np.ndarray:
    return np.array([stack_id(tuple(text.split())) for text in stacks], dtype=np.int64)


def block_of(stacks: list[str]) -> tuple[BlockStacks, StackRows]:
    tree = tree_of(stacks)
    numbers = StackNumbers(tree)
    numbers.of(tree.find(ids_of(stacks)))
    rows = StackRows.of("s", numbers).after(7, 5)
    return BlockStacks.of(rows.stacks, rows.frames), rows


@settings(max_examples=150, deadline=None)
@given(
    before=STACKS_OF_A_BLOCK,
    blocks=st.lists(STACKS_OF_A_BLOCK, max_size=4),
    head=STACKS_OF_A_BLOCK,
)
def test_each_number_finds_its_stack(
    before: list[str], blocks: list[list[str]], head: list[str]
) -> None:
    found = [block_of(each)[0] for each in blocks]
    tree, nodes = joined(tree_of(before), found, [tree_of(head)])
    for stacks, block, mine in zip(blocks, found, nodes, strict=True):
        assert sorted(tree.path[mine].tolist()) == sorted(ids_of(stacks).tolist())
        assert tree.path[mine].tolist() == block.ids.tolist()
    every = {text for each in (before, head, *blocks) for text in each}
    values = dict.fromkeys(every, 3)
    ids = ids_of(list(every))
    assert as_stacks(tree.tree(ids, np.full(len(ids), 3))) == values
    assert (tree.find(ids) >= 0).all()


def test_a_tree_that_has_all_of_it_stays() -> None:
    tree = tree_of(["a b c", "a d"])
    same, (nodes,) = joined(tree, [block_of(["a b"])[0]])
    assert same is tree
    assert tree.path[nodes].tolist() == ids_of(["a b"]).tolist()


def test_nothing() -> None:
    tree, nodes = joined(PrefixTree.empty(), [block_of([])[0]])
    assert (len(tree), [each.tolist() for each in nodes]) == (1, [[]])


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("stack", lambda old: [None if each is None else each + 1 for each in old], "have gaps"),
        ("stack", lambda old: [None if each is None else 0 for each in old], "one number"),
        ("parent", lambda old: [*old[:-1], 99], "not there"),
        ("frame", lambda old: [*old[:-1], 99], "not there"),
    ],
)
def test_rows_that_point_to_nothing(column: str, change: object, words: str) -> None:
    _, rows = block_of(["a b c", "a d", "e"])
    at = rows.stacks.schema.get_field_index(column)
    harmed = pa.array(change(rows.stacks.column(column).to_pylist()), pa.int32())
    stacks = rows.stacks.set_column(at, rows.stacks.schema.field(column), harmed)
    with pytest.raises(StorageError, match=words):
        BlockStacks.of(stacks, rows.frames)


def test_a_number_that_is_not_there() -> None:
    block, _ = block_of(["a", "b"])
    assert block.ids_of(np.array([1, 0, 1], np.int32)).tolist() == block.ids[[1, 0, 1]].tolist()
    for number in (-1, 2):
        with pytest.raises(StorageError, match="not there"):
            block.ids_of(np.array([number], np.int32))
