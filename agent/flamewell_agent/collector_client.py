"""Connections to collectors (TLS, tokens, proxies), and one attempt to hand one a batch.

``Connections.post`` is the way of everything that the agent says to a collector.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import urllib3
from urllib3.util import make_headers, parse_url
from urllib3.util.ssl_ import create_urllib3_context

from flamewell_agent import __version__
from flamewell_agent.config import AgentConfig
from flamewell_agent.otlp import decode_partial_success
from flamewell_agent.spool_files import Segment, as_gzip

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_SECONDS = 5.0
_ANSWER_LIMIT_BYTES = 64 * 1024
_UNSUPPORTED_MEDIA_TYPE, _TOO_LARGE = 415, 413
_RETRIED_4XX = {
    401: "the token is refused: look at token_file",
    403: "the token may not write here: look at its scope and tenant",
    404: "nothing takes profiles there: look at collector_url and ingest_path",
    405: "something else than a collector answers there: look at collector_url and ingest_path",
    407: "the proxy wants credentials: look at proxy_url",
    408: "",
    421: "the proxy or ingress knows no such host: look at collector_url",
    425: "",
    429: "",
}
"""Answers that say nothing against the batch, and what to look at: docs/decisions/0010."""
_FILES = ("ca_file", "cert_file", "key_file")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where and how to send.

    Attributes:
        urls: Full URLs of the profiles endpoint; the first is preferred.
        token_file: Holds a bearer token; None for none. Read again when it changes.
        ca_file: PEM file of authorities; None for the system's. Read again when it changes.
        verify: False accepts any certificate.
        cert_file: PEM file of the agent's own certificate (mutual TLS); read again when it
            changes.
        key_file: Its key, where ``cert_file`` does not hold it too.
        proxy_url: HTTP proxy to go through; the environment's is not used.
    """

    urls: tuple[str, ...]
    token_file: Path | None = None
    ca_file: Path | None = None
    verify: bool = True
    cert_file: Path | None = None
    key_file: Path | None = None
    proxy_url: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt.

    Attributes:
        kind: ``delivered``, ``refused`` for good, or ``retry``.
        reason: For metrics; empty when delivered.
        wait_seconds: How long the collector asked to wait, None where it did not say.
        rejected_profiles: How many profiles of a delivered batch were refused.
        detail: For the log.
    """

    kind: Literal["delivered", "refused", "retry"]
    reason: str = ""
    wait_seconds: float | None = None
    rejected_profiles: int = 0
    detail: str = ""


def judge(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
    """Decide what an answer means, as the OTLP specification has it. Pure."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of a status is read best as numbers
        try:
            rejected, message = decode_partial_success(body)
        except ValueError as error:
            return Outcome("delivered", detail=str(error))
        return Outcome("delivered", rejected_profiles=rejected, detail=message)
    reason = f"status_{status}"
    detail = body[:200].decode("utf-8", "replace")
    if status in _RETRIED_4XX:
        hint = _RETRIED_4XX[status]
        detail = f"{hint} ({detail})" if hint and detail else hint or detail
    elif 400 <= status < 500:  # noqa: PLR2004 - as above
        if status == _TOO_LARGE:
            detail = (
                "it is larger than the collector takes: raise the collector's limit on bodies, or "
                f"lower cycle_seconds, which makes batches smaller ({detail})"
            )
        return Outcome("refused", reason, detail=detail)
    if 300 <= status < 400:  # noqa: PLR2004 - as above
        detail = f"redirects are not followed; set collector_url to {headers.get('Location')!r}"
    wait_seconds = parse_retry_after(headers.get("Retry-After", ""), now)
    return Outcome("retry", reason, wait_seconds, detail=detail)


def parse_retry_after(text: str, now: datetime) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date; None where it is neither. Pure."""
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year beyond all bounds
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; the body is cut at the limit that was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """One kept connection to each collector; used from one thread.

    Args:
        destination: Where the files are that a connection needs.
        read_timeout_seconds: How long an answer may take.
    """

    def __init__(self, destination: Destination, read_timeout_seconds: float) -> None:
        self._destination = destination
        self._read_timeout = read_timeout_seconds
        self._pool: urllib3.PoolManager | None = None
        self._stamps: tuple[tuple[int, int] | None, ...] = ()

    def post(
        self, url: str, payload: bytes, headers: Mapping[str, str], answer_limit_bytes: int
    ) -> Response:
        """Post once, with the token; follow no redirect.

        Raises:
            OSError: The token, a key or an authority file is not usable just now.
            ValueError: As before.
            urllib3.exceptions.HTTPError: There was no answer.
        """
        sent = {**headers, "User-Agent": f"flamewell-agent/{__version__}"}
        if self._destination.token_file is not None:
            sent["Authorization"] = f"Bearer {read_token(self._destination.token_file)}"
        response = self._connected().request(
            "POST",
            url,
            body=payload,
            headers=sent,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_SECONDS, read=self._read_timeout),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            body = _read(response, answer_limit_bytes, time.monotonic() + self._read_timeout)
        finally:
            # Gives the connection back where the answer was read to its end, closes it otherwise.
            response.close()
        return Response(response.status, response.headers, body)

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.clear()

    def _connected(self) -> urllib3.PoolManager:
        """Give the connections, new ones where a file of certificates was rotated."""
        stamps = tuple(_stamp(getattr(self._destination, name)) for name in _FILES)
        if self._pool is None or stamps != self._stamps:
            self.close()
            self._pool = make_pool(self._destination)
            self._stamps = stamps
        return self._pool


class Client:
    """Hands batches over, one attempt a call."""

    def __init__(self, destination: Destination, read_timeout_seconds: float) -> None:
        self._urls = destination.urls
        self._connections = Connections(destination, read_timeout_seconds)
        self._without_zstd: set[int] = set()

    def send(self, segment: Segment, index: int) -> Outcome:
        """Post a batch to the collector at ``index``, as gzip where that reads no zstd."""
        if segment.encoding == "zstd" and index not in self._without_zstd:
            outcome = self._send(segment, index)
            if outcome.reason != f"status_{_UNSUPPORTED_MEDIA_TYPE}":
                return outcome
        try:
            outcome = self._send(as_gzip(segment), index)
        except ValueError as error:
            return Outcome("refused", "corrupt", detail=str(error))
        if outcome.kind == "delivered" and segment.encoding == "zstd":
            if index not in self._without_zstd:
                _log.info("%s reads no zstd: it gets gzip", self._urls[index])
            self._without_zstd.add(index)
        return outcome

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _send(self, segment: Segment, index: int) -> Outcome:
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": segment.encoding,
        }
        url = self._urls[index]
        try:
            answer = self._connections.post(url, segment.payload, headers, _ANSWER_LIMIT_BYTES)
        except (OSError, ValueError) as error:  # a token, key or CA file is not usable just now
            return Outcome("retry", "credentials_unreadable", detail=str(error))
        except urllib3.exceptions.HTTPError as error:
            return Outcome("retry", _failure_reason(error), detail=f"{url}: {error}")
        return judge(answer.status, answer.headers, answer.body, datetime.now(UTC))


def make_destination(config: AgentConfig, path: str) -> Destination:
    """Read where and how to send out of the options.

    Args:
        config: The options.
        path: Below each ``collector_url``.
    """
    return Destination(
        urls=tuple(url.rstrip("/") + path for url in config.collector_url),
        token_file=Path(config.token_file) if config.token_file else None,
        ca_file=Path(config.tls_ca_file) if config.tls_ca_file else None,
        verify=not config.tls_insecure,
        cert_file=Path(config.tls_cert_file) if config.tls_cert_file else None,
        key_file=Path(config.tls_key_file) if config.tls_key_file else None,
        proxy_url=config.proxy_url,
    )


def make_pool(destination: Destination) -> urllib3.PoolManager:
    """Make connections that trust, prove and go as the destination says.

    Raises:
        OSError: A file cannot be read, or holds no certificate or key.
    """
    context = _make_context(destination)
    if destination.cert_file is not None:
        # A password is never asked for: an encrypted key is an error, not a hanging prompt.
        context.load_cert_chain(destination.cert_file, destination.key_file, password=lambda: "")
    sizes: dict[str, Any] = {"num_pools": len(destination.urls), "maxsize": 1}
    if destination.proxy_url:
        proxy = parse_url(destination.proxy_url)
        auth = make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else {}
        return urllib3.ProxyManager(
            destination.proxy_url,
            proxy_headers=auth,
            ssl_context=context,
            # One of its own: our certificate is for the collector.
            proxy_ssl_context=_make_context(destination),
            **sizes,
        )
    return urllib3.PoolManager(ssl_context=context, **sizes)


def _make_context(destination: Destination) -> ssl.SSLContext:
    """Make what verifies collectors and the proxy."""
    context = create_urllib3_context(
        cert_reqs=ssl.CERT_REQUIRED if destination.verify else ssl.CERT_NONE
    )
    context.check_hostname = destination.verify
    if destination.ca_file is not None:
        context.load_verify_locations(destination.ca_file)
    elif destination.verify and any(
        url.startswith("https:") for url in (*destination.urls, destination.proxy_url)
    ):
        context.load_default_certs()
    return context


def _stamp(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    seen = path.stat()
    return seen.st_mtime_ns, seen.st_ino


def _read(response: urllib3.BaseHTTPResponse, limit_bytes: int, deadline: float) -> bytes:
    """Read an answer, bounded in size and in time: what comes later is not worth waiting for."""
    body = b""
    while len(body) < limit_bytes and time.monotonic() < deadline:
        chunk = response.read1(limit_bytes - len(body))
        if not chunk:
            break
        body += chunk
    return body


def read_token(path: Path) -> str:
    """Read the token anew each time: a small file, once a batch, and rotation just works.

    Raises:
        OSError: It cannot be read, or what it holds cannot stand in a header.
    """
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise OSError(f"{path} does not hold a token")
    return token


def _failure_reason(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.ProxyError) and isinstance(
        error.original_error, urllib3.exceptions.HTTPError
    ):
        error = error.original_error  # what failed between us and the proxy
    # Narrow classes first: NewConnectionError is a ConnectTimeoutError is a TimeoutError.
    for kind, reason in (
        (urllib3.exceptions.NewConnectionError, "unreachable"),
        (urllib3.exceptions.ConnectTimeoutError, "connect_timeout"),
        (urllib3.exceptions.TimeoutError, "timeout"),
        (urllib3.exceptions.SSLError, "tls"),
    ):
        if isinstance(error, kind):
            return reason
    return "connection_lost"
