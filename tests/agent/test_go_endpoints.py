"""Finding pprof endpoints, and fetching from them, however they answer."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from agent.pprof_server import PprofServer

from flamewell_agent.errors import EndpointError, ProcessGoneError
from flamewell_agent.model import Process, ProcessKey
from flamewell_agent.procfs import parse_cmdline
from flamewell_agent.samplers.go_endpoints import (
    Listener,
    find_endpoint,
    is_loopback,
    listening,
    parse_address,
    parse_listeners,
    same_cmdline,
)
from flamewell_agent.samplers.go_fetch import PprofClient

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:17AC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1002 1 0
   2: 0500000A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1003 1 0
   3: 0100007F:17AC 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 1004 1 0
   4: nonsense
   5: XYZ:17AC 00000000:0000 0A 0 0 0 0 0 1005
"""
TCP6 = """\
  sl  local_address                         rem_address                           st
   0: 00000000000000000000000000000000:17AC 00000000000000000000000000000000:0000 0A 0 0 0 0 0 2001
   1: 00000000000000000000000001000000:17AD 00000000000000000000000000000000:0000 0A 0 0 0 0 0 2002
   2: 0000000000000000FFFF00000100007F:17AE 00000000000000000000000000000000:0000 0A 0 0 0 0 0 2003
"""
little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="the tables above are of a little-endian host"
)


def own_process(*cmdline: str) -> Process:
    return Process(ProcessKey(os.getpid(), 1), "go", "go1.22", "orders", cmdline)


@little_endian
def test_listeners_that_loopback_reaches():
    assert parse_listeners(TCP) == [
        Listener("127.0.0.1", 0x17AC, 1001),
        Listener("127.0.0.1", 8080, 1002),
    ]
    assert parse_listeners(TCP6) == [
        Listener("127.0.0.1", 0x17AC, 2001),
        Listener("::1", 0x17AD, 2002),
        Listener("127.0.0.1", 0x17AE, 2003),
    ]
    assert parse_listeners("") == []


@little_endian
def test_addresses_as_the_kernel_writes_them():
    assert str(parse_address("0500000A")) == "10.0.0.5"
    assert str(parse_address("B80D01200000000067452301EFCDAB89")) == "2001:db8::123:4567:89ab:cdef"
    for text in ("", "01", "XY"):
        with pytest.raises(ValueError):
            parse_address(text)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:6060", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:6060", True),
        ("http://localhost:6060", True),
        ("http://10.0.0.1", False),
        ("http://orders.shop", False),
        ("http://169.254.169.254", False),
    ],
)
def test_loopback(url, expected):
    assert is_loopback(url) is expected


@pytest.mark.parametrize(
    ("answer", "cmdline", "expected"),
    [
        (b"orders\x00-port\x008080", ("orders", "-port", "8080"), True),
        (b"orders\x00-port\x008080\n", ("orders", "-port", "8080"), True),
        (b"orders\x00", ("orders", ""), True),
        (b"caf\xe9", (b"caf\xe9".decode("utf-8", "surrogateescape"),), True),
        (b"other", ("orders",), False),
        (b"orders\x00-port", ("orders", "-port", "8080"), False),
        (b"", (), False),
    ],
)
def test_a_command_line_must_be_the_same(answer, cmdline, expected):
    assert same_cmdline(answer, cmdline) is expected


def kept(arguments: bytes) -> tuple[str, ...]:
    """What the agent keeps of a process's arguments; a NUL ends each."""
    return parse_cmdline(arguments + b"\0")


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        (b"\0".join(b"-%d" % n for n in range(400)), b"\0".join(b"-%d" % n for n in range(250))),
        (b"orders\0" + b"x" * 10_000, b"orders\0" + b"x" * 8_000),
        (b"orders\0" + "é".encode() * 6_000, b"orders\0" + "è".encode() * 6_000),
        (b"orders\0" + b"x" * 8_184 + b"\0more", b"orders\0" + b"x" * 8_183),
    ],
)
def test_of_arguments_that_were_cut_those_that_were_kept_must_be_the_same(answer, other):
    assert sum(map(len, kept(answer))) < len(answer)
    assert same_cmdline(answer, kept(answer))
    assert same_cmdline(answer + b"\n", kept(answer))
    assert not same_cmdline(other, kept(answer))
    assert not same_cmdline(b"other" + answer, kept(answer))


def test_an_argument_more_is_another_command_line_where_nothing_was_cut():
    arguments = b"\0".join(b"-%d" % n for n in range(255))
    assert same_cmdline(arguments, kept(arguments))
    assert not same_cmdline(arguments + b"\0-v", kept(arguments))
    assert not same_cmdline(arguments + b"0", kept(arguments))


HOLDER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
input()
"""


def test_a_process_has_the_ports_that_it_listens_on_and_no_others():
    with socket.create_server(("127.0.0.1", 0)) as mine:
        own = mine.getsockname()[1]
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            theirs = int(holder.stdout.readline())
            process = Process(ProcessKey(holder.pid, 1), "go", "", "holder", ("holder",))
            assert {each.port for each in listening(process, Path("/proc"))} == {theirs}
            ports = {each.port for each in listening(own_process(), Path("/proc"))}
            assert own in ports
            assert theirs not in ports
        finally:
            holder.communicate("\n")


def test_a_process_that_ended():
    gone = Process(ProcessKey(2**22 + 5, 1), "go", "", "gone", ("gone",))
    with pytest.raises(ProcessGoneError):
        listening(gone, Path("/proc"))


def test_another_network_namespace_is_told(tmp_path):
    for pid, namespace in (("self", "net:[1]"), ("77", "net:[2]")):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns" / "net").symlink_to(namespace)
    process = Process(ProcessKey(77, 1), "go", "", "x", ("x",))
    with pytest.raises(EndpointError) as caught:
        listening(process, tmp_path)
    assert caught.value.reason == "other_network_namespace"


def test_the_port_that_answers_with_the_own_command_line_is_the_endpoint():
    with (
        PprofServer({}) as plain,
        PprofServer({"cmdline": b"other\x00program"}) as foreign,
        PprofServer({"cmdline": b"orders\x00-v"}) as own,
    ):
        listeners = [Listener("127.0.0.1", each.port, 1) for each in (plain, foreign, own)]
        endpoint = find_endpoint(own_process("orders", "-v"), listeners)
        assert endpoint.url == own.url
        with pytest.raises(EndpointError) as caught:
            find_endpoint(own_process("orders", "-v"), listeners[:2])
        assert caught.value.reason == "no_pprof_endpoint"
        assert f"{plain.port}: not_found" in caught.value.detail
        assert f"{foreign.port}: other_program" in caught.value.detail
    with pytest.raises(EndpointError) as caught:
        find_endpoint(own_process("orders"), [])
    assert caught.value.reason == "no_listening_port"


def fetch(server: PprofServer, path: str = "heap", seconds: float = 5, limit: int = 1000) -> bytes:
    return PprofClient(server.url).get(path, timeout_seconds=seconds, max_bytes=limit)


def failure(server: PprofServer, **options) -> str:
    with pytest.raises(EndpointError) as caught:
        fetch(server, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((302, b""), "redirected"),
        ((404, b""), "not_found"),
        ((403, b""), "unauthorized"),
        (
            (500, b"Could not enable CPU profiling: cpu profiling already in use"),
            "cpu_profile_in_use",
        ),
        ((400, b"profile duration exceeds server's WriteTimeout"), "window_too_long"),
        ((400, b"no"), "client_error"),
        ((503, b""), "server_error"),
        ((204, b""), "unexpected_status"),
        (b"x" * 1001, "too_large"),
    ],
)
def test_answers_that_are_no_profile_have_a_reason(answer, reason):
    with PprofServer({"heap": answer}) as server:
        assert failure(server) == reason
        assert server.requests == ["/debug/pprof/heap"]


def test_an_answer_up_to_the_limit_is_taken():
    with PprofServer({"heap": b"x" * 1000}) as server:
        assert fetch(server) == b"x" * 1000


def test_the_path_of_a_configured_url_is_the_base_path():
    with PprofServer({"heap": b"data"}) as server:
        client = PprofClient(server.url + "/internal/pprof/")
        assert client.get("heap", timeout_seconds=5, max_bytes=10) == b"data"
        assert server.requests == ["/internal/pprof/heap"]


def drip(handler) -> None:
    """Send a header byte now and then: each read succeeds, the answer never ends."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(400):
            handler.wfile.write(b"a")
            time.sleep(0.05)


def endless(handler) -> None:
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(b"x" * 4096)


def nonsense(handler) -> None:
    handler.wfile.write(b"\x00\x01\x02\r\n\r\n")


def cut_off(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (drip, "timeout"),
        (endless, "too_large"),
        (nonsense, "connection_lost"),
        (cut_off, "connection_lost"),
    ],
)
def test_peers_that_do_not_speak_http_well(answer, reason):
    with PprofServer({"heap": answer}) as server:
        assert failure(server, seconds=0.5) == reason


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(EndpointError) as caught:
        PprofClient(url).get("heap", timeout_seconds=2, max_bytes=10)
    assert caught.value.reason == "unreachable"


def test_a_request_can_be_ended_from_another_thread():
    release = threading.Event()
    with PprofServer({"profile": lambda _handler: release.wait(20) and None}) as server:
        client = PprofClient(server.url)
        caught: list[EndpointError] = []

        def pull() -> None:
            try:
                client.get("profile?seconds=20", timeout_seconds=30, max_bytes=10)
            except EndpointError as error:
                caught.append(error)

        puller = threading.Thread(target=pull)
        puller.start()
        while not server.requests:
            time.sleep(0.005)
        client.abort()
        puller.join(5)
        assert not puller.is_alive()
        assert caught
        with pytest.raises(EndpointError):
            client.get("heap", timeout_seconds=1, max_bytes=10)
        release.set()
