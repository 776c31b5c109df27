"""Pyroscope's older HTTP door: /pyroscope/render, render-diff and label-values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flask import Blueprint, Response, request

from flamewell_collector.analysis import flamegraph
from flamewell_collector.errors import QueryError
from flamewell_collector.model import Selection, Timeline
from flamewell_collector.query import ALL_TYPES, Query
from flamewell_collector.selectors import parse_selector
from flamewell_collector.timerange import choose_step_ms
from flamewell_collector.web.answers import json_answer
from flamewell_collector.web.otlp import TENANT
from flamewell_collector.web.parameters import Parameters, check_type_id
from flamewell_wire import profile_types

_DEFAULT_MAX_NODES: Final = 8_192
_SPY_NAME: Final = "flamewell"


@dataclass(frozen=True, slots=True)
class _Units:
    """How Pyroscope's clients are told to write amounts."""

    units: str
    sample_rate: int


def pyroscope_blueprint(query: Query) -> Blueprint:
    """Make the door."""
    blueprint = Blueprint("pyroscope", __name__, url_prefix="/pyroscope")

    @blueprint.get("/render")
    def render() -> Response:
        asked = Parameters(request.args, TENANT, query.now_ms())
        selection, max_nodes = _selection(asked), _max_nodes(asked)
        span = asked.span()
        columns = flamegraph.build_together(query.merge_services(selection), max_nodes=max_nodes)
        line = query.timeline(selection, step_ms=choose_step_ms(span))
        bars = flamegraph.levels(columns)
        return json_answer(
            {
                "version": 1,
                "flamebearer": _bearer(bars),
                "metadata": _metadata(selection, "single"),
                "timeline": _timeline(line, selection),
            }
        )

    @blueprint.get("/render-diff")
    def render_diff() -> Response:
        asked = Parameters(request.args, TENANT, query.now_ms())
        left, right = _selection(asked, "left"), _selection(asked, "right")
        if left.type_id != right.type_id:
            raise QueryError("both sides of a diff must have the same profile type")
        columns = flamegraph.build_diff_together(
            query.merge_services(left), query.merge_services(right), max_nodes=_max_nodes(asked)
        )
        bars = flamegraph.diff_levels(columns)
        return json_answer(
            {
                "version": 1,
                "flamebearer": _bearer(bars),
                "metadata": _metadata(right, "double"),
                "leftTicks": bars.left_total,
                "rightTicks": bars.right_total,
            }
        )

    @blueprint.get("/label-values")
    def label_values() -> Response:
        asked = Parameters(request.args, TENANT, query.now_ms())
        span, selector = asked.span(), asked.text("query")
        type_id, matchers = ALL_TYPES, ()
        if selector:
            type_id, matchers = _split(selector)
        selection = Selection(TENANT, type_id, matchers, span.start_ms, span.end_ms)
        return json_answer(query.label_values(selection, asked.required("label")))

    return blueprint


def _selection(asked: Parameters, side: str = "") -> Selection:
    """Read ``query``, ``from`` and ``until``; a side of a diff has ``leftQuery`` and so on."""
    if side:
        names = {"query": f"{side}Query", "from": f"{side}From", "until": f"{side}Until"}
        values = {plain: asked.text(sided, asked.text(plain)) for plain, sided in names.items()}
        asked = Parameters(values, asked.tenant, asked.now_ms)
    span = asked.span()
    type_id, matchers = _split(asked.required("query"))
    return Selection(asked.tenant, type_id, matchers, span.start_ms, span.end_ms)


def _split(text: str) -> tuple[str, Any]:
    """Split ``type{matchers}``; a bare selector asks for CPU."""
    type_text, brace, rest = text.partition("{")
    type_id = check_type_id(type_text.strip() or profile_types.CPU.id)
    # Spaces in place of the type keep positions in error messages those of the whole text.
    return type_id, parse_selector(" " * len(type_text) + brace + rest)


def _max_nodes(asked: Parameters) -> int:
    name = "max-nodes" if asked.text("max-nodes") else "maxNodes"
    return asked.max_nodes(name, _DEFAULT_MAX_NODES)


def _bearer(bars: flamegraph.Levels) -> dict[str, Any]:
    return {
        "names": bars.names,
        "levels": bars.levels,
        "numTicks": bars.total,
        "maxSelf": bars.max_self,
    }


def _metadata(selection: Selection, form: str) -> dict[str, Any]:
    known = profile_types.parse_id(selection.type_id)
    shown = _units(known)
    return {
        "format": form,
        "spyName": _SPY_NAME,
        "sampleRate": shown.sample_rate,
        "units": shown.units,
        "name": f"{known.name}:{known.sample_type}",
    }


def _units(known: profile_types.ProfileType) -> _Units:
    """Pyroscope's words: CPU time is told as samples at a rate of one a nanosecond."""
    if known.sample_unit == "nanoseconds":
        locks = known.name in {"mutex", "block"}
        return _Units("lock_nanoseconds", 1) if locks else _Units("samples", 1_000_000_000)
    if known.sample_unit == "bytes":
        return _Units("bytes", 1)
    words = {"goroutine": "goroutines", "mutex": "lock_samples", "block": "lock_samples"}
    return _Units(words.get(known.name, "objects"), 1)


def _timeline(line: Timeline, selection: Selection) -> dict[str, Any]:
    """Give amounts a step for deltas (averages for gauges), whole numbers, 0 without data."""
    gauge = profile_types.parse_id(selection.type_id).kind == "gauge"
    amounts = line.values if gauge else line.values * line.step_ms / 1_000
    return {
        "startTime": line.start_ms // 1_000,
        "samples": np.rint(np.nan_to_num(amounts)).astype(np.int64),
        "durationDelta": max(1, line.step_ms // 1_000),
        "watermarks": None,
    }
