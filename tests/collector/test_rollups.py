"""Sums of hours: answers from them are those from raw rows, and go on when raw rows are gone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from collector.batches import P
from collector.stored import block_folders, from_raw_rows, let_go
from collector.test_query import API, HOUR, MINUTE, NOW, WEB, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.store import rollups
from flamewell_collector.store.sample_rows import SampleRows
from flamewell_collector.store.schema import PROFILES
from flamewell_collector.store.tiers import DAY_MS
from flamewell_wire.profile_types import CPU, INUSE_SPACE

PODS = [{**API, "pod": f"api-{at}"} for at in range(3)] + [WEB]
PROFILE = st.builds(
    lambda pod, at, stacks, gauge: P(
        PODS[pod], NOW + at * 20_000, stacks, INUSE_SPACE.id if gauge else CPU.id
    ),
    st.integers(0, len(PODS) - 1),
    st.integers(0, 4 * 180),
    st.dictionaries(
        st.sampled_from(["main", "main a", "main a b", "main c", ""]),
        st.one_of(st.integers(1, 1_000), st.sampled_from([2**60, 2**53 + 1])),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data")
    yield made
    made.engine.close()
    made.storage.close()


def rollup_folders(store: Store) -> list[Path]:
    return sorted(store.storage._data_dir.glob("rollups/tenant=*/tier=*/date=*/block=*"))


@settings(max_examples=40, deadline=None)
@given(
    first=st.lists(PROFILE, min_size=1, max_size=25),
    late=st.lists(PROFILE, max_size=6),
    last=st.lists(PROFILE, max_size=6),
    start=st.integers(0, 4 * 60),
    minutes=st.integers(1, 4 * 60),
)
def test_answers_from_sums_are_those_from_raw_rows(
    first: list[P], late: list[P], last: list[P], start: int, minutes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            store.add(*first)
            store.storage.flush()
            store.storage.maintain(NOW + 6 * HOUR)
            assert store.storage.state.rollup_blocks
            if late:
                store.add(*late)
                store.storage.flush()
            if last:
                store.add(*last)
            asked = {"start": NOW + start * MINUTE, "end": NOW + (start + minutes) * MINUTE}
            for type_id in (CPU.id, INUSE_SPACE.id):
                for selector in ("{}", '{service_name="api"}', '{service_name="api",pod=~".*"}'):
                    one = store.merge(selector, type_id=type_id, **asked)
                    with from_raw_rows():
                        assert one == store.merge(selector, type_id=type_id, **asked)
            store.storage.maintain(NOW + 6 * HOUR)
            one = store.merge(**asked)
            with from_raw_rows():
                assert one == store.merge(**asked)
        finally:
            store.engine.close()
            store.storage.close()


def test_sums_are_read_instead_of_raw_rows(store: Store) -> None:
    for at in range(0, 2 * 60, 5):
        store.add(P(API, NOW + at * MINUTE, {"main f": 1}))
    store.storage.flush()
    store.storage.maintain(NOW + 4 * HOUR)
    for block in store.blocks():
        (block / "samples.parquet").write_bytes(b"not read")
        (block / "stacks.parquet").write_bytes(b"not read")
    for selector in ("{}", '{service_name="api"}', '{service_name="api", pod=~".*"}'):
        assert store.merge(selector, start=NOW, end=NOW + 2 * HOUR) == {"main f": 24}
    assert store.damage == []


def test_late_rows_count_and_are_summed_by_the_next_round(store: Store) -> None:
    gauge = {"type_id": INUSE_SPACE.id}
    store.add(P(API, NOW, {"main f": 1}), P(API, NOW, {"main g": 100}, INUSE_SPACE.id))
    store.storage.flush()
    store.storage.maintain(NOW + 3 * HOUR)
    store.add(P(API, NOW + 1, {"main f": 4}), P(API, NOW + 1, {"main g": 300}, INUSE_SPACE.id))
    assert (store.merge(), store.merge(**gauge)) == ({"main f": 5}, {"main g": 200})
    store.storage.flush()
    assert (store.merge(), store.merge(**gauge)) == ({"main f": 5}, {"main g": 200})
    store.storage.maintain(NOW + 3 * HOUR)
    assert len(store.blocks()) == 1
    assert len(rollup_folders(store)) == 2, "one a tier; the former ones are gone"
    assert (store.merge(), store.merge(**gauge)) == ({"main f": 5}, {"main g": 200})


def test_a_closed_day_has_one_block_a_tier(store: Store) -> None:
    midnight = NOW // DAY_MS * DAY_MS
    for hour in range(5):
        store.add(P(API, midnight + hour * HOUR, {"main f": 1, f"main h{hour}": 2}))
    store.storage.flush()
    store.storage.maintain(midnight + 7 * HOUR)
    assert len(rollup_folders(store)) == 10
    day = {"start": midnight, "end": midnight + DAY_MS}
    expected = store.merge(**day)
    assert expected["main f"] == 5
    store.storage.maintain(midnight + 2 * DAY_MS)
    assert len(rollup_folders(store)) == 2
    assert store.merge(**day) == expected
    # What comes later of one hour takes its place in the day.
    store.add(P(API, midnight + HOUR, {"main f": 10}))
    store.storage.flush()
    store.storage.maintain(midnight + 2 * DAY_MS)
    assert len(rollup_folders(store)) == 2
    assert store.merge(**day) == {**expected, "main f": 15}
    with from_raw_rows():
        assert store.merge(**day) == {**expected, "main f": 15}


def test_when_raw_rows_are_gone_sums_answer(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", keep_raw_ms=DAY_MS)
    try:
        store.add(
            P(API, NOW + MINUTE, {"main f": 6}, duration_ms=15_000),
            P(API, NOW + 25 * MINUTE, {"main f": 60}, duration_ms=15_000),
            P({**API, "pod": "api-2"}, NOW + 25 * MINUTE, {"main f": 600}, duration_ms=15_000),
            P(API, NOW + MINUTE, {"main g": 100}, INUSE_SPACE.id),
            P(API, NOW + 2 * MINUTE, {"main g": 300}, INUSE_SPACE.id),
        )
        store.storage.flush()
        store.storage.maintain(NOW + 3 * HOUR)
        store.storage.maintain(NOW + 3 * DAY_MS)
        assert store.blocks() == []
        assert store.merge() == {"main f": 666}
        assert store.merge(start=NOW + 20 * MINUTE, end=NOW + 30 * MINUTE) == {"main f": 660}
        assert store.merge(type_id=INUSE_SPACE.id) == {"main g": 200}
        assert store.merge('{pod="api-2"}') == {}, "sums know services only"
        line = store.timeline(10 * MINUTE).values * 600
        np.testing.assert_allclose(line, [6, np.nan, 660, np.nan, np.nan, np.nan])
        by_pod = store.timeline(10 * MINUTE, '{pod="api-2"}').values * 600
        np.testing.assert_allclose(by_pod, [np.nan, np.nan, 600, np.nan, np.nan, np.nan])
        inuse = store.timeline(HOUR, type_id=INUSE_SPACE.id).values
        np.testing.assert_allclose(inuse, [200])
        assert {each.service_name for each in store.query.services("default", NOW, NOW + HOUR)} == {
            "api"
        }
        let_go(store.storage)
        (tmp_path / "data" / "catalog.sqlite").unlink()
        again = Store(tmp_path / "data")
        try:
            assert again.merge() == {"main f": 666}, "from the blocks, without a catalog"
        finally:
            again.engine.close()
            again.storage.close()
    finally:
        store.engine.close()


def test_a_damaged_rollup_is_made_anew(store: Store, tmp_path: Path) -> None:
    store.add(P(API, NOW, {"main f": 1}))
    store.storage.flush()
    store.storage.maintain(NOW + 3 * HOUR)
    for block in rollup_folders(store):
        (block / "rollups.parquet").write_bytes(b"no table")
    assert store.merge() == {"main f": 1}, "from raw rows"
    assert store.storage.state.damaged_blocks == 1
    store.storage.maintain(NOW + 3 * HOUR)
    assert len(rollup_folders(store)) == 2
    assert len(block_folders(tmp_path / "data")) == 1
    assert store.merge() == {"main f": 1}


def test_sums_beyond_64_bits_stay_at_the_largest_number() -> None:
    huge = (1 << 63) - 1
    rows = SampleRows(*(np.array(each, np.int64) for each in ([1, 2], [1, 1], [7, 7], [huge, 5])))
    found = rollups.sums_of_deltas(rows, HOUR)
    assert found["value"].tolist() == [huge]
    profiles = pa.table(
        {
            "service_name": ["s"] * 2,
            "profile_type": [CPU.id] * 2,
            "time": [1, 2],
            "series_id": [1, 1],
            "duration_ms": [0, 0],
            "total": [huge, huge],
            "sample_count": [1, 1],
        },
        schema=PROFILES,
    )
    total = rollups.profile_sums(profiles, HOUR, gauge=False).column("total").to_pylist()
    assert total == [huge]
