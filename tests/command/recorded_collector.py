"""A loopback HTTP server that plays a collector's answers, in the native API's shapes."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
INUSE = "memory:inuse_space:bytes:space:bytes"

SERVICES = {
    "services": [
        {
            "service_name": "payments",
            "runtime": "cpython",
            "labels": {"node": "n1"},
            "types": [CPU, "process_memory:rss:bytes:space:bytes"],
            "series": 2,
            "cpu_cores": 0.25,
            "memory_bytes": 157286400.0,
            "memory_limit_bytes": 536870912.0,
            "last_seen_ms": 1_772_359_200_000,
        },
        {
            "service_name": "orders",
            "runtime": "go",
            "labels": {},
            "types": [CPU, INUSE],
            "series": 1,
            "cpu_cores": 0.0123,
            "memory_bytes": None,
            "memory_limit_bytes": None,
            "last_seen_ms": 1_772_359_200_000,
        },
    ]
}
TOP = {
    "unit": "nanoseconds",
    "total": 900_000_000_000,
    "rows": [
        {
            "function": "burn",
            "file": "/srv/app/burn.py",
            "line": 12,
            "self": 600_000_000_000,
            "total": 600_000_000_000,
        },
        {"function": "main", "file": "/srv/app/main.py", "line": 3, "self": 0, "total": 9 * 10**11},
    ],
}
# total ─ main ─┬─ burn ─ burn (recursion)
#               └─ sleepy
GRAPH = {
    "type": CPU,
    "unit": "nanoseconds",
    "kind": "delta",
    "from_ms": 0,
    "until_ms": 3_600_000,
    "total": 900_000_000_000,
    "nodes": 5,
    "pruned": False,
    "functions": ["total", "burn", "main", "sleepy"],
    "files": ["", "/srv/app/burn.py", "/srv/app/main.py", ""],
    "lines": [0, 12, 3, 0],
    "name": [0, 2, 1, 1, 3],
    "depth": [0, 1, 2, 3, 2],
    "self": [0, 0, 500_000_000_000, 100_000_000_000, 300_000_000_000],
}
DIFF = {**GRAPH, "base_total": 200_000_000_000, "base_self": [0, 50_000_000_000, 150 * 10**9, 0, 0]}
EMPTY_GRAPH = {
    **GRAPH,
    "total": 0,
    "nodes": 1,
    "functions": ["total"],
    "files": [""],
    "lines": [0],
    "name": [0],
    "depth": [0],
    "self": [0],
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back."""

    content: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return (
            self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    path: str
    parameters: dict[str, str]
    headers: dict[str, str]


class RecordedCollector:
    """Plays answers by path; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Request], Answer]] = {
            "/api/v1/services": Answer(SERVICES),
            "/api/v1/top": Answer(TOP),
            "/api/v1/flamegraph": Answer(GRAPH),
            "/api/v1/diff": Answer(DIFF),
            "/api/v1/export": Answer(b"\x1f\x8b exported"),
        }
        self.requests: list[Request] = []
        self.url = ""

    def asked(self, path: str) -> Request:
        """Give the one request for a path."""
        (found,) = [each for each in self.requests if each.path == path]
        return found

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        found = self.answers.get(request.path, Answer(b"not found", 404))
        return found(request) if callable(found) else found


@contextmanager
def serve() -> Iterator[RecordedCollector]:
    """Serve recorded answers on a free port."""
    recorded = RecordedCollector()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            answer = recorded.answer(
                Request(parts.path, dict(parse_qsl(parts.query)), dict(self.headers))
            )
            body, headers = answer.body, dict(answer.headers)
            if headers.get("Content-Encoding") == "gzip":
                body = gzip.compress(body)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorded.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield recorded
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
