"""The door for OTLP profiles over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Blueprint, Response, request

from flamewell_collector import otlp_wire
from flamewell_collector.errors import (
    CollectorError,
    InvalidRequest,
    LengthRequired,
    Overloaded,
    RateLimited,
    RequestTimeout,
    StorageUnavailable,
    TooLarge,
    UnsupportedMediaType,
)
from flamewell_collector.ingest import Ingest
from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.web.body import read_body
from flamewell_wire.attributes import INGEST_PATH

PROTOBUF, JSON = "application/x-protobuf", "application/json"
TENANT = "default"
"""Without credentials there is one tenant; a header never names it."""


def otlp_blueprint(
    ingest: Ingest, metrics: CollectorMetrics, *, limits: Limits, path: str = INGEST_PATH
) -> Blueprint:
    """Make the blueprint with the ingest route."""
    blueprint = Blueprint("otlp", __name__)

    @blueprint.post(path)
    def export() -> Response:
        began = time.perf_counter()
        answer = _export(ingest, metrics, limits)
        metrics.ingest_seconds.observe(time.perf_counter() - began)
        metrics.received_requests.labels(str(answer.status_code)).inc()
        return answer

    return blueprint


def _export(ingest: Ingest, metrics: CollectorMetrics, limits: Limits) -> Response:
    as_json = request.mimetype == JSON
    try:
        if request.mimetype not in {PROTOBUF, JSON}:
            raise UnsupportedMediaType(
                f"content type {request.mimetype!r} is not spoken here: send {PROTOBUF} or {JSON}"
            )
        with ingest.admitted() as memory:
            body = read_body(
                request.stream,
                encoding=request.headers.get("Content-Encoding", "").strip().lower(),
                limit_bytes=limits.body_bytes,
                length=request.content_length,
                chunked="Transfer-Encoding" in request.headers,
                charge=memory.take_body,
            )
            result = ingest.accept(TENANT, body, as_json=as_json, memory=memory)
    except CollectorError as error:
        return _refused(error, metrics, as_json=as_json)
    content = otlp_wire.response(
        rejected_profiles=result.rejected_profiles, error_message=result.message, as_json=as_json
    )
    return Response(content, 200, mimetype=JSON if as_json else PROTOBUF)


def _refused(error: CollectorError, metrics: CollectorMetrics, *, as_json: bool) -> Response:
    """Answer with a google.rpc.Status, as OTLP asks, and count the bytes that were refused."""
    status, reason = status_of(error)
    metrics.discarded_bytes.labels(reason, TENANT).inc(request.content_length or 0)
    if as_json or request.mimetype != PROTOBUF:
        as_json = True
        content = json.dumps({"code": _RPC_CODES.get(status, 2), "message": str(error)}).encode()
    else:
        content = otlp_wire.rpc_status(_RPC_CODES.get(status, 2), str(error))
    answer = Response(content, status, mimetype=JSON if as_json else PROTOBUF)
    retry_after: Any = getattr(error, "retry_after_seconds", None)
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def status_of(error: CollectorError) -> tuple[int, str]:
    """Give the HTTP status and the discard reason of an error."""
    for kind, status, reason in _STATUSES:
        if isinstance(error, kind):
            return status, reason
    return 500, "internal"


_STATUSES: tuple[tuple[type[CollectorError], int, str], ...] = (
    (RequestTimeout, 408, "incomplete_body"),
    (LengthRequired, 411, "no_length"),
    (TooLarge, 413, "body_too_large"),
    (UnsupportedMediaType, 415, "unsupported_media_type"),
    (InvalidRequest, 400, "malformed"),
    (RateLimited, 429, "rate_limited"),
    (Overloaded, 429, "overloaded"),
    (StorageUnavailable, 503, "storage_unavailable"),
)
# google.rpc.Code: INVALID_ARGUMENT 3, DEADLINE_EXCEEDED 4, RESOURCE_EXHAUSTED 8, INTERNAL 13,
# UNAVAILABLE 14.
_RPC_CODES = {400: 3, 408: 4, 411: 3, 413: 3, 415: 3, 429: 8, 500: 13, 503: 14}
