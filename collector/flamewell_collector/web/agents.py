"""Where agents fetch their orders and say what became of them, below /api/v1/agent."""

from __future__ import annotations

import re
from typing import Any, Final

from flask import Blueprint, Response, request

from flamewell_collector.captures import MAX_RESULT_BYTES, Poll, parse_report
from flamewell_collector.dispatch import Dispatch, offered
from flamewell_collector.errors import InvalidRequest
from flamewell_collector.service_nodes import ServiceNodes
from flamewell_collector.web.answers import json_answer
from flamewell_collector.web.principal import principal, read_json

_POLL_BODY_BYTES: Final = 64 << 10
_REPORT_BODY_BYTES: Final = 2 * MAX_RESULT_BYTES + (64 << 10)
"""JSON writes a line's end and a quote as two bytes."""
_MAX_RUNNING: Final = 1_000
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")


def agents_blueprint(dispatch: Dispatch, nodes: ServiceNodes, *, poll_seconds: int) -> Blueprint:
    """Make the doors."""
    blueprint = Blueprint("agents", __name__, url_prefix="/api/v1/agent")

    @blueprint.post("/poll")
    def poll() -> Response:
        body = read_json(request, _POLL_BODY_BYTES)
        fields: dict[str, Any] = body if isinstance(body, dict) else {}
        node, agent_id = _named(fields, "node"), _named(fields, "agent_id")
        running = fields.get("running", [])
        if (
            not isinstance(running, list)
            or len(running) > _MAX_RUNNING
            or not all(isinstance(each, str) for each in running)
        ):
            raise InvalidRequest(f"running must be a list of at most {_MAX_RUNNING} order ids")
        cluster = _named(fields, "cluster") if fields.get("cluster") else ""
        poll = Poll(node, agent_id, running, cluster)
        handout = dispatch.poll(principal(request).tenant, poll)
        return json_answer(
            {
                "orders": offered(handout.orders),
                "ended": handout.ended,
                "poll_seconds": poll_seconds,
                "service_nodes": nodes.on(node),
            }
        )

    @blueprint.post("/orders/<capture_id>")
    def report(capture_id: str) -> Response:
        said = parse_report(read_json(request, _REPORT_BODY_BYTES))
        capture = dispatch.report(principal(request).tenant, capture_id, said)
        return json_answer({"id": capture.capture_id, "state": capture.state})

    return blueprint


def _named(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidRequest(f"{name} must be a text of 1 to 256 characters")
    return value
