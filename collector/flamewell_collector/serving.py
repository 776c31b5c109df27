"""Serves a WSGI app with waitress until a signal, then lets what is under way come to its end."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, Self

from waitress import wasyncore
from waitress.server import create_server

from flamewell_collector.errors import CollectorError

_POLL_SECONDS: Final = 10.0
"""How long the loop sleeps when nothing comes; sockets and signals wake it."""
_DRAIN_SECONDS: Final = 10.0
_DRAIN_POLL_SECONDS: Final = 0.05
_IDLE_CONNECTION_SECONDS: Final = 120
_BACKLOG: Final = 1_024


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """Bounds of the server.

    Attributes:
        threads: Requests that are worked on at once.
        connections: Open connections at most.
        body_bytes: Largest body as it comes over the wire.
    """

    threads: int
    connections: int
    body_bytes: int


def bind(host: str, port: int) -> socket.socket:
    """Open the socket to listen on.

    Raises:
        CollectorError: The address is taken or is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CollectorError(f"cannot listen on {host}:{port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Another collector must be refused here, not when the first request is lost.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CollectorError(
            f"cannot listen on {host}:{port}: {error.strerror}. Name another address with --listen"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Give the URL under which a socket can be reached."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


class StopSignals:
    """SIGTERM and SIGINT, handled from the first moment on.

    One that comes while the store is opened must neither be lost nor end the process there.

    Attributes:
        requested: Whether one came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._wake: Callable[[], None] | None = None

    @contextmanager
    def handled(self) -> Iterator[Self]:
        """Handle the signals for as long as the context is open."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def call_on_request(self, wake: Callable[[], None]) -> None:
        """Name what wakes the loop that looks at ``requested``."""
        self._wake = wake

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._wake is not None:
            self._wake()


def serve_until(
    stop: StopSignals,
    app: Callable[..., Any],
    listener: socket.socket,
    options: ServingOptions,
) -> None:
    """Serve until a signal has come, then finish the requests under way."""
    channels: dict[int, Any] = {}
    server: Any = create_server(
        app,
        map=channels,
        sockets=[listener],
        threads=options.threads,
        connection_limit=options.connections,
        max_request_body_size=options.body_bytes,
        channel_timeout=_IDLE_CONNECTION_SECONDS,
        backlog=_BACKLOG,
        asyncore_use_poll=True,
        clear_untrusted_proxy_headers=True,
        ident="flamewell",
    )
    stop.call_on_request(server.pull_trigger)
    try:
        while not stop.requested:
            _poll(channels, _POLL_SECONDS)
        _drain(server, channels)
    finally:
        stop.call_on_request(lambda: None)
        server.task_dispatcher.shutdown()
        wasyncore.close_all(channels)


def _drain(server: Any, channels: dict[int, Any]) -> None:
    """Take no new connection; answer the requests that have come."""
    wasyncore.dispatcher.close(server)
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline and any(
        channel.requests or channel.total_outbufs_len for channel in server.active_channels.values()
    ):
        _poll(channels, _DRAIN_POLL_SECONDS)


def _poll(channels: dict[int, Any], seconds: float) -> None:
    wasyncore.loop(timeout=seconds, use_poll=True, map=channels, count=1)
