"""Questions to a real store: sums, averages, selectors, ranges, before and after each flush."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from collector.batches import TENANT, P, as_stacks, batch
from collector.stored import raw_folders

from flamewell_collector.engine.duckdb import DuckDBEngine, EngineOptions
from flamewell_collector.model import Selection, Timeline
from flamewell_collector.query import ALL_TYPES, Query
from flamewell_collector.selectors import parse_selector
from flamewell_collector.store.storage import Storage, StorageOptions
from flamewell_wire.profile_types import CPU, INUSE_SPACE, PROCESS_LIMIT, PROCESS_RSS

MINUTE, HOUR = 60_000, 3_600_000
NOW = 1_795_384_800_000 // HOUR * HOUR
"""An hour's first millisecond."""

API = {"service_name": "api", "pod": "api-1", "node": "n1"}
WEB = {"service_name": "web", "pod": "web-1", "node": "n1"}


class Store:
    """A storage, an engine and a query over it."""

    def __init__(self, folder: Path, **options: float) -> None:
        self.storage = Storage.open(folder, StorageOptions(**options))
        self.damage: list[tuple[Path, str]] = []
        self.engine = DuckDBEngine(
            EngineOptions(memory_bytes=128 << 20, threads=2), report_damage=self.set_aside
        )
        self.observed: list[str] = []
        self.query = Query(
            self.storage,
            self.engine,
            clock=lambda: NOW + HOUR,
            observe=lambda name, _seconds: self.observed.append(name),
        )
        self.sequence = itertools.count()

    def set_aside(self, block: Path, reason: str) -> None:
        self.damage.append((block, reason))
        self.storage.set_aside(block, reason)

    def add(self, *profiles: P) -> None:
        assert self.storage.append(batch(profiles, batch_id=f"b{next(self.sequence)}"))

    def merge(self, selector: str = "{}", **asked: int | str) -> dict[str, int]:
        return as_stacks(self.query.merge(select(selector, **asked)))

    def timeline(self, step_ms: int, selector: str = "{}", **asked: int | str) -> Timeline:
        return self.query.timeline(select(selector, **asked), step_ms=step_ms)

    def blocks(self) -> list[Path]:
        with self.storage.snapshot(TENANT, 0, 2**60) as snapshot:
            return sorted(raw_folders(snapshot))


def select(
    selector: str = "{}",
    *,
    type_id: str = CPU.id,
    start: int = NOW,
    end: int = NOW + HOUR,
    tenant: str = TENANT,
) -> Selection:
    return Selection(tenant, type_id, parse_selector(selector), start, end)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data")
    yield made
    made.engine.close()
    made.storage.close()


def test_deltas_are_summed(store: Store) -> None:
    store.add(
        P(API, NOW, {"main a": 5, "main b": 1}),
        P(API, NOW + 15_000, {"main a": 7}),
        P({**API, "pod": "api-2"}, NOW, {"main a c": 100}),
    )
    assert store.merge() == {"main a": 12, "main b": 1, "main a c": 100}


def test_ranges_are_half_open(store: Store) -> None:
    store.add(*(P(API, NOW + at, {f"t{at}": 1}) for at in (-1, 0, 999, 1_000)))
    assert store.merge(end=NOW + 1_000) == {"t0": 1, "t999": 1}
    store.storage.flush()
    assert store.merge(end=NOW + 1_000) == {"t0": 1, "t999": 1}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("{}", {"a", "b", "w"}),
        ('{service_name="api"}', {"a", "b"}),
        ('{service_name!="api"}', {"w"}),
        ('{service_name=~"a.*|w.*"}', {"a", "b", "w"}),
        ('{service_name!~"a.*"}', {"w"}),
        ('{pod="api-2"}', {"b"}),
        ('{pod!="api-2"}', {"a", "w"}),
        ('{pod=~"api-[12]"}', {"a", "b"}),
        ('{pod=~"api"}', set()),
        ('{pod!~"api-.*"}', {"w"}),
        ('{service_name="api",pod="api-1"}', {"a"}),
        ('{zone=""}', {"a", "w"}),
        ('{zone!=""}', {"b"}),
        ('{zone="eu"}', {"b"}),
        ('{service_name="nobody"}', set()),
    ],
)
def test_selectors(store: Store, selector: str, expected: set[str]) -> None:
    store.add(
        P(API, NOW, {"a": 1}),
        P({**API, "pod": "api-2", "zone": "eu"}, NOW, {"b": 1}),
        P(WEB, NOW, {"w": 1}),
    )
    assert set(store.merge(selector)) == expected
    store.storage.flush()
    assert set(store.merge(selector)) == expected
    assert {series.labels["pod"] for series in store.query.series(select(selector))} == {
        {"a": "api-1", "b": "api-2", "w": "web-1"}[each] for each in expected
    }


def test_answers_are_the_same_before_and_after_flush_compaction_and_restart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = Store(folder)

    def ask() -> tuple:
        heap = {"type_id": INUSE_SPACE.id, "start": NOW - HOUR, "end": NOW + HOUR}
        cpu = {"start": NOW - HOUR, "end": NOW + HOUR}
        return (
            store.merge(**cpu),
            store.merge('{service_name="api"}', **heap),
            store.timeline(7 * MINUTE, **cpu).values.tobytes(),
            store.timeline(90_000, **heap).values.tobytes(),
            store.query.services(TENANT, NOW - HOUR, NOW + HOUR),
            store.query.label_values(select(**cpu), "pod"),
            store.query.type_ids(select(type_id=ALL_TYPES, start=NOW - HOUR)),
        )

    for minute in range(-40, 40, 3):
        at = NOW + minute * MINUTE
        store.add(
            P(API, at, {"main a": minute + 41, "main b": 3}, duration_ms=15_000),
            P(WEB, at + 7, {"main w": 11}, duration_ms=15_000),
            P(API, at, {"main alloc": 1_000 + minute}, INUSE_SPACE.id),
            P(API, at + 20_001, {"main alloc": 2_000 + minute}, INUSE_SPACE.id),
        )
        if minute == 2:
            store.storage.flush()
    expected = ask()
    assert expected[0]["main b"] == 3 * 27
    store.storage.flush()
    assert len(store.blocks()) >= 3
    assert ask() == expected
    store.storage.maintain(NOW + 6 * HOUR)
    assert len(store.blocks()) == 2
    assert ask() == expected
    store.engine.close()
    store.storage.close()
    store = Store(folder)
    try:
        assert ask() == expected
    finally:
        store.engine.close()
        store.storage.close()


def heap(labels: dict[str, str], at: int, size: int) -> P:
    return P(labels, at, {"main alloc": size, "main other": 10}, INUSE_SPACE.id)


def test_gauge_two_readings_a_minute_count_as_their_average(store: Store) -> None:
    store.add(*(heap(API, NOW + at * 30_000, 100 if at % 2 else 300) for at in range(20)))
    asked = {"type_id": INUSE_SPACE.id, "end": NOW + 10 * MINUTE}
    assert store.merge(**asked) == {"main alloc": 200, "main other": 10}
    assert store.timeline(2 * MINUTE, **asked).values.tolist() == [210.0] * 5


def test_gauge_replaced_pods_are_not_added_up(store: Store) -> None:
    old, new = {**API, "pod": "old"}, {**API, "pod": "new"}
    store.add(*(heap(old if at < 5 else new, NOW + at * MINUTE, 1_000) for at in range(10)))
    asked = {"type_id": INUSE_SPACE.id, "end": NOW + 10 * MINUTE}
    assert store.merge(**asked) == {"main alloc": 1_000, "main other": 10}
    assert store.timeline(5 * MINUTE, **asked).values.tolist() == [1_010.0, 1_010.0]


def test_gauge_pods_side_by_side_are_added_up(store: Store) -> None:
    for pod, size in (("one", 1_000), ("two", 500)):
        store.add(*(heap({**API, "pod": pod}, NOW + at * 20_000, size) for at in range(30)))
    asked = {"type_id": INUSE_SPACE.id, "end": NOW + 10 * MINUTE}
    assert store.merge(**asked) == {"main alloc": 1_500, "main other": 20}


def test_gauge_minutes_without_data_do_not_count(store: Store) -> None:
    store.add(*(heap(API, NOW + at * MINUTE, 1_000) for at in (0, 1, 50)))
    assert store.merge(type_id=INUSE_SPACE.id) == {"main alloc": 1_000, "main other": 10}


def test_gauge_processes_of_one_series_read_at_one_instant_are_added_up(store: Store) -> None:
    store.add(heap(API, NOW, 300), heap(API, NOW, 200), heap(API, NOW + 20_000, 700))
    asked = {"type_id": INUSE_SPACE.id, "end": NOW + MINUTE}
    # At the first instant 500 and 20, at the second 700 and 10; on average 600 and 15.
    assert store.merge(**asked) == {"main alloc": 600, "main other": 15}
    assert store.timeline(MINUTE, **asked).values.tolist() == [615.0]


@pytest.mark.parametrize("step_seconds", [5, 15, 30, 60, 120, 300, 600])
def test_gauge_average_does_not_depend_on_the_step(store: Store, step_seconds: int) -> None:
    store.add(*(heap(API, NOW + at * 30_000, 90 + 10 * (at % 4)) for at in range(-4, 20)))
    asked = {"type_id": INUSE_SPACE.id, "end": NOW + 10 * MINUTE}
    line = store.timeline(step_seconds * 1_000, **asked)
    assert len(line.values) == 600 // step_seconds
    assert np.nanmean(line.values) == pytest.approx(115.0)
    assert not np.isnan(line.values).any()
    assert sum(store.merge(**asked).values()) == 115


def test_timeline_is_an_amount_per_second_spread_over_each_profile(store: Store) -> None:
    store.add(
        P(API, NOW - 5_000, {"before": 10_000}, duration_ms=10_000),
        P(API, NOW + 10_000, {"long": 40_000}, duration_ms=20_000),
        P(WEB, NOW + 40_000, {"short": 5_000}, duration_ms=0),
        P(API, NOW + 55_000, {"over the end": 10_000}, duration_ms=10_000),
    )
    line = store.timeline(10_000, end=NOW + MINUTE)
    assert (line.start_ms, line.step_ms) == (NOW, 10_000)
    np.testing.assert_allclose(line.values, [500, 2_000, 2_000, np.nan, 500, 500])


def test_timeline_last_step_may_be_shorter(store: Store) -> None:
    store.add(P(API, NOW + 10_000, {"f": 4_000}, duration_ms=4_000))
    line = store.timeline(10_000, end=NOW + 14_000)
    np.testing.assert_allclose(line.values, [np.nan, 1_000])


def test_timeline_reads_no_sample(store: Store) -> None:
    store.add(P(API, NOW, {"f": 4_000}, duration_ms=1_000))
    store.storage.flush()
    (block,) = store.blocks()
    (block / "samples.parquet").write_bytes(b"not read")
    assert store.timeline(HOUR).values.tolist() == [pytest.approx(4_000 / 3_600)]
    assert store.damage == []


def test_unknown_types_tenants_and_services_are_empty(store: Store) -> None:
    store.add(P(API, NOW, {"f": 1}))
    assert store.merge(type_id="no:such:count:type:count") == {}
    assert store.merge(type_id="no:inuse_such:count:type:count") == {}
    assert store.merge(tenant="somebody") == {}
    assert np.isnan(store.timeline(HOUR, type_id="no:such:count:type:count").values).all()
    assert store.query.services("somebody", 0, NOW) == []


def test_tenants_see_their_own(store: Store) -> None:
    store.add(P(API, NOW, {"ours": 1}))
    store.storage.append(batch([P(API, NOW, {"theirs": 1})], batch_id="b", tenant="other"))
    for _ in range(2):
        assert store.merge() == {"ours": 1}
        assert store.merge(tenant="other") == {"theirs": 1}
        store.storage.flush()


def test_hostile_labels_and_symbols_come_back_as_they_are(store: Store) -> None:
    name = "'; DROP TABLE x; --\"\\\n<script>{}$1%s\u202e"
    labels = {"service_name": name, "pod": "../../etc\x00"}
    store.add(P(labels, NOW, {"<img/src=x>": 1}))
    for _ in range(2):
        assert store.query.label_values(select(), "service_name") == [name]
        escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        assert store.merge(f'{{service_name="{escaped}"}}') == {"<img/src=x>": 1}
        store.storage.flush()


def test_sums_beyond_64_bits_are_clamped(store: Store) -> None:
    store.add(*(P(API, NOW + at, {"f": 2**62}) for at in range(4)))
    assert store.merge() == {"f": 2**63 - 1}


def test_services(store: Store) -> None:
    lost = {"service_name": "lost"}
    store.add(
        P({**API, "runtime": "go"}, NOW, {"f": 5 * 10**9}, duration_ms=10_000),
        P(
            {**API, "runtime": "go", "pod": "api-2"},
            NOW + 10_000,
            {"f": 5 * 10**9},
            duration_ms=10_000,
        ),
        P(WEB, NOW, {"f": 10**9}, duration_ms=10_000),
        P(WEB, NOW, {"": 300}, PROCESS_RSS.id),
        P(WEB, NOW + 60_000, {"": 400}, PROCESS_RSS.id),
        P({**WEB, "pod": "web-2"}, NOW + 60_000, {"": 50}, PROCESS_RSS.id),
        P({**WEB, "pod": "web-0"}, NOW - 200_000, {"": 5_000}, PROCESS_RSS.id),
        P(WEB, NOW + 60_000, {"": 1_000}, PROCESS_LIMIT.id),
        P(lost, NOW + 1, {"": 7}, PROCESS_RSS.id),
    )
    api, web, other = store.query.services(TENANT, NOW - HOUR, NOW + HOUR)
    assert (api.service_name, web.service_name, other.service_name) == ("api", "web", "lost")
    assert api.labels == {"runtime": "go", "node": "n1"}
    assert (api.series, api.cpu_cores, api.memory_bytes) == (2, 0.5, None)
    assert (web.cpu_cores, web.memory_bytes, web.memory_limit_bytes) == (0.1, 450, 1_000)
    assert web.types == (CPU.id, PROCESS_LIMIT.id, PROCESS_RSS.id)
    assert web.last_seen_ms == NOW + 60_000
    assert (other.cpu_cores, other.memory_bytes) == (None, 7)


def test_memory_readings_are_those_of_the_last_minutes(store: Store) -> None:
    store.add(
        P(API, NOW + HOUR - 60_000, {"": 300}, PROCESS_RSS.id),
        P(API, NOW + HOUR - 30_000, {"": 400}, PROCESS_RSS.id),
        P(WEB, NOW, {"": 999}, PROCESS_RSS.id),
    )
    (reading,) = store.query.memory_readings(TENANT)
    assert (reading.series.labels["pod"], reading.value) == ("api-1", 400)
    assert store.observed[-1] == "memory_readings"


@pytest.mark.parametrize("table", ["samples", "stacks", "frames"])
@pytest.mark.parametrize("how", ["truncated", "garbage", "missing"])
def test_a_damaged_block_is_set_aside_and_the_rest_is_shown(
    store: Store, table: str, how: str
) -> None:
    for hour in range(3):
        store.add(P(API, NOW - hour * HOUR, {f"h{hour}": 1}))
    store.storage.flush()
    broken = next(each for each in store.blocks() if holds(each, NOW - HOUR))
    damage(broken / f"{table}.parquet", how)
    # A second collector's worth of memory: nothing of the block is cached.
    store.engine.close()
    store.storage.close()
    reopened = Store(broken.parents[4])
    try:
        asked = {"start": NOW - 5 * HOUR}
        assert reopened.merge(**asked) == {"h0": 1, "h2": 1}
        assert reopened.storage.state.damaged_blocks == 1
        assert len(reopened.blocks()) == 2
        assert reopened.merge(**asked) == {"h0": 1, "h2": 1}
    finally:
        store.storage, store.engine = reopened.storage, reopened.engine


def holds(block: Path, time_ms: int) -> bool:
    import pyarrow.parquet as pq

    return time_ms in pq.ParquetFile(block / "profiles.parquet").read()["time"].to_pylist()


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.write_bytes(b"PAR1" + bytes(range(256)) * 20 + b"PAR1")
