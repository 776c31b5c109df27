"""Writes blocks: rows of one tenant and hour, sorted, with their stacks, frames and series."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store.catalog import Block
from flamewell_collector.store.schema import PROFILES, SAMPLES
from flamewell_collector.store.series import SeriesIndex, series_table
from flamewell_collector.store.stacktable import StackTable
from flamewell_collector.store.wal import sync_folder

HOUR_MS = 3_600_000
BLOCKS_FOLDER = "blocks"
TEMPORARY_FOLDER = "temporary"
_ORDER = [(name, "ascending") for name in ("service_name", "profile_type", "time", "series_id")]
_SAMPLE_ORDER = [*_ORDER, ("stack_id", "ascending")]
_ORIGIN_KEY = b"flamewell.origin"
_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_checksum": True,
}
_PROFILE_FORMAT = {**_FORMAT, "use_dictionary": ["service_name", "profile_type", "series_id"]}
_SAMPLE_FORMAT = {
    **_FORMAT,
    "use_dictionary": ["service_name", "profile_type", "series_id", "stack_id"],
    "column_encoding": {"value": "BYTE_STREAM_SPLIT", "time": "DELTA_BINARY_PACKED"},
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a block comes from; written into it, so that a lost catalog can be made anew.

    Attributes:
        wal_number: The last log file that its rows come from.
        replaces: Names of the blocks that it was merged from.
    """

    wal_number: int
    replaces: tuple[str, ...]


def read_origin(block: Path) -> Origin:
    """Read a block's origin.

    Raises:
        OSError: It can't be read.
        pa.ArrowException: It is not a block.
    """
    metadata = pq.read_schema(block / "profiles.parquet").metadata or {}
    found = json.loads(metadata.get(_ORIGIN_KEY, b"{}"))
    return Origin(found.get("wal_number", 0), tuple(found.get("replaces", ())))


def hours(profiles: pa.Table, samples: pa.Table) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Split rows by hour; gives (hours since the epoch, profiles, samples)."""
    profile_hour = profiles.column("time").to_numpy() // HOUR_MS
    sample_hour = samples.column("time").to_numpy() // HOUR_MS
    for hour in np.unique(profile_hour).tolist():
        yield (
            hour,
            profiles.filter(pa.array(profile_hour == hour)),
            samples.filter(pa.array(sample_hour == hour)),
        )


def _block_folder(tenant: str, hour: int, name: str) -> Path:
    """Give a block's folder, relative to the data folder."""
    at = datetime.fromtimestamp(hour * HOUR_MS / 1000, UTC)
    return (
        Path(BLOCKS_FOLDER)
        / f"tenant={quote(tenant, safe='')}"
        / f"date={at:%Y-%m-%d}"
        / f"hour={at:%H}"
        / f"block={name}"
    )


class BlockWriter:
    """Writes blocks below a data folder; a block appears whole, by one rename, or not at all."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._temporary = data_dir / TEMPORARY_FOLDER

    def write(
        self,
        tenant: str,
        hour: int,
        *,
        profiles: pa.Table,
        samples: pa.Table,
        stacks: StackTable,
        series: SeriesIndex,
        wal_number: int = 0,
        replaces: Sequence[str] = (),
    ) -> Block:
        """Write one block and make it durable; it is not registered yet.

        Args:
            tenant: Whose.
            hour: Hours since the epoch.
            profiles: PROFILES rows of that hour.
            samples: SAMPLES rows of that hour.
            stacks: Knows at least the stacks of the samples.
            series: Knows at least the series of the profiles.
            wal_number: The last log file that these rows come from.
            replaces: Names of the blocks that this one is merged from.

        Raises:
            StorageUnavailable: The disk is full or read-only.
        """
        name = uuid.uuid4().hex
        relative = _block_folder(tenant, hour, name)
        temporary = self._temporary / name
        try:
            temporary.mkdir(parents=True)
            self._write_tables(
                temporary,
                profiles=profiles.replace_schema_metadata(_origin(wal_number, replaces)),
                samples=samples,
                stacks=stacks,
                series=series,
            )
            size = sum(_synced_size(each) for each in temporary.iterdir())
            sync_folder(temporary)
            final = self._data_dir / relative
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(final)
            _sync_parents(final.parent, self._data_dir)
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailable(f"a block can't be written: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        times = profiles.column("time").to_numpy()
        return Block(
            path=str(relative),
            tenant=tenant,
            start_ms=int(times.min()),
            end_ms=int(times.max()),
            rows=samples.num_rows,
            bytes=size,
            compacted=bool(replaces),
        )

    def _write_tables(
        self,
        folder: Path,
        *,
        profiles: pa.Table,
        samples: pa.Table,
        stacks: StackTable,
        series: SeriesIndex,
    ) -> None:
        profiles = profiles.sort_by(_ORDER)
        samples = samples.sort_by(_SAMPLE_ORDER)
        _write_grouped(folder / "samples.parquet", samples.cast(SAMPLES))
        pq.write_table(
            profiles.cast(PROFILES.with_metadata(profiles.schema.metadata)),
            folder / "profiles.parquet",
            **_PROFILE_FORMAT,
        )
        stack_rows, frame_rows = stacks.subset(_as_uint64(samples.column("stack_id")))
        used = set(np.unique(_as_uint64(profiles.column("series_id"))).tolist())
        series_rows = series_table(each for each in series.all() if each.series_id in used)
        for name, table in (
            ("stacks", stack_rows),
            ("frames", frame_rows),
            ("series", series_rows),
        ):
            pq.write_table(table, folder / f"{name}.parquet", **_FORMAT)


def _write_grouped(path: Path, samples: pa.Table) -> None:
    """Write one row group a (service, type): a query for one service reads just its own."""
    with pq.ParquetWriter(
        path,
        samples.schema,
        **_SAMPLE_FORMAT,
    ) as writer:
        for start, length in _runs(samples):
            writer.write_table(samples.slice(start, length), row_group_size=length)


def _origin(wal_number: int, replaces: Sequence[str]) -> dict[bytes, bytes]:
    return {
        _ORIGIN_KEY: json.dumps({"wal_number": wal_number, "replaces": list(replaces)}).encode()
    }


def _runs(samples: pa.Table) -> Iterator[tuple[int, int]]:
    """Give (start, length) of each run of equal (service, type) in sorted rows."""
    if samples.num_rows == 0:
        return
    changes = np.zeros(samples.num_rows - 1, dtype=bool)
    for name in ("service_name", "profile_type"):
        encoded = samples.column(name).combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        changes |= codes[1:] != codes[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), samples.num_rows]
    for start, end in itertools.pairwise(edges):
        yield start, end - start


def _as_uint64(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    return np.asarray(column.to_numpy(), dtype=np.uint64)


def _synced_size(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _sync_parents(folder: Path, top: Path) -> None:
    """Sync a folder and its parents up to ``top``: a rename is durable only with its folder."""
    while True:
        sync_folder(folder)
        if folder == top:
            return
        folder = folder.parent
