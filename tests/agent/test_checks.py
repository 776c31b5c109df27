"""Findings of ``check`` that are pure."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flamewell_agent.captures import find_tracer
from flamewell_agent.checks import (
    check_go_endpoint,
    check_hidepid,
    check_tracing,
    parse_groups,
)
from flamewell_agent.config import AgentConfig

PTRACE = 1 << 19
OPEN = "proc /proc proc rw,nosuid,relatime 0 0\n"


def mounted(options: str) -> str:
    return f"sysfs /sys sysfs rw 0 0\nproc /proc proc rw,{options} 0 0\n"


@pytest.mark.parametrize("mounts", [OPEN, mounted("hidepid=0"), mounted("hidepid=off"), ""])
def test_a_proc_that_hides_nothing(mounts):
    assert check_hidepid(mounts, "/proc", 0).status == "ok"


@pytest.mark.parametrize("value", ["1", "2", "noaccess", "invisible"])
@pytest.mark.parametrize(
    ("gid", "groups", "status"),
    [
        ("", (0, 5), "ok"),
        ("", (5,), "fail"),
        (",gid=27", (5, 27), "ok"),
        (",gid=27", (0,), "fail"),
    ],
)
def test_the_group_of_the_mount_sees_everything(value, gid, groups, status):
    check = check_hidepid(mounted(f"hidepid={value}{gid}"), "/proc", 0, groups)
    assert check.status == status
    assert f"hidepid={value}" in check.detail
    if status == "fail":
        assert f"group {gid.partition('=')[2] or 0}" in check.mend


@pytest.mark.parametrize("value", ["4", "ptraceable"])
def test_no_group_lifts_ptraceable(value):
    mounts = mounted(f"hidepid={value}")
    assert check_hidepid(mounts, "/proc", 0, (0,)).status == "fail"
    assert check_hidepid(mounts, "/proc", PTRACE).status == "ok"


def test_the_topmost_mount_counts():
    hidden = mounted("hidepid=2")
    assert check_hidepid(hidden + OPEN, "/proc", 0).status == "ok"
    assert check_hidepid(OPEN + hidden, "/proc", 0).status == "fail"


def test_groups_are_those_the_kernel_looks_at():
    status = "Name:\tx\nGid:\t10\t11\t12\t13\nGroups:\t4 24 \n"
    assert parse_groups(status) == {13, 4, 24}
    assert parse_groups("Gid:\t0\t0\t0\t0\nGroups:\t \n") == {0}
    own = parse_groups(Path("/proc/self/status").read_text())
    assert own == {os.getegid(), *os.getgroups()}


def test_missing_tracers_are_named():
    assert check_tracing(lambda name: f"/usr/bin/{name}").status == "ok"
    check = check_tracing({"gdb": "/usr/bin/gdb"}.get)
    assert check.status == "warn"
    assert "strace" in check.detail
    assert "install strace" in check.mend


def test_tracers_are_looked_for_where_captures_look(tmp_path, monkeypatch):
    """A program on the caller's PATH alone is none that a capture would find."""
    for name in ("strace", "gdb"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert find_tracer("gdb", str(tmp_path)) == str(tmp_path / "gdb")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_tracer("gdb") != str(tmp_path / "gdb")


def test_https_go_endpoints_are_believed_as_in_sampling(tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "c.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=go", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"app")

        def log_message(self, *_):
            pass

    class Server(HTTPServer):
        def handle_error(self, *_):
            pass  # a handshake that the client breaks off is part of this

    server = Server(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    text = f"https://127.0.0.1:{server.server_port}"
    try:
        assert check_go_endpoint(text, AgentConfig()).status == "warn"
        for options in ({"go_tls_ca_file": str(certificate)}, {"go_tls_insecure": True}):
            assert check_go_endpoint(text, AgentConfig(**options)).status == "ok"
        missing = AgentConfig(go_tls_ca_file="/nonexistent")
        assert check_go_endpoint(text, missing).status == "fail"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
