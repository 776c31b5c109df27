from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from collector.batches import P, as_stacks, batch, frame_rows, stack_id, trees_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.errors import StorageError
from flamewell_collector.store.head_stacks import HeadStacks
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.reader import BlockReader
from flamewell_collector.store.schema import FRAMES, STACKS
from flamewell_collector.store.stack_numbers import StackNumbers, StackRows

STACK = st.lists(st.sampled_from("abcdef"), min_size=0, max_size=7).map(" ".join)
AMOUNTS = st.dictionaries(STACK, st.integers(1, 10**12), max_size=25)


def tree_of(amounts: dict[str, int]) -> PrefixTree:
    each = batch([P({"service_name": "s"}, 1, amounts)], batch_id="b")
    return trees_of(each.stacks, each.frames)


def columns(amounts: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    ids = [stack_id(tuple(text.split())) for text in amounts]
    return np.array(ids, dtype=np.int64), np.array(list(amounts.values()), dtype=np.int64)


@settings(max_examples=80, deadline=None)
@given(first=AMOUNTS, second=AMOUNTS)
def test_a_tree_has_just_the_stacks_that_were_put_on_it(
    first: dict[str, int], second: dict[str, int]
) -> None:
    both = PrefixTree.merged([tree_of(first), tree_of(second)])
    for amounts in (first, second):
        tree = both.tree(*columns(amounts))
        assert as_stacks(tree) == amounts
        nodes = {text.split()[:depth].__str__() for text in amounts for depth in range(8)}
        assert len(tree.parent) == len(nodes | {"[]"}), "only nodes on the paths"
        assert all(parent < node for node, parent in enumerate(tree.parent.tolist()))
        assert len(tree.frames.function) == len({f for text in amounts for f in text.split()})


@settings(max_examples=80, deadline=None)
@given(amounts=AMOUNTS, chosen=st.sets(st.integers(0, 24)))
def test_rows_of_a_block_give_the_same_stacks(amounts: dict[str, int], chosen: set[int]) -> None:
    some = {text: amounts[text] for at, text in enumerate(amounts) if at in chosen}
    tree = tree_of(amounts)
    numbers = StackNumbers(tree)
    numbered = numbers.of(tree.find(columns(some)[0]))
    first, first_frame = 3, 2
    rows = StackRows.of("s", numbers).after(first, first_frame)
    stacks, frames = rows.stacks, rows.frames
    assert (stacks.schema, frames.schema) == (STACKS.remove(6), FRAMES.remove(6))
    assert stacks.column("node").to_pylist() == list(range(first, first + stacks.num_rows))
    assert frames.column("frame").to_pylist() == list(
        range(first_frame, first_frame + frames.num_rows)
    )
    parents = stacks.column("parent").to_pylist()
    assert all(up < first + at for at, up in enumerate(parents))
    ends = set(stacks.column("stack_id").drop_null().to_pylist())
    assert ends == {0, *columns(some)[0].tolist()}
    number_of = dict(zip(stacks["stack"].to_pylist(), stacks["stack_id"].to_pylist(), strict=True))
    assert [number_of[each] for each in numbered.tolist()] == columns(some)[0].tolist()
    assert sorted(numbered.tolist()) == list(range(len(some)))
    parent = np.array([max(each - first, -1) for each in parents], dtype=np.int32)
    frame = stacks.column("frame").to_numpy() - first_frame
    again = PrefixTree.built(parent, frame.astype(np.int32), frames)
    assert as_stacks(again.tree(*columns(some))) == some


def test_stacks_that_come_often_have_small_numbers() -> None:
    numbers = StackNumbers(tree_of({"a": 1, "b": 1, "c": 1, "d": 1}))
    a, b, c, d = numbers.tree.find(columns({"a": 1, "b": 1, "c": 1, "d": 1})[0]).tolist()
    assert numbers.of(np.array([b, a, b, c, c, c])).tolist() == [1, 2, 1, 0, 0, 0]
    assert numbers.of(np.array([d, d, a])).tolist() == [3, 3, 2]
    assert numbers.nodes.tolist() == [c, b, a, d]


def test_each_node_of_a_block_is_followed_by_all_that_it_leads_to() -> None:
    tree = tree_of({"a b c": 1, "a d": 1, "e": 1, "a b f": 1})
    parent = tree.parent[tree.preorder()]
    place = np.argsort(tree.preorder())
    path: list[int] = [0]
    for node, up in enumerate(place[np.maximum(parent, 0)].tolist()[1:], start=1):
        while path[-1] != up:
            path.pop()
        path.append(node)


def test_repeated_ids_add_up_and_unknown_ones_count_at_the_root() -> None:
    table = tree_of({"main f": 1})
    known = stack_id(("main", "f"))
    ids = np.array([known, 0, 12345, known], dtype=np.int64)
    tree = table.tree(ids, np.array([1, 10, 100, 1000], dtype=np.int64))
    assert as_stacks(tree) == {"": 110, "main f": 1001}
    assert table.find(ids).tolist() == [2, 0, -1, 2]


def test_nothing_gives_the_root() -> None:
    tree = PrefixTree.empty().tree(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert tree.parent.tolist() == [-1]
    assert tree.value.tolist() == [0]
    assert len(PrefixTree.merged([])) == 1


@pytest.mark.parametrize(("parent", "frame"), [(5, 0), (1, 0), (0, 7), (0, -1)])
def test_numbers_outside_their_table_are_refused(parent: int, frame: int) -> None:
    with pytest.raises(StorageError, match="not there"):
        PrefixTree.built(
            np.array([-1, parent], np.int32), np.array([-1, frame], np.int32), frame_rows("f")
        )


def test_two_paths_with_one_id_leave_a_tree() -> None:
    """A sender can make sums that are equal; every node still has a caller before it."""
    frames = frame_rows("ab").set_column(1, "frame_id", pa.array([5, 7], pa.int64()))
    chain = np.array([-1, 0, 1], np.int32)
    deep = PrefixTree.built(chain, chain, frames)
    forged = PrefixTree(
        deep.path[[0, 2]], np.array([-1, 0], np.int32), np.array([-1, 0], np.int32),
        depth=np.array([0, 1]), frames=deep.frames,
    )  # fmt: skip
    merged = PrefixTree.merged([forged, deep])
    assert len(merged) == 3
    assert (merged.parent[1:] < np.arange(1, 3)).all()
    merged.tree(merged.path, np.ones(3, np.int64))


def test_a_block_that_is_not_there_is_named(tmp_path: Path) -> None:
    with BlockReader(tmp_path / "block=abc") as reader, pytest.raises(StorageError, match="abc"):
        reader.stacks("s")


def test_threads_add_and_read_at_once() -> None:
    head = HeadStacks()
    sets = [{f"main w{w} f{i} g{i % 9}": i + 1 for i in range(300)} for w in range(4)]
    failures: list[object] = []
    lock = threading.Lock()

    def work(amounts: dict[str, int]) -> None:
        each = batch([P({"service_name": "s"}, 1, amounts)], batch_id="b")
        with lock:
            head.add(each.stacks, each.frames)
        for _ in range(10):
            tree = head.tree("s")
            seen = as_stacks(tree.tree(*columns(amounts))) if tree else {}
            failures.extend([seen] if seen != amounts else [])

    workers = [threading.Thread(target=work, args=(each,)) for each in sets]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not failures
    tree = head.tree("s")
    assert tree is not None
    assert as_stacks(tree.tree(*columns(sets[0] | sets[3]))) == sets[0] | sets[3]


def test_services_of_a_batch_have_their_own_stacks() -> None:
    each = batch(
        [P({"service_name": "s"}, 1, {"a b": 1}), P({"service_name": "t"}, 1, {"a c": 2})],
        batch_id="b",
    )
    head = HeadStacks()
    head.add(each.stacks, each.frames)
    one, other = head.tree("s"), head.tree("t")
    assert one is not None
    assert other is not None
    assert as_stacks(one.tree(*columns({"a b": 3}))) == {"a b": 3}
    assert one.find(columns({"a c": 1})[0]).tolist() == [-1]
    assert head.tree("u") is None


def test_a_deep_stack() -> None:
    amounts = {" ".join(f"f{depth}" for depth in range(5_000)): 1, "f0 f1": 2}
    tree = tree_of(amounts)
    assert as_stacks(tree.tree(*columns(amounts))) == amounts
