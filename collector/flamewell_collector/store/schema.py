"""All stored tables: names, types, units, sort orders. The one place where they are written down.

A block is a directory ``blocks/tenant=T/date=YYYY-MM-DD/hour=HH/block=ID/`` that holds one Parquet
file a table below. Node and frame numbers are local to their block; stack ids and series ids are
content hashes, the same everywhere.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 1

SERIES = pa.schema(
    [
        pa.field("series_id", pa.uint64(), nullable=False),
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)
"""Sorted by series_id, the hash of the sorted label set; service_name is one of ``labels`` too."""

PROFILES = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms since the epoch, start of the profile
        pa.field("series_id", pa.uint64(), nullable=False),
        pa.field("duration_ms", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),  # sum of the profile's values, type's unit
        pa.field("sample_count", pa.int64(), nullable=False),  # raw samples behind it; 0 unknown
    ]
)
"""Sorted by (service_name, profile_type, time, series_id)."""

SAMPLES = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms since the epoch, start of the profile
        pa.field("series_id", pa.uint64(), nullable=False),
        pa.field("stack_id", pa.uint64(), nullable=False),
        pa.field("value", pa.int64(), nullable=False),  # in the profile type's unit
    ]
)
"""Sorted by (service_name, profile_type, time, series_id, stack_id); one row group a
(service_name, profile_type)."""

STACKS = pa.schema(
    [
        pa.field("node", pa.int32(), nullable=False),
        pa.field("parent", pa.int32(), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("stack_id", pa.uint64(), nullable=True),
    ]
)
"""A prefix tree: node 0 is the root (parent -1, frame -1), parent < node. ``stack_id`` is set where
some sample ends at the node, null on nodes that are only passed through. The root's stack_id is 0:
the empty stack."""

FRAMES = pa.schema(
    [
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("function", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),  # 1-based; 0 unknown
    ]
)
"""Sorted by frame, which counts from 0."""

EMPTY_STACK_ID = 0
TABLES: dict[str, pa.Schema] = {
    "series": SERIES,
    "profiles": PROFILES,
    "samples": SAMPLES,
    "stacks": STACKS,
    "frames": FRAMES,
}
