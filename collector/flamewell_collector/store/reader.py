"""Reads blocks, a service at a time: only the row groups that hold it, checksums checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flamewell_collector.errors import StorageError
from flamewell_collector.store.block_stacks import BlockStacks
from flamewell_collector.store.schema import TABLES

T = TypeVar("T")


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read one file of a block.

    Raises:
        OSError: It can't be read, or a page is not what was written.
        pa.ArrowException: It is not such a table.
    """
    # Not pq.read_table: that would add tenant, date and hour from the folders' names.
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read().replace_schema_metadata(None).cast(schema)


@dataclass(frozen=True, slots=True)
class _Group:
    """What a row group holds: names from .. to, of services and, where there are, of types."""

    number: int
    services: tuple[str, str]
    types: tuple[str, str]


def equal_to(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Tell where a column has a name."""
    # Arrow makes ``pc.equal`` and the like when it is imported: no type checker sees them.
    return pc.call_function("equal", [column, name])


class BlockReader:
    """One block's files, each opened when it is first needed. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, pq.ParquetFile] = {}
        self._groups: dict[str, list[_Group]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self._files.values():
            each.close()
        self._files.clear()

    def services(self) -> list[str]:
        """Give the names of all services that have a profile, sorted."""
        column = self._guarded(lambda: self._file("profiles").read(["service_name"]))
        return sorted(column.column(0).unique().to_pylist())

    def rows(self, table: str, service: str, profile_type: str | None = None) -> pa.Table:
        """Read the rows of a service, or of one of its types.

        Raises:
            StorageError: The file is missing, damaged or no such table.
        """
        return self._guarded(lambda: self._rows(table, service, profile_type))

    def types(self, service: str) -> list[str]:
        """Give the profile types of a service, sorted."""
        rows = self.rows("profiles", service)
        return sorted(rows.column("profile_type").unique().to_pylist())

    def stacks(self, service: str) -> BlockStacks:
        """Read the stacks of a service.

        Raises:
            StorageError: They are missing, damaged, or point to what is not there.
        """
        stacks, frames = self.rows("stacks", service), self.rows("frames", service)
        return self._guarded(lambda: BlockStacks.of(stacks, frames))

    def _rows(self, table: str, service: str, profile_type: str | None) -> pa.Table:
        file = self._file(table)
        wanted = [
            each
            for each in self._groups_of(table)
            if each.services[0] <= service <= each.services[1]
            and (profile_type is None or each.types[0] <= profile_type <= each.types[1])
        ]
        schema = TABLES[table]
        if not wanted:
            return schema.empty_table()
        rows = file.read_row_groups([each.number for each in wanted])
        rows = rows.replace_schema_metadata(None)
        chosen = [("service_name", service, [each.services for each in wanted])]
        if profile_type is not None:
            chosen.append(("profile_type", profile_type, [each.types for each in wanted]))
        for column, name, bounds in chosen:
            if any(each != (name, name) for each in bounds):
                rows = rows.filter(equal_to(rows.column(column).cast(pa.string()), name))
        return rows.cast(schema)

    def _guarded(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (OSError, ValueError, KeyError, StorageError, pa.ArrowException) as error:
            raise StorageError(f"block {self._folder.name} can't be read: {error}") from error

    def _file(self, table: str) -> pq.ParquetFile:
        found = self._files.get(table)
        if found is None:
            found = self._files[table] = pq.ParquetFile(
                self._folder / f"{table}.parquet", page_checksum_verification=True
            )
        return found

    def _groups_of(self, table: str) -> list[_Group]:
        found = self._groups.get(table)
        if found is None:
            found = self._groups[table] = list(_groups(self._file(table)))
        return found


def _groups(file: pq.ParquetFile) -> Iterator[_Group]:
    names = file.schema_arrow.names
    service = names.index("service_name")
    kind = names.index("profile_type") if "profile_type" in names else None
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        yield _Group(
            number, _bounds(group, service), _bounds(group, kind) if kind is not None else ("", "")
        )


def _bounds(group: pq.RowGroupMetaData, column: int) -> tuple[str, str]:
    statistics = group.column(column).statistics
    if statistics is None or not statistics.has_min_max:
        return "", chr(0x10FFFF)
    return statistics.min, statistics.max
