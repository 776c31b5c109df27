"""All questions in SQL.

``SUM_INT64`` is a macro of ours: a sum clamped to int64, since a hostile sender must not be able to
make a query fail.
"""

from __future__ import annotations

from typing import Final

from flamewell_collector.engine.scan import Statement

STACK_SUMS: Final = Statement(
    reads=("samples",),
    sql="""
    SELECT stack_id, SUM_INT64(value) AS value
    FROM samples GROUP BY stack_id ORDER BY stack_id""",
)
"""Deltas: stack_id, value."""

STACK_READINGS: Final = Statement(
    reads=("profiles", "samples"),
    sql="""
    WITH readings AS (
        SELECT DISTINCT series_id, time, (time - $start_ms) // $bucket_ms AS bucket FROM profiles
    ), counted AS (
        SELECT series_id, time, COUNT(*) OVER (PARTITION BY series_id, bucket) AS readings
        FROM readings
    )
    SELECT stack_id, readings, SUM_INT64(value) AS value,
           (SELECT COUNT(DISTINCT bucket) FROM readings) AS buckets
    FROM samples JOIN counted USING (series_id, time)
    GROUP BY stack_id, readings ORDER BY stack_id, readings""",
)
"""Gauges: stack_id, readings, value, buckets. ``value`` sums the rows whose series had ``readings``
readings in the bucket; the average over time is the sum of value / readings, over buckets. Kept
apart by ``readings`` so that the sums are exact, whatever order they were made in."""

AMOUNTS: Final = Statement(
    reads=("profiles",),
    sql="""
    SELECT (time - $read_from_ms) // $cell_ms AS cell,
           (duration_ms + $cell_ms // 2) // $cell_ms AS cells, SUM_INT64(total) AS total
    FROM profiles GROUP BY cell, cells ORDER BY cell, cells""",
)
"""Deltas over time: cell in which profiles start, how many cells they cover, their sum."""

READINGS: Final = Statement(
    reads=("profiles",),
    sql="""
    SELECT series_id, cell, AVG(total) AS reading FROM (
        SELECT series_id, (time - $read_from_ms) // $cell_ms AS cell, SUM_INT64(total) AS total
        FROM profiles GROUP BY series_id, time
    ) AS readings GROUP BY series_id, cell ORDER BY series_id, cell""",
)
"""Gauges over time: the average reading of each series in each cell where it has one."""

SERVICE_TOTALS: Final = Statement(
    reads=("profiles",),
    sql="""
    SELECT service_name, profile_type, SUM_INT64(total) AS total, MIN(time) AS first_ms,
           MAX(time + duration_ms) AS end_ms, MAX(time) AS last_ms
    FROM profiles GROUP BY service_name, profile_type ORDER BY service_name, profile_type""",
)
"""One row a service and type."""

LAST_READINGS: Final = Statement(
    reads=("profiles",),
    sql="""
    SELECT service_name, profile_type, series_id, MAX(time) AS time, ARG_MAX(total, time) AS total
    FROM (
        SELECT service_name, profile_type, series_id, time, SUM_INT64(total) AS total
        FROM profiles GROUP BY service_name, profile_type, series_id, time
    ) AS readings
    GROUP BY service_name, profile_type, series_id
    ORDER BY service_name, profile_type, series_id""",
)
"""The newest reading of each series."""

ACTIVE_SERIES: Final = Statement(
    reads=("profiles",),
    sql="SELECT DISTINCT series_id FROM profiles ORDER BY series_id",
)

ACTIVE_TYPES: Final = Statement(
    reads=("profiles",),
    sql="SELECT DISTINCT profile_type FROM profiles ORDER BY profile_type",
)
