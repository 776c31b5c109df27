"""What is checked before the start, and in which words it is told."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flamewell.errors import CommandError
from flamewell.preflight import (
    Privileges,
    check_installed,
    choose_port,
    free_port,
    has_capability,
    http_status,
    privilege_note,
    read_privileges,
)


def test_a_full_installation_passes() -> None:
    check_installed()


def test_a_free_port_is_taken_as_wanted() -> None:
    wanted = free_port()
    assert choose_port(wanted) == wanted
    assert choose_port(0) > 0


def test_a_port_in_use_is_told_with_another_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            CommandError, match=rf"port {port} is in use by another program.*--port"
        ):
            choose_port(port)
        assert free_port(port) != port


def test_a_collector_on_the_port_is_recognised() -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/-/healthy" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert http_status(f"{url}/-/healthy") == 200
            assert http_status(f"{url}/other") == 404
            with pytest.raises(CommandError, match=f"by a collector that runs already .{url}"):
                choose_port(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def test_no_answer_is_status_zero() -> None:
    assert http_status(f"http://127.0.0.1:{free_port()}/ready") == 0


def test_capabilities_are_read_from_status() -> None:
    assert has_capability("Name:\tx\nCapEff:\t0000000000080000\n", 19)
    assert not has_capability("CapEff:\t0000000000040000\n", 19)
    assert not has_capability("", 19)


@pytest.mark.parametrize(
    ("privileges", "words"),
    [
        (Privileges(root=True, ptrace=True, yama_scope=1), ""),
        (Privileges(root=True, ptrace=True, yama_scope=3), "ptrace_scope is 3"),
        (Privileges(root=True, ptrace=False, yama_scope=0), "--cap-add SYS_PTRACE"),
        (Privileges(root=False, ptrace=False, yama_scope=0), "your own Python processes"),
        (Privileges(root=False, ptrace=False, yama_scope=1), "but for the demo services"),
        (Privileges(root=False, ptrace=False, yama_scope=2), "cannot be sampled. Use sudo."),
        (Privileges(root=False, ptrace=True, yama_scope=2), ""),
    ],
)
def test_what_privileges_allow_is_told(privileges: Privileges, words: str) -> None:
    note = privilege_note(privileges)
    assert words in note
    assert bool(words) == bool(note)


def test_privileges_are_read_below_a_proc_root(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("CapEff:\t0000000000080000\n")
    assert read_privileges(tmp_path).yama_scope == 0
    scope = tmp_path / "sys/kernel/yama/ptrace_scope"
    scope.parent.mkdir(parents=True)
    scope.write_text("2\n")
    found = read_privileges(tmp_path)
    assert (found.ptrace, found.yama_scope) == (True, 2)
