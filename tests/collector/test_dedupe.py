from __future__ import annotations

import random
import sqlite3
import tracemalloc
from collections.abc import Callable

import pytest
from collector.batches import P, batch
from collector.stored import NOON_MS, let_go, totals
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_agent.otlp import make_agent_id
from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store import batch_ledger
from flamewell_collector.store.dedupe import AgentSequence, SeenBatches, parse_agent_id
from flamewell_collector.store.storage import Storage

AGENT = "node-1-0a1b2c3d-deadbeef"


def test_the_agent_s_own_ids_are_told_apart() -> None:
    agent = make_agent_id("node-1.europe", "0a1b2c3d-4e5f")
    assert parse_agent_id(f"{agent}-12-3") == (agent, 12, 3)
    for other in (
        "b1",
        "a-1-2",
        "550e8400-e29b-41d4-a716-446655440000",
        f"{agent}-1-x",
        f"{AGENT}-1",
    ):
        assert parse_agent_id(other) is None


def test_a_long_life_in_order_is_a_few_numbers() -> None:
    agent = AgentSequence()
    for sequence in range(1, 20_000):
        for index in range(3):
            assert not agent.seen(sequence, index)
            agent.add(sequence, index, sequence)
    assert len(agent.to_json()) < 400
    assert all(agent.seen(sequence, 0) for sequence in range(1, 20_000))
    assert not agent.seen(20_000, 0)
    assert not agent.seen(19_999, 3), "another resource of a recent batch"


def test_what_comes_late_into_a_gap_is_taken_once() -> None:
    agent = AgentSequence()
    late = {5, 100, 101, 250}
    for sequence in range(1, 400):
        if sequence not in late:
            agent.add(sequence, 0, 1)
    for sequence in sorted(late):
        assert not agent.seen(sequence, 0)
        for index in range(4):
            assert not agent.seen(sequence, index), "a regrouped part may come by itself"
            agent.add(sequence, index, 1)
        assert all(agent.seen(sequence, index) for index in range(4))


def test_too_many_gaps_close_from_the_oldest() -> None:
    agent = AgentSequence()
    for sequence in range(0, 1_000, 2):
        agent.add(sequence, 0, 1)
    assert agent.seen(1, 0), "taken for dropped"
    assert not agent.seen(951, 0)
    assert len(agent.to_json()) < 2_000


@settings(max_examples=100, deadline=None)
@given(order=st.permutations(range(40)), written=st.integers(0, 40))
def test_any_order_and_a_restart(order: list[int], written: int) -> None:
    agent = AgentSequence()
    for at, sequence in enumerate(order):
        if at == written:
            agent = AgentSequence.from_json(agent.to_json(), agent.last_ms)
        assert not agent.seen(sequence, 0)
        agent.add(sequence, 0, 7)
        assert agent.seen(sequence, 0)
    assert all(agent.seen(sequence, 0) for sequence in order)


def test_tenants_are_apart() -> None:
    seen = SeenBatches()
    for each in ("x", f"{AGENT}-1-0"):
        seen.add("a", each, 1)
        assert seen.seen("a", each)
        assert not seen.seen("b", each)


def test_other_ids_many_of_them_in_little_memory() -> None:
    seen = SeenBatches(max_ids=100_000)
    tracemalloc.start()
    try:
        for number in range(150_000):
            seen.add("t", f"id{number}", number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 5 << 20
    assert all(seen.seen("t", f"id{number}") for number in range(149_000, 150_000))
    assert not seen.seen("t", "id150000")
    assert seen.dropped > 0
    assert len(seen) <= 120_000


def test_many_agents_in_little_memory() -> None:
    seen = SeenBatches(max_agents=2_000)
    tracemalloc.start()
    try:
        for number in range(3_000):
            for sequence in range(1, 30):
                seen.add("t", f"node-{number:08x}-{sequence}-0", number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 8 << 20
    assert (len(seen), seen.dropped) == (2_000, 1_000)
    assert seen.seen("t", f"node-{2_999:08x}-29-0")


def test_forgetting() -> None:
    seen = SeenBatches()
    for at in range(40_000):
        seen.add("t", f"id{at}", at)
    seen.add("t", f"{AGENT}-1-0", 5)
    assert not seen.forget(0)
    assert seen.forget(39_999)
    assert not seen.seen("t", f"{AGENT}-1-0")
    assert not seen.seen("t", "id1")
    assert seen.seen("t", "id39999")
    assert seen.forget(50_000)
    assert len(seen) == 0


def test_the_ledger_gives_back_what_was_written_in_parts() -> None:
    db = sqlite3.connect(":memory:")
    db.executescript(batch_ledger.SCHEMA)
    live = SeenBatches()
    ids = [f"{AGENT}-{sequence}-{index}" for sequence in range(60) for index in range(2)]
    ids += [f"other-{number}" for number in range(50)]
    random.Random(3).shuffle(ids)
    for start in range(0, len(ids), 7):
        part = [("t", each, start) for each in ids[start : start + 7]]
        for each in part:
            live.add(*each)
        batch_ledger.write(db, part)
    again = batch_ledger.read(db)
    asked = [*ids, f"{AGENT}-60-0", "other-50", f"{AGENT}-59-2"]
    assert [again.seen("t", each) for each in asked] == [live.seen("t", each) for each in asked]
    assert all(again.seen("t", each) for each in ids)
    batch_ledger.forget(db, 10**6)
    assert len(batch_ledger.read(db)) == 0
    db.close()


def one(number: int):
    profile = P({"service_name": "payments"}, NOON_MS, {"main": number + 1})
    return batch([profile], batch_id=f"{AGENT}-{number}-0")


def test_the_store_knows_them_through_flush_kill_and_restart(
    open_storage: Callable[..., Storage],
) -> None:
    storage = open_storage()
    order = [1, 2, 3, 7, 5, 4, 9]
    for number in order[:4]:
        assert storage.append(one(number))
    storage.flush()
    for number in order[4:]:
        assert storage.append(one(number))
    let_go(storage)
    again = open_storage()
    for number in order:
        assert again.seen("default", f"{AGENT}-{number}-0")
        assert not again.append(one(number))
    for number in (6, 8, 10):
        assert again.append(one(number)), "a gap is filled once"
    again.flush()
    let_go(again)
    third = open_storage()
    assert not any(third.append(one(number)) for number in (*order, 6, 8, 10))
    assert totals(third) == {number + 1: 1 for number in (*order, 6, 8, 10)}


def test_a_flush_that_fails_writes_down_nothing(
    open_storage: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of the log alone must not be taken for their own duplicates at the next start."""
    storage = open_storage()
    storage.append(one(1))

    def fails(*_arguments: object, **_options: object) -> None:
        raise StorageUnavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(storage._catalog, "commit", fails)
        with pytest.raises(StorageUnavailable):
            storage.flush()
    storage.append(one(2))
    let_go(storage)
    again = open_storage()
    assert totals(again) == {2: 1, 3: 1}
    assert not again.append(one(1))
