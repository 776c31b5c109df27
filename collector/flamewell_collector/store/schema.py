"""All stored tables: names, types, units, sort orders. The one place where they are written down.

A block is a folder with one Parquet file a table. Raw rows are SERIES, PROFILES, SAMPLES, STACKS
and FRAMES in ``blocks/tenant=T/date=YYYY-MM-DD/hour=HH/block=ID/``; sums of them have ROLLUPS and
SLOTS in the place of SAMPLES, in ``rollups/tenant=T/tier=S/date=YYYY-MM-DD/block=ID/``.

Stack, node and frame numbers are local to their block. Stack, frame and series ids are content
hashes, the same everywhere: 64 bits, stored as signed integers since Spark knows no others. The
first 64 bits of a block's name, ``block_id``, tell blocks apart where rows of many are read.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 4

SERIES = pa.schema(
    [
        pa.field("series_id", pa.int64(), nullable=False),
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)
"""Sorted by (service_name, series_id), the hash of the sorted label set; service_name is one of
``labels`` too."""

PROFILES = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms since the epoch, start of the profile
        pa.field("series_id", pa.int64(), nullable=False),
        pa.field("duration_ms", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),  # sum of the profile's values, type's unit
        pa.field("sample_count", pa.int64(), nullable=False),  # raw samples behind it; 0 unknown
    ]
)
"""Sorted by (service_name, profile_type, time, series_id). In a rollup one row is a series' slot:
``time`` its start, ``duration_ms`` its length, ``total`` the sum of deltas or the average of a
gauge."""

SAMPLES = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms since the epoch, start of the profile
        pa.field("series_id", pa.int64(), nullable=False),
        pa.field("stack", pa.int32(), nullable=False),  # of STACKS
        pa.field("value", pa.int64(), nullable=False),  # in the profile type's unit
        pa.field("block_id", pa.int64(), nullable=False),
    ]
)
"""Sorted by (service_name, profile_type, time, series_id, stack); one row group a (service_name,
profile_type)."""

ROLLUPS = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms since the epoch, start of the slot
        pa.field("stack", pa.int32(), nullable=False),  # of STACKS
        pa.field("readings", pa.int64(), nullable=False),
        pa.field("value", pa.int64(), nullable=False),  # in the profile type's unit
        pa.field("block_id", pa.int64(), nullable=False),
    ]
)
"""SAMPLES summed over the series of a service and the time of a slot. Sorted by (service_name,
profile_type, time, stack, readings); one row group a (service_name, profile_type).

``readings`` is 1 for deltas. For gauges it is how many readings the series had in the minute (since
the epoch) of a sample: an average over time is the sum of value / readings, over the minutes with
data, so that it is the same from raw rows and from sums."""

SLOTS = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("profile_type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # ms since the epoch, start of the slot
        pa.field("minutes", pa.int64(), nullable=False),  # bit i: minute i of the slot has data
    ]
)
"""Gauges: which minutes of a slot had a reading. Sorted by (service_name, profile_type, time)."""

STACKS = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("node", pa.int32(), nullable=False),
        pa.field("parent", pa.int32(), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("stack_id", pa.int64(), nullable=True),
        pa.field("stack", pa.int32(), nullable=True),
        pa.field("block_id", pa.int64(), nullable=False),
    ]
)
"""A prefix tree a service; nodes count from 0 through all services of the block. A service's first
node is its root (parent -1, frame -1), parent < node; in blocks each node is followed by all that
it leads to. ``stack_id`` and ``stack`` are set where some sample ends at the node, null on nodes
that are only passed through; the root's ``stack_id`` is 0: the empty stack. ``stack`` numbers the
stacks of a service from 0, those that come often first: SAMPLES and ROLLUPS point to it."""

FRAMES = pa.schema(
    [
        pa.field("service_name", pa.string(), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("frame_id", pa.int64(), nullable=False),
        pa.field("function", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),  # 1-based; 0 unknown
        pa.field("block_id", pa.int64(), nullable=False),
    ]
)
"""The frames of each service, sorted by ``frame``, which counts from 0 through all services of the
block. ``frame_id`` is the hash of what follows it."""

BATCH_FRAMES = FRAMES.remove(6).remove(0)
"""In a batch all services share their frames."""

BATCH_STACKS = STACKS.remove(6).remove(5)
"""A batch has no numbers of stacks: it may leave out those that are known."""

BATCH_SAMPLES = SAMPLES.remove(6).set(4, pa.field("stack_id", pa.int64(), nullable=False))
"""Samples as they come point to stacks by their ids."""

BATCH_TABLES: dict[str, pa.Schema] = {
    "series": SERIES,
    "profiles": PROFILES,
    "samples": BATCH_SAMPLES,
    "stacks": BATCH_STACKS,
    "frames": BATCH_FRAMES,
}
BLOCK_TABLES: dict[str, pa.Schema] = {
    "series": SERIES,
    "profiles": PROFILES,
    "samples": SAMPLES,
    "stacks": STACKS,
    "frames": FRAMES,
}
ROLLUP_TABLES: dict[str, pa.Schema] = {
    "series": SERIES,
    "profiles": PROFILES,
    "rollups": ROLLUPS,
    "slots": SLOTS,
    "stacks": STACKS,
    "frames": FRAMES,
}
TABLES: dict[str, pa.Schema] = {**BLOCK_TABLES, **ROLLUP_TABLES}
"""Whatever a query may read."""
