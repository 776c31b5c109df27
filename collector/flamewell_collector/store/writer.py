"""Writes blocks, a service at a time: what is in memory is one service's rows of one type."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store.changes import Block
from flamewell_collector.store.sample_rows import SampleRows
from flamewell_collector.store.schema import BLOCK_TABLES, ROLLUP_TABLES
from flamewell_collector.store.stack_numbers import StackRows
from flamewell_collector.store.tiers import RAW
from flamewell_collector.store.wal import sync_folder

BLOCKS_FOLDER = "blocks"
ROLLUPS_FOLDER = "rollups"
TEMPORARY_FOLDER = "temporary"
_ORIGIN_KEY = b"flamewell.origin"
_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_checksum": True,
    # At 1 MiB, the default, 130,000 different values would no longer be a dictionary.
    "dictionary_pagesize_limit": 8 << 20,
}
_NAMES = ["service_name", "profile_type"]
_FORMATS: dict[str, dict[str, Any]] = {
    "profiles": {**_FORMAT, "use_dictionary": [*_NAMES, "series_id", "duration_ms"]},
    "samples": {
        **_FORMAT,
        # Values repeat: multiples of a period, sizes of objects. As a dictionary they take 1.05
        # bytes on the model workload, split by bytes 1.50.
        "use_dictionary": [*_NAMES, "series_id", "value", "block_id"],
        # Split by bytes, numbers of stacks take 1.2 bytes; as they are, packed by deltas or as a
        # dictionary 1.6 to 2.
        "column_encoding": {"time": "DELTA_BINARY_PACKED", "stack": "BYTE_STREAM_SPLIT"},
    },
    "rollups": {
        **_FORMAT,
        "use_dictionary": [*_NAMES, "time", "readings", "block_id"],
        "column_encoding": {"stack": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
    },
    "slots": {**_FORMAT, "use_dictionary": _NAMES},
    "stacks": {
        **_FORMAT,
        "use_dictionary": ["service_name", "block_id"],
        "column_encoding": {
            "node": "DELTA_BINARY_PACKED",
            "parent": "DELTA_BINARY_PACKED",
            "stack": "BYTE_STREAM_SPLIT",
        },
    },
    "frames": {
        **_FORMAT,
        "use_dictionary": ["service_name", "file", "block_id"],
        "column_encoding": {"frame": "DELTA_BINARY_PACKED"},
    },
    "series": {**_FORMAT, "use_dictionary": True},
}
_OF_ROWS = ("time", "series_id", "stack", "value")
_OWN_GROUPS = frozenset({"samples", "rollups"})
"""Tables with a row group for each service and type: a query reads no row in vain."""
_GROUP_ROWS = 8192
"""Services with fewer rows share a row group of the other tables."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a block comes from; written into it, so that a lost catalog can be made anew.

    Attributes:
        wal_number: The last log file that its rows come from; 0 for merged ones.
        replaces: Names of the blocks that it is merged from.
        hours: Of a rollup: start in ms → name of the raw block that the sums are of.
    """

    wal_number: int = 0
    replaces: tuple[str, ...] = ()
    hours: Mapping[int, str] = field(default_factory=dict)


def read_origin(block: Path) -> Origin:
    """Read a block's origin.

    Raises:
        OSError: It can't be read.
        pa.ArrowException: It is not a block.
    """
    metadata = pq.read_schema(block / "profiles.parquet").metadata or {}
    found = json.loads(metadata.get(_ORIGIN_KEY, b"{}"))
    return Origin(
        found.get("wal_number", 0),
        tuple(found.get("replaces", ())),
        {int(hour): name for hour, name in found.get("hours", {}).items()},
    )


def block_folders(data_dir: Path) -> list[Path]:
    """Give the folders of all blocks below a data folder, registered or not."""
    raw = (data_dir / BLOCKS_FOLDER).glob("tenant=*/date=*/hour=*/block=*")
    sums = (data_dir / ROLLUPS_FOLDER).glob("tenant=*/tier=*/date=*/block=*")
    return sorted([*raw, *sums])


def block_id(name: str) -> int:
    """Give the number that a block's rows carry, from its name: 32 hexadecimal digits."""
    return int.from_bytes(bytes.fromhex(name)[:8], "big", signed=True)


class BlockWriter:
    """Writes blocks below a data folder; a block appears whole, by one rename, or not at all."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._temporary = data_dir / TEMPORARY_FOLDER

    @contextmanager
    def draft(
        self, tenant: str, start_ms: int, *, tier: str = RAW, origin: Origin
    ) -> Iterator[BlockDraft]:
        """Begin a block; what was written of it is gone unless ``finish`` was called.

        Args:
            tenant: Whose.
            start_ms: Start of its hour or day, which names its folder.
            tier: What its rows are.
            origin: Where it comes from.

        Raises:
            StorageUnavailable: The disk is full or read-only.
        """
        name = uuid.uuid4().hex
        draft = None
        try:
            temporary = self._temporary / name
            temporary.mkdir(parents=True)
            draft = BlockDraft(
                self._data_dir,
                temporary,
                tenant=tenant,
                start_ms=start_ms,
                tier=tier,
                origin=origin,
            )
            yield draft
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailable(f"a block can't be written: {error}") from error
        finally:
            if draft is not None:
                # Only after an error is anything left to close; that error is the one to tell.
                with suppress(OSError, pa.ArrowException):
                    draft.close()
            shutil.rmtree(self._temporary / name, ignore_errors=True)


class BlockDraft:
    """A block that is being written: services in the order of their names, types likewise.

    Attributes:
        name: What the block will be called.
    """

    def __init__(
        self,
        data_dir: Path,
        folder: Path,
        *,
        tenant: str,
        start_ms: int,
        tier: str,
        origin: Origin,
    ) -> None:
        """Use ``BlockWriter.draft``."""
        self.name = f"block={folder.name}"
        self._block_id = block_id(folder.name)
        self._data_dir = data_dir
        self._folder = folder
        self._tenant = tenant
        self._start_ms = start_ms
        self._tier = tier
        self._origin = origin
        self._nodes = 0
        self._frames = 0
        self._rows = 0
        self._first_ms: int | None = None
        self._last_ms = 0
        tables = BLOCK_TABLES if tier == RAW else ROLLUP_TABLES
        self._files: dict[str, _File] = {}
        for table, schema in tables.items():
            marked = schema
            if table == "profiles":
                marked = schema.with_metadata({_ORIGIN_KEY: _origin_json(origin)})
            self._files[table] = _File(
                folder / f"{table}.parquet", marked, _FORMATS[table],
                group_rows=1 if table in _OWN_GROUPS else _GROUP_ROWS,
            )  # fmt: skip

    def add_samples(self, service: str, profile_type: str, rows: SampleRows) -> None:
        """Add a service's samples of one type, in order, with their numbers in the block."""
        if not len(rows):
            return
        self._rows += len(rows)
        columns = _constants(service, profile_type, len(rows))
        columns |= {name: getattr(rows, name) for name in _OF_ROWS}
        self._files["samples"].add(columns | self._block(len(rows)))

    def add_rollup(self, service: str, profile_type: str, rows: Mapping[str, Any]) -> None:
        """Add a service's sums of one type, in order: ROLLUPS without the names."""
        count = len(rows["time"])
        if not count:
            return
        self._rows += count
        columns = _constants(service, profile_type, count) | dict(rows)
        self._files["rollups"].add(columns | self._block(count))

    def add_slots(self, service: str, profile_type: str, rows: Mapping[str, Any]) -> None:
        """Add a gauge's minutes with data: SLOTS without the names."""
        if len(rows["time"]):
            names = _constants(service, profile_type, len(rows["time"]))
            self._files["slots"].add(names | dict(rows))

    def end_service(self, profiles: pa.Table, series: pa.Table, stacks: StackRows) -> None:
        """Add what a service has once, after its samples.

        Args:
            profiles: Its PROFILES, in order.
            series: Its SERIES, in order.
            stacks: At least those of its samples.
        """
        if not profiles.num_rows:
            return
        times = profiles.column("time").to_numpy()
        first, last = int(times.min()), int(times.max())
        self._first_ms = first if self._first_ms is None else min(self._first_ms, first)
        self._last_ms = max(self._last_ms, last)
        self._files["profiles"].add(profiles)
        self._files["series"].add(series)
        rows = stacks.after(self._nodes, self._frames)
        self._nodes += rows.stacks.num_rows
        self._frames += rows.frames.num_rows
        for table, found in (("stacks", rows.stacks), ("frames", rows.frames)):
            columns = {name: found.column(name) for name in found.column_names}
            self._files[table].add(columns | self._block(found.num_rows))

    def _block(self, count: int) -> dict[str, Any]:
        return {"block_id": pa.repeat(pa.scalar(self._block_id, pa.int64()), count)}

    def finish(self) -> Block:
        """Make the block durable; it is not registered yet.

        Raises:
            StorageUnavailable: The disk is full or read-only.
        """
        try:
            self.close()
            size = sum(_synced_size(each) for each in self._folder.iterdir())
            sync_folder(self._folder)
            relative = _block_folder(self._tenant, self._start_ms, self._tier, self._folder.name)
            final = self._data_dir / relative
            final.parent.mkdir(parents=True, exist_ok=True)
            self._folder.rename(final)
            try:
                _sync_parents(final.parent, self._data_dir)
            except OSError:
                shutil.rmtree(final, ignore_errors=True)
                raise
        except (OSError, pa.ArrowException) as error:
            raise StorageUnavailable(f"a block can't be written: {error}") from error
        return Block(
            path=str(relative),
            tenant=self._tenant,
            start_ms=self._start_ms if self._first_ms is None else self._first_ms,
            end_ms=self._last_ms,
            rows=self._rows,
            bytes=size,
            compacted=bool(self._origin.replaces) or self._tier != RAW,
            tier=self._tier,
        )

    def close(self) -> None:
        """Write what waits and close the files."""
        for each in self._files.values():
            each.close()


class _File:
    """One Parquet file; small parts share a row group."""

    def __init__(
        self, path: Path, schema: pa.Schema, options: Mapping[str, Any], *, group_rows: int
    ) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = pq.ParquetWriter(path, schema, **options)

    def add(self, rows: pa.Table | Mapping[str, Any]) -> None:
        """Add rows."""
        if isinstance(rows, Mapping):
            table = pa.table(dict(rows), schema=self._schema)
        else:
            table = rows.cast(self._schema)
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= self._group_rows:
            self._write()

    def close(self) -> None:
        """Write what waits; once."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            self._write_to(writer)
        finally:
            writer.close()

    def _write(self) -> None:
        if self._writer is not None:
            self._write_to(self._writer)

    def _write_to(self, writer: pq.ParquetWriter) -> None:
        if self._rows:
            writer.write_table(pa.concat_tables(self._waiting), row_group_size=self._rows)
        self._waiting, self._rows = [], 0


def _constants(service: str, profile_type: str, count: int) -> dict[str, Any]:
    return {
        "service_name": pa.repeat(pa.scalar(service, pa.string()), count),
        "profile_type": pa.repeat(pa.scalar(profile_type, pa.string()), count),
    }


def _block_folder(tenant: str, start_ms: int, tier: str, name: str) -> Path:
    """Give a block's folder, relative to the data folder."""
    at = datetime.fromtimestamp(start_ms / 1000, UTC)
    whose = f"tenant={quote(tenant, safe='')}"
    if tier == RAW:
        return (
            Path(BLOCKS_FOLDER) / whose / f"date={at:%Y-%m-%d}" / f"hour={at:%H}" / f"block={name}"
        )
    return Path(ROLLUPS_FOLDER) / whose / f"tier={tier}" / f"date={at:%Y-%m-%d}" / f"block={name}"


def _origin_json(origin: Origin) -> bytes:
    found: dict[str, Any] = {
        "wal_number": origin.wal_number,
        "replaces": list(origin.replaces),
        "hours": {str(hour): name for hour, name in sorted(origin.hours.items())},
    }
    return json.dumps(found).encode()


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
