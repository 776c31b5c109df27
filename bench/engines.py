"""The same questions to the embedded engine, to Sail and to Apache Spark: wall and CPU time.

    python bench/engines.py --data-dir /large/disk/engines --rounds 7 > engines.jsonl

The store is the model workload's (store_dataset.py), the questions are flame graphs from raw rows:
nine of ten pods, so that no sums do. Each question goes to each engine in turn, so that a change of
the machine's load meets all of them, and the answers are compared. A line of JSON an engine and
question; the last ones hold the linear law (fixed + ns a row, fitted to all questions but the
held-out one) and what it predicts for that one: input of capacity.py. CPU is that of the engine's
processes and of this one, which puts sums on trees.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import psutil
from model_workload import HOUR_MS, TYPES
from store_dataset import Dataset, Extent, open_dataset

# The launchers of the two servers are the tests'.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from collector.engine_servers import apache_spark, sail, spark_home

from flamewell_collector.engine import Engine
from flamewell_collector.engine.duckdb import DuckDBEngine, EngineOptions
from flamewell_collector.engine.spark import SparkEngine, SparkOptions
from flamewell_collector.model import Selection, StackTree
from flamewell_collector.query import Query
from flamewell_collector.selectors import parse_selector
from flamewell_collector.store.storage import Storage, StorageOptions

HOURS = (1, 2, 4, 8)
HELD_OUT = "one service, 2 h"
CpuSeconds = Callable[[], float]


@dataclass(frozen=True)
class Question:
    """What is asked, and how many rows there are to it."""

    name: str
    selection: Selection
    rows: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="of the dataset; kept")
    parser.add_argument("--services", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default="duckdb,sail,spark")
    chosen = parser.parse_args()
    dataset = open_dataset(chosen.data_dir, Extent(chosen.services, 10, 1, max(HOURS)))
    print(json.dumps({"machine": machine.describe(), "rows": dataset.rows}), flush=True)
    storage = Storage.open(dataset.store, StorageOptions(flush_seconds=1e9))
    try:
        with ExitStack() as stack:
            asked: dict[str, tuple[Query, CpuSeconds]] = {}
            for name in chosen.engines.split(","):
                if name != "spark" or spark_home() is not None:
                    engine, cpu = stack.enter_context(ENGINES[name](dataset.store))
                    asked[name] = (_query(storage, engine), cpu)
            measure(asked, questions(dataset), chosen.rounds)
    finally:
        storage.close()


def measure(
    engines: dict[str, tuple[Query, CpuSeconds]], asked: list[Question], rounds: int
) -> None:
    """Ask, compare, time; print medians and laws."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for question in asked:
        asking = [query for query, _ in engines.values()]
        answers = [_values(query.merge_services(question.selection)) for query in asking]
        assert all(np.array_equal(each, answers[0]) for each in answers), question.name
        for _ in range(rounds):
            for name, (query, cpu) in engines.items():
                wall, used = time.perf_counter(), cpu()
                query.merge_services(question.selection)
                times = found.setdefault((name, question.name), [])
                times.append((time.perf_counter() - wall, cpu() - used))
    rows = {each.name: each.rows for each in asked}
    for (name, question), times in found.items():
        walls, cpus = zip(*times, strict=True)
        line = {
            "engine": name, "question": question, "rows": rows[question],
            "wall_ms_p50": round(statistics.median(walls) * 1e3, 1),
            "wall_ms_max": round(max(walls) * 1e3, 1),
            "cpu_ms_p50": round(statistics.median(cpus) * 1e3, 1),
        }  # fmt: skip
        print(json.dumps(line), flush=True)
    for name in engines:
        law = {
            q: statistics.median(cpu for _, cpu in t) for (n, q), t in found.items() if n == name
        }
        print(json.dumps({"engine": name, **fitted(law, rows)}))


def fitted(cpu_seconds: dict[str, float], rows: dict[str, int]) -> dict[str, float]:
    """Fit fixed + slope x rows to all but the held-out question (least relative squares)."""
    known = [name for name in cpu_seconds if name != HELD_OUT]
    weight = np.array([1 / max(cpu_seconds[name], 1e-3) for name in known])
    matrix = np.array([[1.0, rows[name]] for name in known]) * weight[:, None]
    target = np.array([cpu_seconds[name] for name in known]) * weight
    fixed, slope = np.linalg.lstsq(matrix, target, rcond=None)[0]
    return {
        "fixed_cpu_ms": round(float(fixed) * 1e3, 1),
        "cpu_ns_a_row": round(float(slope) * 1e9, 1),
        "held_out_predicted_ms": round((fixed + slope * rows[HELD_OUT]) * 1e3, 1),
        "held_out_measured_ms": round(cpu_seconds[HELD_OUT] * 1e3, 1),
    }


def questions(dataset: Dataset) -> list[Question]:
    """Give what is asked."""
    others = f'pod!="{dataset.pod}"'

    def over(name: str, hours: int, selector: str, rows: int) -> Question:
        start_ms = dataset.end_ms - hours * HOUR_MS
        matchers = parse_selector(selector)
        selection = Selection("default", TYPES[0].id, matchers, start_ms, dataset.end_ms)
        return Question(name, selection, rows)

    one = f'{{service_name="{dataset.service}",{others}}}'
    return [
        *(over(f"one service, {each} h", each, one, dataset.watched_rows(each)) for each in HOURS),
        over("all services, 1 h", 1, f"{{{others}}}", dataset.hour_rows()),
    ]


def _query(storage: Storage, engine: Engine) -> Query:
    return Query(storage, engine, clock=lambda: 0, observe=lambda _name, _seconds: None)


def _values(trees: list[StackTree]) -> np.ndarray:
    return np.sort(np.concatenate([each.value[each.value != 0] for each in trees]))


def refuse(block: Path, reason: str) -> None:
    """Stop: the dataset is damaged."""
    raise SystemExit(f"{block}: {reason}")


@contextmanager
def duckdb_engine(_: Path) -> Iterator[tuple[Engine, CpuSeconds]]:
    """Give the embedded engine."""
    engine = DuckDBEngine(EngineOptions(memory_bytes=4 << 30), report_damage=refuse)
    yield engine, time.process_time
    engine.close()


@contextmanager
def sail_engine(store: Path) -> Iterator[tuple[Engine, CpuSeconds]]:
    """Give Sail in a process of its own."""
    with sail(store.parent / "sail.log") as url, over_connect(url, store) as pair:
        yield pair


@contextmanager
def spark_engine(store: Path) -> Iterator[tuple[Engine, CpuSeconds]]:
    """Give Apache Spark in a process of its own."""
    with apache_spark(store.parent / "spark.log") as url, over_connect(url, store) as pair:
        yield pair


@contextmanager
def over_connect(url: str, store: Path) -> Iterator[tuple[Engine, CpuSeconds]]:
    """Connect to a server of this process."""
    port = int(url.rsplit(":", 1)[1])
    (server,) = (
        each
        for each in psutil.Process().children(recursive=True)
        if any(link.laddr.port == port and link.status == "LISTEN"
               for link in each.net_connections("tcp"))
    )  # fmt: skip
    # Linux: the clock of a process is named by its inverted id (clock_getcpuclockid(3)).
    clock = (~server.pid << 3) | 2
    engine = SparkEngine(SparkOptions(url, store, timeout_seconds=600), report_damage=refuse)
    yield engine, lambda: time.clock_gettime(clock) + time.process_time()
    engine.close()


ENGINES = {"duckdb": duckdb_engine, "sail": sail_engine, "spark": spark_engine}

if __name__ == "__main__":
    main()
