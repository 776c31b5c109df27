"""The generator of bench/: what the store is measured with must be what it says it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flamewell_collector.hashing import path_ids, stack_hash
from flamewell_collector.store import schema
from flamewell_wire import profile_types

BENCH = str(Path(__file__).parents[2] / "bench")
FIRST_MS = 1_767_225_600_000  # 2026-01-01
SLOT_MS = 300_000


@pytest.fixture(scope="module")
def model():
    sys.path.insert(0, BENCH)
    try:
        import model_workload

        yield model_workload
    finally:
        sys.path.remove(BENCH)


@pytest.fixture(scope="module")
def workload(model):
    return model.Workload(model.Shape(services=3, pods=2, stacks=2_000, stacks_a_profile=60))


@pytest.fixture(scope="module")
def batch(workload):
    return workload.batch(FIRST_MS, SLOT_MS, stacks="all")


def test_batches_have_the_schemas_of_the_store(batch):
    for name, expected in schema.BATCH_TABLES.items():
        table = getattr(batch, name)
        assert table.schema.equals(expected), name
        table.validate(full=True)


def test_a_slot_is_the_same_whenever_it_is_made(model, workload, batch):
    other = model.Workload(workload.shape)
    other.batch(FIRST_MS + SLOT_MS, SLOT_MS)
    again = other.batch(FIRST_MS, SLOT_MS, stacks="all")
    for name in schema.BATCH_TABLES:
        assert getattr(again, name).equals(getattr(batch, name)), name
    reseeded = model.Workload(model.Shape(services=1, pods=1, stacks=2_000, seed=2))
    assert not reseeded.batch(FIRST_MS, SLOT_MS).samples.equals(batch.samples)


def test_samples_belong_to_profiles_and_sum_up_to_their_totals(workload, batch):
    keys = ["service_name", "profile_type", "time", "series_id"]
    assert batch.profiles.num_rows == 3 * 2 * 5 * 20
    sums = (
        batch.samples.group_by(keys)
        .aggregate([("value", "sum")])
        .sort_by([(key, "ascending") for key in keys])
    )
    totals = batch.profiles.sort_by([(key, "ascending") for key in keys])
    assert sums.select(keys).equals(totals.select(keys))
    assert sums.column("value_sum").to_pylist() == totals.column("total").to_pylist()
    times = batch.profiles.column("time").to_numpy()
    assert times.min() >= FIRST_MS
    assert times.max() < FIRST_MS + SLOT_MS
    each_once = batch.samples.group_by([*keys, "stack_id"]).aggregate([])
    assert each_once.num_rows == batch.samples.num_rows
    assert pc.min(batch.samples.column("value")).as_py() > 0


def test_stack_ids_are_the_hashes_of_the_frames(workload, batch):
    parent = batch.stacks.column("parent").to_numpy()
    frame = batch.stacks.column("frame").to_numpy()
    ids = batch.stacks.column("stack_id").to_pylist()
    frames = batch.frames.drop_columns(["frame", "frame_id"]).to_pylist()
    for row in np.flatnonzero([each not in (None, 0) for each in ids])[::397].tolist():
        stack, at = [], row
        while parent[at] >= 0:
            stack.append(tuple(frames[frame[at]].values()))
            at = parent[at]
        assert stack_hash(stack[::-1]) == ids[row]
    assert len(set(frames_of(batch))) == batch.frames.num_rows


def frames_of(batch) -> list[tuple]:
    return [tuple(each.values()) for each in batch.frames.drop_columns(["frame"]).to_pylist()]


def test_used_stacks_are_those_of_the_samples_and_none_are_none(workload, batch):
    used = workload.batch(FIRST_MS, SLOT_MS, stacks="used")
    assert used.samples.equals(batch.samples)
    held = {each for each in used.stacks.column("stack_id").to_pylist() if each}
    assert held == set(batch.samples.column("stack_id").to_pylist())
    assert used.stacks.num_rows < batch.stacks.num_rows
    for table in (used.stacks, batch.stacks):
        parent = table.column("parent").to_numpy()
        rows = np.arange(len(parent))
        assert (table.column("node").to_numpy() == rows).all()
        assert (parent < rows).all()
        assert (parent < 0).sum() == 3
        caller = np.where(parent < 0, rows, parent)
        frame_ids = used.frames.column("frame_id").to_numpy().view(np.uint64)
        hashes = frame_ids[np.maximum(table.column("frame").to_numpy(), 0)]
        path, _ = path_ids(caller, hashes)
        assert len(np.unique(path[parent >= 0])) == (parent >= 0).sum()  # each path once
    none = workload.batch(FIRST_MS, SLOT_MS, stacks="none")
    assert none.stacks.num_rows == none.frames.num_rows == 0


def test_the_first_batch_of_a_slice_has_the_stacks(workload):
    batches = list(workload.batches(FIRST_MS, 0.5, slice_ms=900_000))
    assert [each.stacks.num_rows > 0 for each in batches] == [True, False, False] * 2
    assert len({each.batch_ids for each in batches}) == 6


def test_a_fleet_may_be_part_of_the_whole(workload, batch):
    part = workload.batch(FIRST_MS, SLOT_MS, fleet={1: 2})
    whole = batch.samples.filter(
        pc.equal(batch.samples.column("service_name"), part.samples.column("service_name")[0])
    )
    assert part.samples.equals(pa.table(whole.slice(0, part.samples.num_rows)))
    kinds = part.samples.column("profile_type").unique().to_pylist()
    assert [profile_types.parse_id(each).kind for each in kinds] == ["delta", "gauge"]


def test_stacks_are_as_deep_and_share_as_much_as_the_model_says(model):
    tree = model.Workload(model.Shape(services=1)).call_tree(0)
    _, depth = path_ids(np.maximum(tree.parent, 0), np.zeros(len(tree.parent), np.uint64))
    assert np.percentile(depth[tree.ends], (10, 50, 90)) == pytest.approx((23, 43, 66), abs=3)
    assert len(tree.ends) == 20_000
    assert 3.5 < len(tree.parent) / len(tree.ends) < 5.5
    library = (tree.frame[1:] < 6_000).mean()
    assert 0.2 < library < 0.4


def test_stacks_are_drawn_by_zipf(model):
    workload = model.Workload(model.Shape(services=1, pods=10, types=1))
    samples = workload.batch(FIRST_MS, 3_600_000).samples
    profiles = 10 * 240
    assert samples.num_rows / profiles == pytest.approx(150, rel=0.05)
    _, counts = np.unique(samples.column("stack_id").to_numpy(), return_counts=True)
    assert 18_000 < len(counts) <= 20_000
    counts = np.sort(counts)[::-1]
    # Of ranks that no profile has twice often: how often they come falls with the rank.
    ranks = np.arange(200, 5_000)
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)
