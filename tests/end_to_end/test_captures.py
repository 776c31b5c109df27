"""On-demand captures from the request to the samples, with a real collector and agent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from end_to_end.system import System, free_port, system, wait_until

from flamewell_wire.profile_types import LIVE_OBJECTS

SERVICE = "captured"
BURN = """
def spin():
    for _ in range(100_000):
        pass
def burn():
    while True:
        spin()
print(flush=True)
burn()
"""


@pytest.fixture
def burning() -> Iterator[int]:
    program = subprocess.Popen(
        [sys.executable, "-c", BURN],
        stdout=subprocess.PIPE,
        env={**os.environ, "OTEL_SERVICE_NAME": SERVICE},
    )
    try:
        assert program.stdout is not None
        program.stdout.readline()
        yield program.pid
    finally:
        program.kill()
        program.communicate()


def ask(running: System, **wish: Any) -> str:
    request = urllib.request.Request(
        running.url + "/api/v1/captures",
        json.dumps(wish).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["id"])


def ended(running: System, capture_id: str) -> dict[str, Any]:
    def show() -> dict[str, Any] | None:
        shown = dict(running.get(f"/api/v1/captures/{capture_id}"))
        return None if shown["state"] in {"waiting", "accepted", "running"} else shown

    return dict(wait_until(show, seconds=100, what=f"the end of capture {capture_id}"))


def lines(url: str, start: str) -> list[str]:
    with urllib.request.urlopen(url + "/metrics") as answer:
        return [each for each in answer.read().decode().splitlines() if each.startswith(start)]


@pytest.mark.slow
def test_a_capture_brings_samples_under_its_own_label(tmp_path: Path, burning: int) -> None:
    with system(tmp_path) as running:
        running.start_collector("--flush-seconds", "1", "--agent-poll-seconds", "1")
        metrics = free_port()
        running.start_agent(
            *("--cycle-seconds", "1", "--overhead-budget", "0.3"),
            *("--metrics-listen", f"127.0.0.1:{metrics}"),
        )
        by_pid = ask(
            running,
            target={"node": socket.gethostname(), "pid": burning},
            kind="cpu",
            seconds=3,
            rate_hz=49,
        )
        by_service = ask(running, target={"service": SERVICE}, kind="wall", seconds=2, rate_hz=19)
        done = ended(running, by_pid)
        assert (done["state"], done["node"]) == ("done", socket.gethostname()), done
        assert done["samples"] > 0
        # The batch follows the word that it is done.
        path, _, query = done["folded"].partition("?")
        link = {**dict(urllib.parse.parse_qsl(query)), "until": "now"}
        folded = wait_until(lambda: running.get_bytes(path, **link).decode(), what="its samples")
        assert "burn" in folded
        assert "spin" in folded
        wall = ended(running, by_service)
        assert (wall["state"], wall["samples"] > 0) == ("done", True), wall
        told = lines(running.url, "flamewell_collector_captures_total")
        assert any('kind="cpu"' in each and 'result="done"' in each for each in told), told


@pytest.mark.slow
def test_a_heap_is_counted_on_demand(tmp_path: Path, burning: int) -> None:
    with system(tmp_path) as running:
        running.start_collector("--flush-seconds", "1", "--agent-poll-seconds", "1")
        running.start_agent("--cycle-seconds", "1", "--overhead-budget", "0.3")
        done = ended(running, ask(running, target={"service": SERVICE}, kind="heap", seconds=1))
        assert done["state"] == "done", done
        assert f"pid {burning}" in done["detail"]
        assert "function" in done["result_text"]
        assert "nothing has grown" in done["result_text"]

        def live() -> dict[str, int]:
            table = running.get(
                "/api/v1/top",
                type=LIVE_OBJECTS.id,
                query=f'{{service_name="{SERVICE}"}}',
                **{"from": "now-5m", "until": "now"},
            )
            return {row["function"]: row["self"] for row in table["rows"]}

        found = wait_until(live, what="the types as a profile")
        assert found["function"] > 100


@pytest.mark.slow
def test_a_capture_goes_on_over_a_reload(tmp_path: Path, burning: int) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("cycle_seconds: 1\noverhead_budget: 0.3\n")
    with system(tmp_path) as running:
        running.start_collector("--flush-seconds", "1", "--agent-poll-seconds", "1")
        agent = running.start_agent("--config", str(file))
        node = socket.gethostname()
        capture = ask(
            running, target={"node": node, "pid": burning}, kind="cpu", seconds=6, rate_hz=49
        )
        wait_until(
            lambda: running.get(f"/api/v1/captures/{capture}")["state"] == "running",
            what="a first window",
        )
        file.write_text("cycle_seconds: 1\noverhead_budget: 0.2\n")
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "changed overhead_budget" in agent.tail(), what="the reload")
        done = ended(running, capture)
        assert done["state"] == "done", done


@pytest.mark.slow
def test_one_that_does_not_fit_into_the_budget_is_refused_with_the_reason(
    tmp_path: Path, burning: int
) -> None:
    with system(tmp_path) as running:
        running.start_collector("--flush-seconds", "1", "--agent-poll-seconds", "1")
        running.start_agent("--cycle-seconds", "1", "--overhead-budget", "0.0005")
        node = socket.gethostname()
        capture = ask(
            running, target={"node": node, "pid": burning}, kind="cpu", seconds=30, rate_hz=997
        )
        refused = ended(running, capture)
        assert refused["state"] == "refused", refused
        assert "budget" in refused["detail"]
        assert refused["samples"] == 0
