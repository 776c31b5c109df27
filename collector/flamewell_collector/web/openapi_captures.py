"""The part of the OpenAPI document on captures: requests that change something."""

from __future__ import annotations

from typing import Any, Final

from flamewell_collector import captures as rules

_INTEGER: Final = {"type": "integer", "format": "int64"}
_TEXT: Final = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TARGET: Final = {
    "type": "object",
    "properties": {
        name: {"type": "integer", "minimum": 1} if name == "pid" else _TEXT
        for name in rules.Target.__dataclass_fields__
    },
    "description": "one of service, container_id, pod (and container, namespace), or node and pid; "
    "node and cluster can be added to each",
}
_NAMED: Final = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
"""A target in an answer: the fields that were named."""
_KIND: Final = {"type": "string", "enum": list(rules.KINDS)}
_STATE: Final = {"type": "string", "enum": list(rules.STATES)}
_CAPTURE: Final = {
    "id": _TEXT,
    "state": _STATE,
    "detail": _TEXT,
    "kind": _KIND,
    "seconds": _INTEGER,
    "rate_hz": _INTEGER,
    "target": _NAMED,
    "requested_by": _TEXT,
    "node": _TEXT,
    "refusals": _array(_object(node=_TEXT, reason=_TEXT)),
    "samples": _INTEGER,
    "created_ms": _INTEGER,
    "accepted_ms": _INTEGER,
    "finished_ms": _INTEGER,
    "warning": _TEXT,
    "page": _TEXT,
    "flamegraph": _TEXT,
    "folded": _TEXT,
}
_ORDER: Final = _object(id=_TEXT, kind=_KIND, seconds=_INTEGER, rate_hz=_INTEGER, target=_NAMED)
SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Capture": _object(**_CAPTURE),
    "Captures": _object(captures=_array(_object(**_CAPTURE))),
    "CaptureInFull": _object(
        **_CAPTURE,
        result_text=_TEXT,
        audit=_array(_object(when_ms=_INTEGER, who=_TEXT, what=_TEXT, result=_TEXT)),
    ),
    "CaptureWish": {
        "type": "object",
        "properties": {
            "target": _TARGET,
            "kind": {**_KIND, "default": "cpu"},
            "seconds": {
                "type": "integer",
                "minimum": 1,
                "maximum": rules.MAX_SECONDS,
                "description": f"for strace and gdb at most {rules.MAX_TRACING_SECONDS}",
            },
            "rate_hz": {
                "type": "integer",
                "minimum": 1,
                "maximum": rules.MAX_RATE_HZ,
                "default": rules.DEFAULT_RATE_HZ,
            },
        },
        "required": ["target"],
    },
    "Poll": {
        "type": "object",
        "properties": {
            "node": _TEXT,
            "cluster": _TEXT,
            "agent_id": _TEXT,
            "version": _TEXT,
            "running": _array(_TEXT),
        },
        "required": ["node", "agent_id"],
    },
    "Handout": _object(
        orders=_array(_ORDER),
        ended=_array(_TEXT),
        poll_seconds=_INTEGER,
        service_nodes={"type": "object", "additionalProperties": _INTEGER},
    ),
    "Report": {
        "type": "object",
        "properties": {
            "node": _TEXT,
            "cluster": _TEXT,
            "agent_id": _TEXT,
            "state": {"type": "string", "enum": sorted(rules.AGENT_STATES)},
            "detail": _TEXT,
            "samples": _INTEGER,
            "result_text": _TEXT,
        },
        "required": ["node", "agent_id", "state"],
    },
    "Reported": _object(id=_TEXT, state=_STATE),
}


def _operation(
    name: str, summary: str, answer: str, *, status: int = 200, body: str = "", by_id: bool = False
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": summary,
        "operationId": name,
        "responses": {
            str(status): {"description": summary, "content": _content(answer)},
            "default": {
                "description": "What is wrong, and what to do",
                "content": _content("Error"),
            },
        },
    }
    if by_id:
        found["parameters"] = [
            {"name": "capture_id", "in": "path", "required": True, "schema": _TEXT}
        ]
    if body:
        found["requestBody"] = {"required": True, "content": _content(body)}
    return found


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


PATHS: Final[dict[str, dict[str, Any]]] = {
    "/api/v1/captures": {
        "post": _operation(
            "captures-create", "Ask for a capture", "Capture", status=201, body="CaptureWish"
        ),
    },
    "/api/v1/captures/{capture_id}": {
        "get": _operation("captures-show", "One capture in full", "CaptureInFull", by_id=True),
        "delete": _operation("captures-cancel", "Call one off", "Capture", by_id=True),
    },
    "/api/v1/agent/poll": {
        "post": _operation("agent-poll", "An agent asks for orders", "Handout", body="Poll"),
    },
    "/api/v1/agent/orders/{capture_id}": {
        "post": _operation(
            "agent-report",
            "An agent says what became of one",
            "Reported",
            body="Report",
            by_id=True,
        ),
    },
}
