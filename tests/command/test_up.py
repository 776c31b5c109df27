"""``flamewell up`` with stand-ins for collector and agent: start, stop, and every way to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flamewell.data_dir import default_data_dir
from flamewell.preflight import free_port

WAIT_SECONDS = 60

COLLECTOR = """
import http.server, os, signal, sys, threading
host, port = sys.argv[sys.argv.index("--listen") + 1].split(":")
print("arguments", *sys.argv[1:], flush=True)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ.get("STAND_IN_SERVICES", "{}").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((host, int(port)), Ready)
def stop(*_):
    os.write(1, b"collector flushed\\n")  # print may be under way in what was interrupted
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
"""
AGENT = """
import os, signal, sys, time
print("arguments", *sys.argv[1:], flush=True)
print('{"level": "error", "msg": "py-spy is missing"}', flush=True)
if os.environ.get("STAND_IN_AGENT") == "dies":
    print('{"level": "info", "msg": "about to fail"}', flush=True)
    raise RuntimeError("no such thing")
if os.environ.get("STAND_IN_AGENT") == "starts slowly":
    print("agent starts", flush=True)
    time.sleep(600)
def stop(*_):
    if os.environ.get("STAND_IN_AGENT") == "stays":
        os.write(1, b"ignored\\n")
        return
    os.write(1, b"agent flushed\\n")
    sys.exit(3 if os.environ.get("STAND_IN_AGENT") == "fails at the end" else 0)
signal.signal(signal.SIGTERM, stop)
print("agent runs", flush=True)
while True: time.sleep(60)
"""
LOW_LIMIT = """
import sys
import flamewell.demo
from flamewell.cli import main
flamewell.demo.MEMORY_LIMIT_MIB = 1
sys.exit(main())
"""


class Running:
    """A running ``flamewell up``."""

    def __init__(
        self,
        folder: Path,
        environ: dict[str, str],
        arguments: tuple[str, ...],
        program: tuple[str, ...],
    ) -> None:
        self.data_dir = folder / "data"
        self.port = free_port()
        self.output = folder / "output"
        command = [sys.executable, *program, "up", "--data-dir", str(self.data_dir)]
        with self.output.open("wb") as sink:
            self.process = psutil.Popen(
                [*command, "--port", str(self.port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "PYTHONPATH": str(folder / "parts"), **environ},
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def log(self) -> str:
        path = self.data_dir / "flamewell.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, words: str) -> list[psutil.Process]:
        """Wait until output or log hold some words; gives the children."""
        deadline = time.monotonic() + WAIT_SECONDS
        while words not in self.text + self.log:
            assert time.monotonic() < deadline, self.text + self.log
            assert self.process.poll() is None, self.text + self.log
            time.sleep(0.02)
        return list(self.process.children(recursive=True))

    def end(self) -> int:
        return int(self.process.wait(WAIT_SECONDS))


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    for name, code in (("flamewell_collector", COLLECTOR), ("flamewell_agent", AGENT)):
        package = tmp_path / "parts" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(code)
    started: list[Running] = []

    def begin(
        *arguments: str, program: tuple[str, ...] = ("-m", "flamewell"), **environ: str
    ) -> Running:
        started.append(Running(tmp_path, environ, arguments, program))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=WAIT_SECONDS)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_starts_both_and_stops_them_in_order(start: Start, number: signal.Signals) -> None:
    running = start()
    children = running.wait_for("agent runs")
    assert len(children) == 2
    running.process.send_signal(number)
    assert running.end() == 0
    assert all_gone(children)
    assert running.log.index("agent flushed") < running.log.index("collector flushed")
    assert f"flamewell is up: http://127.0.0.1:{running.port}" in running.text
    assert running.text.endswith("Stopped; the data is kept.\n")


def test_the_parts_are_told_where_to_listen_and_to_keep_their_data(start: Start) -> None:
    running = start()
    running.wait_for("agent runs")
    url, data_dir = f"127.0.0.1:{running.port}", running.data_dir
    assert f"serve --listen {url} --log-format json --data-dir {data_dir}/store" in running.log
    assert f"run --collector-url http://{url} --log-format json --go-detect" in running.log
    assert f"--state-dir {data_dir}/agent" in running.log
    assert data_dir.stat().st_mode & 0o777 == 0o700


def test_a_parts_errors_are_shown_while_it_runs(start: Start) -> None:
    running = start()
    running.wait_for("agent runs")
    assert "agent: error: py-spy is missing\n" in running.text
    assert "arguments" not in running.text


def test_a_part_that_dies_is_named_with_its_last_words(start: Start) -> None:
    running = start(STAND_IN_AGENT="dies")
    assert running.end() == 1
    assert "flamewell: agent ended with status 1. Its last lines:\n" in running.text
    assert "    about to fail\n" in running.text
    assert "RuntimeError: no such thing" in running.text
    assert f"The whole log: {running.data_dir}/flamewell.log" in running.text
    assert "collector flushed" in running.log


def test_a_part_that_is_killed_is_named(start: Start) -> None:
    running = start()
    children = running.wait_for("agent runs")
    (collector,) = [each for each in children if "flamewell_collector" in each.cmdline()]
    collector.kill()
    assert running.end() == 1
    assert "flamewell: collector was ended by SIGKILL." in running.text
    assert "agent flushed" in running.log
    assert all_gone(children)


def test_a_second_ctrl_c_kills_who_does_not_stop(start: Start) -> None:
    running = start(STAND_IN_AGENT="stays")
    children = running.wait_for("agent runs")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("ignored")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 1
    assert "Killed: agent, collector." in running.text
    assert all_gone(children)


def test_a_part_that_fails_at_the_end_is_told(start: Start) -> None:
    running = start(STAND_IN_AGENT="fails at the end")
    running.wait_for("agent runs")
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 1
    assert "agent ended with status 3" in running.text
    assert "collector flushed" in running.log


def test_a_part_that_is_stopped_while_it_starts_has_ended_well(start: Start) -> None:
    running = start(STAND_IN_AGENT="starts slowly")
    running.wait_for("agent starts")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    assert running.text.endswith("Stopped; the data is kept.\n")


def test_kill_minus_nine_leaves_nothing_behind(start: Start) -> None:
    running = start()
    children = running.wait_for("agent runs")
    assert len(children) == 2
    running.process.kill()
    running.process.wait()
    assert all_gone(children)


def test_a_port_in_use_is_told_before_anything_starts(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        running = start("--port", str(server.getsockname()[1]))
        assert running.end() == 1
    assert "is in use by another program" in running.text
    assert "Traceback" not in running.text
    assert running.log == ""


def test_port_zero_takes_a_free_one(start: Start) -> None:
    running = start("--port", "0")
    running.wait_for("agent runs")
    assert "flamewell is up: http://127.0.0.1:" in running.text
    assert f":{running.port}\n" not in running.text


def test_the_demo_runs_and_goes_with_the_rest(start: Start) -> None:
    services = (
        '{"services": [{"service_name": "burner", "types": ["process_cpu:cpu:"]},'
        ' {"service_name": "payments", "types": ["process_cpu:cpu:"]}]}'
    )
    running = start("--demo", STAND_IN_SERVICES=services)
    children = running.wait_for("first profiles of burner, payments")
    assert "remember() keeps what json.loads returned" in running.text
    assert len(children) >= 5
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    assert all_gone(children)


def test_a_payment_service_at_its_limit_is_started_again(start: Start) -> None:
    running = start("--demo", program=("-c", LOW_LIMIT))
    running.wait_for("payments reached its memory limit and is started again")
    running.wait_for("out of memory at the limit of 1 MiB")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0


def test_a_demo_service_that_dies_ends_the_rest(start: Start) -> None:
    running = start("--demo")
    children = running.wait_for("agent runs")
    (payments,) = [each for each in children if any("payments.py" in a for a in each.cmdline())]
    payments.kill()
    assert running.end() == 1
    assert "payments was ended by SIGKILL" in running.text
    assert all_gone(children)


def test_a_folder_that_cannot_be_written_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    running = start("--data-dir", str(tmp_path / "file/data"))
    assert running.end() == 1
    assert f"cannot write to the data directory {tmp_path}/file/data" in running.text


@pytest.mark.parametrize("arguments", [("--port", "65536"), ("--port", "x"), ("--wrong",)])
def test_wrong_usage_is_status_two(start: Start, arguments: tuple[str, ...]) -> None:
    running = start(*arguments)
    assert running.end() == 2
    assert "usage: flamewell" in running.text


def test_the_data_directory_follows_the_desktop_convention() -> None:
    assert default_data_dir({"HOME": "/home/a"}) == Path("/home/a/.local/share/flamewell")
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/flamewell")
