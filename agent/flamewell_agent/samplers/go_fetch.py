"""GET from a pprof endpoint: no redirects, no proxy, bounded in size and in time as a whole.

urllib3 and http.client bound each read, not their sum: a peer that sends a byte now and then
holds them for ever. Here every read is given what is left until one deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flamewell_agent.errors import EndpointError

_DEFAULT_BASE_PATH = "/debug/pprof"
_ERROR_BODY_BYTES = 512
_HEAD_BYTES = 256 * 1024
_DETAIL_LENGTH = 300
_SMALL_BYTES = 256 * 1024
"""A compressed profile of 5,000 stacks; more waits until nobody else reads a large one."""


def make_tls(ca_file: Path | None = None, *, insecure: bool = False) -> ssl.SSLContext:
    """Say whom to believe on https.

    Args:
        ca_file: PEM file with authorities, besides the system's.
        insecure: Believe everybody: pods' certificates do not name their IP address.

    Raises:
        OSError: The file cannot be read, or has no certificates.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class PprofClient:
    """Fetches from one endpoint, one request at a time.

    Args:
        base_url: ``http://host:port``, with the path of the pprof handlers where that is not
            /debug/pprof.
        tls: Whom to believe on https; None: the system's authorities.
    """

    def __init__(self, base_url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(base_url)
        self._tls = (tls or make_tls()) if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._base_path = parts.path.rstrip("/") or _DEFAULT_BASE_PATH
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def get(
        self,
        path: str,
        *,
        timeout_seconds: float,
        max_bytes: int,
        before_large: Callable[[float], None] = lambda _seconds: None,
    ) -> bytes:
        """Fetch a path below the base path.

        Args:
            path: With its query.
            timeout_seconds: For all of it.
            max_bytes: What the body may have.
            before_large: Called with the seconds left before more than 256 KiB are read; may wait,
                and raise TimeoutError.

        Raises:
            EndpointError: ``unreachable``, ``timeout``, ``connection_lost``, ``too_large``, or
                what the answer's status means.
        """
        deadline = time.monotonic() + timeout_seconds
        # Heads, chunk sizes and trailers come on top of the body.
        most = max_bytes + max_bytes // 8 + _HEAD_BYTES
        connected = _DeadlineSocket(self._connect(deadline), deadline, most)
        connection = _Connection(self._host, self._port, connected)
        try:
            connection.request("GET", f"{self._base_path}/{path}", headers={"Connection": "close"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _status_error(response.status, response.read(_ERROR_BODY_BYTES))
            body = response.read(min(_SMALL_BYTES, max_bytes + 1))
            if len(body) == _SMALL_BYTES <= max_bytes:
                before_large(_left(deadline))
                body += response.read(max_bytes + 1 - _SMALL_BYTES)
            if response.length and len(body) <= max_bytes:
                raise EndpointError(
                    "connection_lost", f"{response.length} bytes are missing"[:_DETAIL_LENGTH]
                )
        except TimeoutError as error:
            detail = str(error) or f"no answer in {timeout_seconds:g} s"
            raise EndpointError("timeout", detail) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            # ValueError: a length that is no length.
            detail = str(error)[:_DETAIL_LENGTH] or type(error).__name__
            raise EndpointError("connection_lost", detail) from error
        finally:
            self._disconnect()
        if len(body) > max_bytes:
            raise EndpointError("too_large", f"over {max_bytes} bytes")
        return body

    def abort(self) -> None:
        """End a request that another thread waits for, and refuse further ones."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # the peer closed it first
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _connect(self, deadline: float) -> socket.socket:
        try:
            connected = socket.create_connection(
                (self._host, self._port), timeout=max(0.1, deadline - time.monotonic())
            )
            if self._tls is not None:
                connected = self._tls.wrap_socket(connected, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            detail = f"{error.verify_message}; set go_tls_ca_file or go_tls_insecure"
            raise EndpointError("certificate_not_trusted", detail) from error
        except OSError as error:
            raise EndpointError("unreachable", str(error)) from error
        with self._lock:
            self._socket = connected
            if self._aborted:
                connected.close()
                raise EndpointError("stopped")
        return connected

    def _disconnect(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


class _Connection(http.client.HTTPConnection):
    """An HTTP connection on a socket that is there already."""

    def __init__(self, host: str, port: int, connected: _DeadlineSocket) -> None:
        super().__init__(host, port)
        self.sock: Any = connected


class _DeadlineSocket:
    """What http.client uses of a socket; closing is the owner's business."""

    def __init__(self, connected: socket.socket, deadline: float, max_bytes: int) -> None:
        self._socket = connected
        self._deadline = deadline
        self._max_bytes = max_bytes

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._socket, self._deadline, self._max_bytes))

    def close(self) -> None:
        """Leave the socket open: http.client closes before the body is read."""


class _DeadlineReader(io.RawIOBase):
    """Reads until a deadline and up to a number of bytes.

    http.client takes some lies about lengths for "until the end": what it asks for is no bound.
    """

    def __init__(self, connected: socket.socket, deadline: float, max_bytes: int) -> None:
        self._socket = connected
        self._deadline = deadline
        self._left_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        count = self._socket.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise EndpointError("too_large", "more was sent than was asked for")
        return count


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _status_error(status: int, body: bytes) -> EndpointError:
    """Give an error whose reason says what to do, out of Go's own words where it has some."""
    text = body.decode("utf-8", "replace").strip()
    if "already in use" in text:
        return EndpointError("cpu_profile_in_use", text)
    if "WriteTimeout" in text:
        return EndpointError("window_too_long", text)
    if status == http.client.NOT_FOUND:
        return EndpointError("not_found", text)
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        return EndpointError("unauthorized", text)
    family = {3: "redirected", 4: "client_error", 5: "server_error"}.get(status // 100)
    return EndpointError(family or "unexpected_status", f"{status} {text}")
