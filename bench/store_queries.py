"""Measures queries of a running collector over HTTP: CPU and wall time, by range and by crowd.

Usage: python bench/store_queries.py --data-dir DIR [--runs 30] [--json] [--no-baselines]

The dataset (see store_dataset.py) is made at the first run and used again. ``CPU`` is that of the
whole collector while a question is answered, by the kernel's clock of the process; answers come
compressed, as a browser asks for them. "raw" asks with a label that rollups do not know, so that
raw rows have to be read. The growth law is fitted to those by least squares.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine
import numpy as np
from model_workload import HOUR_MS, TYPES
from store_baselines import baselines
from store_collector import (
    Answers,
    Collector,
    Question,
    collector,
    crowd,
    forget_pages,
    measure,
    median,
    percentile,
)
from store_dataset import Dataset, Extent, open_dataset
from store_senders import sending

from flamewell_wire.profile_types import INUSE_SPACE

RANGES = (1, 6, 24, 168)
GROWTH = (1, 2, 4, 8, 16, 24)
CLIENTS = 16
_DEAR_MS = 30_000
GOALS = {
    "flame graph, 1 h": (25, 60),
    "flame graph, 24 h": (30, 60),
    "flame graph, 24 h, raw": (120, 200),
    "flame graph, 168 h": (150, None),
    "flame graph, all 200 services, 1 h": (1_200, None),
    "diff, 1 h": (50, 120),
}
"""Wall time, ms: p50 and p99 that the store is meant to keep on a machine of two cores."""


def questions(dataset: Dataset) -> list[Question]:
    """Give what is asked, those that the goals are about first."""
    one = f'{{service_name="{dataset.service}"}}'
    found = [
        _flames(dataset, f"flame graph, {hours} h", hours, one)
        for hours in RANGES
        if hours <= dataset.extent.long_hours
    ]
    full = min(24, dataset.extent.full_hours)
    raw = _by_label(one, dataset)
    last, day = _span(dataset, 1), _span(dataset, full)
    everybody = f"all {dataset.extent.services} services"
    found += [
        _flames(dataset, f"flame graph, {hours} h, raw", hours, raw) for hours in sorted({1, full})
    ]
    found += [
        Question(
            f"gauge flame graph, {full} h",
            "/api/v1/flamegraph",
            {"query": one, "type": INUSE_SPACE.id, **day},
            dataset.watched_rows(full),
        ),
        Question(
            f"flame graph, {everybody}, 1 h",
            "/api/v1/flamegraph",
            {"max_nodes": "20000", **last},  # as the page asks
            dataset.hour_rows(),
        ),
        Question("diff, 1 h", "/api/v1/diff", {"query": one, **last}, dataset.watched_rows(2)),
        Question("table, 1 h", "/api/v1/top", {"query": one, **last}, dataset.watched_rows(1)),
        Question(f"time line, {full} h", "/api/v1/timeline", {"query": one, **day}),
        Question(f"time line, {everybody}, 1 h", "/api/v1/timeline", last),
        Question("label values, 1 h", "/api/v1/label-values", {"label": "pod", **last}),
        Question(f"series, {full} h", "/api/v1/series", {"query": one, **day}),
        Question("services, 1 h", "/api/v1/services", last),
    ]
    return found


def _by_label(selector: str, dataset: Dataset) -> str:
    """Leave one of the ten pods out: no sum can answer that, all rows are looked at."""
    return selector.replace("}", f', pod!="{dataset.pod}"}}')


def _flames(dataset: Dataset, name: str, hours: int, selector: str) -> Question:
    values = {"query": selector, **_span(dataset, hours)}
    return Question(name, "/api/v1/flamegraph", values, dataset.watched_rows(hours))


def _span(dataset: Dataset, hours: int) -> dict[str, str]:
    start_ms = dataset.end_ms - hours * HOUR_MS
    return {"from": str(start_ms), "until": str(dataset.end_ms)}


def _figures(question: Question, answers: Answers) -> dict[str, Any]:
    return {
        "question": question.name,
        "rows": question.rows,
        "p50_ms": median(answers.wall),
        "p99_ms": percentile(answers.wall, 0.99),
        "cpu_p50_ms": median(answers.cpu),
        "cpu_p99_ms": percentile(answers.cpu, 0.99),
        "bytes": answers.bytes,
        "runs": len(answers.wall),
        "goal_p50_ms": GOALS.get(question.name, (None, None))[0],
        "goal_p99_ms": GOALS.get(question.name, (None, None))[1],
    }


def cold(
    dataset: Dataset, asked: Sequence[Question], flags: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Ask each question first of all, of a collector that just began, with no file in memory."""
    for question in asked:
        forget_pages(dataset.store)
        with collector(dataset.store, *flags) as running:
            yield _figures(question, measure(running, question, 1))


def warm(running: Collector, asked: Sequence[Question], runs: int) -> Iterator[dict[str, Any]]:
    """Ask each question many times, after two that do not count; slow ones less often."""
    for question in asked:
        took = measure(running, question, 1).wall[0]
        if took < _DEAR_MS:
            took = measure(running, question, 1).wall[0]
        count = max(2, min(runs, round(_DEAR_MS / took)))
        yield _figures(question, measure(running, question, count))


def growth(running: Collector, dataset: Dataset, runs: int) -> dict[str, Any]:
    """Ask for longer and longer ranges of raw rows; gives points, and the line through them."""
    one = _by_label(f'{{service_name="{dataset.service}"}}', dataset)
    points = []
    for hours in GROWTH:
        if hours > dataset.extent.long_hours:
            continue
        question = _flames(dataset, f"{hours} h", hours, one)
        measure(running, question, 2)
        answers = measure(running, question, runs)
        points.append(
            {"hours": hours, "rows": question.rows,
             "cpu_ms": median(answers.cpu), "wall_ms": median(answers.wall)}
        )  # fmt: skip
    rows = np.array([each["rows"] for each in points], float)
    cpu = np.array([each["cpu_ms"] for each in points])
    # Weighted, so that the line is as good, in percent, for short ranges as for long ones.
    slope, fixed = np.polyfit(rows, cpu, 1, w=1 / cpu) if len(points) > 1 else (np.nan, np.nan)
    off = np.abs((fixed + slope * rows) / cpu - 1).max()
    return {"points": points, "cpu_ns_a_row": slope * 1e6, "fixed_cpu_ms": fixed, "off": off}


def crowds(running: Collector, dataset: Dataset, seconds: float) -> Iterator[dict[str, Any]]:
    """Let 16 clients ask for hours of the first service, alone and while profiles come in."""
    one = f'{{service_name="{dataset.service}"}}'
    asked = []
    for ago in range(min(24, dataset.extent.long_hours)):
        start_ms = dataset.end_ms - (ago + 1) * HOUR_MS
        span = {"from": str(start_ms), "until": str(start_ms + HOUR_MS)}
        asked.append(Question("flame graph, 1 h", "/api/v1/flamegraph", {"query": one, **span}))
    for each in asked:
        measure(running, each, 1)
    for clients, rate in ((1, 0), (CLIENTS, 0), (CLIENTS, 50_000), (CLIENTS, 100_000)):
        with sending(running.port, rate) as sent:
            walls = crowd(running, asked, clients=clients, seconds=seconds)
        p50, p99 = median(walls), percentile(walls, 0.99)
        yield {
            "clients": clients, "ingest_asked": rate, "ingest_samples_a_second": sent.rate(),
            "refused": sent.refused, "answers_a_second": len(walls) / seconds,
            "p50_ms": p50, "p99_ms": p99, "p99_by_p50": p99 / p50,
        }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print as tables."""
    print(f"{found['machine']}; load {found['load'][0]:.2f} before, {found['load'][1]:.2f} after")
    print(f"{found['rows']:,} raw rows; {found['types']} types\n")
    print(f"{'':<36}{'raw rows':>12}{'p50 ms':>9}{'goal':>7}{'p99 ms':>9}{'goal':>7}"
          f"{'CPU p50':>9}{'p99':>9}{'kB':>7}")  # fmt: skip
    for each in found["warm"]:
        print(
            f"{each['question']:<36}{each['rows']:>12,}"
            f"{each['p50_ms']:>9.1f}{each['goal_p50_ms'] or '':>7}"
            f"{each['p99_ms']:>9.1f}{each['goal_p99_ms'] or '':>7}"
            f"{each['cpu_p50_ms']:>9.1f}{each['cpu_p99_ms']:>9.1f}{each['bytes'] / 1e3:>7.0f}"
        )
    print("\nfirst question to a collector that just began, no file in memory")
    for each in found["cold"]:
        print(f"{each['question']:<36}{each['rows']:>12,}{each['p50_ms']:>9.1f}"
              f"{'':>23}{each['cpu_p50_ms']:>9.1f}")  # fmt: skip
    law = found["growth"]
    print(f"\nraw rows: {law['fixed_cpu_ms']:.1f} ms + {law['cpu_ns_a_row']:.1f} ns of CPU a row, "
          f"at most {law['off']:.0%} off")  # fmt: skip
    for each in found["crowds"]:
        print(
            f"{each['clients']:>3} clients, {each['ingest_samples_a_second']:>9,.0f} samples/s in: "
            f"p50 {each['p50_ms']:.0f} ms, p99 {each['p99_ms']:.0f} ({each['p99_by_p50']:.1f} x), "
            f"{each['answers_a_second']:.0f} answers/s, {each['refused']} batches refused"
        )
    if found["baselines"]:
        print("\nthe merge alone, raw rows          range   wall ms    CPU ms")
    for each in found["baselines"]:
        print(
            f"{each['way']:<37}{each['hours']:>3} h{each['wall_ms']:>10.1f}{each['cpu_ms']:>10.1f}"
        )


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="of the dataset; kept")
    parser.add_argument("--services", type=int, default=Extent().services)
    parser.add_argument("--full-hours", type=int, default=Extent().full_hours)
    parser.add_argument("--long-hours", type=int, default=Extent().long_hours)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20, help="that each crowd lasts")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        help="of the collector: --flag=--log-level=info",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    extent = Extent(options.services, 10, options.full_hours, options.long_hours)
    dataset = open_dataset(options.data_dir, extent)
    asked = questions(dataset)
    found: dict[str, Any] = {
        "machine": machine.describe(), "extent": asdict(extent), "rows": dataset.rows,
        "types": len(TYPES), "build_cpu_seconds": dataset.build,
    }  # fmt: skip
    load = os.getloadavg()[0]
    flames = [each for each in asked if "flame graph" in each.name]
    found["cold"] = list(cold(dataset, flames, options.flag))
    with collector(dataset.store, *options.flag) as running:
        found["warm"] = list(warm(running, asked, options.runs))
        found["growth"] = growth(running, dataset, max(3, options.runs // 3))
        found["crowds"] = list(crowds(running, dataset, options.seconds))
    hours = [each for each in (1, 24) if each <= extent.full_hours]
    found["baselines"] = [] if options.no_baselines else list(baselines(dataset, hours, 5))
    found["load"] = (load, os.getloadavg()[0])
    if options.json:
        json.dump(found, sys.stdout)
        print()
    else:
        show(found)


if __name__ == "__main__":
    main()
