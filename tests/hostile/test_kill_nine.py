"""kill -9 of a real agent at any moment: no target stays stopped or traced, no sampler is left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from agent.conftest import TARGETS
from agent.pyspy_windows import held

KILLS = 12
"""Of each mode."""
RELEASE_SECONDS = 5.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def sink() -> Iterator[str]:
    """Take every batch."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextlib.contextmanager
def agent(folder: Path, url: str, mark: str, *, native: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent that samples only what has the mark in its arguments."""
    rules: list[dict[str, object]] = [
        {
            "source_labels": ["__meta_process_cmdline"],
            "regex": f".*{mark}.*",
            "action": "keep",
        },
        {"target_label": "__native__", "replacement": str(native).lower()},
    ]
    config = folder / "agent.yaml"
    config.write_text(json.dumps({"relabel_configs": rules}))
    command = [
        *(sys.executable, "-m", "flamewell_agent", "run", "--config", str(config)),
        *("--collector-url", url, "--state-dir", str(folder / "state"), "--metrics-listen", ""),
        *("--cycle-seconds", "5", "--overhead-budget", "0.2", "--target-pause-budget", "0.05"),
        "--no-on-demand",
    ]
    with (folder / "agent.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def samplers(folder: Path) -> list[psutil.Process]:
    """Give the py-spy processes that work for the agent of a folder, wherever they hang."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                any(str(folder) in each for each in process.cmdline())
                and "py-spy" in process.name()
            ):
                found.append(process)
    return found


def wait_for_samplers(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "agent.log").read_text()
        if samplers(folder):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("native", [False, True], ids=["nonblocking", "native"])
def test_a_killed_agent_lets_go_of_everything(tmp_path, sink, burning, native):
    mark = f"hostile-{os.getpid()}-{native}"
    targets = [
        burning(sys.executable, str(TARGETS / "shares.py"), mark),
        burning(sys.executable, str(TARGETS / "threads.py"), "20", mark),
    ]
    chance = random.Random(9)
    at_work = 0
    for kill in range(KILLS):
        with agent(tmp_path, sink, mark, native=native) as process:
            if kill % 4 == 3:
                # At any moment of its start, and of its first look.
                time.sleep(chance.uniform(0.0, 3.0))
            else:
                wait_for_samplers(process, tmp_path, 30)
                time.sleep(chance.uniform(0.0, 0.3 if kill % 2 else 2.0))
            working = samplers(tmp_path)
            at_work += bool(working)
            process.kill()
            process.wait()
        deadline = time.monotonic() + RELEASE_SECONDS
        while time.monotonic() < deadline and (
            samplers(tmp_path) or any(held(each) for each in targets)
        ):
            time.sleep(0.02)
        assert samplers(tmp_path) == []
        assert [held(each) for each in targets] == [[], []]
    print(f"{at_work} of {KILLS} kills with a sampler at work")
    assert at_work >= KILLS // 2, (tmp_path / "agent.log").read_text()[-3000:]
    for each in targets:
        before = psutil.Process(each).cpu_times().user
        time.sleep(0.5)
        assert psutil.Process(each).cpu_times().user > before, "it goes on"
