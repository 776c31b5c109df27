"""Pyroscope's querier.v1 as Connect unary calls in JSON (connectrpc.com/docs/protocol).

64-bit numbers are written as strings and read in both forms, as protobuf's JSON mapping asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
from flask import Blueprint, Response, request

from flamewell_collector.analysis import flamegraph
from flamewell_collector.errors import InvalidRequest, QueryError, UnsupportedMediaType
from flamewell_collector.model import Matcher, Selection
from flamewell_collector.query import ALL_TYPES, Query
from flamewell_collector.web.answers import JSON, json_answer
from flamewell_collector.web.errors import CONNECT_PREFIX
from flamewell_collector.web.pyroscope_messages import Message, text_of
from flamewell_wire import profile_types

_MAX_BODY_BYTES: Final = 1 << 20
_MAX_GROUPS: Final = 100
_DEFAULT_MAX_NODES: Final = 16_384

Answer = dict[str, Any]


def connect_blueprint(query: Query) -> Blueprint:
    """Make the door."""
    blueprint = Blueprint("connect", __name__)
    calls = _Calls(query)
    for name, call in calls.methods():
        blueprint.add_url_rule(
            f"{CONNECT_PREFIX}QuerierService/{name}",
            endpoint=name,
            view_func=_unary(call, query.now_ms),
            methods=["POST"],
        )
    return blueprint


def _unary(call: Callable[[Message], Answer], now_ms: Callable[[], int]) -> Callable[[], Response]:
    """Make a view of a call: body in, body out; errors are written by web/errors."""

    def view() -> Response:
        if request.mimetype != JSON:
            raise UnsupportedMediaType(
                f"content type {request.mimetype!r} is not spoken here: send {JSON}"
            )
        request.max_content_length = _MAX_BODY_BYTES
        try:
            body = orjson.loads(request.get_data() or b"{}")
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from error
        if not isinstance(body, dict):
            raise InvalidRequest("the body must be a JSON object")
        return json_answer(call(Message(body, now_ms())))

    return view


class _Calls:
    def __init__(self, query: Query) -> None:
        self._query = query

    def methods(self) -> tuple[tuple[str, Callable[[Message], Answer]], ...]:
        return (
            ("ProfileTypes", self.profile_types),
            ("LabelNames", self.label_names),
            ("LabelValues", self.label_values),
            ("Series", self.series),
            ("SelectMergeStacktraces", self.select_merge_stacktraces),
            ("SelectSeries", self.select_series),
            ("Diff", self.diff),
        )

    def profile_types(self, message: Message) -> Answer:
        found = []
        for type_id in self._query.type_ids(message.selection(ALL_TYPES)):
            try:
                each = profile_types.parse_id(type_id)
            except ValueError:
                continue
            found.append(
                {
                    "ID": type_id,
                    "name": each.name,
                    "sampleType": each.sample_type,
                    "sampleUnit": each.sample_unit,
                    "periodType": each.period_type,
                    "periodUnit": each.period_unit,
                }
            )
        return {"profileTypes": found}

    def label_names(self, message: Message) -> Answer:
        return {"names": self._query.label_names(message.selection(ALL_TYPES))}

    def label_values(self, message: Message) -> Answer:
        name = message.text("name")
        if not name:
            raise QueryError("the field `name` is missing: the label whose values are wanted")
        return {"names": self._query.label_values(message.selection(ALL_TYPES), name)}

    def series(self, message: Message) -> Answer:
        wanted = message.texts("labelNames")
        found = {
            tuple(
                sorted(
                    (name, value)
                    for name, value in each.labels.items()
                    if not wanted or name in wanted
                )
            )
            for each in self._query.series(message.selection(ALL_TYPES))
        }
        return {"labelsSet": [{"labels": _pairs(labels)} for labels in sorted(found) if labels]}

    def select_merge_stacktraces(self, message: Message) -> Answer:
        trees = self._query.merge_services(message.selection(message.type_id()))
        columns = flamegraph.build_together(trees, max_nodes=message.max_nodes(_DEFAULT_MAX_NODES))
        bars = flamegraph.levels(columns)
        # Stock Grafana says "no data" where there is no graph, and draws an empty one otherwise.
        return {"flamegraph": _graph(bars)} if bars.total else {}

    def select_series(self, message: Message) -> Answer:
        """Points at start, start + step, …; each covers the step that ends there."""
        step_ms = message.step_ms()
        asked = message.selection(message.type_id())
        first = max(0, asked.start_ms - step_ms)
        points_end = asked.start_ms + (asked.end_ms - asked.start_ms) // step_ms * step_ms
        groups = self._groups(asked, message.texts("groupBy"))
        gauge = profile_types.parse_id(asked.type_id).kind == "gauge"
        found = []
        for labels in groups:
            selection = Selection(
                asked.tenant,
                asked.type_id,
                (*asked.matchers, *(Matcher(name, "=", value) for name, value in labels)),
                first,
                max(points_end, first + step_ms),
            )
            line = self._query.timeline(selection, step_ms=step_ms)
            amounts = line.values if gauge else line.values * step_ms / 1_000
            points = [
                {"value": round(value, 6), "timestamp": str(first + (at + 1) * step_ms)}
                for at, value in enumerate(amounts.tolist())
                if not np.isnan(value)
            ]
            if points:
                found.append({"labels": _pairs(labels), "points": points})
        return {"series": found}

    def diff(self, message: Message) -> Answer:
        left, right = message.inner("left"), message.inner("right")
        if left.type_id() != right.type_id():
            raise QueryError("both sides of a diff must have the same profile type")
        columns = flamegraph.build_diff_together(
            self._query.merge_services(left.selection(left.type_id())),
            self._query.merge_services(right.selection(right.type_id())),
            max_nodes=left.max_nodes(_DEFAULT_MAX_NODES),
        )
        bars = flamegraph.diff_levels(columns)
        ticks = {"leftTicks": text_of(bars.left_total), "rightTicks": text_of(bars.right_total)}
        return {"flamegraph": {**_graph(bars), **ticks}}

    def _groups(
        self, selection: Selection, names: tuple[str, ...]
    ) -> list[tuple[tuple[str, str], ...]]:
        """Give the label values to group by; one group without labels where none are asked."""
        if not names:
            return [()]
        groups = {
            tuple((name, each.labels.get(name, "")) for name in names)
            for each in self._query.series(selection)
        }
        if len(groups) > _MAX_GROUPS:
            raise QueryError(
                f"grouping by {', '.join(names)} gives {len(groups)} series, at most "
                f"{_MAX_GROUPS} are given: narrow the selector"
            )
        return sorted(groups)


def _pairs(labels: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in labels]


def _graph(bars: flamegraph.Levels) -> Answer:
    return {
        "names": bars.names,
        "levels": [{"values": list(map(str, level.tolist()))} for level in bars.levels],
        "total": text_of(bars.total),
        "maxSelf": text_of(bars.max_self),
    }
