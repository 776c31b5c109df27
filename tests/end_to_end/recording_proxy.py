"""A loopback proxy between two real parts that keeps what passed."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "host",
    "date",
    "server",
}


class RecordingProxy:
    """Forwards each request, then calls ``on_answer``.

    ``on_answer(method, path, request, headers, status, body)`` sees all that passed.
    ``refuse(method, path)`` may answer True: then the proxy says 503 by itself.
    """

    def __init__(
        self,
        upstream: str,
        on_answer: Callable[[str, str, bytes, dict[str, str], int, bytes], None],
        refuse: Callable[[str, str], bool] = lambda _method, _path: False,
    ) -> None:
        host = urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                request = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if refuse(self.command, self.path):
                    return self.answer(503, {}, b"")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
                connection = http.client.HTTPConnection(host, timeout=60)
                try:
                    connection.request(self.command, self.path, request, headers)
                    response = connection.getresponse()
                    body = response.read()
                except (OSError, http.client.HTTPException):
                    return self.answer(502, {}, b"")
                finally:
                    connection.close()
                on_answer(self.command, self.path, request, headers, response.status, body)
                return self.answer(response.status, dict(response.getheaders()), body)

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = forward

            def log_message(self, *_args: object) -> None:
                pass

            def handle(self) -> None:
                # A caller may be killed while it waits: that is what some tests do.
                with contextlib.suppress(ConnectionError):
                    super().handle()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
