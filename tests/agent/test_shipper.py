"""The sending thread against real HTTP servers on loopback."""

from __future__ import annotations

import contextlib
import errno
import gzip
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
import zstandard
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceResponse,
)

from flamewell_agent import spool_files
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.shipper import Destination, Shipper, judge, parse_retry_after
from flamewell_agent.spool import Spool

PATH = "/v1development/profiles"


class Collector:
    """A collector that answers as it is told, once for each listed answer, then with 200."""

    def __init__(
        self, *answers, port: int = 0, tls: ssl.SSLContext | None = None, breaks_at=None
    ) -> None:
        self.answers = list(answers)
        self.received: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.attempts = self.tunnels = 0
        self.breaks_at = breaks_at or {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self):
                collector.tunnels += 1
                self.send_error(502)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.attempts += 1
                collector.headers.append({**self.headers, ":path": self.path})
                gzipped = self.headers["Content-Encoding"] == "gzip"
                plain = (gzip.decompress if gzipped else zstandard.decompress)(body)
                answer = collector.answers.pop(0) if collector.answers else 200
                answer = collector.breaks_at.get(plain, answer)
                if callable(answer):
                    answer(self)
                    return
                whole = answer if isinstance(answer, tuple) else (answer, {}, b"")
                status, headers, content = whole
                if status == 200:
                    collector.received.append(plain)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_args):
                pass  # clients that go away are part of these tests

        self.server = Server(("127.0.0.1", port), Handler)
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}{PATH}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def metrics() -> AgentMetrics:
    return AgentMetrics()


@pytest.fixture
def spool(tmp_path, metrics) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", 1 << 24, on_drop=metrics.add_dropped)
    yield spool
    spool.close()


@contextlib.contextmanager
def shipping(spool: Spool, metrics: AgentMetrics, destination: Destination, **options):
    options = {"backoff_first_seconds": 0.01, "read_timeout_seconds": 5.0} | options
    shipper = Shipper(spool, destination, metrics, **options)
    shipper.start()
    try:
        yield shipper
    finally:
        shipper.stop(0.2)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def metric(metrics: AgentMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"flamewell_agent_{name}", labels) or 0.0


def batches(count: int) -> list[bytes]:
    return [b"batch %d" % index for index in range(count)]


def fill(spool: Spool, count: int) -> None:
    for each in batches(count):
        spool.put(each)
        spool.flush(20)


def test_batches_arrive_in_order_and_leave_the_spool(spool, metrics):
    with Collector() as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 5)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(5)
    assert metric(metrics, "sent_batches_total") == 5
    assert metric(metrics, "sent_bytes_total") > 0
    headers = collector.headers[0]
    assert headers[":path"] == PATH
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["Content-Encoding"] == "zstd"
    assert "Authorization" not in headers


def test_a_collector_that_was_down_gets_everything_once(spool, metrics):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    destination = Destination((f"http://127.0.0.1:{port}{PATH}",))
    with shipping(spool, metrics, destination):
        fill(spool, 5)
        until(lambda: metric(metrics, "send_failures_total", reason="unreachable") >= 2)
        assert len(spool) == 5
        with Collector(port=port) as collector:
            until(lambda: len(spool) == 0)
    assert collector.received == batches(5)


def test_retry_after_is_kept(spool, metrics):
    paused = (503, {"Retry-After": "1"}, b"")
    with Collector(paused) as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 1)
        until(lambda: collector.attempts == 1)
        began = time.monotonic()
        until(lambda: len(spool) == 0)
        assert time.monotonic() - began > 0.8
    assert collector.received == batches(1)
    assert metric(metrics, "send_failures_total", reason="status_503") == 1


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 408, 421, 425, 429, 500, 502])
def test_what_may_pass_is_tried_again(spool, metrics, status):
    with (
        Collector(status, status) as collector,
        shipping(spool, metrics, Destination((collector.url,))),
    ):
        fill(spool, 2)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(2)
    assert collector.attempts == 4


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_refused_for_good_is_dropped_and_counted(spool, metrics, status):
    with Collector(status) as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 2)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(2)[1:]
    assert metric(metrics, "dropped_batches_total", reason=f"status_{status}") == 1


def test_a_collector_without_zstd_gets_gzip(spool, metrics):
    with Collector(415) as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 3)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(3)
    encodings = [each["Content-Encoding"] for each in collector.headers]
    assert encodings == ["zstd", "gzip", "gzip", "gzip"]


def test_what_no_encoding_helps_is_dropped(spool, metrics):
    with Collector(415, 415) as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 2)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(2)[1:]
    assert metric(metrics, "dropped_batches_total", reason="status_415") == 1


@pytest.mark.parametrize(("status", "told"), [(413, "raise the collector's limit"), (401, "token")])
def test_an_answer_tells_what_to_do(status, told):
    assert told in judge(status, {}, b"", NOW).detail


def test_everything_goes_through_the_proxy(spool, metrics):
    with Collector() as proxy:
        destination = Destination(
            (f"http://collector.invalid{PATH}",),
            proxy_url=f"http://ann:s%20x@127.0.0.1:{proxy.port}",
        )
        with shipping(spool, metrics, destination):
            fill(spool, 1)
            until(lambda: len(spool) == 0)
    assert proxy.received == batches(1)
    headers = proxy.headers[0]
    assert headers[":path"] == f"http://collector.invalid{PATH}"
    assert headers["proxy-authorization"] == "Basic " + b64encode(b"ann:s x").decode()


def test_the_proxys_certificate_is_verified_against_the_given_authority(spool, metrics, tmp_path):
    certificate, key = make_certificate(tmp_path, "proxy")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    spool.put(b"1")
    with Collector(tls=tls) as proxy:
        through = {"proxy_url": f"https://127.0.0.1:{proxy.port}"}
        with shipping(spool, metrics, Destination(("https://collector.invalid/",), **through)):
            until(lambda: metric(metrics, "send_failures_total", reason="tls") > 0)
        assert (proxy.tunnels, proxy.attempts) == (0, 0)
        destination = Destination(("https://collector.invalid/",), ca_file=certificate, **through)
        with shipping(spool, metrics, destination):
            until(lambda: proxy.tunnels > 0)
        destination = Destination(("http://collector.invalid/",), ca_file=certificate, **through)
        with shipping(spool, metrics, destination):
            until(lambda: len(spool) == 0)
    assert proxy.received == [b"1"]


def test_the_environments_proxy_is_not_used(spool, metrics, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Collector() as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 1)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(1)


def reset(handler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("poison", [500, 502, 504, reset])
def test_a_batch_that_always_breaks_the_collector_does_not_hold_back_the_rest(
    spool, metrics, poison
):
    with (
        Collector(breaks_at={b"batch 0": poison}) as collector,
        shipping(spool, metrics, Destination((collector.url,)), backoff_first_seconds=0.001),
    ):
        fill(spool, 6)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(6)[1:]
    assert metric(metrics, "dropped_batches_total", reason="poisonous") == 1


@pytest.mark.parametrize("answer", [500, 502, reset])
def test_a_collector_that_is_ill_for_long_costs_no_batch(spool, metrics, answer):
    with (
        Collector(*[answer] * 60) as collector,
        shipping(spool, metrics, Destination((collector.url,)), jitter=lambda _low, _high: 0.001),
    ):
        fill(spool, 5)
        until(lambda: len(spool) == 0)
    assert sorted(collector.received) == batches(5)
    assert metric(metrics, "dropped_batches_total", reason="poisonous") == 0


def test_a_batch_that_the_disk_does_not_give_is_passed_over_and_kept(spool, metrics, monkeypatch):
    real, ill = spool_files.read, threading.Event()
    ill.set()

    def read(path, sequence):
        if sequence == 1 and ill.is_set():
            raise OSError(errno.EIO, "input/output error")
        return real(path, sequence)

    monkeypatch.setattr(spool_files, "read", read)
    with (
        Collector() as collector,
        shipping(spool, metrics, Destination((collector.url,)), backoff_first_seconds=0.001),
    ):
        fill(spool, 6)
        until(lambda: len(spool) == 1)
        assert collector.received == batches(6)[1:]
        ill.clear()
        until(lambda: len(spool) == 0)
    assert metric(metrics, "dropped_batches_total", reason="corrupt") == 0
    assert metric(metrics, "send_failures_total", reason="spool_unreadable") >= 5


def test_two_shippers_do_not_send_the_same_batch(spool, metrics):
    release = threading.Event()

    def hang(handler):
        release.wait(30)
        handler.send_response(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    fill(spool, 3)
    with Collector(hang) as first, Collector() as second:
        old = Shipper(spool, Destination((first.url,)), metrics)
        old.start()
        until(lambda: first.attempts == 1)
        old.stop(0.01)
        with shipping(spool, metrics, Destination((second.url,))):
            until(lambda: len(spool) == 1)
            assert second.received == batches(3)[1:]
            release.set()
            until(lambda: len(spool) == 0)
        old.stop(10)
    assert (first.attempts, second.attempts) == (1, 2)


def test_redirects_are_not_followed(spool, metrics):
    with Collector() as other:
        away = (307, {"Location": other.url}, b"")
        with Collector(away) as collector, shipping(spool, metrics, Destination((collector.url,))):
            fill(spool, 1)
            until(lambda: len(spool) == 0)
        assert collector.received == batches(1)
        assert other.attempts == 0


def test_partial_success_is_counted(spool, metrics, caplog):
    answer = ExportProfilesServiceResponse()
    answer.partial_success.rejected_profiles = 4
    answer.partial_success.error_message = "older than an hour"
    partial = (200, {}, answer.SerializeToString())
    with Collector(partial) as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 1)
        until(lambda: len(spool) == 0)
        until(lambda: metric(metrics, "rejected_profiles_total") == 4)
    assert "older than an hour" in caplog.text
    assert metric(metrics, "sent_batches_total") == 1


def test_a_collector_that_hangs_or_resets_is_tried_again(spool, metrics):
    release = threading.Event()

    def hang(_handler):
        release.wait(30)

    with (
        Collector(hang, reset) as collector,
        shipping(spool, metrics, Destination((collector.url,)), read_timeout_seconds=2.0),
    ):
        fill(spool, 1)
        until(lambda: len(spool) == 0)
        release.set()
    assert metric(metrics, "send_failures_total", reason="timeout") >= 1
    assert metric(metrics, "send_failures_total", reason="connection_lost") >= 1


def test_an_endless_answer_is_cut_off(spool, metrics):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    with Collector(endless) as collector, shipping(spool, metrics, Destination((collector.url,))):
        fill(spool, 2)
        until(lambda: len(spool) == 0)
    assert collector.received == batches(2)[1:]


def test_the_next_collector_is_tried_when_one_fails(spool, metrics):
    with Collector(*[503] * 3) as first, Collector() as second:
        destination = Destination((first.url, second.url))
        with shipping(spool, metrics, destination):
            fill(spool, 3)
            until(lambda: len(spool) == 0)
    assert first.attempts == 1
    assert second.received == batches(3)


def test_the_token_is_read_again_when_it_changes(spool, metrics, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    with Collector() as collector:
        destination = Destination((collector.url,), token_file=token)
        with shipping(spool, metrics, destination):
            spool.put(b"1")
            until(lambda: len(spool) == 0)
            token.write_text("second\n")
            spool.put(b"2")
            until(lambda: len(spool) == 0)
    assert [each["Authorization"] for each in collector.headers] == [
        "Bearer first",
        "Bearer second",
    ]


@pytest.mark.parametrize("content", [None, "", "two words", "line\nInjected: x"])
def test_without_a_usable_token_nothing_is_sent_until_there_is_one(
    spool, metrics, tmp_path, content
):
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    with Collector() as collector:
        destination = Destination((collector.url,), token_file=token)
        with shipping(spool, metrics, destination):
            spool.put(b"1")
            reason = "credentials_unreadable"
            until(lambda: metric(metrics, "send_failures_total", reason=reason) >= 2)
            assert collector.attempts == 0
            token.write_text("good")
            until(lambda: len(spool) == 0)


def test_tls_is_verified_against_the_given_authority(spool, metrics, tmp_path):
    certificate, key = make_certificate(tmp_path, "collector")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Collector(tls=tls) as collector:
        with shipping(spool, metrics, Destination((collector.url,))):
            spool.put(b"1")
            until(lambda: metric(metrics, "send_failures_total", reason="tls") >= 1)
        assert collector.attempts == 0
        with shipping(spool, metrics, Destination((collector.url,), ca_file=certificate)):
            until(lambda: len(spool) == 0)
    assert collector.received == [b"1"]


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", f"/CN={name}", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_the_agent_shows_its_own_certificate_and_takes_a_rotated_one(spool, metrics, tmp_path):
    server = make_certificate(tmp_path, "server")
    good, other = make_certificate(tmp_path, "agent"), make_certificate(tmp_path, "other")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # refuses in the handshake, not after it
    tls.load_cert_chain(*server)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(good[0])
    own = tmp_path / "own.pem"
    own.write_bytes(other[0].read_bytes() + other[1].read_bytes())
    with Collector(tls=tls) as collector:
        destination = Destination((collector.url,), ca_file=server[0], cert_file=own)
        with shipping(spool, metrics, destination):
            spool.put(b"1")
            until(lambda: metric(metrics, "send_failures_total", reason="tls") >= 1)
            assert collector.attempts == 0
            rotated = tmp_path / "new.pem"
            rotated.write_bytes(good[0].read_bytes() + good[1].read_bytes())
            rotated.rename(own)
            until(lambda: len(spool) == 0)
            own.write_text("half a file")
            spool.put(b"2")
            reason = "credentials_unreadable"
            until(lambda: metric(metrics, "send_failures_total", reason=reason) >= 1)
    assert collector.received == [b"1"]


def test_stop_sends_what_waits(spool, metrics):
    with Collector() as collector:
        shipper = Shipper(spool, Destination((collector.url,)), metrics)
        fill(spool, 20)
        shipper.start()
        shipper.stop(10)
    assert collector.received == batches(20)


def test_stop_tries_each_collector_once_more(spool, metrics):
    with Collector(503) as ill, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}{PATH}"
        shipper = Shipper(
            spool, Destination((nobody, ill.url)), metrics, jitter=lambda _low, _high: 60.0
        )
        spool.put(b"1")
        shipper.start()
        until(lambda: metric(metrics, "send_failures_total", reason="status_503") == 1)
        shipper.stop(20)
    assert ill.received == [b"1"]


def test_stop_does_not_wait_for_a_collector_that_is_down(spool, metrics):
    fill(spool, 3)
    shipper = Shipper(spool, Destination((f"http://127.0.0.1:9{PATH}",)), metrics)
    shipper.start()
    began = time.monotonic()
    shipper.stop(30)
    assert time.monotonic() - began < 25
    assert len(spool) == 3


def test_an_unexpected_error_is_counted_and_sending_goes_on(spool, metrics, monkeypatch):
    with Collector() as collector:
        real, calls = spool.claim, []

        def broken(*passing_over):
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("surprise")
            return real(*passing_over)

        monkeypatch.setattr(spool, "claim", broken)
        with shipping(spool, metrics, Destination((collector.url,))):
            spool.put(b"1")
            until(lambda: len(spool) == 0)
    assert metric(metrics, "stage_failures_total", stage="shipper") == 1


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_in_both_forms(text, seconds):
    assert parse_retry_after(text, NOW) == seconds


def test_an_answer_that_is_not_otlp_still_is_an_acknowledgement():
    outcome = judge(200, {}, b"<html>ok</html>", NOW)
    assert (outcome.kind, outcome.rejected_profiles) == ("delivered", 0)
    assert "ExportProfilesServiceResponse" in outcome.detail


def test_each_reason_is_told_once_with_what_to_do(spool, metrics, caplog):
    caplog.set_level("INFO", "flamewell_agent.shipper")
    spool.put(b"batch")
    with (
        Collector(401, 401, 404, 401, 503, 404) as collector,
        shipping(spool, metrics, Destination((collector.url,))),
    ):
        until(lambda: collector.received)
        until(lambda: "works again" in caplog.text)
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(told) == 3
    assert all("it stays in the spool" in each for each in told)
    assert "status_401" in told[0]
    assert "look at token_file" in told[0]
    assert "look at collector_url and ingest_path" in told[1]
    assert "status_503" in told[2]
