"""Row groups of one service and type, a few columns of them: footers are read once and kept.

A query reads the same groups again and again, and of a file with a thousand groups the footer takes
longer to read than the rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.errors import StorageError

_MAX_BYTES = 128 << 20
_MEMORY_PER_BYTE = 4
"""What a footer takes in memory, by its size in the file: as measured, about three times."""
_BATCH_ROWS = 1 << 18
"""So much of a column is in memory at once, and in a core's cache where it is a byte or two."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group.

    Attributes:
        number: In its file.
        rows: How many.
        first_ms: Time of the first row.
        last_ms: Time of the last row.
    """

    number: int
    rows: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class _Footer:
    metadata: pq.FileMetaData
    groups: dict[tuple[str, str], list[RowGroup]]

    @property
    def nbytes(self) -> int:
        return int(self.metadata.serialized_size) * _MEMORY_PER_BYTE


class RowGroups:
    """Reads SAMPLES and ROLLUPS of blocks; safe to use from several threads.

    Blocks never change, so that what is known of them stays true.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._footers: OrderedDict[Path, _Footer] = OrderedDict()
        self._bytes = 0

    def find(self, path: Path, service: str, profile_type: str) -> list[RowGroup]:
        """Give the row groups of a service and type; none where it has no rows.

        Raises:
            StorageError: The file is missing, damaged or no such table.
        """
        return self._footer(path).groups.get((service, profile_type), [])

    def batches(
        self, path: Path, group: RowGroup, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Read some columns of a row group, in order; checksums of pages are compared.

        Raises:
            StorageError: The file is missing, damaged or no such table.
        """
        metadata = self._footer(path).metadata
        try:
            with pq.ParquetFile(
                path, metadata=metadata, page_checksum_verification=True, pre_buffer=False
            ) as file:
                yield from file.iter_batches(
                    batch_size=_BATCH_ROWS,
                    row_groups=[group.number],
                    columns=list(columns),
                    use_threads=False,
                )
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise StorageError(f"{path.parent.name}/{path.name} can't be read: {error}") from error

    def _footer(self, path: Path) -> _Footer:
        with self._lock:
            known = self._footers.get(path)
            if known is not None:
                self._footers.move_to_end(path)
                return known
        try:
            footer = _read_footer(path)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise StorageError(f"{path.parent.name}/{path.name} can't be read: {error}") from error
        with self._lock:
            if path not in self._footers:
                self._footers[path] = footer
                self._bytes += footer.nbytes
            while self._bytes > self._max_bytes and len(self._footers) > 1:
                _, oldest = self._footers.popitem(last=False)
                self._bytes -= oldest.nbytes
        return footer


def _read_footer(path: Path) -> _Footer:
    groups: dict[tuple[str, str], list[RowGroup]] = defaultdict(list)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        metadata = file.metadata
        names = file.schema_arrow.names
        service, kind, time = (names.index(each) for each in _KEYS)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            times = group.column(time).statistics
            if times is None or not times.has_min_max:
                raise ValueError(f"row group {number} does not say of what time it is")
            found = RowGroup(number, group.num_rows, times.min, times.max)
            owner = (_only(file, number, service), _only(file, number, kind))
            groups[owner].append(found)
    return _Footer(metadata, dict(groups))


def _only(file: pq.ParquetFile, number: int, column: int) -> str:
    """Give the one name that a column has in a row group."""
    statistics = file.metadata.row_group(number).column(column).statistics
    if statistics is not None and statistics.has_min_max:
        return str(statistics.min)
    # Names of some thousand bytes are left out of the footer.
    name = file.schema_arrow.names[column]
    first = next(file.iter_batches(batch_size=1, row_groups=[number], columns=[name]))
    return str(first.column(0)[0].as_py())


_KEYS = ("service_name", "profile_type", "time")
