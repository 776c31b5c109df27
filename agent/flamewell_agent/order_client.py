"""Asks collectors for orders over HTTP and tells them what became of each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from flamewell_agent import __version__
from flamewell_agent.collector_client import Destination, make_pool, read_token
from flamewell_agent.errors import OrderError

POLL_PATH = "/api/v1/agent/poll"
REPORT_PATH = "/api/v1/agent/orders/"
_CONNECT_TIMEOUT_SECONDS, _READ_TIMEOUT_SECONDS = 5.0, 10.0
_ANSWER_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a collector answered: a status, and the JSON object of a 200."""

    status: int
    content: Mapping[str, Any]
    message: str = ""


class OrderClient:
    """One kept connection to each collector, one attempt a call; used from one thread.

    Args:
        destination: ``urls`` are the collectors' base URLs, without a path of ours.
        read_timeout_seconds: How long an answer may take.
    """

    def __init__(
        self, destination: Destination, *, read_timeout_seconds: float = _READ_TIMEOUT_SECONDS
    ) -> None:
        self._destination = destination
        self._read_timeout = read_timeout_seconds
        self._pool: urllib3.PoolManager | None = None
        self._stamps: tuple[tuple[int, int], ...] = ()

    @property
    def collectors(self) -> int:
        """How many there are."""
        return len(self._destination.urls)

    def post(self, index: int, path: str, body: Mapping[str, Any]) -> Answer:
        """Post JSON to the collector at ``index``.

        Raises:
            OrderError: There was no answer that can be used.
        """
        url = self._destination.urls[index] + path
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"flamewell-agent/{__version__}",
        }
        try:
            if self._destination.token_file is not None:
                headers["Authorization"] = f"Bearer {read_token(self._destination.token_file)}"
            # Text of a target may hold lone surrogates, which are no UTF-8.
            payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
            response = self._connections().request(
                "POST",
                url,
                body=payload,
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_SECONDS, read=self._read_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = _read(response, time.monotonic() + self._read_timeout)
            finally:
                response.close()
        except (OSError, ValueError) as error:  # a token, key or CA file is not usable just now
            raise OrderError("credentials_unreadable", str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise OrderError("unreachable", f"{url}: {error}") from error
        return _answer(response.status, content)

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.clear()

    def _connections(self) -> urllib3.PoolManager:
        """Give the connections, new ones where a file of certificates was rotated.

        Raises:
            OSError: A file cannot be read, or holds no certificate or key.
        """
        named = self._destination
        files = (each for each in (named.ca_file, named.cert_file, named.key_file) if each)
        stamps = tuple((seen.st_mtime_ns, seen.st_ino) for seen in (each.stat() for each in files))
        if self._pool is None or stamps != self._stamps:
            self.close()
            self._pool = make_pool(named)
            self._stamps = stamps
        return self._pool


def _answer(status: int, content: bytes) -> Answer:
    """Take an answer apart. Pure.

    Raises:
        OrderError: A 200 that is no JSON object: something else listens there.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        if 200 <= status < 300:  # noqa: PLR2004 - the class of a status is read best as numbers
            raise OrderError("not_a_collector", f"status {status} without a JSON object")
        return Answer(status, {}, content[:200].decode("utf-8", "replace"))
    error = found.get("error")
    message = str(error.get("message", ""))[:1_000] if isinstance(error, dict) else ""
    return Answer(status, found, message)


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read an answer, bounded in size and in time."""
    body = b""
    while len(body) < _ANSWER_LIMIT_BYTES and time.monotonic() < deadline:
        chunk = response.read1(_ANSWER_LIMIT_BYTES - len(body))
        if not chunk:
            break
        body += chunk
    return body
