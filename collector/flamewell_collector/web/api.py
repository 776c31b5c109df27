"""The native API under /api/v1: what our page and our command ask."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from flamewell_collector import __version__
from flamewell_collector.analysis import diff as diffs
from flamewell_collector.analysis import flamegraph
from flamewell_collector.analysis import top as tops
from flamewell_collector.model import Selection
from flamewell_collector.query import ALL_TYPES, Query
from flamewell_collector.store.storage import StorageState
from flamewell_collector.web import api_answers, exporting, openapi
from flamewell_collector.web.answers import json_answer
from flamewell_collector.web.otlp import TENANT
from flamewell_collector.web.parameters import DEFAULT_ROWS, MAX_ROWS, Parameters

_AGENTS_SEEN_MS = 300_000


def api_blueprint(query: Query, *, state: Callable[[], StorageState]) -> Blueprint:
    """Make the native API.

    Args:
        query: Answers the questions.
        state: Tells how the store is.
    """
    blueprint = Blueprint("api", __name__, url_prefix="/api/v1")
    views = _Views(query, state)
    for path, view in views.routes():
        blueprint.add_url_rule(path, endpoint=view.__name__, view_func=view, methods=["GET"])
    return blueprint


class _Views:
    def __init__(self, query: Query, state: Callable[[], StorageState]) -> None:
        self._query = query
        self._state = state

    def routes(self) -> tuple[tuple[str, Callable[[], Response]], ...]:
        return (
            ("/services", self.services),
            ("/profile-types", self.profile_types),
            ("/labels", self.labels),
            ("/label-values", self.label_values),
            ("/series", self.series),
            ("/timeline", self.timeline),
            ("/flamegraph", self.flame_graph),
            ("/diff", self.diff),
            ("/top", self.top),
            ("/top-diff", self.top_diff),
            ("/export", self.export),
            ("/status", self.status),
            ("/openapi.json", self.openapi),
        )

    def services(self) -> Response:
        span = self._asked().span()
        rows = self._query.services(TENANT, span.start_ms, span.end_ms)
        return json_answer(api_answers.services(rows))

    def profile_types(self) -> Response:
        selection = self._asked().selection(any_type=True)
        return json_answer(api_answers.types(self._query.type_ids(selection)))

    def labels(self) -> Response:
        selection = self._asked().selection(any_type=True)
        return json_answer({"values": self._query.label_names(selection)})

    def label_values(self) -> Response:
        asked = self._asked()
        selection = asked.selection(any_type=True)
        values = self._query.label_values(selection, asked.required("label"))
        return json_answer({"values": values})

    def series(self) -> Response:
        selection = self._asked().selection(any_type=True)
        return json_answer(api_answers.series(self._query.series(selection)))

    def timeline(self) -> Response:
        asked = self._asked()
        selection = asked.selection()
        line = self._query.timeline(selection, step_ms=asked.step_ms(asked.span()))
        return json_answer(api_answers.timeline(line, selection))

    def flame_graph(self) -> Response:
        asked = self._asked()
        selection, max_nodes = asked.selection(), asked.max_nodes()
        columns = flamegraph.build_together(
            self._query.merge_services(selection), max_nodes=max_nodes
        )
        return json_answer(api_answers.flame_graph(columns, selection))

    def diff(self) -> Response:
        asked = self._asked()
        base, selection = asked.base_selection(), asked.selection()
        columns = flamegraph.build_diff_together(
            self._query.merge_services(base),
            self._query.merge_services(selection),
            max_nodes=asked.max_nodes(),
        )
        return json_answer(api_answers.diff(columns, base, selection))

    def top(self) -> Response:
        asked = self._asked()
        selection, limit = asked.selection(), _limit(asked)
        table = tops.top(self._query.merge_services(selection), limit=limit)
        return json_answer(api_answers.top(table, selection))

    def top_diff(self) -> Response:
        asked = self._asked()
        base, selection, limit = asked.base_selection(), asked.selection(), _limit(asked)
        table = diffs.top_diff(
            self._query.merge_services(base), self._query.merge_services(selection), limit=limit
        )
        return json_answer(api_answers.top_diff(table, selection))

    def export(self) -> Response:
        asked = self._asked()
        chosen = exporting.format_named(asked.text("format", "pprof"))
        selection = asked.selection()
        return exporting.export(chosen, self._query.merge(selection), selection)

    def status(self) -> Response:
        state, now = self._state(), self._query.now_ms()
        recent = Selection(TENANT, ALL_TYPES, (), now - _AGENTS_SEEN_MS, now + _AGENTS_SEEN_MS)
        return json_answer(
            {
                "version": __version__,
                "ready": state.writable,
                "reason": state.reason,
                "head_rows": state.head_rows,
                "wal_bytes": state.wal_bytes,
                "blocks": state.blocks,
                "stored_bytes": state.block_bytes,
                "rollup_blocks": state.rollup_blocks,
                "rollup_bytes": state.rollup_bytes,
                "damaged_blocks": state.damaged_blocks,
                "disk_free_bytes": state.disk_free_bytes,
                "agents": len(self._query.label_values(recent, "node")),
                "now_ms": now,
            }
        )

    def openapi(self) -> Response:
        return json_answer(openapi.document(__version__))

    def _asked(self) -> Parameters:
        return Parameters(request.args, TENANT, self._query.now_ms())


def _limit(asked: Parameters) -> int:
    return asked.integer("limit", DEFAULT_ROWS, low=1, high=MAX_ROWS)
