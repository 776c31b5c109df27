"""The same sums of stacks by other means: the merge alone, without trees and HTTP.

The store's blocks number their stacks, so that their sums are by block and number; joining them
over blocks, which the collector does on its trees, is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from model_workload import HOUR_MS, TYPES
from store_collector import median
from store_dataset import Dataset, plain_files


def baselines(dataset: Dataset, hours: Sequence[int], runs: int) -> Iterator[dict[str, Any]]:
    """Sum the CPU profiles of one service over some ranges, from raw rows; medians."""
    kind = TYPES[0].id
    ways: list[tuple[str, Callable[[list[Path], str, str], int], str]] = [
        ("store's blocks, row groups by pyarrow", _row_groups, "store"),
        ("store's blocks, pyarrow dataset", _arrow_dataset, "store"),
        ("store's blocks, DuckDB", _duckdb, "store"),
        ("plain Parquet, DuckDB", _duckdb, "plain"),
        ("plain Parquet, pyarrow dataset", _arrow_dataset, "plain"),
    ]
    if importlib.util.find_spec("polars"):
        ways[3:3] = [("store's blocks, Polars", _polars, "store")]
        ways.append(("plain Parquet, Polars", _polars, "plain"))
    plain = plain_files(dataset, max(hours))
    for name, way, where in ways:
        for each in hours:
            starts = dataset.hour_starts(each)
            files = (
                [plain[at] for at in starts] if where == "plain" else _blocks(dataset.store, starts)
            )
            stacks = way(files, dataset.service, kind)
            walls, cpus = [], []
            for _ in range(runs):
                cpu, wall = time.process_time(), time.perf_counter()
                way(files, dataset.service, kind)
                walls.append((time.perf_counter() - wall) * 1e3)
                cpus.append((time.process_time() - cpu) * 1e3)
            yield {
                "way": name,
                "hours": each,
                "stacks": stacks,
                "wall_ms": median(walls),
                "cpu_ms": median(cpus),
            }


def _blocks(store: Path, hour_starts: Sequence[int]) -> list[Path]:
    """Give the samples of the blocks of these hours."""
    found: list[Path] = []
    for start_ms in hour_starts:
        day, hour = divmod(start_ms // HOUR_MS, 24)
        date = np.datetime64(day, "D")
        found += (store / "blocks").glob(
            f"tenant=*/date={date}/hour={hour:02d}/block=*/samples.parquet"
        )
    return sorted(found)


def _row_groups(files: list[Path], service: str, kind: str) -> int:
    """Read only the row groups of the service and type, by their statistics."""
    tables = []
    for path in files:
        opened = pq.ParquetFile(path)
        metadata = opened.metadata
        groups = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            names = group.column(0).statistics, group.column(1).statistics
            wanted = zip(names, (service, kind), strict=True)
            if all(each.min == name == each.max for each, name in wanted):
                groups.append(number)
        rows = opened.read_row_groups(groups, columns=["stack", "value"])
        tables.append(rows.group_by("stack").aggregate([("value", "sum")]))
    return sum(each.num_rows for each in tables)


def _arrow_dataset(files: list[Path], service: str, kind: str) -> int:
    chosen = (ds.field("service_name") == service) & (ds.field("profile_type") == kind)
    keys = ["__filename" if each == "filename" else each for each in _keys(files)]
    rows = ds.dataset(files).scanner(columns=[*keys, "value"], filter=chosen).to_table()
    return int(rows.group_by(keys).aggregate([("value", "sum")]).num_rows)


def _duckdb(files: list[Path], service: str, kind: str) -> int:
    connection = duckdb.connect(config={"threads": 2})
    keys = ", ".join(_keys(files))
    found = connection.execute(
        f"SELECT {keys}, SUM(value) FROM read_parquet($files) "
        f"WHERE service_name = $service AND profile_type = $kind GROUP BY {keys}",
        {"files": [str(each) for each in files], "service": service, "kind": kind},
    ).fetchnumpy()
    connection.close()
    return len(next(iter(found.values())))


def _polars(files: list[Path], service: str, kind: str) -> int:
    pl = importlib.import_module("polars")
    rows = pl.scan_parquet(files, include_file_paths="filename").filter(
        (pl.col("service_name") == service) & (pl.col("profile_type") == kind)
    )
    return len(rows.group_by(_keys(files)).agg(pl.col("value").sum()).collect())


def _keys(files: Sequence[Path]) -> list[str]:
    """Give the columns that tell stacks apart: plain files have ids, blocks have numbers."""
    plain = "stack_id" in pq.read_schema(files[0]).names
    return ["stack_id"] if plain else ["filename", "stack"]
