"""Sums of samples by stack: which rows count, exact sums, damage, time limits, many row groups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collector.batches import TENANT, P, as_stacks, batch
from collector.stored import NOON_MS, block_folders, raw_folders
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.engine import Scan
from flamewell_collector.engine.stack_sums import SeriesReadings, StackSummer
from flamewell_collector.errors import QueryTimeoutError, StorageError
from flamewell_collector.store import row_groups
from flamewell_collector.store.exact_sums import LARGEST, sums_by
from flamewell_collector.store.row_groups import RowGroups
from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES
from flamewell_collector.store.stack_cache import ServiceStacks, StackCache
from flamewell_collector.store.storage import Storage, StorageOptions
from flamewell_wire.profile_types import CPU, WALL

PODS = ({"service_name": "s", "pod": "a"}, {"service_name": "s", "pod": "b"})
Damage = list[tuple[Path, str]]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage.open(tmp_path / "data", StorageOptions())
    yield opened
    opened.close()


@pytest.fixture
def damage() -> Damage:
    return []


@pytest.fixture
def make_summer(damage: Damage) -> Callable[..., StackSummer]:
    def make(*, threads: int = 2, timeout_seconds: float = 60.0) -> StackSummer:
        return StackSummer(
            threads=threads,
            timeout_seconds=timeout_seconds,
            report_damage=lambda block, reason: damage.append((block, reason)),
        )

    return make


def stacks_of(service: str, blocks: Sequence[Path]) -> ServiceStacks:
    def unexpected(block: Path, reason: str) -> None:
        raise AssertionError(f"{block}: {reason}")

    return StackCache(1 << 20).stacks(TENANT, service, blocks=blocks, report_damage=unexpected)


def scan(storage: Storage, **changes: object) -> Scan:
    with storage.snapshot(TENANT, 0, 1 << 60) as snapshot:
        blocks = tuple(raw_folders(snapshot))
    wanted = {
        "blocks": blocks,
        "head_profiles": PROFILES.empty_table(),
        "head_samples": BATCH_SAMPLES.empty_table(),
        "start_ms": 0,
        "end_ms": 1 << 60,
        "type_ids": (CPU.id,),
        "services": ("s",),
        **changes,
    }
    return Scan(**wanted)


def summed(summer: StackSummer, wanted: Scan) -> dict[str, int]:
    found = summer.sums(wanted, stacks_of, None)
    if not found:
        return {}
    (only,) = found
    return as_stacks(only.tree.with_values(only.by_readings[1]))


def fill(storage: Storage, minutes: int = 6) -> None:
    for minute in range(minutes):
        at = NOON_MS + minute * 60_000
        profiles = [
            P(pod, at, {"main f": 10**number + minute, f"main g{minute}": 1})
            for number, pod in enumerate(PODS)
        ]
        profiles.append(P(PODS[0], at, {"main f": 10**6}, WALL.id))
        storage.append(batch(profiles, batch_id=f"b{minute}"))
        if minute % 2:
            storage.flush()


def test_rows_of_a_type_service_and_range(
    storage: Storage, make_summer: Callable[..., StackSummer]
) -> None:
    fill(storage)
    summer = make_summer()
    each_once = {f"main g{minute}": 2 for minute in range(6)}
    assert summed(summer, scan(storage)) == {"main f": 66 + 30, **each_once}
    part = scan(storage, start_ms=NOON_MS + 60_000, end_ms=NOON_MS + 180_000)
    assert summed(summer, part) == {"main f": 22 + 6, "main g1": 2, "main g2": 2}
    assert summed(summer, scan(storage, type_ids=(WALL.id,))) == {"main f": 6 * 10**6}
    assert summed(summer, scan(storage, services=("t",))) == {}
    assert summed(summer, scan(storage, services=())) == {}
    assert summed(summer, scan(storage, end_ms=NOON_MS)) == {}


def test_rows_of_some_series(storage: Storage, make_summer: Callable[..., StackSummer]) -> None:
    fill(storage)
    ids = {each.labels["pod"]: each.series_id for each in storage.series(TENANT).all()}
    summer = make_summer()
    one = scan(storage, series_ids=np.array([ids["b"]]))
    assert summed(summer, one)["main f"] == 6 * 10 + 15
    nobody = scan(storage, series_ids=np.array([12345]))
    assert summed(summer, nobody) == {}
    assert summed(summer, scan(storage, series_ids=np.array([], np.int64))) == {}


def test_row_groups_that_take_many_reads(
    storage: Storage, make_summer: Callable[..., StackSummer], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(storage)
    whole = summed(make_summer(), scan(storage))
    monkeypatch.setattr(row_groups, "_BATCH_ROWS", 3)
    assert summed(make_summer(), scan(storage)) == whole


def test_only_the_row_group_of_a_service_and_type_is_read(storage: Storage) -> None:
    profiles = [
        P({"service_name": f"s{at}"}, NOON_MS, {"f": at + 1}, kind)
        for at in range(20)
        for kind in (CPU.id, WALL.id)
    ]
    storage.append(batch(profiles, batch_id="b"))
    storage.flush()
    (block,) = scan(storage).blocks
    groups = RowGroups()
    (found,) = groups.find(block / "samples.parquet", "s3", CPU.id)
    assert (found.rows, found.first_ms, found.last_ms) == (1, NOON_MS, NOON_MS)
    (rows,) = groups.batches(block / "samples.parquet", found, ["value", "service_name"])
    assert rows.to_pylist() == [{"value": 4, "service_name": "s3"}]
    assert groups.find(block / "samples.parquet", "s3", "other") == []


def test_names_that_are_too_long_for_the_footer(
    storage: Storage, make_summer: Callable[..., StackSummer]
) -> None:
    names = ("n" * 6_000, "n" * 5_999 + "m")
    profiles = [P({"service_name": name}, NOON_MS, {"f": at}) for at, name in enumerate(names, 1)]
    storage.append(batch(profiles, batch_id="b"))
    storage.flush()
    for at, name in enumerate(names, 1):
        assert summed(make_summer(), scan(storage, services=(name,))) == {"f": at}


def test_footers_are_kept_within_bounds(storage: Storage) -> None:
    fill(storage)
    files = [each / "samples.parquet" for each in scan(storage).blocks]
    groups = RowGroups(max_bytes=1)
    for _ in range(2):
        assert all(groups.find(each, "s", CPU.id) for each in files)
    assert len(groups._footers) == 1


def test_a_block_that_cannot_be_read_is_told_of_and_left_out(
    storage: Storage, make_summer: Callable[..., StackSummer], damage: Damage
) -> None:
    fill(storage)
    wanted = scan(storage)
    first, second, third = wanted.blocks
    (first / "samples.parquet").write_bytes(b"PAR1 this is none")
    (second / "samples.parquet").unlink()
    found = summed(make_summer(), wanted)
    assert found == {"main f": 22 + 18, "main g4": 2, "main g5": 2}
    assert {block for block, _ in damage} == {first, second}
    assert all("can't be read" in reason for _, reason in damage)
    assert third in wanted.blocks


def test_a_flipped_bit_is_damage(
    storage: Storage, make_summer: Callable[..., StackSummer], damage: Damage
) -> None:
    fill(storage, minutes=2)
    wanted = scan(storage)
    groups = RowGroups()
    path = wanted.blocks[0] / "samples.parquet"
    groups.find(path, "s", CPU.id)
    metadata = groups._footers[path].metadata.row_group(0).column(5)
    data = bytearray(path.read_bytes())
    data[metadata.data_page_offset + metadata.total_compressed_size // 2] ^= 1
    path.write_bytes(bytes(data))
    summed(make_summer(), wanted)
    assert [block for block, _ in damage] == list(wanted.blocks)


def test_a_sum_that_takes_too_long_is_stopped(
    storage: Storage, make_summer: Callable[..., StackSummer]
) -> None:
    fill(storage)
    with pytest.raises(QueryTimeoutError, match=r"longer than 0 s: choose"):
        make_summer(timeout_seconds=0.0).sums(scan(storage), stacks_of, None)


def test_eight_threads_at_once(storage: Storage, make_summer: Callable[..., StackSummer]) -> None:
    fill(storage)
    summer = make_summer(threads=3)
    wanted, found = scan(storage), []
    threads = [
        threading.Thread(target=lambda: found.append(summed(summer, wanted))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8
    assert all(each == found[0] for each in found)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.one_of(st.integers(-9, 9), st.sampled_from([LARGEST, -LARGEST - 1, LARGEST // 3])),
        ),
        max_size=30,
    )
)
def test_sums_are_exact_or_stay_at_the_largest(rows: list[tuple[int, int]]) -> None:
    numbers = np.array([number for number, _ in rows], np.int32)
    values = np.array([value for _, value in rows], np.int64)
    exact = [sum(value for mine, value in rows if mine == number) for number in range(4)]
    kept = [max(-LARGEST - 1, min(LARGEST, each)) for each in exact]
    assert sums_by(numbers, values, 4).tolist() == kept


@given(
    st.dictionaries(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 20)), st.integers(1, 60)
    ),
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 20 * 60_000))),
)
def test_readings_are_looked_up_by_series_and_minute(
    known: dict[tuple[int, int], int], asked: list[tuple[int, int]]
) -> None:
    keys = sorted(known)
    readings = SeriesReadings(
        60_000,
        np.array([series for series, _ in keys], np.int64),
        np.array([bucket for _, bucket in keys], np.int64),
        np.array([known[each] for each in keys], np.int64),
    )
    asked += [(series, bucket * 60_000 + 7) for series, bucket in keys]
    found = readings.of(
        np.array([series for series, _ in asked], np.int64),
        np.array([time_ms for _, time_ms in asked], np.int64),
    )
    assert found.tolist() == [known.get((series, at // 60_000), 0) for series, at in asked]


def test_a_number_outside_of_the_stacks_is_damage(
    storage: Storage, make_summer: Callable[..., StackSummer], damage: Damage
) -> None:
    fill(storage, minutes=2)
    wanted = scan(storage)

    def fewer(service: str, blocks: Sequence[Path]) -> ServiceStacks:
        found = stacks_of(service, blocks)
        cut = {block: nodes[:1] for block, nodes in found.nodes.items()}
        return ServiceStacks(found.tree, cut)

    assert make_summer().sums(wanted, fewer, None) == []
    assert [reason for _, reason in damage] == ["samples of a stack that is not there"]


def test_blocks_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "block=abc" / "samples.parquet"
    with pytest.raises(StorageError, match="block=abc/samples"):
        RowGroups().find(path, "s", CPU.id)


def test_a_file_of_somebody_else_is_no_block(tmp_path: Path) -> None:
    path = tmp_path / "block=abc" / "samples.parquet"
    path.parent.mkdir()
    rows = {"service_name": ["s"], "profile_type": ["t"], "time": [1]}
    pq.write_table(pa.table(rows), path, write_statistics=False)
    with pytest.raises(StorageError, match="of what time"):
        RowGroups().find(path, "s", "t")


def test_compacted_blocks_have_each_stack_once(storage: Storage, tmp_path: Path) -> None:
    fill(storage)
    storage.maintain(NOON_MS + 10 * 3_600_000)
    (block,) = block_folders(tmp_path / "data")
    nodes = stacks_of("s", [block]).nodes[block]
    assert len(set(nodes.tolist())) == len(nodes) == 7
