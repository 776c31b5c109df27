"""Writes a merged profile as Parquet: one row a stack, with its names, for whatever reads tables.

Columns: ``function``, ``file`` and ``line`` of the leaf, ``value`` in the type's unit, and
``functions``, ``files`` and ``lines`` of the whole stack, root first. The type and its unit stand
in each row, so that files can be put together.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.exports.stacks import NO_STACK, samples
from flamewell_collector.model import StackTree
from flamewell_wire.profile_types import parse_id

SCHEMA = pa.schema(
    [
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("function", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),  # 1-based; 0 unknown
        pa.field("value", pa.int64(), nullable=False),
        pa.field("functions", pa.list_(pa.string()), nullable=False),
        pa.field("files", pa.list_(pa.string()), nullable=False),
        pa.field("lines", pa.list_(pa.int32()), nullable=False),
    ]
)


def encode(tree: StackTree, type_id: str) -> bytes:
    """Encode a merged profile, the largest values first.

    Raises:
        ValueError: The type id has not five parts.
    """
    unit = parse_id(type_id).sample_unit
    names, files, lines = tree.frames.function, tree.frames.file, tree.frames.line.tolist()
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for stack, value in sorted(samples(tree), key=lambda each: -each[1]):
        leaf = stack[0] if stack else -1
        path = stack[::-1]
        columns["profile_type"].append(type_id)
        columns["unit"].append(unit)
        columns["function"].append(names[leaf] if stack else NO_STACK)
        columns["file"].append(files[leaf] if stack else "")
        columns["line"].append(lines[leaf] if stack else 0)
        columns["value"].append(value)
        columns["functions"].append([names[frame] for frame in path])
        columns["files"].append([files[frame] for frame in path])
        columns["lines"].append([lines[frame] for frame in path])
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    return sink.getvalue()
