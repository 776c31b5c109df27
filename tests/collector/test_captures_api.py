"""The doors for people and for agents, by Flask's client on the real app."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from collector.batches import P, batch
from collector.test_api import check
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flamewell_collector.app import Collector, now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_collector.web import openapi
from flamewell_wire.profile_types import CPU

WISH = {"target": {"service": "payments"}, "kind": "cpu", "seconds": 5, "rate_hz": 49}
AGENT = {"node": "n1", "agent_id": "a1"}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with running_collector(CollectorConfig(data_dir=str(tmp_path / "data"))) as running:
        yield running


@pytest.fixture
def client(collector: Collector) -> FlaskClient:
    return collector.app.test_client()


def post(client: FlaskClient, path: str, body: Any, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"/api/v1{path}", json=body, headers=named)


def created(client: FlaskClient, **change: Any) -> dict[str, Any]:
    answer = post(client, "/captures", {**WISH, **change})
    assert answer.status_code == 201, answer.text
    found = json.loads(answer.data)
    assert answer.headers["Location"] == f"/api/v1/captures/{found['id']}"
    check(found, openapi.SCHEMAS["Capture"], "capture")
    return found  # type: ignore[no-any-return]


def report(client: FlaskClient, order: str, state: str, **rest: Any) -> TestResponse:
    return post(client, f"/agent/orders/{order}", {**AGENT, "state": state, **rest})


def test_from_the_wish_to_the_flame_graph(collector: Collector, client: FlaskClient) -> None:
    made = created(client)
    assert (made["state"], made["requested_by"]) == ("waiting", "anonymous@127.0.0.1")
    polled = post(client, "/agent/poll", {**AGENT, "version": "1", "running": []})
    handout = json.loads(polled.data)
    check(handout, openapi.SCHEMAS["Handout"], "handout")
    assert handout["orders"] == [{"id": made["id"], **WISH}]
    assert handout["poll_seconds"] == 10
    assert report(client, made["id"], "accepted").status_code == 200
    other = {**AGENT, "node": "n2", "state": "accepted"}
    assert post(client, f"/agent/orders/{made['id']}", other).status_code == 409
    labels = {"service_name": "payments", "node": "n1", "capture_id": made["id"]}
    collector.storage.append(batch([P(labels, now_ms(), {"main a": 5})], batch_id="b"))
    assert report(client, made["id"], "done", samples=5).status_code == 200
    answer = client.get(f"/api/v1/captures/{made['id']}")
    shown = json.loads(answer.data)
    check(shown, openapi.SCHEMAS["CaptureInFull"], "capture")
    assert (shown["state"], shown["samples"], shown["node"]) == ("done", 5, "n1")
    assert [line["what"] for line in shown["audit"]] == ["create", "hand_out", "finish"]
    graph = json.loads(client.get(shown["flamegraph"]).data)
    assert (graph["type"], graph["total"]) == (CPU.id, 5)
    assert client.get(shown["folded"]).data.endswith(b" 5\n")
    state = parse_qs(urlsplit(shown["page"]).fragment, keep_blank_values=True)
    assert state["selector"] == [f'capture_id="{made["id"]}"']
    assert state["service"] == [""]


def test_lists(client: FlaskClient) -> None:
    first = created(client)
    second = created(client, target={"node": "n1", "pid": 5})
    client.delete(f"/api/v1/captures/{first['id']}")

    def listed(**parameters: Any) -> list[str]:
        answer = client.get("/api/v1/captures", query_string=parameters)
        return [each["id"] for each in json.loads(answer.data)["captures"]]

    assert listed() == [second["id"], first["id"]]
    assert listed(limit=1) == [second["id"]]
    assert listed(state="cancelled") == [first["id"]]
    assert listed(service="payments") == [first["id"]]
    assert client.get("/api/v1/captures?state=lost").status_code == 400


def test_cancel(client: FlaskClient) -> None:
    made = created(client)
    path = f"/api/v1/captures/{made['id']}"
    assert json.loads(client.delete(path).data)["state"] == "cancelled"
    assert client.delete(path).status_code == 409
    assert client.delete("/api/v1/captures/none").status_code == 404
    assert client.get("/api/v1/captures/none").status_code == 404
    handout = json.loads(post(client, "/agent/poll", {**AGENT, "running": [made["id"]]}).data)
    assert (handout["orders"], handout["ended"]) == ([], [made["id"]])


def test_tracing_is_off_by_default(client: FlaskClient) -> None:
    answer = post(client, "/captures", {**WISH, "kind": "strace", "seconds": 5, "rate_hz": 0})
    assert answer.status_code == 403
    message = json.loads(answer.data)["error"]["message"]
    assert "allow_tracing_captures" in message
    assert "13 to 25" in message


def test_a_trace_has_a_text_and_no_graph(tmp_path: Path) -> None:
    config = CollectorConfig(data_dir=str(tmp_path / "t"), allow_tracing_captures=True)
    with running_collector(config) as running:
        client = running.app.test_client()
        made = json.loads(post(client, "/captures", {"target": WISH["target"], "kind": "gdb"}).data)
        assert (made["seconds"], made["page"]) == (10, "")
        assert "gdb stops it" in made["warning"]
        report(client, made["id"], "accepted")
        text = '#0 "main" \\ ü\n' * 60_000
        assert report(client, made["id"], "done", result_text=text).status_code == 200
        shown = json.loads(client.get(f"/api/v1/captures/{made['id']}").data)
        assert shown["result_text"] == text
        assert report(client, made["id"], "done").status_code == 409


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[evil"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(
    client: FlaskClient, headers: dict[str, str], status: int
) -> None:
    assert client.post("/api/v1/captures", json=WISH, headers=headers).status_code == status
    if status != 201:
        made = created(client)
        for path in ("/agent/poll", f"/agent/orders/{made['id']}"):
            answer = client.post(f"/api/v1{path}", json=AGENT, headers=headers)
            assert answer.status_code == status
        path = f"/api/v1/captures/{made['id']}"
        assert client.delete(path, headers=headers).status_code == status


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", ["/captures", "/agent/poll", "/agent/orders/x"])
def test_only_json_is_taken(client: FlaskClient, path: str, content_type: str) -> None:
    answer = client.post(f"/api/v1{path}", data=json.dumps(WISH), content_type=content_type)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/captures", b"{", 400),
        ("/captures", b"[" * 10_000, 400),
        ("/captures", b"\xff", 400),
        ("/captures", b"{}", 400),
        ("/captures", b" " * (17 << 10), 413),
        ("/agent/poll", b"{}", 400),
        ("/agent/poll", b"[]", 400),
        ("/agent/poll", b'{"node": "n", "agent_id": "a", "running": "x"}', 400),
        ("/agent/poll", b'{"node": "n", "agent_id": "a", "running": [5]}', 400),
        ("/agent/poll", b'{"node": "\\u0000", "agent_id": "a"}', 400),
        ("/agent/poll", b" " * (65 << 10), 413),
        ("/agent/orders/x", b"{}", 400),
        ("/agent/orders/x", b'{"node": "n", "agent_id": "a", "state": "done"}', 404),
        ("/agent/orders/x", b" " * (3 << 20), 413),
    ],
)
def test_bad_bodies(client: FlaskClient, path: str, body: bytes, status: int) -> None:
    answer = client.post(f"/api/v1{path}", data=body, content_type="application/json")
    assert answer.status_code == status
    check(json.loads(answer.data), openapi.SCHEMAS["Error"], "error")


def test_agents_hear_on_how_many_nodes_their_services_are(
    collector: Collector, client: FlaskClient
) -> None:
    rows = [P({"service_name": "payments", "node": node}, now_ms(), {"main": 1}) for node in "abc"]
    collector.storage.append(batch(rows, batch_id="b"))
    assert json.loads(post(client, "/agent/poll", AGENT).data)["service_nodes"] == {}
    collector.orders.nodes.refresh()
    polled = post(client, "/agent/poll", {**AGENT, "node": "a"})
    assert json.loads(polled.data)["service_nodes"] == {"payments": 3}
