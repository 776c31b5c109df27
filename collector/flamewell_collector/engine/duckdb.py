"""The embedded engine: DuckDB over Parquet blocks and the Arrow tables of the head.

DuckDB answers what is asked of profiles; samples, which are a hundred times as many, are summed by
stack_sums.py.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from flamewell_collector.engine import statements
from flamewell_collector.engine.grid import BUCKET_MS, minutes_with_data
from flamewell_collector.engine.scan import Columns, Scan, StacksOf, StackSums, Statement
from flamewell_collector.engine.stack_sums import SeriesReadings, StackSummer
from flamewell_collector.errors import Overloaded, QueryTimeoutError, StorageError
from flamewell_collector.store.schema import TABLES

_MAX_SERVICES_PUSHED: Final = 200
"""Beyond that many names the list costs more to compare than the row groups it saves."""

_MAX_SERIES_PUSHED: Final = 200
"""The same of series."""

_SUM_INT64: Final = """
CREATE MACRO SUM_INT64(x) AS CAST(
    GREATEST(LEAST(SUM(x), 9223372036854775807), -9223372036854775808) AS BIGINT
)"""

_UNREADABLE: Final = (
    duckdb.InvalidInputException,
    duckdb.IOException,
    duckdb.SerializationException,
    duckdb.ConversionException,
    duckdb.BinderException,
)
"""What a truncated, overwritten, foreign or missing Parquet file makes DuckDB raise."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Bounds of the engine.

    Attributes:
        memory_bytes: All queries together; one that needs more fails, the process does not.
        threads: Cores that one query may use.
        timeout_seconds: A longer query is stopped.
    """

    memory_bytes: int = 512 << 20
    threads: int = 2
    timeout_seconds: float = 60.0


class DuckDBEngine:
    """Runs statements; safe to use from several threads."""

    def __init__(
        self, options: EngineOptions, *, report_damage: Callable[[Path, str], None]
    ) -> None:
        """Start the engine, cut off from extensions, home folder and network.

        Args:
            options: Bounds.
            report_damage: Told of each block that can't be read, and why; the query goes on.
        """
        self._options = options
        self._report_damage = report_damage
        self._summer = StackSummer(
            threads=options.threads,
            timeout_seconds=options.timeout_seconds,
            report_damage=report_damage,
        )
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": options.threads,
                "memory_limit": f"{options.memory_bytes}B",
                "temp_directory": "",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "allow_persistent_secrets": False,
                "allow_extension_repositories": "forbidden",
                "home_directory": "/nonexistent",
                "secret_directory": "/nonexistent",
                "python_enable_replacements": False,
            },
        )
        self._connection.execute("SET parquet_metadata_cache = true")
        self._connection.execute("SET enable_progress_bar = false")
        self._connection.execute(_SUM_INT64)
        self._connection.execute("SET lock_configuration = true")

    def run(self, statement: Statement, scan: Scan, **parameters: int) -> Columns:
        """Give the statement's result over the rows of the scan.

        Raises:
            QueryTimeoutError: It took longer than it may.
            Overloaded: It needs more memory than it may have.
            StorageError: A file can't be read, and it is not known which.
        """
        while True:
            try:
                return self._execute(statement, scan, parameters)
            except _UNREADABLE as error:
                damaged = self._find_damaged(statement, scan, parameters)
                if not damaged:
                    raise StorageError(f"the store can't be read: {error}") from error
                for block, reason in damaged.items():
                    self._report_damage(block, reason)
                scan = scan.without(damaged)

    def sum_stacks(self, scan: Scan, stacks_of: StacksOf, *, gauge: bool) -> StackSums:
        """Sum the samples of a scan of one profile type by stack.

        Raises:
            QueryTimeoutError: It took longer than it may.
        """
        if not gauge:
            return StackSums(tuple(self._summer.sums(scan, stacks_of, None)), 1)
        found = self.run(statements.SERIES_READINGS, scan, bucket_ms=BUCKET_MS)
        names = ("series_id", "bucket", "readings")
        readings = SeriesReadings(BUCKET_MS, *(found[name] for name in names))
        buckets = len(np.unique(readings.bucket))
        if scan.sums:
            buckets += minutes_with_data(self.run(statements.SLOT_MINUTES, scan))
        return StackSums(tuple(self._summer.sums(scan, stacks_of, readings)), buckets)

    def close(self) -> None:
        """Free the engine's memory; nothing may run any more."""
        self._connection.close()

    def _execute(self, statement: Statement, scan: Scan, parameters: dict[str, int]) -> Columns:
        sql, values = _compose(statement, scan)
        values = {name: each for name, each in (values | parameters).items() if f"${name}" in sql}
        cursor = self._connection.cursor()
        try:
            cursor.register("head_profiles", scan.head_profiles)
            if scan.series_ids is not None:
                cursor.register("wanted_series", pa.table({"series_id": scan.series_ids}))
            with _interrupted_after(cursor, self._options.timeout_seconds):
                columns: dict[str, Any] = cursor.execute(sql, values).fetchnumpy()
        except duckdb.OutOfMemoryException as error:
            raise Overloaded(
                "the query needs more memory than query_memory_bytes: choose a shorter range or "
                "a narrower selector",
                retry_after_seconds=10,
            ) from error
        finally:
            cursor.close()
        return columns

    def _find_damaged(
        self, statement: Statement, scan: Scan, parameters: dict[str, int]
    ) -> dict[Path, str]:
        """Run the statement on each block alone; none is blamed if it fails without any, too."""
        damaged: dict[Path, str] = {}
        every = scan.folders()
        try:
            self._execute(statement, scan.without(every), parameters)
        except _UNREADABLE:
            return damaged
        for block in every:
            try:
                self._execute(
                    statement, scan.without([each for each in every if each != block]), parameters
                )
            except _UNREADABLE as error:
                damaged[block] = str(error).splitlines()[0][:500]
        return damaged


def _compose(statement: Statement, scan: Scan) -> tuple[str, dict[str, Any]]:
    """Put the relations that a statement reads in front of it."""
    values: dict[str, Any] = {"scan_start_ms": scan.start_ms, "scan_end_ms": scan.end_ms}
    condition = _condition(scan, values)
    relations = []
    for relation in statement.reads:
        sources = list(_sources(relation, scan, values))
        # Tables and conditions are our own text, all that comes from outside is a parameter.
        parts = [
            f"SELECT {columns} FROM {source} WHERE {condition}{times}"  # noqa: S608 - see above
            for columns, source, times in sources
        ] or [_nothing(relation)]
        relations.append(f"{relation} AS (\n{' UNION ALL '.join(parts)}\n)")
    return f"WITH {', '.join(relations)}\nSELECT * FROM (\n{statement.sql}\n) AS answer", values


def _sources(relation: str, scan: Scan, values: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Give (columns, table or files, further condition) of what makes up a relation."""
    table = "profiles" if relation == "totals" else relation
    columns = ", ".join(TABLES[table].names)
    if table == "profiles":
        yield columns, "head_profiles", ""
        if scan.blocks:
            values["files"] = [str(block / "profiles.parquet") for block in scan.blocks]
            yield columns, "read_parquet($files, hive_partitioning = false)", ""
    if relation == "profiles":
        return
    alike: dict[tuple[tuple[int, int], ...], list[Path]] = defaultdict(list)
    for each in scan.totals if relation == "totals" else scan.sums:
        alike[each.ranges].append(each.block)
    for number, (ranges, blocks) in enumerate(alike.items()):
        files = f"{relation}_files_{number}"
        values[files] = [str(block / f"{table}.parquet") for block in blocks]
        # Whole numbers of our own: nothing in them comes from outside.
        times = " OR ".join(f"(time >= {first:d} AND time < {last:d})" for first, last in ranges)
        yield columns, f"read_parquet(${files}, hive_partitioning = false)", f" AND ({times})"


def _nothing(relation: str) -> str:
    """Give a relation without rows."""
    columns = ", ".join(
        f"CAST(NULL AS {'VARCHAR' if pa.types.is_string(field.type) else 'BIGINT'}) AS {field.name}"
        for field in TABLES[relation]
    )
    return f"SELECT {columns} WHERE false"


def _condition(scan: Scan, values: dict[str, Any]) -> str:
    """Say in SQL which rows count; names of services and types let row groups be skipped."""
    parts = ["time >= $scan_start_ms AND time < $scan_end_ms"]
    services = scan.services
    if services is not None and (scan.every_service or scan.series_ids is not None):
        few = len(services) <= _MAX_SERVICES_PUSHED and not scan.every_service
        services = services if few else None
    for column, chosen in (("profile_type", scan.type_ids or None), ("service_name", services)):
        if chosen is not None:
            names = [f"{column}_{number}" for number in range(len(chosen))]
            values.update(zip(names, chosen, strict=True))
            allowed = ", ".join(f"${name}" for name in names)
            parts.append(f"{column} IN ({allowed})" if allowed else "false")
    if scan.series_ids is not None and len(scan.series_ids) <= _MAX_SERIES_PUSHED:
        # Whole numbers of our own, compared while the files are decoded: one pod of ten in 24 h
        # takes 69 ms, by a join 106.
        wanted = ", ".join(f"{each:d}" for each in scan.series_ids.tolist())
        parts.append(f"series_id IN ({wanted})" if wanted else "false")
    elif scan.series_ids is not None:
        parts.append("series_id IN (SELECT series_id FROM wanted_series)")
    return " AND ".join(parts)


@contextmanager
def _interrupted_after(cursor: Any, seconds: float) -> Iterator[None]:
    """Interrupt what runs on a cursor when the time is over.

    Raises:
        QueryTimeoutError: It was.
    """
    lock, done, interrupted = threading.Lock(), False, False

    def interrupt() -> None:
        nonlocal interrupted
        with lock:
            if not done:
                interrupted = True
                cursor.interrupt()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        # Between two steps of a query DuckDB's binding raises a bare RuntimeError instead.
        if not interrupted:
            raise
        raise QueryTimeoutError(
            f"the query took longer than {seconds:g} s: choose a shorter range or a narrower "
            "selector"
        ) from error
    finally:
        with lock:
            done = True
        timer.cancel()
