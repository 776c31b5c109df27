"""The embedded engine: its bounds, its isolation, many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from collector.batches import TENANT, P, batch
from collector.stored import raw_folders

from flamewell_collector.engine import Scan, Statement, statements
from flamewell_collector.engine.duckdb import DuckDBEngine, EngineOptions, _interrupted_after
from flamewell_collector.errors import Overloaded, QueryTimeoutError, StorageError
from flamewell_collector.store.schema import BATCH_SAMPLES, PROFILES
from flamewell_collector.store.stack_cache import ServiceStacks, StackCache
from flamewell_collector.store.storage import Storage, StorageOptions
from flamewell_wire.profile_types import CPU

ENDLESS = Statement(
    reads=("profiles",), sql="SELECT SUM(range % 7) AS value FROM range(1000000000000000)"
)
HUNGRY = Statement(
    reads=("profiles",), sql="SELECT LIST(range) AS value FROM range(1000000000) GROUP BY range"
)
WRONG = Statement(reads=("profiles",), sql="SELECT no_such_column FROM profiles")

MakeEngine = Callable[..., DuckDBEngine]


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    made: list[DuckDBEngine] = []

    def make(*, damage: list | None = None, **options: float) -> DuckDBEngine:
        seen = damage if damage is not None else []
        engine = DuckDBEngine(
            EngineOptions(**{"memory_bytes": 64 << 20, "threads": 1, **options}),
            report_damage=lambda block, reason: seen.append((block, reason)),
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def scan(*blocks: Path, **changes: object) -> Scan:
    return Scan(
        **{
            "blocks": blocks,
            "head_profiles": PROFILES.empty_table(),
            "head_samples": BATCH_SAMPLES.empty_table(),
            "start_ms": 0,
            "end_ms": 2**60,
            **changes,
        }
    )


def test_a_long_query_is_stopped_and_the_engine_goes_on(make_engine: MakeEngine) -> None:
    engine = make_engine(timeout_seconds=0.2)
    with pytest.raises(QueryTimeoutError, match=r"longer than 0\.2 s"):
        engine.run(ENDLESS, scan())
    assert len(engine.run(statements.ACTIVE_SERIES, scan())["series_id"]) == 0


class Interrupted:
    """A cursor that notes being interrupted."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def interrupt(self) -> None:
        self.told.set()

    def fail_when_told(self) -> None:
        assert self.told.wait(10)
        raise RuntimeError("Query interrupted")


def test_an_interrupt_that_surfaces_as_a_bare_error_is_a_timeout_too() -> None:
    """As DuckDB's binding raises it now and then; other such errors stay what they are."""
    cursor = Interrupted()
    with pytest.raises(QueryTimeoutError), _interrupted_after(cursor, 0.01):
        cursor.fail_when_told()
    with pytest.raises(RuntimeError, match="else"), _interrupted_after(Interrupted(), 60):
        raise RuntimeError("something else")


def test_a_hungry_query_fails_alone(make_engine: MakeEngine) -> None:
    engine = make_engine(timeout_seconds=60)
    with pytest.raises(Overloaded, match="query_memory_bytes"):
        engine.run(HUNGRY, scan())
    assert len(engine.run(statements.ACTIVE_SERIES, scan())["series_id"]) == 0


def test_no_block_is_blamed_for_a_query_that_fails_by_itself(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    damage: list = []
    block = write_block(tmp_path)
    with pytest.raises(StorageError):
        make_engine(damage=damage).run(WRONG, scan(block))
    assert damage == []


def test_it_reads_no_environment_and_installs_nothing(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    connection = make_engine()._connection
    for sql in (
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_parquet('https://127.0.0.1:1/x.parquet')",
        "SET autoinstall_known_extensions = true",
        "SET memory_limit = '100GB'",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)
    assert list(home.iterdir()) == []


def test_many_threads_at_once(make_engine: MakeEngine, tmp_path: Path) -> None:
    block = write_block(tmp_path)
    engine = make_engine(threads=2)
    cache = StackCache(1 << 20)
    begin = threading.Barrier(8)

    def stacks_of(service: str, blocks: Sequence[Path]) -> ServiceStacks:
        return cache.stacks(TENANT, service, blocks=blocks, report_damage=unexpected)

    def ask(number: int) -> int:
        begin.wait()
        total = 0
        for _ in range(5):
            wanted = scan(block, services=(f"s{number}",), type_ids=(CPU.id,))
            (sums,) = engine.sum_stacks(wanted, stacks_of, gauge=False).services
            total += int(sums.by_readings[1].sum())
        return total

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [5 * (number + 1) for number in range(8)]


def unexpected(block: Path, reason: str) -> None:
    raise AssertionError(f"{block}: {reason}")


def write_block(folder: Path) -> Path:
    """Make a block with 20 services, s0 to s19, which amount to 1 to 20."""
    storage = Storage.open(folder / "data", StorageOptions())
    profiles = [P({"service_name": f"s{at}"}, 1_000, {"f": at + 1}) for at in range(20)]
    storage.append(batch(profiles, batch_id="b"))
    storage.flush()
    with storage.snapshot(TENANT, 0, 2_000) as snapshot:
        (block,) = raw_folders(snapshot)
    storage.close()
    return block
