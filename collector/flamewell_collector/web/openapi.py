"""The OpenAPI document of the native API; a test walks every route and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from flamewell_collector.web import openapi_captures

_NUMBER: Final = {"type": "number"}
_INTEGER: Final = {"type": "integer", "format": "int64"}
_TEXT: Final = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One GET.

    Attributes:
        path: Below the server's root.
        summary: One line.
        parameters: Names out of ``PARAMETERS``.
        answer: Name of the answer's schema, or empty where it is no JSON object of ours.
        content_type: Of the answer.
    """

    path: str
    summary: str
    parameters: tuple[str, ...] = ()
    answer: str = ""
    content_type: str = "application/json"


PARAMETERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "type": (_TEXT, "profile type id; default: process_cpu:cpu:nanoseconds:cpu:nanoseconds"),
    "query": (_TEXT, 'label selector, e.g. {service_name="api", pod=~"api-.*"}; default: {}'),
    "from": (_TEXT, "start: s or ms since the epoch, now, now-30m (s m h d w); default: now-1h"),
    "until": (_TEXT, "end, not included; default: now"),
    "base_query": (_TEXT, "selector of the earlier side; default: that of query"),
    "base_from": (_TEXT, "start of the earlier side; default: just before, equally long"),
    "base_until": (_TEXT, "end of the earlier side; default: from"),
    "step": (_NUMBER, "seconds between two points; default: about 200 points"),
    "max_nodes": (_INTEGER, "nodes at most; the smallest are folded; default: 200000"),
    "limit": (_INTEGER, "rows at most; default: 1000"),
    "label": (_TEXT, "name of the label (needed)"),
    "format": (_TEXT, "pprof (default), folded, speedscope, parquet or svg"),
    "state": (_TEXT, "only captures in this state; default: all"),
    "service": (_TEXT, "only those of this service; default: all"),
    "tier": (_TEXT, "suspected or confirmed; default: both"),
}
_SPAN: Final = ("from", "until")
_SELECTION: Final = ("type", "query", *_SPAN)
_BASE: Final = ("base_query", "base_from", "base_until")

OPERATIONS: Final = (
    Operation("/api/v1/services", "Services that sent anything", _SPAN, "Services"),
    Operation("/api/v1/profile-types", "Profile types there are", _SELECTION, "Types"),
    Operation("/api/v1/labels", "Names of labels", _SELECTION, "Values"),
    Operation("/api/v1/label-values", "Values of a label", ("label", *_SELECTION), "Values"),
    Operation("/api/v1/series", "Label sets", _SELECTION, "SeriesList"),
    Operation("/api/v1/timeline", "Totals over time", (*_SELECTION, "step"), "Timeline"),
    Operation("/api/v1/flamegraph", "Merged stacks", (*_SELECTION, "max_nodes"), "FlameGraph"),
    Operation(
        "/api/v1/diff", "Two merges in one graph", (*_SELECTION, *_BASE, "max_nodes"), "Diff"
    ),
    Operation("/api/v1/top", "Functions by self value", (*_SELECTION, "limit"), "Top"),
    Operation("/api/v1/top-diff", "Functions by change", (*_SELECTION, *_BASE, "limit"), "TopDiff"),
    Operation(
        "/api/v1/export",
        "A merge as a file",
        (*_SELECTION, "format"),
        content_type="application/octet-stream",
    ),
    Operation(
        "/api/v1/captures", "Newest captures first", ("state", "service", "limit"), "Captures"
    ),
    Operation(
        "/api/v1/leaks",
        "Containers that may leak memory, surest and soonest full first",
        ("tier", "service"),
        "Leaks",
    ),
    Operation("/api/v1/status", "How the collector is", (), "Status"),
    Operation("/api/v1/openapi.json", "This document"),
)


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _nullable(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


_LABELS: Final = {"type": "object", "additionalProperties": _TEXT}
_MEASURE: Final = {"unit": _TEXT, "kind": {"type": "string", "enum": ["delta", "gauge"]}}
_GRAPH: Final = {
    "type": _TEXT,
    **_MEASURE,
    "from_ms": _INTEGER,
    "until_ms": _INTEGER,
    "total": _INTEGER,
    "nodes": _INTEGER,
    "pruned": {"type": "boolean"},
    "functions": _array(_TEXT),
    "files": _array(_TEXT),
    "lines": _array(_INTEGER),
    "name": _array(_INTEGER),
    "depth": _array(_INTEGER),
    "self": _array(_INTEGER),
}
_ROW: Final = {
    "function": _TEXT,
    "file": _TEXT,
    "line": _INTEGER,
    "self": _INTEGER,
    "total": _INTEGER,
}
_TABLE: Final = {"type": _TEXT, **_MEASURE, "total": _INTEGER, "functions": _INTEGER}
SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Services": _object(
        services=_array(
            _object(
                service_name=_TEXT,
                runtime=_TEXT,
                labels=_LABELS,
                types=_array(_TEXT),
                series=_INTEGER,
                cpu_cores=_nullable("number"),
                memory_bytes=_nullable("number"),
                memory_limit_bytes=_nullable("number"),
                last_seen_ms=_INTEGER,
            )
        )
    ),
    "Types": _object(types=_array(_object(id=_TEXT, name=_TEXT, **_MEASURE))),
    "Values": _object(values=_array(_TEXT)),
    "SeriesList": _object(series=_array(_LABELS)),
    "Timeline": _object(
        start_ms=_INTEGER, step_ms=_INTEGER, **_MEASURE, values=_array(_nullable("number"))
    ),
    "FlameGraph": _object(**_GRAPH),
    "Diff": _object(
        **_GRAPH,
        base_from_ms=_INTEGER,
        base_until_ms=_INTEGER,
        base_total=_INTEGER,
        base_self=_array(_INTEGER),
    ),
    "Top": _object(**_TABLE, rows=_array(_object(**_ROW))),
    "TopDiff": _object(
        **_TABLE,
        base_total=_INTEGER,
        rows=_array(_object(**_ROW, base_self=_INTEGER, base_total=_INTEGER)),
    ),
    "Leaks": _object(
        until_ms=_INTEGER,
        containers=_INTEGER,
        leaks=_array(
            _object(
                service_name=_TEXT,
                labels=_LABELS,
                tier={"type": "string", "enum": ["suspected", "confirmed"]},
                since_ms=_INTEGER,
                confirmed_since_ms=_nullable("integer"),
                explanation=_TEXT,
                memory_bytes=_INTEGER,
                limit_bytes=_nullable("integer"),
                growth_bytes_per_hour=_INTEGER,
                seconds_to_limit=_nullable("integer"),
                earliest_seconds=_nullable("integer"),
                latest_seconds=_nullable("integer"),
                score=_NUMBER,
                replicas=_INTEGER,
                replicas_growing=_INTEGER,
                evidence=_object(
                    window_seconds=_INTEGER,
                    until_ms=_INTEGER,
                    rise_bytes=_INTEGER,
                    order=_NUMBER,
                    order_beside_cpu=_NUMBER,
                    fit=_NUMBER,
                    bend=_NUMBER,
                    step_share=_NUMBER,
                    highest_before_bytes=_nullable("integer"),
                    full_in_a_row=_INTEGER,
                ),
                url=_TEXT,
                heap_capture=_TEXT,
                growing=_array(_object(type=_TEXT, bytes_per_hour=_INTEGER)),
            )
        ),
    ),
    "Status": _object(
        version=_TEXT,
        ready={"type": "boolean"},
        reason=_TEXT,
        head_rows=_INTEGER,
        wal_bytes=_INTEGER,
        blocks=_INTEGER,
        stored_bytes=_INTEGER,
        rollup_blocks=_INTEGER,
        rollup_bytes=_INTEGER,
        damaged_blocks=_INTEGER,
        disk_free_bytes=_INTEGER,
        agents=_INTEGER,
        now_ms=_INTEGER,
    ),
    "Error": _object(error=_object(code=_TEXT, message=_TEXT)),
    **openapi_captures.SCHEMAS,
}


def document(version: str) -> dict[str, Any]:
    """Give the OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {each.path: {"get": _operation(each)} for each in OPERATIONS}
    for path, operations in openapi_captures.PATHS.items():
        paths[path] = {**paths.get(path, {}), **operations}
    return {
        "openapi": "3.1.0",
        "info": {"title": "flamewell collector", "version": version},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "parameters": {name: _parameter(name) for name in PARAMETERS},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = _reference(operation.answer) if operation.answer else {}
    failed = {"application/json": {"schema": _reference("Error")}}
    return {
        "summary": operation.summary,
        "operationId": operation.path.removeprefix("/api/v1/").replace(".", "-"),
        "parameters": [
            {"$ref": f"#/components/parameters/{name}"} for name in operation.parameters
        ],
        "responses": {
            "200": {
                "description": operation.summary,
                "content": {operation.content_type: {"schema": schema} if schema else {}},
            },
            "default": {"description": "What is wrong, and what to do", "content": failed},
        },
    }


def _parameter(name: str) -> dict[str, Any]:
    schema, text = PARAMETERS[name]
    return {
        "name": name,
        "in": "query",
        "required": name == "label",
        "description": text,
        "schema": schema,
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
