"""From the shared SQL to what Spark understands (pure)."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.engine.scan import Columns, Statement

_MIN_INT64: Final = "CAST(-9223372036854775808 AS DECIMAL(38, 0))"
_MAX_INT64: Final = "9223372036854775807"

# Halves of 32 bits are summed apart: neither sum can overflow below 2^31 rows, both stay machine
# integers, where a DECIMAL(38) sum of each row would be an object a row in Spark.
_EXACT_SUM: Final = (
    r"(CAST(SUM(SHIFTRIGHT(\1, 32)) AS DECIMAL(38, 0)) * 4294967296"
    r" + CAST(SUM(\1 & 4294967295) AS DECIMAL(38, 0)))"
)
_REWRITES: Final = (
    (re.compile(r"\$(\w+)"), r":\1"),
    (re.compile(r"//"), "DIV"),
    (re.compile(r"\bARG_MAX\("), "MAX_BY("),
    (re.compile(r"\bAS VARCHAR\b"), "AS STRING"),
    # Spark's own AVG adds up doubles: inexact, and in another order each time.
    (re.compile(r"\bAVG\((\w+)\)"), rf"(CAST({_EXACT_SUM} AS DOUBLE) / COUNT(\1))"),
    (
        re.compile(r"\bSUM_INT64\((\w+)\)"),
        rf"CAST(GREATEST(LEAST({_EXACT_SUM}, {_MAX_INT64}), {_MIN_INT64}) AS BIGINT)",
    ),
)

SERVICE_STACK_SUMS: Final = Statement(
    reads=("samples", "rollups", "stacks"),
    sql="""
    SELECT service_name, stack_id, readings, SUM_INT64(value) AS value
    FROM (
        SELECT block_id, service_name, stack, 1 AS readings, SUM_INT64(value) AS value
        FROM samples GROUP BY block_id, service_name, stack
        UNION ALL
        SELECT block_id, service_name, stack, readings, SUM_INT64(value) AS value
        FROM rollups GROUP BY block_id, service_name, stack, readings
    ) AS sums JOIN stacks USING (block_id, service_name, stack)
    GROUP BY service_name, stack_id, readings""",
)
"""Deltas in blocks: service_name, stack_id, readings (1), value."""

SERVICE_STACK_READINGS: Final = Statement(
    reads=("profiles", "samples", "rollups", "stacks"),
    sql="""
    SELECT service_name, stack_id, readings, SUM_INT64(value) AS value
    FROM (
        SELECT block_id, service_name, stack, readings, SUM_INT64(value) AS value
        FROM (
            SELECT block_id, service_name, series_id, time // $bucket_ms AS bucket, stack, value
            FROM samples
        ) AS found JOIN (
            SELECT series_id, bucket, COUNT(*) AS readings FROM (
                SELECT DISTINCT series_id, time, time // $bucket_ms AS bucket FROM profiles
            ) AS read GROUP BY series_id, bucket
        ) AS counted USING (series_id, bucket)
        GROUP BY block_id, service_name, stack, readings
        UNION ALL
        SELECT block_id, service_name, stack, readings, SUM_INT64(value) AS value
        FROM rollups GROUP BY block_id, service_name, stack, readings
    ) AS sums JOIN stacks USING (block_id, service_name, stack)
    GROUP BY service_name, stack_id, readings""",
)
"""Gauges in blocks: the same, apart by how often the series was read in the bucket."""


def translate(sql: str) -> str:
    """Turn a statement's text into Spark's SQL."""
    for pattern, replacement in _REWRITES:
        sql = pattern.sub(replacement, sql)
    return sql


def answer_columns(table: pa.Table) -> Columns:
    """Turn a result into arrays as DuckDB gives them: strings as objects."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        columns[name] = table[name].combine_chunks().to_numpy(zero_copy_only=False)
    return columns
