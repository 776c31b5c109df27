"""Asks collectors for orders over HTTP and tells them what became of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from flamewell_agent.collector_client import Connections, Destination
from flamewell_agent.errors import OrderError

POLL_PATH = "/api/v1/agent/poll"
REPORT_PATH = "/api/v1/agent/orders/"
_HEADERS = {"Content-Type": "application/json"}
_READ_TIMEOUT_SECONDS = 10.0
_ANSWER_LIMIT_BYTES = 1 << 20
HINTS = {
    "status_401": "the token is refused: look at token_file",
    "status_403": "the token may not fetch orders: look at its scope",
    "status_404": "this collector has no on-demand captures: update it, or set on_demand: false",
    "status_405": "something else than a collector answers: look at collector_url",
}
"""What to do where a poll fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a collector answered: a status, and the JSON object of a 200."""

    status: int
    content: Mapping[str, Any]
    message: str = ""


class OrderClient:
    """One attempt a call; used from one thread.

    Args:
        destination: ``urls`` are the collectors' base URLs, without a path of ours.
        read_timeout_seconds: How long an answer may take.
    """

    def __init__(
        self, destination: Destination, *, read_timeout_seconds: float = _READ_TIMEOUT_SECONDS
    ) -> None:
        self._urls = destination.urls
        self._connections = Connections(destination, read_timeout_seconds)

    @property
    def collectors(self) -> int:
        """How many there are."""
        return len(self._urls)

    def post(self, index: int, path: str, body: Mapping[str, Any]) -> Answer:
        """Post JSON to the collector at ``index``.

        Raises:
            OrderError: There was no answer that can be used.
        """
        url = self._urls[index] + path
        # Text of a target may hold lone surrogates, which are no UTF-8.
        payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        try:
            response = self._connections.post(url, payload, _HEADERS, _ANSWER_LIMIT_BYTES)
        except (OSError, ValueError) as error:  # a token, key or CA file is not usable just now
            raise OrderError("credentials_unreadable", str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise OrderError("unreachable", f"{url}: {error}") from error
        return _answer(response.status, response.body)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


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
