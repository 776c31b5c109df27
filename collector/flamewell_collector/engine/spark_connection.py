"""One connection to a Spark Connect server: deadlines, cancellation, errors in our words.

The only module that knows pyspark and gRPC; imported only where the engine is Spark.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql.connect.client import DefaultChannelBuilder
from pyspark.sql.connect.session import SparkSession

from flamewell_collector.errors import (
    EngineUnavailable,
    Overloaded,
    QueryTimeoutError,
    StorageError,
)

_INTERRUPT_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 30.0
"""A dropped session is made anew within this long, or the engine counts as gone."""

_MESSAGE_BYTES: Final = 256 << 20
_LOST: Final = ("INVALID_HANDLE", "session identifier", "SESSION_NOT_FOUND", "SESSION_CLOSED")
"""In messages of a server that was started anew and doesn't know our session."""

_MEMORY: Final = ("OutOfMemoryError", "Resources exhausted", "RESOURCE_EXHAUSTED", "out of memory")
_CANCELLED: Final = ("OPERATION_CANCELED", "OPERATION_CANCELLED", "cancelled", "canceled")

_DETAILS: Final = re.compile(r'details = "(.+)"')

# Both write whole stack traces to the log of their own: what counts is in the errors that we raise.
for _noisy in ("SQLQueryContextLogger", "pyspark.sql.connect.client.logging", "pyspark"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


class SessionLost(Exception):
    """The session is gone, or the server can't be reached; a new connection may help."""


class SparkConnection:
    """A session on a Spark Connect server, made when first needed and again when it is lost."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Connect to nothing yet.

        Args:
            url: ``sc://host:port/;option=value``; may hold a token, so it is never shown whole.
            timeout_seconds: What ``within`` gives to a query.
        """
        self.place = url.split("/;", 1)[0]
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._deadlines = _Deadlines()
        self._lock = threading.Lock()
        self._session: SparkSession | None = None
        self._tags = itertools.count()
        self._prefix = f"flamewell_{uuid.uuid4().hex[:12]}"

    def run(self, work: Callable[[Session], pa.Table]) -> pa.Table:
        """Do some work on the session, once more on a new one if it was lost meanwhile.

        Raises:
            QueryTimeoutError: It took longer than it may; the engine was told to stop.
            EngineUnavailable: The server can't be reached.
            Overloaded: The engine has not the memory for it.
            StorageError: The engine refused it for another reason.
        """
        with self._deadlines.within(self._timeout_seconds):
            try:
                return self._attempt(work)
            except SessionLost:
                pass
            try:
                return self._attempt(work)
            except SessionLost as error:
                raise EngineUnavailable(
                    f"the query engine at {self.place} can't be reached: {error}"
                ) from error

    def close(self) -> None:
        """Let the session go."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            self._stop(session)

    def _attempt(self, work: Callable[[Session], pa.Table]) -> pa.Table:
        tag = f"{self._prefix}_{next(self._tags)}"
        spark: SparkSession | None = None
        try:
            spark = self._connected()
            spark.addTag(tag)
            try:
                return work(Session(spark, tag))
            finally:
                spark.removeTag(tag)
        except (PySparkException, grpc.RpcError, AssertionError) as error:
            kind = self._translated(error)
            if isinstance(kind, QueryTimeoutError) and spark is not None:
                self._interrupt(spark, tag)
            if isinstance(kind, SessionLost):
                self._drop(spark)
            raise kind from error

    def _connected(self) -> SparkSession:
        with self._lock:
            if self._session is None:
                self._session = self._connect()
            return self._session

    def _connect(self) -> SparkSession:
        channel = DefaultChannelBuilder(
            self._url,
            channelOptions=[
                ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MESSAGE_BYTES),
                # A peer that is gone without a word is noticed.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                # After a restart the next try must not wait for two minutes of back-off.
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ],
        )
        channel.add_interceptor(self._deadlines)
        with self._deadlines.within(_CONNECT_SECONDS):
            session = SparkSession.builder.channelBuilder(channel).create()
        session.client.set_retry_policies([])  # what is tried again is decided here
        # A stream that broke is not resumed: the query has a deadline, and is run again.
        session.client.disable_reattachable_execute()
        return session

    def _interrupt(self, spark: SparkSession, tag: str) -> None:
        with contextlib.suppress(Exception), self._deadlines.within(_INTERRUPT_SECONDS, fresh=True):
            spark.interruptTag(tag)

    def _drop(self, spark: SparkSession | None) -> None:
        with self._lock:
            if spark is None or self._session is not spark:
                return
            self._session = None
        self._stop(spark)

    def _stop(self, session: SparkSession) -> None:
        with self._deadlines.within(_INTERRUPT_SECONDS, fresh=True):
            session.stop()  # raises nothing

    def _translated(self, error: Exception) -> Exception:
        text, status = str(error), _status(error)
        # A failed call's own text begins with a line that says nothing.
        details = _DETAILS.search(text)
        told = details[1] if details else text.strip()
        first = next(iter(told.splitlines()), type(error).__name__)[:500]
        if status is grpc.StatusCode.DEADLINE_EXCEEDED or self._deadlines.over:
            return QueryTimeoutError(
                f"the query took longer than {self._timeout_seconds:g} s: choose a shorter range "
                "or a narrower selector"
            )
        if status is grpc.StatusCode.UNAVAILABLE or any(word in text for word in _LOST):
            return SessionLost(first)
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED or any(word in text for word in _MEMORY):
            return Overloaded(
                f"the query engine has not the memory for this query ({first}): choose a shorter "
                "range or a narrower selector",
                retry_after_seconds=10,
            )
        if any(word in first for word in _CANCELLED):
            return QueryTimeoutError("the query engine was told to stop this query")
        return StorageError(f"the query engine can't answer: {first}")


class Session:
    """What a query may do on a session; its views are its own."""

    def __init__(self, spark: SparkSession, name: str) -> None:
        self._spark = spark
        self._name = name
        self._views: list[str] = []

    def add_view(self, name: str, rows: pa.Table) -> str:
        """Send rows; give the name by which SQL calls them.

        As a view they are sent once; within a query they are sent with each of its requests.
        """
        view = f"{self._name}_{name}"
        self._spark.createDataFrame(rows).createOrReplaceTempView(view)
        self._views.append(view)
        return view

    def sql(
        self,
        text: str,
        arguments: dict[str, int | str],
        files: Mapping[str, Sequence[str]],
    ) -> pa.Table:
        """Run a query; ``{name}`` in it stands for the rows of Parquet files."""
        frames = {name: self._spark.read.parquet(*urls) for name, urls in files.items()}
        table: pa.Table = self._spark.sql(text, arguments, **frames).toArrow()
        return table

    def drop_views(self) -> None:
        """Let the engine forget what was sent."""
        for view in self._views:
            with contextlib.suppress(PySparkException, grpc.RpcError):
                self._spark.catalog.dropTempView(view)


class _Deadlines(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
):
    """Gives every call the time that its thread has left: pyspark itself sets no deadline."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @property
    def over(self) -> bool:
        """Whether this thread's time is up."""
        return self._left() <= 0

    @contextmanager
    def within(self, seconds: float, *, fresh: bool = False) -> Iterator[None]:
        """Set this thread's time; what it had left stays a bound unless ``fresh``."""
        before: float | None = getattr(self._thread, "deadline", None)
        deadline = time.monotonic() + seconds
        bounded = deadline if before is None or fresh else min(before, deadline)
        self._thread.deadline = bounded
        try:
            yield
        finally:
            self._thread.deadline = before

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Pass a call on with its deadline."""
        return continuation(self._timed(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Pass a call on with its deadline."""
        return continuation(self._timed(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Pass a call on with its deadline."""
        return continuation(self._timed(client_call_details), request_iterator)

    def _left(self) -> float:
        deadline = getattr(self._thread, "deadline", None)
        return _CONNECT_SECONDS if deadline is None else deadline - time.monotonic()

    def _timed(self, details: Any) -> Any:
        return details._replace(timeout=max(0.001, self._left()))


def _status(error: Exception) -> grpc.StatusCode | None:
    """Give a failed call's status, wherever this version of the client keeps it."""
    for name in ("getGrpcStatusCode", "code"):
        read = getattr(error, name, None)
        if callable(read):
            found = read()
            if isinstance(found, grpc.StatusCode):
                return found
    return next((each for each in grpc.StatusCode if f"StatusCode.{each.name}" in str(error)), None)
