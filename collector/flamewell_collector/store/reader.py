"""Reads a table of a block, checksums checked."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read one file of a block.

    Raises:
        OSError: It can't be read, or a page is not what was written.
        pa.ArrowException: It is not such a table.
    """
    # Not pq.read_table: that would add tenant, date and hour from the folders' names.
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read().replace_schema_metadata(None).cast(schema)
