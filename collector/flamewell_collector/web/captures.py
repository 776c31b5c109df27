"""On-demand captures for people and their tools, below /api/v1/captures."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from flamewell_collector.captures import (
    STATES,
    TEXT_KINDS,
    TRACING_COST,
    TRACING_KINDS,
    Capture,
    parse_wish,
)
from flamewell_collector.dispatch import Dispatch
from flamewell_collector.errors import QueryError
from flamewell_collector.store.captures import AuditLine
from flamewell_collector.web.answers import json_answer
from flamewell_collector.web.parameters import Parameters
from flamewell_collector.web.principal import check_origin, principal, read_json
from flamewell_wire.attributes import CAPTURE_LABEL
from flamewell_wire.profile_types import CPU, WALL

_BODY_BYTES: Final = 16 << 10
_CREATED: Final = 201
_LISTED, _LISTED_AT_MOST = 50, 1_000
_AROUND_MS: Final = 60_000
"""Before and after, in the range of a link: an agent's clock and the first window's start differ
from ours, and the label names the profiles anyway."""


def captures_blueprint(dispatch: Dispatch) -> Blueprint:
    """Make the doors."""
    blueprint = Blueprint("captures", __name__, url_prefix="/api/v1/captures")

    @blueprint.post("")
    def create() -> Response:
        wish = parse_wish(read_json(request, _BODY_BYTES))
        who = principal(request)
        capture = dispatch.create(who.tenant, who.name, wish)
        answer = json_answer(_shown(capture), _CREATED)
        answer.headers["Location"] = f"/api/v1/captures/{capture.capture_id}"
        return answer

    @blueprint.get("")
    def newest() -> Response:
        who = principal(request)
        asked = Parameters(request.args, who.tenant, 0)
        state = asked.text("state")
        if state and state not in STATES:
            raise QueryError(f"state is {state[:40]!r}, it must be one of {', '.join(STATES)}")
        limit = asked.integer("limit", _LISTED, low=1, high=_LISTED_AT_MOST)
        service = asked.text("service")
        if not service.isprintable():
            raise QueryError(f"service is {service[:40]!r}, a name is expected")
        found = dispatch.newest(who.tenant, state=state, service=service, limit=limit)
        return json_answer({"captures": [_shown(each) for each in found]})

    @blueprint.get("/<capture_id>")
    def show(capture_id: str) -> Response:
        capture = dispatch.get(principal(request).tenant, capture_id)
        lines = [_line(each) for each in dispatch.audit(capture_id)]
        return json_answer({**_shown(capture), "result_text": capture.result_text, "audit": lines})

    @blueprint.delete("/<capture_id>")
    def cancel(capture_id: str) -> Response:
        check_origin(request)
        who = principal(request)
        return json_answer(_shown(dispatch.cancel(who.tenant, who.name, capture_id)))

    return blueprint


def _shown(capture: Capture) -> dict[str, Any]:
    """Give a capture as clients read it; one schema for all doors."""
    wish = capture.wish
    return {
        "id": capture.capture_id,
        "state": capture.state,
        "detail": capture.detail,
        "kind": wish.kind,
        "seconds": wish.seconds,
        "rate_hz": wish.rate_hz,
        "target": wish.target.named(),
        "requested_by": capture.principal,
        "node": capture.node,
        "refusals": [{"node": node, "reason": reason} for node, reason in capture.refusals.items()],
        "samples": capture.samples,
        "created_ms": capture.created_ms,
        "accepted_ms": capture.accepted_ms,
        "finished_ms": capture.finished_ms,
        "warning": f"{TRACING_COST}." if wish.kind in TRACING_KINDS else "",
        **_links(capture),
    }


def _links(capture: Capture) -> dict[str, str]:
    """Give where its flame graph is: on the page, and as data; empty where it brings a text."""
    if capture.wish.kind in TEXT_KINDS:
        return {"page": "", "flamegraph": "", "folded": ""}
    kind = WALL if capture.wish.kind == "wall" else CPU
    # The id is of our own making: no quote or backslash.
    selector = f'{CAPTURE_LABEL}="{capture.capture_id}"'
    start = str(capture.created_ms - _AROUND_MS)
    # What an agent has sent of it may be a batch behind what it has said of it.
    end = str(capture.finished_ms + _AROUND_MS) if capture.finished_ms else "now"
    data = {"type": kind.id, "query": f"{{{selector}}}", "from": start, "until": end}
    page = {
        "service": "", "type": kind.id, "selector": selector, "from": start, "until": end,
        "live": "0",
    }  # fmt: skip
    return {
        "page": f"/#{urlencode(page)}",
        "flamegraph": f"/api/v1/flamegraph?{urlencode(data)}",
        "folded": f"/api/v1/export?{urlencode({**data, 'format': 'folded'})}",
    }


def _line(line: AuditLine) -> dict[str, Any]:
    return {
        "when_ms": line.when_ms,
        "who": line.who,
        "what": line.what,
        "result": line.result,
    }
