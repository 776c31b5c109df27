"""A real HTTP server that plays the API of recorded pods: lists, watches, and what goes wrong."""

from __future__ import annotations

import copy
import json
import queue
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parent / "kubernetes"
_END, _CUT = object(), object()


def recorded(name: str) -> dict[str, Any]:
    """Give a recorded pod, anew each time."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def status(code: int, reason: str, message: str = "", **details: Any) -> dict[str, Any]:
    """Give a Status object as the API server writes it."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return body | {"message": message or reason, "reason": reason, "code": code, "details": details}


class ApiServer:
    """Serves /api/v1/pods.

    Attributes:
        refusals: Answers (status, headers, body) for coming requests by verb, first one first.
        always: The same for all requests of a verb, until taken away.
        tokens: Bearer tokens that are accepted; None: no matter which.
        requests: Verb and query of every request.
        page_size: Pods on a page.
    """

    def __init__(self, *names: str, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.refusals: dict[str, list[tuple[int, dict[str, str], bytes]]] = {
            "list": [],
            "watch": [],
        }
        self.always: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.tokens: set[str] | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.page_size = 1000
        self._lock = threading.RLock()
        self._closed = False
        self._version = 5000
        self._oldest = 0
        self._pods: dict[str, dict[str, Any]] = {}
        self._log: list[tuple[int, str, dict[str, Any]]] = []
        self._watches: list[queue.Queue[Any]] = []
        for name in names:
            self.put(recorded(name))
        self._serve(port, tls)

    def _serve(self, port: int, tls: ssl.SSLContext | None) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api._answer(self)

            def log_message(self, *_args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_args: Any) -> None:
                pass  # clients that give up are part of the tests

        self._server = Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.scheme = "https" if tls else "http"
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            self.cut()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # What happens in the cluster.

    def put(self, pod: dict[str, Any]) -> None:
        """Create or change a pod."""
        with self._lock:
            uid = pod["metadata"]["uid"]
            self._happen("MODIFIED" if uid in self._pods else "ADDED", pod)
            self._pods[uid] = pod

    def remove(self, pod: dict[str, Any]) -> None:
        """Delete a pod."""
        with self._lock:
            del self._pods[pod["metadata"]["uid"]]
            self._happen("DELETED", pod)

    def compact(self) -> None:
        """Forget the past: watches from before now are answered with 410."""
        with self._lock:
            self._version += 1
            self._oldest = self._version

    # What happens to the watches that are open.

    def say(self, kind: str, body: dict[str, Any]) -> None:
        """Send an event that no change stands behind."""
        self.send(json.dumps({"type": kind, "object": body}).encode() + b"\n")

    def bookmark(self) -> None:
        with self._lock:
            version = str(self._version)
        self.say("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": version}})

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self._tell(raw)

    def end(self) -> None:
        """End the watches, as after timeoutSeconds."""
        self._tell(_END)

    def cut(self) -> None:
        """Reset the connections."""
        self._tell(_CUT)

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def count(self, verb: str) -> int:
        """Tell how many requests of a verb came."""
        return sum(each == verb for each, _ in list(self.requests))

    def _tell(self, message: Any) -> None:
        with self._lock:
            for each in self._watches:
                each.put(message)

    def _happen(self, kind: str, pod: dict[str, Any]) -> None:
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        self._log.append((self._version, kind, copy.deepcopy(pod)))
        self.say(kind, pod)

    def _answer(self, handler: Any) -> None:
        parts = urlsplit(handler.path)
        query = {
            key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        verb = "watch" if query.get("watch") == "1" else "list"
        self.requests.append((verb, query))
        token = handler.headers.get("Authorization", "")
        if self.tokens is not None and token.lower().removeprefix("bearer ") not in self.tokens:
            _send(handler, 401, {}, json.dumps(status(401, "Unauthorized")).encode())
        elif verb in self.always:
            _send(handler, *self.always[verb])
        elif self.refusals[verb]:
            _send(handler, *self.refusals[verb].pop(0))
        elif parts.path != "/api/v1/pods" or query.get("fieldSelector") != "spec.nodeName=worker-1":
            _send(handler, 404, {}, json.dumps(status(404, "NotFound")).encode())
        elif verb == "list":
            self._list(handler, query)
        else:
            self._watch(handler, query)

    def _list(self, handler: Any, query: dict[str, str]) -> None:
        if "continue" in query and "resourceVersion" in query:
            _send(handler, 400, {}, json.dumps(status(400, "BadRequest")).encode())
            return
        with self._lock:
            start = int(query.get("continue", "0"))
            pods = list(self._pods.values())
            end = start + self.page_size
            metadata = {"resourceVersion": str(self._version)}
            if end < len(pods):
                metadata["continue"] = str(end)
            items = [{k: v for k, v in each.items() if k != "kind"} for each in pods[start:end]]
            body = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}
            data = json.dumps(body).encode()
        _send(handler, 200, {"Content-Type": "application/json"}, data)

    def _watch(self, handler: Any, query: dict[str, str]) -> None:
        since = int(query["resourceVersion"])
        messages: queue.Queue[Any] = queue.Queue()
        with self._lock:
            if since < self._oldest:
                data = json.dumps({"type": "ERROR", "object": status(410, "Expired")}).encode()
                messages.put(data + b"\n")
                messages.put(_END)
            for version, kind, pod in self._log:
                if version > since:
                    line = json.dumps({"type": kind, "object": pod}).encode() + b"\n"
                    messages.put(line)
            if self._closed:
                messages.put(_CUT)
            self._watches.append(messages)
        try:
            _stream(handler, messages)
        finally:
            with self._lock:
                self._watches.remove(messages)


def _stream(handler: Any, messages: queue.Queue[Any]) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        message = messages.get()
        if message is _END:
            handler.wfile.write(b"0\r\n\r\n")
            return
        if message is _CUT:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(message), message))


def _send(handler: Any, code: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
