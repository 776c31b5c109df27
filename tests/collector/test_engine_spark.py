"""The distributed engine against the embedded one, over Sail and Apache Spark in processes of their
own: the same questions to the same stores."""

from __future__ import annotations

import argparse
import itertools
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from collector.batches import TENANT, P, as_stacks
from collector.engine_servers import apache_spark, free_port, sail, spark_home
from collector.stored import raw_folders
from collector.test_query import API, HOUR, MINUTE, NOW, WEB, Store, select
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flamewell_collector.config import load_config
from flamewell_collector.engine import Columns, Engine, Scan, Statement, statements
from flamewell_collector.engine.spark import SparkEngine, SparkOptions
from flamewell_collector.errors import (
    ConfigError,
    EngineUnavailable,
    Overloaded,
    QueryTimeoutError,
    StorageError,
)
from flamewell_collector.model import Selection
from flamewell_collector.query import ALL_TYPES, Query
from flamewell_wire.profile_types import CPU, INUSE_SPACE, PROCESS_RSS

ENDLESS = Statement(
    reads=("profiles",),
    sql="SELECT SUM(a.id * b.id % 7) AS value FROM range(100000000) AS a CROSS JOIN "
    "range(100000000) AS b",
)
QUOTED = {"service_name": "it's \"`\\ $x {y}", "pod": "q"}
PODS = (API, {**API, "pod": "api-2"}, WEB, QUOTED)
PROFILE = st.builds(
    lambda pod, at, stacks, kind: P(PODS[pod], NOW + at * 20_000, stacks, kind),
    st.integers(0, len(PODS) - 1),
    st.integers(0, 4 * 180),
    st.dictionaries(
        st.sampled_from(["main", "main a", "main a b", "main c", ""]),
        st.one_of(st.integers(1, 1_000), st.sampled_from([2**60, 2**53 + 1])),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from((CPU.id, INUSE_SPACE.id, PROCESS_RSS.id)),
)
HEAVY = settings(
    max_examples=12, deadline=None, database=None, derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
FOLDERS = itertools.count()


@pytest.fixture(scope="module")
def sail_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sail(tmp_path_factory.mktemp("sail") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def sail_engine(sail_url: str) -> Iterator[SparkEngine]:
    with spark(sail_url, Path("/")) as made:
        yield made


@contextmanager
def spark(url: str, data_path: Path, *, damage: list | None = None, **options) -> Iterator:
    seen = damage if damage is not None else []
    made = SparkEngine(
        SparkOptions(url, data_path, **options),
        report_damage=lambda block, reason: seen.append((block, reason)),
    )
    with closing(made):
        yield made


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    store = Store(folder)
    try:
        yield store
    finally:
        store.engine.close()
        store.storage.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "data") as made:
        yield made


def fill(store: Store, first: list[P], late: list[P], last: list[P]) -> None:
    """Raw rows and their sums, rows that came later, rows that are in no block."""
    store.add(*first)
    store.storage.flush()
    store.storage.maintain(NOW + 6 * HOUR)
    for profiles in (late, last):
        if profiles:
            store.add(*profiles)
        if profiles is late:
            store.storage.flush()


def example(store: Store) -> None:
    low = {"main": 3, "main a": 40, "": 5}
    fill(
        store,
        [
            *(P(pod, NOW + at * MINUTE, low) for pod in PODS for at in (1, 61, 125)),
            *(P(API, NOW + at * 15_000, {"main b": at}, INUSE_SPACE.id) for at in range(1, 300)),
            P(WEB, NOW, {"": 7}, PROCESS_RSS.id),
        ],
        [P(API, NOW + 2 * MINUTE, low), P(API, NOW + 1, {"main b": 9}, INUSE_SPACE.id)],
        [P(WEB, NOW + 3 * MINUTE, {"main z": 1}), P(QUOTED, NOW, {"": 9}, PROCESS_RSS.id)],
    )


def questions(query: Query, start: int, end: int) -> dict[str, object]:
    """Ask everything; lists and numbers, for comparing."""
    found: dict[str, object] = {}
    selectors = ("{}", '{service_name="api"}', '{pod="api-1"}', '{pod!="api-1"}')
    for kind, selector in itertools.product((CPU.id, INUSE_SPACE.id), selectors):
        asked = select(selector, type_id=kind, start=start, end=end)
        found[f"{kind} {selector}"] = as_stacks(query.merge(asked))
        found[f"line {kind} {selector}"] = query.timeline(asked, step_ms=7 * MINUTE).values
    every = Selection(TENANT, ALL_TYPES, (), start, end)
    found["services"] = query.services(TENANT, start, end)
    found["series"] = sorted(each.series_id for each in query.series(every))
    found["types"] = query.type_ids(every)
    found["memory"] = sorted(query.memory_readings(TENANT), key=repr)
    return found


def query_of(store: Store, engine: Engine) -> Query:
    return Query(store.storage, engine, clock=lambda: NOW + HOUR, observe=lambda _name, _s: None)


def same(store: Store, engine: Engine, start: int = NOW, end: int = NOW + 4 * HOUR) -> None:
    found = questions(query_of(store, engine), start, end)
    for name, expected in questions(store.query, start, end).items():
        if name.startswith("line "):
            np.testing.assert_allclose(found[name], expected, rtol=1e-14, err_msg=name)
        else:
            assert found[name] == expected, name


@given(
    rows=st.tuples(
        st.lists(PROFILE, min_size=1, max_size=12),
        st.lists(PROFILE, max_size=4),
        st.lists(PROFILE, max_size=4),
    ),
    start=st.integers(0, 3 * 60),
    minutes=st.integers(1, 4 * 60),
)
@HEAVY
def test_sail_answers_as_the_embedded_engine_does(
    rows: tuple[list[P], list[P], list[P]],
    start: int,
    minutes: int,
    sail_engine: SparkEngine,
    tmp_path: Path,
) -> None:
    with opened(tmp_path / str(next(FOLDERS))) as store:
        fill(store, *rows)
        begin = NOW + start * MINUTE
        same(store, sail_engine, begin, begin + minutes * MINUTE)


def test_sail_on_rows_sums_and_memory(store: Store, sail_engine: SparkEngine) -> None:
    example(store)
    same(store, sail_engine)
    same(store, sail_engine, NOW + 30 * MINUTE, NOW + 150 * MINUTE)
    same(store, sail_engine, NOW - 9 * HOUR, NOW - 8 * HOUR)


@pytest.mark.java
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(spark_home() is None, reason="needs Java, and scripts/spark.sh run once")
def test_apache_spark_answers_as_the_embedded_engine_does(store: Store, tmp_path: Path) -> None:
    example(store)
    with apache_spark(tmp_path / "log") as url:
        with spark(url, tmp_path, timeout_seconds=300) as engine:
            same(store, engine)
        with spark(url, tmp_path, timeout_seconds=3) as hasty, pytest.raises(QueryTimeoutError):
            hasty.run(ENDLESS, scan(store))
        with (
            spark(url, tmp_path, data_url="file:///nowhere", timeout_seconds=120) as misled,
            pytest.raises(StorageError, match="engine_data_url"),
        ):
            misled.run(statements.ACTIVE_SERIES, scan(store))


def scan(store: Store, **changes: object) -> Scan:
    """All raw rows of a store."""
    with store.storage.snapshot(TENANT, 0, 1 << 60) as snapshot:
        made = {
            "blocks": tuple(raw_folders(snapshot)),
            "head_profiles": snapshot.head_profiles,
            "head_samples": snapshot.head_samples,
            "start_ms": 0,
            "end_ms": 1 << 60,
        }
    return Scan(**{**made, **changes})


def active(engine: SparkEngine, store: Store) -> int:
    return len(engine.run(statements.ACTIVE_SERIES, scan(store))["series_id"])


def test_more_series_than_are_written_out(store: Store, sail_engine: SparkEngine) -> None:
    pods = [{**API, "pod": f"api-{number}"} for number in range(450)]
    store.add(*(P(pod, NOW, {"main": 1}) for pod in pods))
    store.storage.flush()
    selector = '{pod!~"api-[0-9]"}'
    asked = select(selector, start=NOW, end=NOW + HOUR)
    assert as_stacks(query_of(store, sail_engine).merge(asked)) == {"main": 440}


def test_sums_are_clamped(store: Store, sail_engine: SparkEngine) -> None:
    for pod in PODS[:3]:
        store.add(P(pod, NOW, {"main": 2**62, "main a": -(2**62), "main b": 1}))
        store.storage.flush()
    wanted = scan(store, type_ids=(CPU.id,), services=("api", "web"))
    sums = sail_engine.run(statements.SERVICE_TOTALS, wanted)
    assert sums["total"].tolist() == [2, 1]
    with store.storage.snapshot(TENANT, 0, 1 << 60) as snapshot:
        (found, _) = sail_engine.sum_stacks(wanted, snapshot.stacks, gauge=False).services
    stacks = as_stacks(found.tree.with_values(found.by_readings[1]))
    assert stacks == {"main": 2**63 - 1, "main a": -(2**63), "main b": 2}


def test_a_head_that_is_too_large_is_refused(sail_url: str, store: Store) -> None:
    example(store)
    with (
        spark(sail_url, Path("/"), head_bytes=10) as small,
        pytest.raises(Overloaded, match="flush_rows"),
    ):
        active(small, store)


def test_blocks_by_url(sail_url: str, store: Store, tmp_path: Path) -> None:
    example(store)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "data")
    url = f"file://{tmp_path}/elsewhere/"
    with spark(sail_url, tmp_path / "data", data_url=url) as shared:
        assert active(shared, store) == len(PODS)


def test_blocks_that_the_engine_does_not_see(sail_url: str, store: Store, tmp_path: Path) -> None:
    example(store)
    with (
        spark(sail_url, tmp_path, data_url="file:///nowhere") as misled,
        pytest.raises(StorageError, match="engine_data_url"),
    ):
        active(misled, store)


def test_a_damaged_block_is_named_and_left_out(sail_url: str, store: Store) -> None:
    store.add(P(API, NOW, {"main": 1}))
    store.storage.flush()
    store.add(P(WEB, NOW, {"main": 1}))
    store.storage.flush()
    harmed, _ = store.blocks()
    (harmed / "profiles.parquet").write_bytes(b"PAR1 no more")
    damage: list = []
    with spark(sail_url, Path("/"), damage=damage) as careful:
        assert active(careful, store) == 1
    assert [block for block, _ in damage] == [harmed]


def test_a_long_query_is_stopped_and_the_engine_goes_on(sail_url: str, store: Store) -> None:
    example(store)
    with (
        spark(sail_url, Path("/"), timeout_seconds=1) as hasty,
        pytest.raises(QueryTimeoutError, match="longer than 1 s"),
    ):
        hasty.run(ENDLESS, scan(store))
    with spark(sail_url, Path("/")) as patient:
        assert active(patient, store) == len(PODS)


def test_a_wrong_statement_is_an_error_of_ours(sail_engine: SparkEngine, store: Store) -> None:
    example(store)
    wrong = Statement(reads=("profiles",), sql="SELECT no_such_column FROM profiles")
    with pytest.raises(StorageError, match="no_such_column"):
        sail_engine.run(wrong, scan(store))


def test_it_comes_back_after_the_engine_restarts(store: Store, tmp_path: Path) -> None:
    example(store)
    port = free_port()
    with spark(f"sc://127.0.0.1:{port}", Path("/"), timeout_seconds=60) as lasting:
        with sail(tmp_path / "log", port):
            first = active(lasting, store)
        with pytest.raises(EngineUnavailable, match=f"127.0.0.1:{port}.*refused") as caught:
            active(lasting, store)
        assert "RPC" not in str(caught.value)
        with sail(tmp_path / "log", port):
            assert active(lasting, store) == first


def test_an_engine_that_hangs(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"sc://127.0.0.1:{silent.getsockname()[1]}/;token=secret"
        with (
            spark(url, Path("/"), timeout_seconds=1) as waiting,
            pytest.raises((QueryTimeoutError, EngineUnavailable)) as caught,
        ):
            active(waiting, store)
    assert "secret" not in str(caught.value)


def test_many_threads_at_once(sail_engine: SparkEngine, store: Store) -> None:
    example(store)
    begin = threading.Barrier(4)

    def ask(_: int) -> Columns:
        begin.wait()
        return sail_engine.run(statements.SERVICE_TOTALS, scan(store))

    with ThreadPoolExecutor(4) as pool:
        totals = [found["total"].tolist() for found in pool.map(ask, range(4))]
    assert (
        totals == [store.engine.run(statements.SERVICE_TOTALS, scan(store))["total"].tolist()] * 4
    )


def test_the_url_is_asked_for() -> None:
    flags = argparse.Namespace(engine="spark")
    with pytest.raises(ConfigError, match="engine_url"):
        load_config(flags, {})


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flamewell_collector.engine.spark_connection", None)
    with pytest.raises(ConfigError, match=r"pip install 'flamewell\[spark\]'"):
        SparkEngine(SparkOptions("sc://127.0.0.1:1", Path("/")), report_damage=refuse)


def refuse(block: Path, reason: str) -> None:
    raise AssertionError(f"{block} is called damaged: {reason}")
