"""The distributed engine: any that speaks Spark Connect, such as Apache Spark or Sail.

The same SQL as DuckDB's. Blocks are read by the engine itself, from a file system or an object
storage that it shares with the collector. Of what is in no block yet profiles are sent along, and
samples are summed here.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flamewell_collector.engine import spark_dialect as dialect
from flamewell_collector.engine.compose import compose, nothing
from flamewell_collector.engine.grid import BUCKET_MS
from flamewell_collector.engine.scan import (
    Columns,
    Scan,
    ServiceSums,
    StacksOf,
    StackSums,
    Statement,
)
from flamewell_collector.engine.stack_sums import StackSummer, readings_of
from flamewell_collector.errors import ConfigError, Overloaded, StorageError
from flamewell_collector.store.exact_sums import add_by
from flamewell_collector.store.sample_rows import run_starts
from flamewell_collector.store.stack_cache import ServiceStacks

if TYPE_CHECKING:
    from flamewell_collector.engine.spark_connection import Session, SparkConnection

Int64s = npt.NDArray[np.int64]

_MAX_BLOCKS_KNOWN: Final = 200_000
"""About 20 MB; beyond, the oldest are looked at again."""

_CHECKED_FILE: Final = "profiles"


@dataclass(frozen=True, slots=True)
class SparkOptions:
    """How the engine is reached, and its bounds.

    Attributes:
        url: ``sc://host:port``, with ``/;use_ssl=true;token=…`` where the server wants that.
        data_path: The store's folder, which block folders are inside of.
        data_url: The same folder as the engine sees it; empty where it sees the same path.
        timeout_seconds: A longer query is stopped.
        head_bytes: Rows that are in no block yet, sent with a query at most.
    """

    url: str
    data_path: Path
    data_url: str = ""
    timeout_seconds: float = 60.0
    head_bytes: int = 64 << 20


class SparkEngine:
    """Runs statements; safe to use from several threads."""

    def __init__(
        self, options: SparkOptions, *, report_damage: Callable[[Path, str], None]
    ) -> None:
        """Make the engine; it connects at the first statement.

        Args:
            options: Where it is.
            report_damage: Told of each block that can't be read, and why; the query goes on.

        Raises:
            ConfigError: pyspark-client is not installed.
        """
        self._options = options
        self._report_damage = report_damage
        self._connection = _open(options)
        self._summer = StackSummer(
            threads=1, timeout_seconds=options.timeout_seconds, report_damage=report_damage
        )
        self._lock = threading.Lock()
        self._seen: OrderedDict[Path, None] = OrderedDict()

    def run(self, statement: Statement, scan: Scan, **parameters: int) -> Columns:
        """Give the statement's result over the rows of the scan.

        Raises:
            QueryTimeoutError: It took longer than it may.
            EngineUnavailable: The engine can't be reached.
            Overloaded: It needs more memory than the engine has, or the head is too large.
            StorageError: The engine doesn't see the blocks, or can't read them.
        """
        scan = scan.without(self._unreadable(scan.folders()))

        def work(session: Session) -> pa.Table:
            try:
                places = _Places(session, scan, self._url, self._options.head_bytes)
                text = compose(statement, scan, places)
                named = set(re.findall(r"\$(\w+)", text.sql))
                given = {**text.values, **parameters}
                values = {name: each for name, each in given.items() if name in named}
                return session.sql(dialect.translate(text.sql), values, places.urls)
            finally:
                session.drop_views()

        return dialect.answer_columns(self._connection.run(work))

    def sum_stacks(self, scan: Scan, stacks_of: StacksOf, *, gauge: bool) -> StackSums:
        """Sum the samples of a scan of one profile type by stack.

        Blocks are summed by the engine, what is in no block yet is summed here.

        Raises:
            QueryTimeoutError: It took longer than it may.
            EngineUnavailable: The engine can't be reached.
            Overloaded: It needs more memory than the engine has.
            StorageError: The engine doesn't see the blocks, or can't read them.
        """
        readings, buckets = readings_of(self, scan) if gauge else (None, 1)
        folders = scan.sample_folders()
        known: dict[str, ServiceStacks] = {}

        def stacks(service: str, _blocks: Sequence[Path] = ()) -> ServiceStacks:
            if service not in known:
                known[service] = stacks_of(service, folders)
            return known[service]

        head = self._summer.sums(replace(scan, blocks=(), sums=()), stacks, readings)
        sums = {each.service: dict(each.by_readings) for each in head}
        if folders:
            statement = dialect.SERVICE_STACK_READINGS if gauge else dialect.SERVICE_STACK_SUMS
            parameters = {"bucket_ms": BUCKET_MS} if gauge else {}
            rows = self.run(statement, scan, **parameters)
            for service, number, ids, values in _by_service_and_readings(rows):
                tree = stacks(service).tree
                own = sums.setdefault(service, {}).setdefault(number, np.zeros(len(tree), np.int64))
                add_by(own, np.maximum(tree.find(ids), 0), values)
        found = [
            ServiceSums(name, known[name].tree, sums[name])
            for name in scan.services or ()
            if name in sums
        ]
        return StackSums(tuple(found), buckets)

    def close(self) -> None:
        """Let the engine go; nothing may run any more."""
        self._connection.close()

    def _unreadable(self, blocks: Sequence[Path]) -> set[Path]:
        """Look at blocks that are new: damaged ones are given, none may be missing to the engine.

        An engine may answer from the files that it finds and say nothing of those it does not
        (Sail does), so that a wrong data_url would look like an empty store.
        """
        with self._lock:
            new = [each for each in blocks if each not in self._seen]
        rows: dict[Path, int] = {}
        damaged = set()
        for block in new:
            try:
                rows[block] = _rows_of(block)
            except (OSError, pa.ArrowException) as error:
                damaged.add(block)
                self._report_damage(block, str(error).splitlines()[0][:500])
        if rows:
            self._check_seen(rows)
            with self._lock:
                self._seen.update(dict.fromkeys(rows))
                while len(self._seen) > _MAX_BLOCKS_KNOWN:
                    self._seen.popitem(last=False)
        return damaged

    def _check_seen(self, rows: dict[Path, int]) -> None:
        files = {"files": [self._url(block, _CHECKED_FILE) for block in rows]}
        try:
            answer = self._connection.run(
                lambda session: session.sql("SELECT COUNT(*) AS found FROM {files}", {}, files)
            )
        except StorageError as error:
            raise StorageError(f"{error}. {self._hint(files['files'][0])}") from error
        found, expected = answer["found"][0].as_py(), sum(rows.values())
        if found != expected:
            raise StorageError(
                f"the query engine sees {found} of {expected} rows in {len(rows)} new blocks. "
                f"{self._hint(files['files'][0])}"
            )

    def _hint(self, url: str) -> str:
        return (
            f"It must be able to read {url} on all its machines: is engine_data_url the store's "
            "folder as the engine sees it?"
        )

    def _url(self, block: Path, table: str) -> str:
        file = block / f"{table}.parquet"
        if not self._options.data_url:
            return f"file://{file}"
        inside = file.relative_to(self._options.data_path)
        return f"{self._options.data_url.rstrip('/')}/{inside.as_posix()}"


class _Places:
    """Files are data frames, what is in memory is sent as views."""

    def __init__(
        self, session: Session, scan: Scan, url: Callable[[Path, str], str], head_bytes: int
    ) -> None:
        self.urls: dict[str, list[str]] = {}
        self._session = session
        self._scan = scan
        self._url = url
        self._head_bytes = head_bytes
        self._views: dict[str, str] = {}

    def files(self, table: str, blocks: Sequence[Path]) -> str:
        name = f"files_{len(self.urls)}"
        self.urls[name] = [self._url(block, table) for block in blocks]
        return f"{{{name}}}"

    def head_profiles(self) -> str:
        time = self._scan.head_profiles.column("time").to_numpy()
        chosen = (time >= self._scan.start_ms) & (time < self._scan.end_ms)
        rows = self._scan.head_profiles.filter(pa.array(chosen))
        if rows.nbytes > self._head_bytes:
            raise Overloaded(
                f"{rows.nbytes} bytes of profiles are in no block yet and the engine may be sent "
                f"{self._head_bytes}: ask for an older range, or lower flush_rows",
                retry_after_seconds=30,
            )
        return self._sent("head_profiles", rows) if rows.num_rows else f"({nothing('profiles')})"

    def wanted_series(self) -> str:
        series = self._scan.series_ids
        return self._sent("wanted_series", pa.table({"series_id": pa.array(series, pa.int64())}))

    def _sent(self, name: str, rows: pa.Table) -> str:
        if name not in self._views:
            self._views[name] = self._session.add_view(name, rows)
        return self._views[name]


def _by_service_and_readings(rows: Columns) -> Iterator[tuple[str, int, Int64s, Int64s]]:
    """Split rows of (service_name, stack_id, readings, value)."""
    names, service = np.unique(rows["service_name"].astype(str), return_inverse=True)
    readings = rows["readings"].astype(np.int64)
    order = np.lexsort((readings, service))
    bounds = run_starts(service[order], readings[order])
    for mine in np.split(order, bounds[1:]) if len(order) else ():
        yield (
            str(names[service[mine[0]]]),
            int(readings[mine[0]]),
            rows["stack_id"][mine].astype(np.int64),
            rows["value"][mine].astype(np.int64),
        )


def _rows_of(block: Path) -> int:
    """Read the footers that queries need; give how many profiles there are."""
    summed = (block / "rollups.parquet").exists()
    pq.read_metadata(block / ("rollups.parquet" if summed else "samples.parquet"))
    pq.read_metadata(block / "stacks.parquet")
    count: int = pq.read_metadata(block / f"{_CHECKED_FILE}.parquet").num_rows
    return count


def _open(options: SparkOptions) -> SparkConnection:
    try:
        # Seconds of start-up and four packages, which only this engine needs.
        from flamewell_collector.engine.spark_connection import (  # noqa: PLC0415
            SparkConnection,
        )
    except ImportError as error:
        raise ConfigError(
            f"engine = spark needs the extra 'spark' ({error}): pip install 'flamewell[spark]'"
        ) from error
    return SparkConnection(options.url, timeout_seconds=options.timeout_seconds)
