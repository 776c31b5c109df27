"""The embedded engine: DuckDB over Parquet blocks and the Arrow tables of the head, in one SQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from flamewell_collector.engine.scan import Columns, Scan, Statement
from flamewell_collector.errors import Overloaded, QueryTimeoutError, StorageError

_MAX_SERVICES_PUSHED: Final = 200
"""Beyond that many names the list costs more to compare than the row groups it saves."""

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
        blocks = scan.blocks
        while True:
            try:
                return self._execute(statement, scan, blocks, parameters)
            except _UNREADABLE as error:
                damaged = self._find_damaged(statement, scan, blocks, parameters)
                if not damaged:
                    raise StorageError(f"the store can't be read: {error}") from error
                for block, reason in damaged.items():
                    self._report_damage(block, reason)
                blocks = tuple(each for each in blocks if each not in damaged)

    def close(self) -> None:
        """Free the engine's memory; nothing may run any more."""
        self._connection.close()

    def _execute(
        self,
        statement: Statement,
        scan: Scan,
        blocks: Sequence[Path],
        parameters: dict[str, int],
    ) -> Columns:
        sql, values = _compose(statement, scan, blocks)
        values.update({key: value for key, value in parameters.items() if f"${key}" in sql})
        cursor = self._connection.cursor()
        try:
            cursor.register("head_profiles", scan.head_profiles)
            cursor.register("head_samples", scan.head_samples)
            if scan.series_ids is not None:
                wanted = pa.table({"series_id": pa.array(scan.series_ids, pa.uint64())})
                cursor.register("wanted_series", wanted)
            with _interrupted_after(cursor, self._options.timeout_seconds):
                columns: Columns = cursor.execute(sql, values).fetchnumpy()
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
        self,
        statement: Statement,
        scan: Scan,
        blocks: Sequence[Path],
        parameters: dict[str, int],
    ) -> dict[Path, str]:
        """Run the statement on each block alone; none is blamed if it fails without any, too."""
        damaged: dict[Path, str] = {}
        try:
            self._execute(statement, scan, (), parameters)
        except _UNREADABLE:
            return damaged
        for block in blocks:
            try:
                self._execute(statement, scan, (block,), parameters)
            except _UNREADABLE as error:
                damaged[block] = str(error).splitlines()[0][:500]
        return damaged


def _compose(
    statement: Statement, scan: Scan, blocks: Sequence[Path]
) -> tuple[str, dict[str, Any]]:
    """Put the relations that a statement reads in front of it."""
    values: dict[str, Any] = {"scan_start_ms": scan.start_ms, "scan_end_ms": scan.end_ms}
    condition = _condition(scan, values)
    relations = []
    for table in statement.reads:
        # Tables and conditions are our own text, all that comes from outside is a parameter.
        sources = [f"SELECT * FROM head_{table} WHERE {condition}"]  # noqa: S608 - see above
        if blocks:
            values[f"{table}_files"] = [str(block / f"{table}.parquet") for block in blocks]
            files = f"read_parquet(${table}_files, hive_partitioning = false)"
            sources.append(f"SELECT * FROM {files} WHERE {condition}")  # noqa: S608 - see above
        relations.append(f"{table} AS (\n{' UNION ALL '.join(sources)}\n)")
    return f"WITH {', '.join(relations)}\nSELECT * FROM (\n{statement.sql}\n) AS answer", values


def _condition(scan: Scan, values: dict[str, Any]) -> str:
    """Say in SQL which rows count; names of services and types let row groups be skipped."""
    parts = ["time >= $scan_start_ms AND time < $scan_end_ms"]
    services = scan.services
    if services is not None and scan.series_ids is not None:
        services = services if len(services) <= _MAX_SERVICES_PUSHED else None
    for column, chosen in (("profile_type", scan.type_ids or None), ("service_name", services)):
        if chosen is not None:
            names = [f"{column}_{number}" for number in range(len(chosen))]
            values.update(zip(names, chosen, strict=True))
            allowed = ", ".join(f"${name}" for name in names)
            parts.append(f"{column} IN ({allowed})" if allowed else "false")
    if scan.series_ids is not None:
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
