"""What is added to every answer, and the log of requests."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from flamewell_collector.errors import InvalidRequest
from flamewell_collector.web.answers import compressed

log = logging.getLogger(__name__)

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def register(app: Flask, *, hosts: Collection[str] | None) -> None:
    """Add security headers and compression to every answer; log requests at debug level.

    Args:
        app: The app.
        hosts: Names by which it may be called besides those of the loopback addresses; None for
            any. A page of another site could otherwise reach a collector that asks nobody for
            credentials, by a name of its own that points to 127.0.0.1 (DNS rebinding).
    """

    def check_host() -> None:
        if hosts is not None and not is_own_host(request.headers.get("Host", ""), hosts):
            raise InvalidRequest(
                "this collector is only called by the names of this machine's loopback address; "
                "allow others with --allowed-hosts"
            )

    app.before_request(_begin)
    app.before_request(check_host)
    app.after_request(_finish)


def is_own_host(header: str, names: Collection[str]) -> bool:
    """Tell whether a Host header names a loopback address, localhost, or one of these names."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:  # an unclosed bracket
        return False
    if host in {"localhost", *(name.lower() for name in names)}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _begin() -> None:
    g.begin = time.perf_counter()


def _finish(answer: Response) -> Response:
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    if not request.path.startswith("/static/"):
        answer.headers.setdefault("Cache-Control", "no-store")
    answer = compressed(answer)
    if log.isEnabledFor(logging.DEBUG):
        begin = getattr(g, "begin", None)
        log.debug(
            "request",
            extra={
                # Path and status only: a query may hold names that are nobody's business here.
                "method": request.method,
                "path": request.path[:200],
                "status": answer.status_code,
                "seconds": round(time.perf_counter() - begin, 4) if begin else None,
            },
        )
    return answer
