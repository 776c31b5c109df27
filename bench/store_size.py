"""Measures what the store makes of the model workload: bytes a sample, and rows a second of a core.

Usage: python bench/store_size.py [--services 4] [--hours 2] [--data-dir DIR] [--json]

A flush each 5 minutes, compaction and rollups after each hour, as in a collector. CPU time is that
of all threads. The same rows are then written as plain Parquet by pyarrow and, where it is
installed, by Polars: one row group a million rows, zstd, in the order in which they came and sorted
as the store sorts them; with the stacks as they are in a batch, once.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine
import pyarrow as pa
import pyarrow.parquet as pq
from model_workload import HOUR_MS, Shape, Workload
from store_feed import TABLES, Costs, compact, feed_hour, open_store, table_bytes

from flamewell_collector.model import DecodedBatch
from flamewell_collector.store.schema import BATCH_SAMPLES

FIRST_MS = 1_767_225_600_000  # 2026-01-01
GROUP_ROWS = 1_000_000
SORTED_BY = [(name, "ascending") for name in BATCH_SAMPLES.names[:4]]


def store_figures(folder: Path, workload: Workload, hours: int) -> dict[str, Any]:
    """Fill a store and measure it."""
    fleet = dict.fromkeys(range(workload.shape.services), workload.shape.types)
    for number in fleet:
        workload.call_tree(number)  # making stacks is no part of making rows
    storage, costs = open_store(folder), Costs()
    try:
        for at in range(hours):
            feed_hour(storage, workload, FIRST_MS + at * HOUR_MS, fleet, costs)
            compact(storage, FIRST_MS + at * HOUR_MS, costs)
        compact(storage, FIRST_MS + 48 * HOUR_MS, costs)  # the day is over: its sums become one
    finally:
        storage.close()
    sizes = table_bytes(folder)
    raw = {table: sizes.get(("blocks", table), 0) / costs.rows for table in TABLES}
    sums = {table: sizes.get(("rollups", table), 0) / costs.rows for table in TABLES}
    return {
        "rows": costs.rows,
        "bytes_a_sample": sum(raw.values()),
        "bytes_a_sample_by_table": {table: size for table, size in raw.items() if size},
        "rollup_bytes_a_sample": sum(sums.values()),
        "rollup_bytes_a_sample_by_table": {table: size for table, size in sums.items() if size},
        "rows_a_second_a_core": {
            stage: round(costs.rows_a_second(stage)) for stage in costs.cpu_seconds
        },
    }


def plain_figures(workload: Workload, hours: int, folder: Path, rows: int) -> Iterator[Any]:
    """Write the same rows without the store; gives what each way makes of them."""
    batches = workload.batches(FIRST_MS, hours, slice_ms=HOUR_MS * hours)
    samples: list[pa.Table] = []
    others: dict[str, int] = {}
    for batch in batches:
        samples.append(batch.samples)
        if batch.stacks.num_rows:
            others = _other_tables(batch, folder)
    as_it_came = pa.concat_tables(samples)
    assert as_it_came.num_rows == rows, "the workload is not the same twice"
    symbols = sum(others.values())
    writers = [("pyarrow", _by_pyarrow)]
    if importlib.util.find_spec("polars"):
        writers.append(("Polars", _by_polars))
    for order in ("as it came", "sorted"):
        table = as_it_came if order == "as it came" else as_it_came.sort_by(SORTED_BY)
        for name, write in writers:
            path = folder / "samples.parquet"
            began = time.process_time()
            write(table, path)
            used = time.process_time() - began
            yield {
                "writer": f"{name}, {order}",
                "bytes_a_sample": path.stat().st_size / rows,
                "with_symbols_bytes_a_sample": (path.stat().st_size + symbols) / rows,
                "rows_a_second_a_core": round(rows / used),
            }


def _other_tables(batch: DecodedBatch, folder: Path) -> dict[str, int]:
    found = {}
    for name in ("stacks", "frames"):
        _by_pyarrow(getattr(batch, name), folder / f"{name}.parquet")
        found[name] = (folder / f"{name}.parquet").stat().st_size
    return found


def _by_pyarrow(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=GROUP_ROWS)


def _by_polars(table: pa.Table, path: Path) -> None:
    pl = importlib.import_module("polars")
    frame = pl.from_arrow(table)
    frame.write_parquet(path, compression="zstd", row_group_size=GROUP_ROWS)


def show(found: dict[str, Any]) -> None:
    """Print as a table."""
    print(f"{found['machine']}; load {found['load']:.2f}")
    print(f"{found['store']['rows']:,} samples of {found['shape']}\n")
    store = found["store"]
    for title, key in (("raw", "bytes_a_sample"), ("rollups", "rollup_bytes_a_sample")):
        print(f"bytes a sample, {title:<26}{store[key]:>8.3f}")
        for table, size in store[f"{key}_by_table"].items():
            print(f"  {table:<40}{size:>8.3f}")
    for each in found["plain"]:
        size, whole = each["bytes_a_sample"], each["with_symbols_bytes_a_sample"]
        print(f"plain, {each['writer']:<35}{whole:>8.3f} ({size:.3f} samples alone), "
              f"{each['rows_a_second_a_core']:,} rows/s a core")  # fmt: skip
    print("\nrows a second of a core")
    for stage, rate in store["rows_a_second_a_core"].items():
        print(f"  {stage:<36}{rate:>12,}")


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=4)
    parser.add_argument("--pods", type=int, default=10)
    parser.add_argument("--types", type=int, default=5)
    parser.add_argument("--hours", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, help="where to make the store; kept")
    parser.add_argument("--no-plain", action="store_true", help="leave out the comparison")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape = Shape(services=options.services, pods=options.pods, types=options.types)
    with tempfile.TemporaryDirectory() as name:
        folder = options.data_dir or Path(name) / "store"
        if folder.exists() and any(folder.iterdir()):
            parser.error(f"{folder} is not empty")
        found: dict[str, Any] = {"machine": machine.describe(), "load": os.getloadavg()[0]}
        found["shape"] = ", ".join(f"{value:,} {key}" for key, value in asdict(shape).items())
        found["store"] = store_figures(folder, Workload(shape), options.hours)
        plain = Path(name) / "plain"
        plain.mkdir()
        rows = found["store"]["rows"]
        figures = plain_figures(Workload(shape), options.hours, plain, rows)
        found["plain"] = [] if options.no_plain else list(figures)
        shutil.rmtree(plain)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
