"""The embedded engine: DuckDB over Parquet blocks and the Arrow tables of the head.

DuckDB answers what is asked of profiles; samples, which are a hundred times as many, are summed by
stack_sums.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from flamewell_collector.engine.compose import compose
from flamewell_collector.engine.scan import Columns, Scan, StacksOf, StackSums, Statement
from flamewell_collector.engine.stack_sums import StackSummer, readings_of
from flamewell_collector.errors import Overloaded, QueryTimeoutError, StorageError

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
        readings, buckets = readings_of(self, scan) if gauge else (None, 1)
        return StackSums(tuple(self._summer.sums(scan, stacks_of, readings)), buckets)

    def close(self) -> None:
        """Free the engine's memory; nothing may run any more."""
        self._connection.close()

    def _execute(self, statement: Statement, scan: Scan, parameters: dict[str, int]) -> Columns:
        places = _Places()
        text = compose(statement, scan, places)
        sql, given = text.sql, {**text.values, **places.values, **parameters}
        values = {name: each for name, each in given.items() if f"${name}" in sql}
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


class _Places:
    """Files are parameters, one list a mention."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}

    def files(self, table: str, blocks: Sequence[Path]) -> str:
        name = f"files_{len(self.values)}"
        self.values[name] = [str(block / f"{table}.parquet") for block in blocks]
        return f"read_parquet(${name}, hive_partitioning = false)"

    def head_profiles(self) -> str:
        return "head_profiles"

    def wanted_series(self) -> str:
        return "wanted_series"


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
