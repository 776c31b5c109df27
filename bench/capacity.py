"""How many machines a fleet's profiles need, and what a profiled core costs: arithmetic, no run.

::

    python bench/capacity.py --nodes 1000
    python bench/capacity.py --nodes 10000 --samples-per-node 1500 --core-hour 0.04
    python bench/engines.py --data-dir DIR > engines.jsonl
    python bench/capacity.py --law engines.jsonl sail

The last takes an engine's measured law instead of the default, after it has checked the law against
the question that was held out of its fit: more than 30 % off ends with exit code 1.

Every constant is a default of an option and says where it comes from. What the model leaves out:
network between zones, requests to the object storage (a query opens two files a block), replicas.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

DAY_SECONDS = 86_400
HOURS_A_MONTH = 730
GIB = 1 << 30
ALLOWED_ERROR = 0.3


@dataclass(frozen=True)
class Law:
    """CPU time of a query: fixed part, and what each row adds."""

    fixed_ms: float
    ns_a_row: float

    def cpu_seconds(self, rows: float) -> float:
        return self.fixed_ms / 1e3 + rows * self.ns_a_row / 1e9


@dataclass(frozen=True)
class Query:
    """A kind of question: how often the whole fleet's users ask it, and what it reads.

    Attributes:
        name: For the table.
        per_second: At the busiest time.
        hours: Of rows read raw; 1.3 for 24 h from hourly rollups, which hold 5.4 % of the rows.
        services: Share of all services, or 0 for one.
        seconds: How long an answer may take.
    """

    name: str
    per_second: float
    hours: float
    services: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a fleet needs."""

    rows_per_second: float
    stored_gib_a_day: float
    stored_gib: float
    ingest_cores: float
    query_cores: float
    workers: int
    cost_a_month: float
    cost_a_core_month: float


def queries(nodes: int) -> tuple[Query, ...]:
    """Give the mix: questions come from people and alerts, whose number grows with the fleet."""
    people = nodes / 1_000
    return (
        Query("one service, 1 h", 0.5 * people, 1, 0, 2),
        Query("one service, 24 h, rollups", 0.1 * people, 24 * 0.054, 0, 2),
        Query("one service, 24 h, raw", 0.05 * people, 24, 0, 5),
        Query("all services, 1 h", 0.005 * people, 1, 1, 30),
    )


def plan(options: argparse.Namespace, law: Law) -> Plan:
    """Work out a fleet's needs (pure)."""
    rows = options.nodes * options.samples_per_node
    a_day = rows * DAY_SECONDS * options.bytes_a_sample / GIB
    rollups_a_day = a_day * options.rollup_share
    stored = a_day * options.raw_days + rollups_a_day * options.rollup_days
    ingest = rows * (1 / options.ingest_rate + 1 / options.compaction_rate) / options.busy
    hour = rows * 3_600
    cores = needed = 0.0
    for each in queries(options.nodes):
        read = hour * each.hours * (each.services or 1 / options.services)
        used = law.cpu_seconds(read)
        cores += each.per_second * used
        # The slowest question still has to be done in its time, alone.
        needed = max(needed, used / each.seconds)
    query_cores = max(cores / options.busy, needed)
    workers = max(1, math.ceil(query_cores / options.worker_cores))
    cost = (
        (ingest + workers * options.worker_cores) * options.core_hour * HOURS_A_MONTH
        + stored * options.gib_month
    )  # fmt: skip
    return Plan(
        rows_per_second=rows,
        stored_gib_a_day=a_day,
        stored_gib=stored,
        ingest_cores=ingest,
        query_cores=query_cores,
        workers=workers,
        cost_a_month=cost,
        cost_a_core_month=cost / (options.nodes * options.cores_per_node),
    )


def read_law(path: Path, engine: str) -> tuple[Law, float]:
    """Read an engine's law and how far off it was where it was not fitted."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    found = next(each for each in lines if each.get("engine") == engine and "cpu_ns_a_row" in each)
    off = abs(found["held_out_predicted_ms"] / found["held_out_measured_ms"] - 1)
    return Law(max(0.0, found["fixed_cpu_ms"]), found["cpu_ns_a_row"]), off


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--nodes", type=int, default=1_000)
    add("--cores-per-node", type=int, default=16)
    add("--services", type=int, help="default: one for five nodes, 50 profiled pods each")
    add(
        "--samples-per-node",
        type=float,
        default=500,
        help="stored rows a second and node: 10 "
        "profiled pods, 5 types, a profile a 15 s with 150 stacks each: 50 rows a pod and second",
    )
    add("--bytes-a-sample", type=float, default=2.9, help="after compaction, with symbols")
    add("--rollup-share", type=float, default=0.35, help="size of rollups, of that of raw rows")
    add("--raw-days", type=float, default=7)
    add("--rollup-days", type=float, default=90)
    add(
        "--ingest-rate",
        type=float,
        default=250_000,
        help="rows/s a core, request to log (decision 0018)",
    )
    add("--compaction-rate", type=float, default=1_400_000, help="rows/s a core")
    add("--busy", type=float, default=0.5, help="share of a core that is planned to be used")
    add("--worker-cores", type=int, default=8)
    add("--core-hour", type=float, default=0.04, help="price of a core with 4 GiB for an hour")
    add("--gib-month", type=float, default=0.023, help="price of a GiB in object storage")
    add("--fixed-ms", type=float, default=FIXED_MS, help="CPU of a query without rows")
    add("--ns-a-row", type=float, default=NS_A_ROW, help="CPU that a row adds")
    add("--law", nargs=2, metavar=("FILE", "ENGINE"), help="take both from a run of engines.py")
    options = parser.parse_args(arguments)
    options.services = options.services or max(1, options.nodes // 5)
    return options


FIXED_MS = 26.0
NS_A_ROW = 155.0
"""Sail's, by engines.py on two cores; the embedded engine took 0.4 ms and 20 ns a row beside it."""


def main() -> int:
    options = parse()
    law, off = Law(options.fixed_ms, options.ns_a_row), 0.0
    if options.law:
        law, off = read_law(Path(options.law[0]), options.law[1])
        print(f"law of {options.law[1]}: {law.fixed_ms:.1f} ms + {law.ns_a_row:.1f} ns a row; "
              f"{off:.0%} off where it was not fitted")  # fmt: skip
    for name, value in _rows(plan(options, law)):
        print(f"{name:<42}{value}")
    return int(off > ALLOWED_ERROR)


def _rows(found: Plan) -> list[tuple[str, str]]:
    return [
        ("samples a second", f"{found.rows_per_second:,.0f}"),
        ("stored a day, raw", f"{found.stored_gib_a_day:,.1f} GiB"),
        ("stored, raw and rollups", f"{found.stored_gib:,.0f} GiB"),
        ("collector cores (ingest, compaction)", f"{found.ingest_cores:,.1f}"),
        ("query cores", f"{found.query_cores:,.1f}"),
        ("query workers", f"{found.workers:,}"),
        ("cost a month", f"{found.cost_a_month:,.0f}"),
        ("cost a profiled core and month", f"{found.cost_a_core_month:.4f}"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
