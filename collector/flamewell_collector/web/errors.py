"""The one place that turns errors into answers.

Native paths answer ``{"error": {"code", "message"}}``, Connect's paths ``{"code", "message"}`` with
the codes of https://connectrpc.com/docs/protocol/#error-codes.
"""

from __future__ import annotations

import logging
from typing import Final

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from flamewell_collector.errors import (
    CollectorError,
    Conflict,
    EngineUnavailable,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    QueryTimeoutError,
    SelectorError,
    StorageError,
    StorageUnavailable,
    TooLarge,
    UnsupportedMediaType,
)
from flamewell_collector.web.answers import json_answer

log = logging.getLogger(__name__)

CONNECT_PREFIX: Final = "/querier.v1."

# The first that fits counts: subclasses stand before their base.
_STATUS: Final[tuple[tuple[type[CollectorError], int], ...]] = (
    (NotFound, 404),
    (Forbidden, 403),
    (Conflict, 409),
    (TooLarge, 413),
    (UnsupportedMediaType, 415),
    (InvalidRequest, 400),
    (Overloaded, 429),
    (QueryTimeoutError, 503),
    (EngineUnavailable, 503),
    (StorageUnavailable, 503),
    (StorageError, 500),
)
_CODES: Final = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    408: "deadline_exceeded",
    409: "failed_precondition",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    429: "resource_exhausted",
    500: "internal",
    503: "unavailable",
}
_CONNECT_CODES: Final = {
    **_CODES,
    404: "unimplemented",
    405: "unimplemented",
    411: "invalid_argument",
    413: "resource_exhausted",
    415: "invalid_argument",
}

_MESSAGES: Final = {
    404: "there is nothing here; /api/v1/openapi.json lists what there is",
    405: "this method is not taken here; the Allow header names those that are",
}


def register(app: Flask) -> None:
    """Make an app answer every error in one of the two forms."""
    app.register_error_handler(CollectorError, _collector_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def status_of(error: CollectorError) -> int:
    """Give the HTTP status of an error of ours."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_answer(status: int, message: str, *, position: int | None = None) -> Response:
    """Answer with an error in the form of the path that was asked.

    Args:
        status: HTTP status.
        message: What to do.
        position: 1-based character in a selector at which reading stopped.
    """
    if request.path.startswith(CONNECT_PREFIX):
        code = _CONNECT_CODES.get(status, "unknown")
        return json_answer({"code": code, "message": message}, status)
    error: dict[str, object] = {"code": _CODES.get(status, "error"), "message": message}
    if position is not None:
        error["position"] = position
    return json_answer({"error": error}, status)


def _collector_error(error: CollectorError) -> Response:
    status = status_of(error)
    if status >= 500:  # noqa: PLR2004 - the server's own errors
        log.error("%s %s failed: %s", request.method, request.path, error)
    position = error.position if isinstance(error, SelectorError) else None
    answer = error_answer(status, str(error), position=position)
    if isinstance(error, Overloaded | StorageUnavailable):
        answer.headers["Retry-After"] = str(error.retry_after_seconds)
    return answer


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    message = _MESSAGES.get(status) or error.description or "the request can't be answered"
    answer = error_answer(status, message)
    for name, value in error.get_headers(request.environ):
        if name == "Allow":
            answer.headers[name] = value
    return answer


def _unexpected(error: Exception) -> Response:
    # The boundary of a request: what nobody foresaw is logged with its traceback, the client is
    # told nothing of it, and the collector goes on.
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return error_answer(500, "something is wrong in the collector; its log says more")
