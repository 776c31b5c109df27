"""The agent's own small HTTP server: metrics, health, and what was decided for each process."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from prometheus_client import CONTENT_TYPE_LATEST

from flamewell_agent.errors import StateError
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import Coverage

_log = logging.getLogger(__name__)
_REQUEST_TIMEOUT_SECONDS = 5.0
_CONNECTIONS_AT_ONCE = 16
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path answers with."""

    status: int
    content_type: str
    body: bytes


class StatusServer:
    """Serves ``/metrics``, ``/-/healthy``, ``/-/ready``, ``/ready`` and ``/coverage``.

    Ready: a cycle has finished. Healthy: none has been missing for ``stale_after_seconds``, the
    first one included.

    Args:
        address: Host and port; port 0 takes a free one.
        metrics: What is shown.
        stale_after_seconds: After how long without a finished cycle the agent counts as stuck;
            may be set anew at any time.
        clock: Seconds, never set back.

    Raises:
        StateError: The address cannot be listened on.
    """

    def __init__(
        self,
        address: tuple[str, int],
        metrics: AgentMetrics,
        *,
        stale_after_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._began = clock()
        self.stale_after_seconds = stale_after_seconds
        self._routes: dict[str, Callable[[], Answer]] = {
            "/metrics": self._show_metrics,
            "/-/healthy": self._show_healthy,
            "/-/ready": self._show_ready,
            "/ready": self._show_ready,
            "/coverage": self._show_coverage,
        }
        try:
            self._server = _Server(address, self.answer)
        except OSError as error:
            raise StateError(
                f"metrics_listen {address[0]}:{address[1]} cannot be listened on: {error}"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="status-server", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> Answer:
        """Answer a path; the query is ignored."""
        route = self._routes.get(path.partition("?")[0])
        if route is None:
            known = ", ".join(self._routes)
            return Answer(404, _TEXT, f"not found; there is {known}\n".encode())
        return route()

    def _show_metrics(self) -> Answer:
        return Answer(200, CONTENT_TYPE_LATEST, self._metrics.render())

    def _show_ready(self) -> Answer:
        if self._metrics.seconds_since_cycle is None:
            return Answer(503, _TEXT, b"the first cycle has not finished\n")
        return Answer(200, _TEXT, b"ready\n")

    def _show_healthy(self) -> Answer:
        age = self._metrics.seconds_since_cycle
        if age is None:
            age = self._clock() - self._began
        if age > self.stale_after_seconds:
            return Answer(503, _TEXT, f"no cycle has finished for {age:.0f} s\n".encode())
        return Answer(200, _TEXT, b"healthy\n")

    def _show_coverage(self) -> Answer:
        rows = [coverage_row(each) for each in self._metrics.coverage]
        age = self._metrics.seconds_since_cycle
        return Answer(200, _JSON, json.dumps({"age_seconds": age, "processes": rows}).encode())


def coverage_row(coverage: Coverage) -> dict[str, str | int]:
    """Show a line of the ledger, without the process's arguments: those may hold secrets."""
    return {
        "pid": coverage.process.key.pid,
        "executable": coverage.process.executable,
        "runtime": coverage.process.runtime,
        "runtime_version": coverage.process.runtime_version,
        "service_name": coverage.service_name,
        "state": coverage.state,
        "reason": coverage.reason,
        "detail": coverage.detail,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self._slots = threading.BoundedSemaphore(_CONNECTIONS_AT_ONCE)
        self._deadlines: dict[socket.socket, float] = {}
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Refuse connections beyond a few: threads are bounded too."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._deadlines[request] = time.monotonic() + _REQUEST_TIMEOUT_SECONDS
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Free the slot when the connection ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._deadlines.pop(request, None)
            self._slots.release()

    def service_actions(self) -> None:
        """End what takes too long in all: the handler's timeout is one of each read and write."""
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if now > deadline:
                with contextlib.suppress(OSError):  # it has ended by itself
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as in the parent
        """Note a client that went away; it is nobody's failure."""
        _log.debug("a status request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """Answer a GET."""
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        """Answer a HEAD."""
        self._send(with_body=False)

    def version_string(self) -> str:
        """Give no Python version away."""
        return "flamewell-agent"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the parent
        """Log requests for debugging only."""
        _log.debug(format, *args)

    def _send(self, *, with_body: bool) -> None:
        answer = cast("_Server", self.server).answer(self.path)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)
