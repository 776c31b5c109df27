"""The store that queries are measured over: made once, used again.

One service with all its types for a day and with its CPU profiles for a week, and the CPU profiles
of all 200 services for the last hour: 167 million rows, all at the density of the whole model.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from model_symbols import service_name
from model_workload import HOUR_MS, TYPES, Shape, Workload, series_labels
from store_feed import SLOT_MS, Costs, Fleet, compact, feed_hour, open_store, parts

MANIFEST = "model.json"


@dataclass(frozen=True, slots=True)
class Extent:
    """What is in the store.

    Attributes:
        services: Whose CPU profiles are there for the last hour.
        pods: Of each.
        full_hours: Of all types of the first service.
        long_hours: Of its CPU profiles.
        seed: Of the workload.
    """

    services: int = 200
    pods: int = 10
    full_hours: int = 24
    long_hours: int = 168
    seed: int = 1

    def fleet(self, hours_ago: int) -> Fleet:
        """Give who sends in the hour that began ``hours_ago`` before the end, 1 for the last."""
        fleet = {0: len(TYPES) if hours_ago <= self.full_hours else 1}
        if hours_ago == 1:
            fleet |= dict.fromkeys(range(1, self.services), 1)
        return fleet

    @property
    def hours(self) -> int:
        """How many there are."""
        return max(self.full_hours, self.long_hours, 1)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A store that is there.

    Attributes:
        folder: Of this dataset; the store is in ``store``, plain Parquet in ``plain``.
        extent: What is in it.
        end_ms: Start of the hour after the last one.
        rows: Of all samples.
        watched: Hour's start in ms → CPU samples of the first service.
        build: Seconds of CPU by stage.
    """

    folder: Path
    extent: Extent
    end_ms: int
    rows: int
    watched: dict[int, int]
    build: dict[str, float]

    @property
    def service(self) -> str:
        """The service that is asked for."""
        return service_name(0)

    @property
    def pod(self) -> str:
        """One of its pods."""
        return series_labels(0, 0)["pod"]

    @property
    def store(self) -> Path:
        """The data folder."""
        return self.folder / "store"

    def watched_rows(self, hours: int) -> int:
        """Count the raw CPU samples of the service in the last so many hours."""
        first = self.end_ms - hours * HOUR_MS
        return sum(rows for hour, rows in self.watched.items() if hour >= first)

    def hour_rows(self) -> int:
        """Count the raw CPU samples of all services in the last hour, about."""
        return self.watched_rows(1) * self.extent.services

    def hour_starts(self, hours: int) -> list[int]:
        """Give the last hours, ascending."""
        return [self.end_ms - at * HOUR_MS for at in range(hours, 0, -1)]


def open_dataset(folder: Path, extent: Extent) -> Dataset:
    """Give the dataset in a folder, making it where it is not there.

    Raises:
        SystemExit: There is another one.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        _build(folder, extent)
    found = json.loads(manifest.read_text())
    if found["extent"] != asdict(extent):
        raise SystemExit(f"{folder} holds {found['extent']}: name another folder")
    return Dataset(
        folder=folder,
        extent=extent,
        end_ms=found["end_ms"],
        rows=found["rows"],
        watched={int(hour): rows for hour, rows in found["watched"].items()},
        build=found["build"],
    )


def workload_of(extent: Extent) -> Workload:
    """Give what makes the rows."""
    return Workload(Shape(services=extent.services, pods=extent.pods, seed=extent.seed))


def _build(folder: Path, extent: Extent) -> None:
    end_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    if (folder / "store").exists():
        raise SystemExit(f"{folder} has a store that is not finished: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    storage, workload, costs = open_store(folder / "store"), workload_of(extent), Costs()
    began = time.monotonic()
    try:
        for ago in range(extent.hours, 0, -1):
            hour_ms = end_ms - ago * HOUR_MS
            for fleet in parts(extent.fleet(ago)):
                # Few services for all of the hour, so that there are few and large flushes; after
                # compaction there is no difference.
                feed_hour(
                    storage, workload, hour_ms, fleet, costs,
                    slice_ms=HOUR_MS, watch=(service_name(0), TYPES[0].id),
                )  # fmt: skip
            compact(storage, hour_ms, costs)
            if ago % 12 == 1:
                print(f"  {ago - 1} hours left, {time.monotonic() - began:.0f} s", file=sys.stderr)
    finally:
        storage.close()
    (folder / MANIFEST).write_text(
        json.dumps(
            {
                "extent": asdict(extent),
                "end_ms": end_ms,
                "rows": costs.rows,
                "watched": costs.watched,
                "build": costs.cpu_seconds,
            }
        )
    )


def plain_files(dataset: Dataset, hours: int) -> dict[int, Path]:
    """Give plain Parquet of the last hours, a file each, in the order in which rows came."""
    folder = dataset.folder / "plain"
    folder.mkdir(exist_ok=True)
    workload = workload_of(dataset.extent)
    found = {}
    for ago, hour_ms in zip(range(hours, 0, -1), dataset.hour_starts(hours), strict=True):
        path = found[hour_ms] = folder / f"{hour_ms}.parquet"
        if path.exists():
            continue
        temporary, writer = path.with_suffix(".part"), None
        for start_ms in range(hour_ms, hour_ms + HOUR_MS, SLOT_MS):
            for fleet in parts(dataset.extent.fleet(ago)):
                rows = workload.batch(start_ms, SLOT_MS, fleet=fleet, stacks="none").samples
                if writer is None:
                    writer = pq.ParquetWriter(temporary, rows.schema, compression="zstd")
                writer.write_table(rows, row_group_size=1_000_000)
        assert writer is not None
        writer.close()
        temporary.rename(path)
    return found
