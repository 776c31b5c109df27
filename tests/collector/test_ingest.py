"""The OTLP door through a real server: waitress on loopback, raw HTTP."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import gzip
import http.client
import os
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import waitress.server
import waitress.wasyncore
import zstandard
from collector.otlp_requests import Request, simple
from collector.stored import totals
from flask import Flask
from google.protobuf import json_format
from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2
from prometheus_client import generate_latest

from flamewell_collector.errors import Overloaded
from flamewell_collector.ingest import Ingest
from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.otlp_wire import rpc_status
from flamewell_collector.store.storage import Storage
from flamewell_collector.web.otlp import otlp_blueprint

PATH = "/v1development/profiles"
PROTOBUF = "application/x-protobuf"
LIMITS = Limits(body_bytes=1 << 20, series=5)


@dataclass
class Door:
    storage: Storage
    ingest: Ingest
    metrics: CollectorMetrics
    port: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def post(
        self, body: bytes, *, kind: str = PROTOBUF, encoding: str | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        headers = {"Content-Type": kind}
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def counted(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"flamewell_collector_{name}_total", labels)
        return found or 0.0


@pytest.fixture
def door(open_storage: Callable[..., Storage]) -> Iterator[Door]:
    storage = open_storage()
    metrics = CollectorMetrics()
    ingest = Ingest(storage, metrics, limits=LIMITS, now_ms=lambda: time.time_ns() // 1_000_000)
    app = Flask("door")
    app.register_blueprint(otlp_blueprint(ingest, metrics, limits=LIMITS))
    server = waitress.server.create_server(app, host="127.0.0.1", port=0, threads=8)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            waitress.wasyncore.loop(timeout=0.05, map=server._map, count=1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Door(storage, ingest, metrics, port=int(server.effective_port))
    finally:
        stop.set()
        thread.join()
        server.task_dispatcher.shutdown()
        waitress.wasyncore.close_all(server._map, ignore_all=True)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        (None, bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("zstd", zstandard.compress),
        ("gzip", lambda body: gzip.compress(body[:50]) + gzip.compress(body[50:])),
        ("zstd", lambda body: zstandard.compress(body[:50]) + zstandard.compress(body[50:])),
    ],
)
def test_encodings(door: Door, encoding: str | None, encode: Callable[[bytes], bytes]) -> None:
    assert door.post(encode(simple("x")), encoding=encoding)[:2] == (200, b"")
    assert totals(door.storage) == {15: 1}


def test_json(door: Door) -> None:
    message = profiles_service_pb2.ExportProfilesServiceRequest.FromString(simple("x"))
    body = json_format.MessageToJson(message).encode()
    status, answer, headers = door.post(body, kind="application/json; charset=utf-8")
    assert (status, answer) == (200, b"{}")
    assert headers["Content-Type"].startswith("application/json")
    assert totals(door.storage) == {15: 1}
    status, answer, headers = door.post(b"{", kind="application/json")
    assert status == 400
    assert answer.startswith(b'{"code": 3, "message": "not an')


@pytest.mark.parametrize(
    ("body", "kind", "encoding", "status", "reason"),
    [
        (b"\xff", PROTOBUF, None, 400, "malformed"),
        (b"x", PROTOBUF, "gzip", 400, "malformed"),
        (b"", PROTOBUF, "gzip", 400, "malformed"),
        (gzip.compress(simple("x"))[:-9], PROTOBUF, "gzip", 400, "malformed"),
        (b"x", PROTOBUF, "zstd", 400, "malformed"),
        (b"", PROTOBUF, "zstd", 400, "malformed"),
        (zstandard.compress(simple("x"))[:-1], PROTOBUF, "zstd", 400, "malformed"),
        (simple("x"), "text/plain", None, 415, "unsupported_media_type"),
        (simple("x"), "", None, 415, "unsupported_media_type"),
        (simple("x"), PROTOBUF, "br", 415, "unsupported_media_type"),
        (bytes((1 << 20) + 1), PROTOBUF, None, 413, "body_too_large"),
        (gzip.compress(bytes(50 << 20)), PROTOBUF, "gzip", 413, "body_too_large"),
        (zstandard.compress(bytes(50 << 20)), PROTOBUF, "zstd", 413, "body_too_large"),
    ],
)
def test_refused(
    door: Door, *, body: bytes, kind: str, encoding: str | None, status: int, reason: str
) -> None:
    found, answer, headers = door.post(body, kind=kind, encoding=encoding)
    assert found == status
    if kind == PROTOBUF:
        assert headers["Content-Type"] == PROTOBUF
        assert answer.startswith(b"\x08\x03\x12"), "a google.rpc.Status, INVALID_ARGUMENT"
    assert "Retry-After" not in headers
    assert door.counted("discarded_bytes", reason=reason, tenant="default") == len(body)
    assert door.counted("ingest_requests", status=str(status)) == 1
    assert totals(door.storage) == {}


def test_a_bomb_is_stopped_while_it_unpacks(door: Door) -> None:
    bombs = {"gzip": gzip.compress(bytes(200 << 20)), "zstd": zstandard.compress(bytes(200 << 20))}
    tracemalloc.start()
    try:
        for encoding, bomb in bombs.items():
            assert door.post(bomb, encoding=encoding)[0] == 413
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def raw(port: int, head: str, body: bytes = b"") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def test_chunked_and_without_length(door: Door) -> None:
    body = simple("x")
    chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    head = f"Content-Type: {PROTOBUF}\r\nConnection: close\r\n"
    assert raw(door.port, f"{head}Transfer-Encoding: chunked\r\n", chunks).startswith(
        b"HTTP/1.1 200"
    )
    assert totals(door.storage) == {15: 1}
    assert raw(door.port, head).startswith(b"HTTP/1.1 411")


def test_a_body_that_ends_early_is_not_stored(door: Door) -> None:
    body = simple("x")
    client = Flask("short")
    client.register_blueprint(otlp_blueprint(door.ingest, door.metrics, limits=LIMITS))
    answer = client.test_client().post(
        PATH,
        data=body[:-10],
        content_type=PROTOBUF,
        environ_overrides={"CONTENT_LENGTH": str(len(body))},
    )
    assert answer.status_code == 408
    assert totals(door.storage) == {}


def test_get_is_not_allowed(door: Door) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", PATH)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 405


def test_partial_success(door: Door) -> None:
    request = Request()
    resource = request.resource(service__name="s", flamewell__batch_id="x")
    now_ms = time.time_ns() // 1_000_000
    resource.profile([(request.stack("f"), 5)], time_ms=now_ms)
    resource.profile([(77, 5), (77, 6)], time_ms=now_ms)
    resource.profile([(0, -5)], time_ms=now_ms)
    status, body, _ = door.post(request.encoded())
    answer = profiles_service_pb2.ExportProfilesServiceResponse.FromString(body)
    assert status == 200
    assert answer.partial_success.rejected_profiles == 2
    assert answer.partial_success.error_message.startswith("bad_index: stack 77")
    assert totals(door.storage) == {5: 1}
    assert door.counted("discarded_profiles", reason="bad_index", tenant="default") == 1
    assert door.counted("discarded_samples", reason="bad_index", tenant="default") == 2
    assert door.counted("discarded_bytes", reason="bad_index", tenant="default") > 0
    assert door.counted("discarded_profiles", reason="negative_value", tenant="default") == 1
    assert door.counted("ingest_profiles", tenant="default") == 1


def test_the_series_limit_counts_those_of_one_request_too(door: Door) -> None:
    request = Request()
    now_ms = time.time_ns() // 1_000_000
    for at in range(9):
        request.resource(service__name=f"s{at}").profile([(0, 1)], time_ms=now_ms)
    door.post(request.encoded())
    assert door.counted("discarded_profiles", reason="series_limit", tenant="default") == 4
    assert len(door.storage.series("default")) == 5


def test_sent_twice_is_stored_once(door: Door) -> None:
    for _ in range(3):
        assert door.post(simple("x"))[:2] == (200, b"")
    assert totals(door.storage) == {15: 1}
    assert door.counted("ingest_duplicates", tenant="default") == 2


def test_duplicates_in_flight_are_stored_once(door: Door) -> None:
    body = simple("x")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: door.post(body), range(40)))
    statuses = {status for status, _, _ in answers}
    assert statuses <= {200, 429}
    assert all(headers["Retry-After"] == "1" for status, _, headers in answers if status == 429)
    assert totals(door.storage) == {15: 1}


def test_overlapping_requests_lose_and_double_nothing(door: Door) -> None:
    """A collector in between may regroup resources before it sends them again."""

    def request(*ids: int) -> bytes:
        made = Request()
        for each in ids:
            made.resource(service__name="s", flamewell__batch_id=f"id{each}").profile(
                [(0, 1 << each)], time_ms=time.time_ns() // 1_000_000
            )
        return made.encoded()

    def until_taken(body: bytes) -> None:
        while door.post(body)[0] != 200:
            pass

    bodies = [request(at, (at + 1) % 12, (at + 5) % 12) for at in range(12)] * 3
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(until_taken, bodies))
    assert totals(door.storage) == {1 << at: 1 for at in range(12)}


def test_a_disk_that_fails_is_503_until_it_works(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        status, body, headers = door.post(simple("x"))
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert body == rpc_status(14, body[4:].decode())
        assert b"No space left" in body
        assert totals(door.storage) == {}
        assert not door.storage.state.writable
    assert door.post(simple("x"))[0] == 200
    assert totals(door.storage) == {15: 1}
    assert door.storage.state.writable


def test_overload_is_429(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_batch: object) -> bool:
        raise Overloaded("too much", retry_after_seconds=3)

    monkeypatch.setattr(door.storage, "append", busy)
    status, _, headers = door.post(simple("x"))
    assert (status, headers["Retry-After"]) == (429, "3")


def test_metrics_are_valid_exposition(door: Door) -> None:
    door.post(simple("x"))
    door.post(zlib.compress(b"x"), encoding="gzip")
    text = generate_latest(door.metrics.registry).decode()
    assert 'flamewell_collector_ingest_profiles_total{tenant="default"} 1.0' in text
    assert "flamewell_collector_ingest_duration_seconds_bucket" in text
