"""A watch's bytes cut into lines and events. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity.kubernetes_objects import resource_version

LINE_AT_MOST_BYTES = 8 * 1024 * 1024
"""etcd takes objects up to 1.5 MiB; as JSON they are a few times larger at most."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event: ``ADDED``, ``MODIFIED``, ``DELETED``, ``BOOKMARK``, ``ERROR`` or unknown."""

    kind: str
    body: dict[str, Any]

    @property
    def resource_version(self) -> str:
        """From where a watch goes on after this event."""
        return resource_version(self.body)


class LineSplitter:
    """Cuts bytes that come in pieces into lines; drops lines that are too long.

    Attributes:
        too_long: How many were dropped.
    """

    def __init__(self, at_most_bytes: int = LINE_AT_MOST_BYTES) -> None:
        self._at_most_bytes = at_most_bytes
        self._rest = bytearray()
        self._skipping = False
        self.too_long = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Give the lines that this piece completes, without empty ones."""
        lines: list[bytes] = []
        *ended, rest = piece.split(b"\n")
        for each in ended:
            self._add(each)
            if self._rest and not self._skipping:
                lines.append(bytes(self._rest))
            self._rest.clear()
            self._skipping = False
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._rest) + len(part) > self._at_most_bytes:
            self._skipping = True
            self._rest.clear()
            self.too_long += 1
        else:
            self._rest += part


def parse_event(line: bytes) -> WatchEvent:
    """Read one line of a watch.

    Raises:
        KubernetesError: ``malformed``.
    """
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KubernetesError("malformed", "a line of the watch is not JSON") from error
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise KubernetesError("malformed", "a line of the watch is no event")
    return WatchEvent(str(event.get("type", ""))[:32], event["object"])


def parse_list(text: bytes) -> tuple[list[Any], str, str]:
    """Read one page of a list.

    Returns:
        Its items, its resource version, and the token of the next page (empty at the end).

    Raises:
        KubernetesError: ``malformed``.
    """
    try:
        page = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KubernetesError("malformed", "the list of pods is not JSON") from error
    items = page.get("items") if isinstance(page, dict) else None
    version = resource_version(page)
    if not version or not isinstance(items, list | None):
        raise KubernetesError("malformed", "the answer is no list of pods")
    return items or [], version, str(page["metadata"].get("continue") or "")


def error_of_status(code: int, body: object, retry_after: str = "") -> KubernetesError:
    """Translate an HTTP status, or the Status object of an ERROR event.

    Args:
        code: HTTP status, or the Status object's ``code``.
        body: The Status object, if there was one.
        retry_after: The header of that name.
    """
    status = body if isinstance(body, dict) else {}
    detail = str(status.get("message") or f"HTTP status {code}")[:300]
    details = status.get("details")
    hinted = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    text = retry_after.strip() or str(hinted or "")
    # A date is allowed as well; no API server sends one.
    seconds = float(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0.0  # noqa: PLR2004 - digits of a number of seconds
    reason = {401: "unauthorized", 403: "forbidden", 410: "gone", 429: "throttled"}.get(code)
    family = {4: "client_error", 5: "server_error"}.get(code // 100, "unexpected_status")
    return KubernetesError(reason or family, detail, retry_after_seconds=seconds)
