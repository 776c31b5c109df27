from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from collector.batches import P, as_stacks, batch, stack_id
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.errors import StorageError
from flamewell_collector.store.schema import FRAMES, STACKS
from flamewell_collector.store.stacktable import StackTable

STACK = st.lists(st.sampled_from("abcdef"), min_size=0, max_size=7).map(" ".join)
AMOUNTS = st.dictionaries(STACK, st.integers(1, 10**12), max_size=25)


def interned(table: StackTable, amounts: dict[str, int]) -> None:
    each = batch([P({"service_name": "s"}, 1, amounts)], batch_id="b")
    table.intern(each.stacks, each.frames)


def columns(amounts: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    ids = [stack_id(tuple(text.split())) for text in amounts]
    return np.array(ids, dtype=np.uint64), np.array(list(amounts.values()), dtype=np.int64)


@settings(max_examples=80, deadline=None)
@given(first=AMOUNTS, second=AMOUNTS)
def test_a_tree_has_just_the_stacks_that_were_put_on_it(
    first: dict[str, int], second: dict[str, int]
) -> None:
    table = StackTable()
    interned(table, first)
    interned(table, second)
    for amounts in (first, second):
        tree = table.tree(*columns(amounts))
        assert as_stacks(tree) == amounts
        nodes = {text.split()[:depth].__str__() for text in amounts for depth in range(8)}
        assert len(tree.parent) == len(nodes | {"[]"}), "only nodes on the paths"
        assert all(parent < node for node, parent in enumerate(tree.parent.tolist()))
        assert len(tree.frames.function) == len({f for text in amounts for f in text.split()})


@settings(max_examples=80, deadline=None)
@given(amounts=AMOUNTS, chosen=st.sets(st.integers(0, 24)))
def test_a_subset_interned_elsewhere_gives_the_same_stacks(
    amounts: dict[str, int], chosen: set[int]
) -> None:
    table = StackTable()
    interned(table, amounts)
    some = {text: amounts[text] for at, text in enumerate(amounts) if at in chosen}
    stacks, frames = table.subset(columns(some)[0])
    assert stacks.schema == STACKS
    assert frames.schema == FRAMES
    other = StackTable()
    other.intern(stacks, frames)
    assert as_stacks(other.tree(*columns(some))) == some
    assert set(stacks.column("stack_id").drop_null().to_pylist()) == {
        0,
        *columns(some)[0].tolist(),
    }


def test_repeated_ids_add_up_and_unknown_ones_count_at_the_root() -> None:
    table = StackTable()
    interned(table, {"main f": 1})
    known = stack_id(("main", "f"))
    ids = np.array([known, 0, 12345, known], dtype=np.uint64)
    tree = table.tree(ids, np.array([1, 10, 100, 1000], dtype=np.int64))
    assert as_stacks(tree) == {"": 110, "main f": 1001}
    stacks, _ = table.subset(ids)
    assert stacks.column("stack_id").to_pylist() == [0, None, known], "the root stays 0"


def test_nothing_gives_the_root() -> None:
    tree = StackTable().tree(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))
    assert tree.parent.tolist() == [-1]
    assert tree.value.tolist() == [0]


@pytest.mark.parametrize(("parent", "frame"), [(5, 0), (1, 0), (0, 7), (0, -1)])
def test_numbers_outside_their_table_are_refused(parent: int, frame: int) -> None:
    stacks = pa.table(
        {"node": [0, 1], "parent": [-1, parent], "frame": [-1, frame], "stack_id": [0, 99]},
        schema=STACKS,
    )
    frames = pa.table({"frame": [0], "function": ["f"], "file": [""], "line": [1]}, schema=FRAMES)
    with pytest.raises(StorageError, match="stack node 1"):
        StackTable().intern(stacks, frames)


def test_a_block_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="block=abc"):
        StackTable().load_block(tmp_path / "block=abc")


def test_threads_intern_and_read_at_once() -> None:
    table = StackTable()
    sets = [{f"main w{w} f{i} g{i % 9}": i + 1 for i in range(300)} for w in range(4)]
    failures: list[object] = []

    def work(amounts: dict[str, int]) -> None:
        interned(table, amounts)
        seen = [as_stacks(table.tree(*columns(amounts))) for _ in range(10)]
        failures.extend(each for each in seen if each != amounts)

    workers = [threading.Thread(target=work, args=(each,)) for each in sets]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not failures
    assert as_stacks(table.tree(*columns(sets[0] | sets[3]))) == sets[0] | sets[3]


def test_a_deep_stack() -> None:
    table = StackTable()
    deep = " ".join(f"f{i % 50}" for i in range(1000))
    interned(table, {deep: 3})
    assert as_stacks(table.tree(*columns({deep: 3}))) == {deep: 3}
