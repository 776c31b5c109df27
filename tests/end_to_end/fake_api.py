"""Serves the page and the native API with data that a test has chosen, without a store."""

from __future__ import annotations

import gzip
import json
import mimetypes
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from end_to_end.fake_profiles import CPU, Service, Stack
from jinja2 import Environment, FileSystemLoader

import flamewell_collector
from flamewell_collector.errors import QueryError, SelectorError
from flamewell_collector.selectors import matches, parse_selector
from flamewell_collector.timerange import parse_time
from flamewell_wire import profile_types

PACKAGE = Path(flamewell_collector.__file__).parent
POINTS = 120
CHANGE_AGO_MS = 900_000
"""The moment of the change between ``rates_before`` and ``rates``: a quarter of an hour ago."""

BLANK = b'<!doctype html><title>blank</title><link rel="icon" href="data:,">'
"""A document without a page's script, into which modules are imported by hand."""

HEADERS = {
    # As web/security.py sends them: what the page may not do there fails here, too.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass
class FakeApi:
    """What is served; a test may change it while it runs.

    Attributes:
        services: Their profiles.
        faults: Path below /api/v1/ to status, code and message that are answered instead.
        hold: While cleared, the API does not answer: the page is loading.
        asked: Path and parameters of each question so far.
    """

    services: list[Service] = field(default_factory=list)
    faults: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    hold: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.now_ms = int(time.time() * 1000)
        self.change_ms = self.now_ms - CHANGE_AGO_MS
        self.hold.set()

    def questions(self, path: str) -> list[dict[str, str]]:
        """Give the parameters of all questions to a path."""
        return [parameters for asked, parameters in self.asked if asked == path]

    def answer(self, path: str, parameters: dict[str, str]) -> Any:
        """Answer a question."""
        self.asked.append((path, parameters))
        question = Question(self, parameters)
        return {
            "services": question.service_rows,
            "profile-types": question.types,
            "labels": question.labels,
            "label-values": question.label_values,
            "series": question.series,
            "timeline": question.timeline,
            "flamegraph": question.flame_graph,
            "diff": question.diff,
            "top": question.top,
            "top-diff": question.top_diff,
            "status": lambda: {"version": "0", "ready": True, "reason": "", "agents": 1},
        }[path]()


@dataclass(frozen=True)
class Question:
    """One question, answered in the API's shapes."""

    api: FakeApi
    parameters: Mapping[str, str]

    @property
    def type_id(self) -> str:
        return self.parameters.get("type", CPU)

    def time(self, name: str, default: str) -> int:
        return parse_time(self.parameters.get(name) or default, now_ms=int(time.time() * 1000))

    def span(self, prefix: str = "") -> tuple[int, int]:
        return self.time(f"{prefix}from", "now-1h"), self.time(f"{prefix}until", "now")

    def chosen(self, name: str = "query") -> list[Service]:
        matchers = parse_selector(self.parameters.get(name) or self.parameters.get("query", ""))
        return [
            each
            for each in self.api.services
            if all(matches(one, each.all_labels.get(one.name, "")) for one in matchers)
        ]

    def values(self, span: tuple[int, int], query: str = "query") -> dict[Stack, int]:
        """Merge what is selected, as the store does."""
        start, end = span
        after = max(0, end - max(start, self.api.change_ms)) / 1000
        before = max(0, min(end, self.api.change_ms) - start) / 1000
        if self.measure()["kind"] == "gauge":
            after, before = after / max(after + before, 1e-3), before / max(after + before, 1e-3)
        found: dict[Stack, float] = {}
        for service in self.chosen(query):
            rates = service.rates.get(self.type_id, {})
            earlier = service.rates_before.get(self.type_id, rates)
            for stack in {**rates, **earlier}:
                value = rates.get(stack, 0) * after + earlier.get(stack, 0) * before
                found[stack] = found.get(stack, 0) + value
        return {stack: round(value) for stack, value in found.items() if round(value)}

    def measure(self) -> dict[str, str]:
        known = profile_types.parse_id(self.type_id)
        return {"type": self.type_id, "unit": known.sample_unit, "kind": known.kind}

    def service_rows(self) -> Any:
        rows = [
            {
                "service_name": each.name,
                "runtime": each.runtime,
                "labels": each.all_labels,
                "types": sorted(each.rates),
                "series": 1,
                "cpu_cores": each.cpu_cores,
                "memory_bytes": each.memory_bytes,
                "memory_limit_bytes": each.memory_limit_bytes,
                "last_seen_ms": self.api.now_ms,
            }
            for each in self.api.services
        ]
        return {"services": sorted(rows, key=lambda row: -(row["cpu_cores"] or -1))}

    def types(self) -> Any:
        ids = sorted({type_id for each in self.chosen() for type_id in each.rates})
        known = [profile_types.parse_id(each) for each in ids]
        return {
            "types": [
                {"id": each.id, "name": f"{each.name}:{each.sample_type}",
                 "unit": each.sample_unit, "kind": each.kind}
                for each in known
            ]
        }  # fmt: skip

    def labels(self) -> Any:
        return {"values": sorted({name for each in self.chosen() for name in each.all_labels})}

    def label_values(self) -> Any:
        name = self.parameters["label"]
        return {"values": sorted({each.all_labels.get(name, "") for each in self.chosen()} - {""})}

    def series(self) -> Any:
        return {"series": [each.all_labels for each in self.chosen()]}

    def timeline(self) -> Any:
        start, end = self.span()
        step = max(1000, (end - start) // POINTS)
        seconds = 1 if self.measure()["kind"] == "gauge" else step / 1000
        values = [
            sum(self.values((at, at + step)).values()) / seconds or None
            for at in range(start, end, step)
        ]
        return {"start_ms": start, "step_ms": step, **self.measure(), "values": values}

    def flame_graph(self) -> Any:
        start, end = self.span()
        about = {**self.measure(), "from_ms": start, "until_ms": end}
        ready = next((each.columns for each in self.chosen() if each.columns), None)
        if ready:
            return {**about, **ready}
        values = self.values((start, end))
        shape = columns([values])
        return {**about, "total": sum(values.values()), **shape, "self": shape.pop("values")[0]}

    def diff(self) -> Any:
        span, base_span = self.span(), self.span("base_")
        now, base = self.values(span), self.values(base_span, "base_query")
        shape = columns([now, base])
        own = shape.pop("values")
        return {
            **self.measure(), "from_ms": span[0], "until_ms": span[1],
            "base_from_ms": base_span[0], "base_until_ms": base_span[1],
            "total": sum(now.values()), "base_total": sum(base.values()),
            **shape, "self": own[0], "base_self": own[1],
        }  # fmt: skip

    def top(self) -> Any:
        values = self.values(self.span())
        rows = top_rows(values)
        listed = [
            {"function": name, "file": file, "line": line, "self": own, "total": total}
            for (name, file), (line, own, total) in rows.items()
        ]
        listed.sort(key=lambda row: -row["self"])
        limit = int(self.parameters.get("limit", "1000"))
        return {**self.measure(), "total": sum(values.values()), "functions": len(rows),
                "rows": listed[:limit]}  # fmt: skip

    def top_diff(self) -> Any:
        now, base = self.values(self.span()), self.values(self.span("base_"), "base_query")
        rows, base_rows = top_rows(now), top_rows(base)
        listed = []
        for name, file in {**rows, **base_rows}:
            line, own, total = rows.get((name, file), (0, 0, 0))
            _, base_own, base_total = base_rows.get((name, file), (0, 0, 0))
            listed.append(
                {"function": name, "file": file, "line": line, "self": own, "total": total,
                 "base_self": base_own, "base_total": base_total}
            )  # fmt: skip
        return {**self.measure(), "total": sum(now.values()), "base_total": sum(base.values()),
                "functions": len(listed), "rows": listed}  # fmt: skip


def top_rows(values: Mapping[Stack, int]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Sum line, self and total per function; one that calls itself counts once a stack."""
    rows: dict[tuple[str, str], tuple[int, int, int]] = {}
    for stack, value in values.items():
        for name, file in {frame[:2] for frame in stack}:
            line = next(frame[2] for frame in stack if frame[:2] == (name, file))
            _, own, total = rows.get((name, file), (0, 0, 0))
            is_leaf = stack[-1][:2] == (name, file)
            rows[name, file] = (line, own + value * is_leaf, total + value)
    return rows


def columns(sides: list[Mapping[Stack, int]]) -> dict[str, Any]:
    """Merge stacks into one preorder; ``values`` has own values of each side."""
    tree: dict[Any, Any] = {}
    for at, side in enumerate(sides):
        for stack, value in side.items():
            node = tree
            for frame in stack:
                node = node.setdefault(frame, {})
            node.setdefault("own", [0] * len(sides))[at] += value
    made: dict[str, Any] = {
        "functions": ["total"], "files": [""], "lines": [0], "name": [], "depth": [],
        "values": [[] for _ in sides],
    }  # fmt: skip
    ids: dict[tuple[str, str], int] = {}
    todo: list[tuple[int, int, dict[Any, Any]]] = [(0, 0, tree)]
    while todo:
        name_id, depth, node = todo.pop()
        made["name"].append(name_id)
        made["depth"].append(depth)
        for values, own in zip(made["values"], node.get("own", [0] * len(sides)), strict=True):
            values.append(own)
        for frame in sorted((key for key in node if key != "own"), reverse=True):
            child = ids.get(frame[:2])
            if child is None:
                child = ids[frame[:2]] = len(made["functions"])
                for part, listed in zip(frame, ("functions", "files", "lines"), strict=True):
                    made[listed].append(part)
            todo.append((child, depth + 1, node[frame]))
    return {**made, "nodes": len(made["name"]), "pruned": False}


class _Handler(BaseHTTPRequestHandler):
    api: ClassVar[FakeApi]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        if url.path.startswith("/api/v1/"):
            self._api(url.path.removeprefix("/api/v1/"), parameters)
        elif url.path == "/":
            self._send(200, "text/html; charset=utf-8", page().encode())
        elif url.path == "/blank":
            self._send(200, "text/html; charset=utf-8", BLANK)
        elif url.path.startswith("/static/"):
            self._static(url.path)
        else:
            self._send(404, "text/plain", b"there is nothing here")

    def _api(self, path: str, parameters: dict[str, str]) -> None:
        self.api.hold.wait(30)
        if path in self.api.faults:
            self.api.asked.append((path, parameters))
            status, code, message = self.api.faults[path]
            self._json(status, {"error": {"code": code, "message": message}})
            return
        if path == "export":
            self.api.asked.append((path, parameters))
            self._send(200, "application/octet-stream", b"a profile", attachment=True)
            return
        try:
            self._json(200, self.api.answer(path, parameters))
        except QueryError as error:
            told: dict[str, Any] = {"code": "invalid_argument", "message": str(error)}
            if isinstance(error, SelectorError):
                told["position"] = error.position
            self._json(400, {"error": told})

    def _static(self, path: str) -> None:
        file = (PACKAGE / path.removeprefix("/")).resolve()
        if not file.is_file() or not file.is_relative_to(PACKAGE / "static"):
            self._send(404, "text/plain", b"there is nothing here")
            return
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._send(200, kind, file.read_bytes())

    def _json(self, status: int, payload: Any) -> None:
        self._send(status, "application/json", json.dumps(payload).encode())

    def _send(self, status: int, kind: str, body: bytes, *, attachment: bool = False) -> None:
        small = len(body) < 4096 or "gzip" not in self.headers.get("Accept-Encoding", "")
        sent = body if small else gzip.compress(body, 3)
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if not small:
            self.send_header("Content-Encoding", "gzip")
        if attachment:
            self.send_header("Content-Disposition", 'attachment; filename="profile.pb.gz"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: a test's output is its own."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a browser has gone away in the middle of an answer."""


def page() -> str:
    """Render the template as web/pages.py does."""
    environment = Environment(loader=FileSystemLoader(PACKAGE / "templates"), autoescape=True)
    environment.globals["url_for"] = lambda _endpoint, filename: f"/static/{filename}"
    return environment.get_template("index.html").render(version="0.0.0")


@contextmanager
def serving(services: list[Service]) -> Iterator[FakeApi]:
    """Serve on a free port of the loopback address until the block is left."""
    api = FakeApi(services)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        api.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
