"""Who asks, and whether a page of another site makes a browser ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flask import Request

from flamewell_collector.errors import Forbidden, InvalidRequest, UnsupportedMediaType
from flamewell_collector.web.answers import JSON
from flamewell_collector.web.body import read_body
from flamewell_collector.web.otlp import TENANT

_SAME_SITES: Final = {"", "same-origin", "none"}
"""Of Sec-Fetch-Site: not sent, our own page, or typed into the browser."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        tenant: Whose data it may see and change.
        name: For the audit.
    """

    tenant: str
    name: str


def principal(request: Request) -> Principal:
    """Tell who asks: without credentials everybody is the one tenant's anonymous."""
    return Principal(TENANT, f"anonymous@{request.remote_addr or 'unknown'}")


def check_origin(request: Request) -> None:
    """Refuse a change that a page of another site asks for, through somebody's browser.

    Raises:
        Forbidden: The Origin is another one, or the browser says that the site is.
    """
    origin = request.headers.get("Origin", "")
    try:
        same = not origin or urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:  # an unclosed bracket
        same = False
    if not same or request.headers.get("Sec-Fetch-Site", "") not in _SAME_SITES:
        raise Forbidden("pages of other sites may not change anything here")


def read_json(request: Request, limit_bytes: int) -> object:
    """Read the JSON body of a request that changes something, wherever it comes from.

    A form of another site can be made to send text, but no application/json without asking first.

    Raises:
        Forbidden: A page of another site asks.
        UnsupportedMediaType: It is not declared as JSON.
        InvalidRequest: It is no JSON, or larger than it may be.
    """
    check_origin(request)
    if request.mimetype != JSON:
        raise UnsupportedMediaType(f"content type {request.mimetype!r}: send {JSON}")
    body = read_body(
        request.stream,
        encoding=request.headers.get("Content-Encoding", "").strip().lower(),
        limit_bytes=limit_bytes,
        length=request.content_length,
        chunked="Transfer-Encoding" in request.headers,
    )
    try:
        # Not orjson: bodies are small, and this one refuses no integer that others write.
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
