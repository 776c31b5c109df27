"""The agent's own metrics and its status server."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flamewell_agent import status_server
from flamewell_agent.errors import StateError
from flamewell_agent.metrics import AgentMetrics, agent_cpu_seconds, agent_memory_bytes
from flamewell_agent.model import Coverage, Process, ProcessKey
from flamewell_agent.status_server import StatusServer

DOCUMENTED = {
    "flamewell_agent_cpu_seconds_total",
    "flamewell_agent_memory_bytes",
    "flamewell_agent_overhead_ratio",
    "flamewell_agent_overhead_budget_ratio",
    "flamewell_agent_target_pause_seconds_total",
    "flamewell_agent_targets",
    "flamewell_agent_samples_total",
    "flamewell_agent_spool_bytes",
    "flamewell_agent_dropped_batches_total",
    "flamewell_agent_sent_batches_total",
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def process(pid: int, runtime: str = "cpython") -> Process:
    return Process(ProcessKey(pid, 1), runtime, "3.11", "app", ("app", "--password=hunter2"))


COVERAGE = (
    Coverage(process(1), "payments", "sampled", "on_cpu"),
    Coverage(process(2), "payments", "sampled", "on_cpu"),
    Coverage(process(3, "go"), "orders", "skipped", "go_detection_off", "set go_detect"),
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock) -> AgentMetrics:
    return AgentMetrics(clock=clock)


@pytest.fixture
def server(metrics, clock):
    server = StatusServer(("127.0.0.1", 0), metrics, stale_after_seconds=60, clock=clock)
    server.start()
    yield server
    server.stop()


def get(server: StatusServer, path: str, method: str = "GET") -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_every_documented_name_is_there_from_the_first_scrape_on(metrics):
    metrics.add_samples("cpython", "ok")
    metrics.add_dropped("spool_full")
    metrics.publish(COVERAGE)
    families = text_string_to_metric_families(metrics.render().decode())
    assert {sample.name for family in families for sample in family.samples} >= DOCUMENTED


def test_verbs_end_up_in_their_metrics(metrics):
    metrics.set_overhead(0.004, 0.003)
    metrics.set_budget(0.01, 1 << 20)
    metrics.add_pause(0.25)
    metrics.add_samples("go", "ok", 30)
    metrics.add_stage_failure("identity")
    metrics.watch_spool(size_bytes=lambda: 7, batches=lambda: 2)
    value = metrics.registry.get_sample_value
    assert value("flamewell_agent_overhead_ratio") == 0.004
    assert value("flamewell_agent_overhead_budget_ratio") == 0.01
    assert value("flamewell_agent_target_pause_seconds_total") == 0.25
    assert value("flamewell_agent_samples_total", {"runtime": "go", "result": "ok"}) == 30
    assert value("flamewell_agent_stage_failures_total", {"stage": "identity"}) == 1
    assert value("flamewell_agent_spool_bytes") == 7
    assert value("flamewell_agent_spool_batches") == 2


def test_targets_are_those_of_the_last_cycle_only(metrics):
    metrics.publish(COVERAGE)
    metrics.publish(COVERAGE[:1])
    labels = {"runtime": "cpython", "state": "sampled", "reason": "on_cpu"}
    assert metrics.registry.get_sample_value("flamewell_agent_targets", labels) == 1
    assert b"go_detection_off" not in metrics.render()


def test_cpu_counts_children_that_have_ended():
    before = agent_cpu_seconds()
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True
    )
    assert agent_cpu_seconds() - before >= 0.3


def test_memory_counts_children_that_run():
    before = agent_memory_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(64 << 20); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        child.stdout.readline()
        assert agent_memory_bytes() - before >= 60 << 20
    finally:
        child.communicate(b"\n")


def test_metrics_are_served(server, metrics):
    metrics.publish(COVERAGE)
    status, headers, body = get(server, "/metrics?x=1")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert re.search(rb"^flamewell_agent_cpu_seconds_total \d", body, re.MULTILINE)


def test_ready_after_the_first_cycle(server, metrics):
    assert get(server, "/ready")[0] == get(server, "/-/ready")[0] == 503
    metrics.publish(COVERAGE)
    assert get(server, "/ready")[0] == get(server, "/-/ready")[0] == 200


def test_unhealthy_when_no_cycle_has_finished_for_long(server, metrics, clock):
    assert get(server, "/-/healthy")[0] == 200
    metrics.publish(COVERAGE)
    clock.now += 61
    assert get(server, "/-/healthy")[::2] == (503, b"no cycle has finished for 61 s\n")


def test_longer_cycles_of_a_reload_are_given_longer(server, metrics, clock):
    metrics.publish(COVERAGE)
    server.stale_after_seconds = 600
    clock.now += 599
    assert get(server, "/-/healthy")[0] == 200
    clock.now += 2
    assert get(server, "/-/healthy")[0] == 503


def test_unhealthy_when_the_first_cycle_never_ends(server, clock):
    clock.now += 59
    assert get(server, "/-/healthy")[0] == 200
    clock.now += 2
    assert get(server, "/-/healthy")[0] == 503


def test_slow_connections_do_not_keep_their_places(server, monkeypatch):
    monkeypatch.setattr(status_server, "_REQUEST_TIMEOUT_SECONDS", 0.2)
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(16)]
    try:
        for each in slow:  # within the time that each read has, they never end a request
            each.sendall(b"GET /-/healthy HTTP/1.0\r\n")
        for each in slow:
            assert each.recv(100) == b""
        assert get(server, "/-/healthy")[0] == 200
    finally:
        for each in slow:
            each.close()


def test_coverage_names_every_process_and_no_argument(server, metrics):
    metrics.publish(COVERAGE)
    status, headers, body = get(server, "/coverage")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    rows = json.loads(body)["processes"]
    assert [(row["pid"], row["state"], row["reason"]) for row in rows] == [
        (1, "sampled", "on_cpu"),
        (2, "sampled", "on_cpu"),
        (3, "skipped", "go_detection_off"),
    ]
    assert b"hunter2" not in body


def test_other_paths_and_methods(server):
    assert get(server, "/nothing")[0] == 404
    status, headers, body = get(server, "/-/healthy", "HEAD")
    assert (status, body) == (200, b"")
    assert get(server, "/metrics", "POST")[0] == 501
    assert "Python" not in headers["Server"]


def test_idle_connections_cannot_use_up_the_threads(server):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    try:
        assert len([each for each in threading.enumerate() if "process_request" in each.name]) <= 16
    finally:
        for each in idle:
            each.close()


def test_a_port_that_is_taken_is_named(server, metrics):
    with pytest.raises(StateError, match="metrics_listen"):
        StatusServer(("127.0.0.1", server.port), metrics, stale_after_seconds=60)
