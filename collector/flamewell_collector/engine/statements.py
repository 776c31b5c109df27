"""All questions in SQL.

``SUM_INT64`` is a macro of ours: a sum clamped to int64, since a hostile sender must not be able to
make a query fail.
"""

from __future__ import annotations

from typing import Final

from flamewell_collector.engine.scan import Statement

SERIES_READINGS: Final = Statement(
    reads=("profiles",),
    sql="""
    SELECT series_id, bucket, COUNT(*) AS readings FROM (
        SELECT DISTINCT series_id, time, time // $bucket_ms AS bucket FROM profiles
    ) AS found GROUP BY series_id, bucket ORDER BY series_id, bucket""",
)
"""Gauges: how often each series was read in each bucket with a reading, in raw rows."""

SLOT_MINUTES: Final = Statement(
    reads=("slots",),
    sql="SELECT time, minutes FROM slots",
)
"""Of gauges: minutes with data in sums."""

AMOUNTS: Final = Statement(
    reads=("totals",),
    sql="""
    SELECT (time - $read_from_ms) // $cell_ms AS cell,
           (duration_ms + $cell_ms // 2) // $cell_ms AS cells, SUM_INT64(total) AS total
    FROM totals GROUP BY cell, cells ORDER BY cell, cells""",
)
"""Deltas over time: cell in which profiles start, how many cells they cover, their sum."""

READINGS: Final = Statement(
    reads=("totals",),
    sql="""
    SELECT series_id, cell, AVG(total) AS reading FROM (
        SELECT series_id, (time - $read_from_ms) // $cell_ms AS cell, SUM_INT64(total) AS total
        FROM totals GROUP BY series_id, time
    ) AS readings GROUP BY series_id, cell ORDER BY series_id, cell""",
)
"""Gauges over time: the average reading of each series in each cell where it has one."""

SERVICE_TOTALS: Final = Statement(
    reads=("totals",),
    sql="""
    SELECT service_name, profile_type, SUM_INT64(total) AS total, MIN(time) AS first_ms,
           MAX(time + duration_ms) AS end_ms, MAX(time) AS last_ms
    FROM totals GROUP BY service_name, profile_type ORDER BY service_name, profile_type""",
)
"""One row a service and type."""

LAST_READINGS: Final = Statement(
    reads=("totals",),
    sql="""
    SELECT service_name, profile_type, series_id, MAX(time) AS time, ARG_MAX(total, time) AS total
    FROM (
        SELECT service_name, profile_type, series_id, time, SUM_INT64(total) AS total
        FROM totals GROUP BY service_name, profile_type, series_id, time
    ) AS readings
    GROUP BY service_name, profile_type, series_id
    ORDER BY service_name, profile_type, series_id""",
)
"""The newest reading of each series."""

ACTIVE_SERIES: Final = Statement(
    reads=("totals",),
    sql="SELECT DISTINCT series_id FROM totals ORDER BY series_id",
)

ACTIVE_TYPES: Final = Statement(
    reads=("totals",),
    sql="SELECT DISTINCT profile_type FROM totals ORDER BY profile_type",
)

SERIES_BINS: Final = Statement(
    reads=("profiles",),
    sql="""
    SELECT series_id, profile_type, (time + duration_ms // 2) // $bin_ms AS bin,
           MIN(total) AS lowest, MAX(total) AS highest, SUM_INT64(total) AS total
    FROM profiles GROUP BY series_id, profile_type, bin ORDER BY series_id, profile_type, bin""",
)
"""What each series has in each bin of raw rows: lowest and highest reading of gauges, the sum of
deltas; a profile counts where its middle is."""
