"""A pprof endpoint that does what it can to hold, fill or mislead who asks it."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from agent.pprof_server import PprofServer

from flamewell_agent.errors import EndpointError, ProfileFormatError
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.pprof_parse import parse

MIB = 1 << 20
REASONS = {
    "unreachable",
    "timeout",
    "connection_lost",
    "too_large",
    "redirected",
    "not_found",
    "client_error",
    "server_error",
    "unexpected_status",
}
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def says(*parts: bytes, repeat: bytes = b"", pause_seconds: float = 0.0) -> Callable[[Any], None]:
    """Answer with these bytes, then with others for as long as somebody listens."""

    def answer(handler: Any) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(b"".join(parts))
            until = time.monotonic() + 15
            while repeat and time.monotonic() < until:
                handler.wfile.write(repeat)
                time.sleep(pause_seconds)

    return answer


def fetched(answer: Callable[[Any], None], *, seconds: float = 1.0) -> tuple[str, bytes]:
    """Ask; give the reason of the refusal, or the body. Memory stays near the limit of 1 MiB."""
    with PprofServer({"heap": answer}) as server:
        tracemalloc.start()
        began = time.monotonic()
        try:
            reason, body = asked(PprofClient(server.url), seconds)
        finally:
            took = time.monotonic() - began
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        # The server's own part is in it: it is small.
        assert peak < 12 * MIB
        assert took < seconds + 20  # no measurement: 15 s is what the server would go on for
        return reason, body


def asked(client: PprofClient, seconds: float) -> tuple[str, bytes]:
    try:
        return "", client.get("heap", timeout_seconds=seconds, max_bytes=MIB)
    except EndpointError as error:
        return described(error), b""


def described(error: EndpointError) -> str:
    """Check what is logged and counted of a refusal; gives its reason."""
    assert error.reason in REASONS
    assert len(error.detail) < 2000
    return error.reason


BLOCK = b"10000\r\n" + b"x" * 65536 + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (says(CHUNKED, repeat=BLOCK), {"too_large"}),
        (says(CHUNKED, repeat=b"1\r\nx\r\n", pause_seconds=0.05), {"timeout"}),
        (says(CHUNKED, b"-1\r\n", repeat=b"x" * 65536), {"connection_lost", "too_large"}),
        (says(CHUNKED, b"-5\r\n", repeat=b"x" * 65536), {"connection_lost", "too_large"}),
        (says(CHUNKED, b"f" * 60_000 + b"\r\n", repeat=b"x" * 65536), REASONS),
        (says(CHUNKED, b"zz\r\n"), {"connection_lost"}),
        (
            says(CHUNKED, b"1\r\nx\r\n0\r\n", repeat=b"X-Trailer: 1\r\n"),
            {"timeout", "connection_lost"},
        ),
        (says(HEAD, b"Content-Length: -1\r\n\r\n", repeat=b"x" * 65536), {"too_large"}),
        (says(HEAD, b"Content-Length: " + b"9" * 4000 + b"\r\n\r\nx"), REASONS),
        (says(HEAD, b"Content-Length: " + b"9" * 6000 + b"\r\n\r\n", repeat=b"x" * 65536), REASONS),
        (says(HEAD, b"Content-Length: 99999999\r\n\r\nx"), REASONS),
        (says(HEAD, repeat=b"X: y\r\n"), {"connection_lost"}),
        (says(HEAD, b"X: ", repeat=b"y" * 65536), {"connection_lost"}),
        (says(repeat=b"HTTP/1.1 100 Continue\r\n\r\n"), {"timeout", "connection_lost"}),
        (says(b"HTTP/1.1 99999999999999 OK\r\n\r\n"), REASONS),
        (says(b"HTTP/1.1 -200 OK\r\n\r\n"), REASONS),
        (says(b"HTTP/1.1 " + b"\xef\xbc\x92\xef\xbc\x90\xef\xbc\x90" + b" OK\r\n\r\n"), REASONS),
        (says(b"HTTP/9.9 200 OK\r\n\r\n"), REASONS),
        (
            says(b"HTTP/1.1 500 no\r\nContent-Length: 99999999\r\n\r\n", repeat=b"\xff" * 65536),
            {"server_error"},
        ),
        (says(b"HTTP/1.1 302 x\r\nLocation: http://192.0.2.1/\r\n\r\n"), {"redirected"}),
        (says(b"HTTP/1.1 101 Switching\r\nUpgrade: h2\r\n\r\n", repeat=b"x" * 65536), REASONS),
        (says(b""), {"connection_lost"}),
    ],
)
def test_each_way_to_mislead_has_a_reason(answer, reasons):
    reason, _ = fetched(answer)
    assert reason in reasons


def test_a_content_length_that_is_too_small_cuts_and_the_rest_is_never_read():
    reason, body = fetched(says(HEAD, b"Content-Length: 4\r\n\r\n", repeat=b"x" * 65536))
    assert (reason, body) == ("", b"xxxx")


def test_a_compressed_answer_is_not_unpacked_beyond_the_limit():
    """The body is the profile's own gzip: nobody unpacks it before the parser, which has limits."""
    bomb = gzip.compress(bytes(64 * MIB))
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    reason, body = fetched(says(head, bomb))
    assert (reason, body) == ("", bomb)
    with pytest.raises(ProfileFormatError):
        parse(body)


def test_one_that_accepts_and_says_nothing_is_left_in_time():
    release = threading.Event()
    reason, _ = fetched(lambda _handler: release.wait(10) and None, seconds=0.5)
    release.set()
    assert reason == "timeout"
