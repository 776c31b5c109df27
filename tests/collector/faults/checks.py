"""What has to hold after any fault: nothing acknowledged is lost, nothing is shown twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector.batches import TENANT, as_stacks
from collector.stored import from_raw_rows

from flamewell_collector.app import Collector
from flamewell_collector.engine.duckdb import DuckDBEngine, EngineOptions
from flamewell_collector.model import Selection
from flamewell_collector.query import Query
from flamewell_collector.selectors import parse_selector
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS
from flamewell_collector.store.verify import verify
from flamewell_wire.profile_types import CPU

MIDNIGHT_MS = 1_800_000_000_000 // DAY_MS * DAY_MS


@contextmanager
def query_over(storage: Storage) -> Iterator[Query]:
    engine = DuckDBEngine(
        EngineOptions(memory_bytes=128 << 20, threads=1), report_damage=storage.set_aside
    )
    try:
        yield Query(
            storage, engine, clock=lambda: MIDNIGHT_MS, observe=lambda _name, _seconds: None
        )
    finally:
        engine.close()


def merged(
    storage: Storage,
    selector: str = "{}",
    *,
    type_id: str = CPU.id,
    start_ms: int = MIDNIGHT_MS,
    end_ms: int = MIDNIGHT_MS + 3 * DAY_MS,
) -> dict[str, int]:
    """Give the values by stack over a time, as a flame graph would."""
    with query_over(storage) as query:
        asked = Selection(TENANT, type_id, parse_selector(selector), start_ms, end_ms)
        return as_stacks(query.merge(asked))


def merged_raw(storage: Storage, **asked: Any) -> dict[str, int]:
    """Give the same from rows as they came, without their sums."""
    with from_raw_rows():
        return merged(storage, **asked)


def stacks_of(numbers: Iterable[int]) -> dict[str, int]:
    """Give what ``merged`` gives for these of ``cpu_batch``."""
    found: dict[str, int] = {}
    for number in numbers:
        for stack, value in (("main", 10), (f"main f{number % 7}", number)):
            if value:
                found[stack] = found.get(stack, 0) + value
    return found


def assert_sound(data: Path) -> None:
    report = verify(data, progress=lambda _done, _total: None)
    assert report.problems == []


def metric(collector: Collector, name: str) -> float:
    lines = collector.app.test_client().get("/metrics").text.splitlines()
    (line,) = (each for each in lines if each.startswith(f"flamewell_collector_{name} "))
    return float(line.split()[1])
