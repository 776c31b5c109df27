"""A decoded batch as bytes and back: a JSON header, then one Arrow IPC stream a table (zstd)."""

from __future__ import annotations

import json
import struct

import pyarrow as pa

from flamewell_collector.errors import StorageError
from flamewell_collector.model import DecodedBatch
from flamewell_collector.store.schema import BATCH_TABLES

_HEADER_LENGTH = struct.Struct("<I")
_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd"))


def encode(batch: DecodedBatch) -> bytes:
    """Make the payload of a WAL frame."""
    streams = [_table_bytes(getattr(batch, name)) for name in BATCH_TABLES]
    header = json.dumps(
        {
            "tenant": batch.tenant,
            "batch_ids": batch.batch_ids,
            "lengths": [len(each) for each in streams],
        }
    ).encode()
    return b"".join((_HEADER_LENGTH.pack(len(header)), header, *streams))


def decode(payload: bytes) -> DecodedBatch:
    """Read the payload of a WAL frame.

    Raises:
        StorageError: It is not such a payload.
    """
    try:
        (length,) = _HEADER_LENGTH.unpack_from(payload)
        at = _HEADER_LENGTH.size + length
        header = json.loads(payload[_HEADER_LENGTH.size : at])
        tables: dict[str, pa.Table] = {}
        view = memoryview(payload)
        for (name, schema), size in zip(BATCH_TABLES.items(), header["lengths"], strict=True):
            table = pa.ipc.open_stream(view[at : at + size]).read_all()
            tables[name] = table.cast(schema)
            at += size
        return DecodedBatch(tenant=header["tenant"], batch_ids=tuple(header["batch_ids"]), **tables)
    except (ValueError, KeyError, TypeError, struct.error, OSError, pa.ArrowException) as error:
        raise StorageError(f"a log frame can't be decoded: {error}") from error


def _table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
