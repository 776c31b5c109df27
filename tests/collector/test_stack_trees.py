"""Ids and trees of whole batches, against the plainest reckoning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from collector.otlp_requests import NOW_MS, Request
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.hashing import GOLDEN, frame_hash, mix, text_hashes
from flamewell_collector.limits import Limits
from flamewell_collector.otlp import Decoder
from flamewell_collector.otlp_wire import parse_request

STACK = st.lists(st.sampled_from("abcdef"), max_size=7).map(tuple)
SERVICES = st.sampled_from(["payments", "orders", "ü"])


def path_id(stack: tuple[str, ...]) -> int:
    """Reckon a stack's id, outermost first, one frame at a time."""
    total = 0
    for depth, name in enumerate(stack, 1):
        term = (frame_hash(name, f"{name}.py", 7) + depth * int(GOLDEN)) % 2**64
        total += int(mix(np.array([term], dtype=np.uint64))[0])
    total = (total + 2**63) % 2**64 - 2**63
    return total or int(bool(stack))


def decode(samples: list[tuple[str, tuple[str, ...], int]], **limits: int) -> Any:
    request = Request()
    resources: dict[str, Any] = {}
    for service, stack, value in samples:
        if service not in resources:
            resources[service] = request.resource(service__name=service)
        resources[service].profile([(request.stack(*stack), value)])
    decoder = Decoder(
        Limits(**limits),
        seen=lambda _tenant, _id: False,
        room_for_series=lambda _tenant, _series: True,
    )
    return decoder.decode(parse_request(request.encoded(), as_json=False), "t", NOW_MS)


def paths(stacks: pa.Table, frames: pa.Table) -> list[tuple[str, ...]]:
    """Spell each node's path, outermost first; checks the numbering."""
    functions = frames["function"].to_pylist()
    found: list[tuple[str, ...]] = []
    for at, row in enumerate(stacks.to_pylist()):
        assert row["node"] == at
        if row["parent"] < 0:
            assert (row["frame"], row["stack_id"]) == (-1, 0)
            found.append(())
        else:
            assert row["parent"] < at
            found.append((*found[row["parent"]], functions[row["frame"]]))
    return found


@settings(max_examples=80, deadline=None)
@given(samples=st.lists(st.tuples(SERVICES, STACK, st.integers(1, 9)), min_size=1, max_size=20))
def test_trees_hold_each_prefix_once_a_service(
    samples: list[tuple[str, tuple[str, ...], int]],
) -> None:
    batch = decode(samples).batch
    wanted_nodes: list[tuple[str, ...]] = []
    ended: dict[str, set[tuple[str, ...]]] = {}
    for service, stack, _ in samples:
        ended.setdefault(service, set()).add(stack[::-1])
    for stacks in ended.values():
        nodes = {stack[:depth] for stack in stacks for depth in range(len(stack) + 1)} | {()}
        wanted_nodes += nodes
    spelled = paths(batch.stacks, batch.frames)
    assert sorted(spelled) == sorted(wanted_nodes)
    ids = {path_id(stack) for stacks in ended.values() for stack in stacks}
    marked = {
        row["stack_id"]: spelled[at]
        for at, row in enumerate(batch.stacks.to_pylist())
        if row["stack_id"] is not None
    }
    assert set(marked) == ids | {0}
    assert all(path_id(stack) == number for number, stack in marked.items())
    assert set(batch.samples["stack_id"].to_pylist()) <= ids
    assert len(set(batch.frames["function"].to_pylist())) == batch.frames.num_rows


@settings(max_examples=40, deadline=None)
@given(stacks=st.lists(STACK, min_size=1, max_size=12, unique=True), room=st.integers(0, 30))
def test_the_first_stacks_stay_where_there_is_no_room(
    stacks: list[tuple[str, ...]], room: int
) -> None:
    found = decode([("s", stack, 1) for stack in stacks], batch_nodes=room)
    if found.batch is None:
        assert found.rejected["too_many_frames"] == len(stacks)
        return
    spelled = paths(found.batch.stacks, found.batch.frames)
    assert len(spelled) - 1 <= room
    kept = set(found.batch.samples["stack_id"].to_pylist())
    assert len(kept) == len(stacks) - found.rejected["too_many_frames"]
    assert kept == {path_id(stack[::-1]) for stack in stacks[: len(stacks)]} & kept
    needed = {stack[::-1][:depth] for stack in stacks for depth in range(1, len(stack) + 1)}
    if len(needed) <= room:
        assert not found.rejected


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.binary(max_size=40), max_size=20))
def test_hashes_of_texts_are_what_the_definition_says(texts: list[bytes]) -> None:
    assert text_hashes(texts).tolist() == [text_hash(each) for each in texts]
    distinct = set(texts)
    assert len({text_hash(each) for each in distinct}) == len(distinct)


def text_hash(text: bytes) -> int:
    """By plain integers, one text at a time."""
    words = [int.from_bytes(text[begin : begin + 8], "little") for begin in range(0, len(text), 8)]
    total = sum(mixed(word + number * int(GOLDEN)) for number, word in enumerate(words, 1))
    return mixed(total + len(text) * int(GOLDEN))


def mixed(number: int) -> int:
    return int(mix(np.array([number % 2**64], dtype=np.uint64))[0])


def test_like_names_have_unlike_hashes() -> None:
    texts = [f"{module}.function_{at}".encode() for module in "abc" for at in range(100_000)]
    texts += [bytes(length) for length in range(1_000)]
    texts += [b"x" * length for length in range(1, 1_000)]
    hashes = text_hashes(texts)
    assert len(np.unique(hashes)) == len(texts)
    for bit in range(64):
        share = float(((hashes >> np.uint64(bit)) & np.uint64(1)).mean())
        assert 0.49 < share < 0.51


def test_many_stacks_in_several_parts() -> None:
    chance = np.random.default_rng(1)
    request = Request()
    locations = [
        request.dictionary.stack_table[request.stack(name)].location_indices[0]
        for name in "abcdefghij"
    ]
    names = dict(zip(locations, "abcdefghij", strict=True))
    first = len(request.dictionary.stack_table)
    chosen = chance.choice(locations, (9_000, 40))
    for row in chosen.tolist():
        request.dictionary.stack_table.add(location_indices=row)
    request.resource(service__name="s").profile([(first + at, 1) for at in range(9_000)])
    decoder = Decoder(
        Limits(), seen=lambda _tenant, _id: False, room_for_series=lambda _tenant, _id: True
    )
    batch = decoder.decode(parse_request(request.encoded(), as_json=False), "t", NOW_MS).batch
    assert batch is not None
    spelled = paths(batch.stacks, batch.frames)
    assert len(spelled) == len(set(spelled))
    wanted = {tuple(names[each] for each in reversed(row)) for row in chosen[::500].tolist()}
    assert wanted <= set(spelled)
    marked = batch.stacks.filter(pa.compute.is_valid(batch.stacks["stack_id"]))["stack_id"]
    assert set(batch.samples["stack_id"].to_pylist()) == set(marked.to_pylist()) - {0}
