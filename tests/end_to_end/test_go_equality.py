"""A Go CPU profile through agent and store equals ``go tool pprof -top`` of the raw one."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from end_to_end.go_toolchain import build, go_executable
from end_to_end.recording_proxy import RecordingProxy
from end_to_end.system import free_port, system, wait_until

ORDERS = Path(__file__).parent.parent.parent / "examples" / "orders"
PROFILES_TAKEN = 2

pytestmark = [pytest.mark.go, pytest.mark.slow]


def test_self_and_total_equal_go_tool_pprof(tmp_path: Path) -> None:
    port, pprof_port = free_port(), free_port()
    orders = subprocess.Popen(
        [
            build(ORDERS, tmp_path / "orders"), "-listen", f"127.0.0.1:{port}",
            "-pprof", f"127.0.0.1:{pprof_port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stop = threading.Event()
    load = threading.Thread(target=drive, args=(port, stop))
    load.start()
    try:
        expected, shown = run_system(tmp_path, pprof_port)
    finally:
        stop.set()
        load.join()
        orders.kill()
        orders.wait()
    assert expected, "go tool pprof showed no function"
    for name, values in expected.items():
        assert shown.get(name) == values, name
    assert sum(value for value, _ in shown.values()) == sum(value for value, _ in expected.values())


def run_system(tmp_path: Path, port: int) -> tuple[dict, dict]:
    """Profile through the proxy; give (what go says of the raw files, what flamewell shows)."""
    raw: list[Path] = []

    def keep(
        _method: str, path: str, _request: bytes, _headers: dict, status: int, body: bytes
    ) -> None:
        if path.startswith("/debug/pprof/profile") and status == 200:
            file = tmp_path / f"raw-{len(raw)}.pb.gz"
            file.write_bytes(body)
            raw.append(file)

    def enough(_method: str, path: str) -> bool:
        return path.startswith("/debug/pprof/profile") and len(raw) >= PROFILES_TAKEN

    with (
        RecordingProxy(f"http://127.0.0.1:{port}", keep, enough) as proxy,
        system(tmp_path) as running,
    ):
        running.start_collector()
        running.start_agent("--go-endpoints", f"orders={proxy.url}", "--go-cycle-seconds", "5")
        wait_until(lambda: len(raw) >= PROFILES_TAKEN, what="two CPU profiles")
        expected = go_top(raw)
        total = sum(value for value, _ in expected.values())
        wait_until(
            lambda: sum(value for value, _ in running.top("orders").values()) == total,
            what="both profiles to arrive",
        )
        return expected, running.top("orders")


def drive(port: int, stop: threading.Event) -> None:
    """Send orders until told to stop."""
    import http.client

    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            while not stop.is_set():
                connection.request("GET", "/order?lines=20")
                connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            stop.wait(0.1)
        finally:
            connection.close()


def go_top(files: list[Path]) -> dict[str, tuple[int, int]]:
    """Self and total ns of each function by Go's own tool."""
    output = subprocess.run(
        [
            go_executable(), "tool", "pprof", "-top", "-unit=ns", "-nodecount=100000",
            "-nodefraction=0", "-edgefraction=0", "-symbolize=none", *map(str, files),
        ],
        capture_output=True, text=True, check=True,
        env={**os.environ, "GOTOOLCHAIN": "local", "PPROF_TMPDIR": str(files[0].parent)},
    ).stdout  # fmt: skip
    found = {}
    for line in output.splitlines():
        match = re.fullmatch(r"\s*(\d+)(?:ns)?\s+\S+%\s+\S+%\s+(\d+)(?:ns)?\s+\S+%\s+(.*)", line)
        if match:
            name = match.group(3).removesuffix(" (inline)").removesuffix(" (partial-inline)")
            found[name] = (int(match.group(1)), int(match.group(2)))
    return found
