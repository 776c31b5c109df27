"""Pyroscope's doors: flame bearers that decode back to the tree, Connect calls and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from collector.batches import P, batch
from flask.testing import FlaskClient

from flamewell_collector.app import Collector, now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_wire.profile_types import ALLOC_SPACE, CPU, INUSE_SPACE

API = {"service_name": "api", "pod": "api-1"}
WEB = {"service_name": "web", "pod": "web-1"}
STACKS = {
    "main a": 50,
    "main a x": 20,
    "main a y": 10,
    "main b": 15,
    "main": 3,
    "other": 7,
    "b a": 1,
}
SERVICE = "/querier.v1.QuerierService/"


@pytest.fixture(scope="module")
def start() -> int:
    return now_ms() // 60_000 * 60_000 - 600_000


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory, start: int) -> Iterator[Collector]:
    config = CollectorConfig(data_dir=str(tmp_path_factory.mktemp("data")))
    with running_collector(config) as running:
        profiles = [
            P(API, start + 1_000, STACKS, duration_ms=1_000),
            P(WEB, start + 61_000, {"main w": 60}, duration_ms=1_000),
            P(API, start, {"main heap": 100}, INUSE_SPACE.id),
            P(API, start + 30_000, {"main heap": 300}, INUSE_SPACE.id),
            P(API, start, {"main alloc": 5}, ALLOC_SPACE.id),
        ]
        running.storage.append(batch(profiles, batch_id="b"))
        yield running


@pytest.fixture
def client(collector: Collector) -> FlaskClient:
    return collector.app.test_client()


def decode(names: list[str], levels: list[list[int]]) -> dict[str, int]:
    """Rebuild stacks from a flame bearer by the places of its bars alone."""
    found: dict[str, int] = {}
    above: list[tuple[int, int, str]] = [(0, 2**62, "")]
    for level in levels:
        here, x = [], 0
        for at in range(0, len(level), 4):
            offset, total, own, name = level[at : at + 4]
            x += offset
            (path,) = [text for begin, end, text in above if begin <= x and x + total <= end]
            path = f"{path} {names[name]}".strip()
            here.append((x + own, x + total, path))
            if own:
                found[path] = found.get(path, 0) + own
            x += total
        above = here
    return {path.removeprefix("total").strip(): own for path, own in found.items()}


def rendered(client: FlaskClient, **parameters: Any) -> Any:
    asked = {"from": "now-30m", "until": "now", **parameters}
    answer = client.get("/pyroscope/render", query_string=asked)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


def test_render_decodes_back_to_the_tree(client: FlaskClient) -> None:
    answer = rendered(client, query=f'{CPU.id}{{service_name="api"}}')
    bearer = answer["flamebearer"]
    assert bearer["levels"][0] == [0, sum(STACKS.values()), 0, 0]
    assert bearer["names"][0] == "total"
    assert decode(bearer["names"], bearer["levels"]) == STACKS
    assert (bearer["numTicks"], bearer["maxSelf"]) == (sum(STACKS.values()), 50)
    assert answer["version"] == 1
    assert answer["metadata"]["format"] == "single"
    assert (answer["metadata"]["units"], answer["metadata"]["sampleRate"]) == ("samples", 10**9)
    line = answer["timeline"]
    assert sum(line["samples"]) == sum(STACKS.values())
    assert line["durationDelta"] * len(line["samples"]) == 1_800


def test_render_folds_what_is_small(client: FlaskClient) -> None:
    bearer = rendered(client, query=f"{CPU.id}{{}}", **{"max-nodes": 4})["flamebearer"]
    assert "other" in bearer["names"]
    assert sum(decode(bearer["names"], bearer["levels"]).values()) == sum(STACKS.values()) + 60


def test_render_of_a_gauge(client: FlaskClient) -> None:
    answer = rendered(client, query=f"{INUSE_SPACE.id}{{}}")
    assert answer["metadata"]["units"] == "bytes"
    assert answer["flamebearer"]["numTicks"] == 200


def test_render_errors(client: FlaskClient) -> None:
    for query, words in (("", "missing"), ("cpu{}", "five parts"), (f"{CPU.id}{{a}}", "one of =")):
        answer = client.get("/pyroscope/render", query_string={"query": query})
        assert answer.status_code == 400
        assert words in json.loads(answer.data)["error"]["message"]
    where = json.loads(
        client.get("/pyroscope/render", query_string={"query": f"{CPU.id}{{a}}"}).data
    )["error"]["position"]
    assert where == len(CPU.id) + 3


def test_render_diff(client: FlaskClient) -> None:
    sides = {
        "leftQuery": f'{CPU.id}{{service_name="api"}}', "leftFrom": "now-30m", "leftUntil": "now",
        "rightQuery": f'{CPU.id}{{service_name="web"}}', "rightFrom": "now-30m",
        "rightUntil": "now",
    }  # fmt: skip
    answer = json.loads(client.get("/pyroscope/render-diff", query_string=sides).data)
    assert answer["metadata"]["format"] == "double"
    assert (answer["leftTicks"], answer["rightTicks"]) == (sum(STACKS.values()), 60)
    assert answer["flamebearer"]["levels"][0] == [0, sum(STACKS.values()), 0, 0, 60, 0, 0]
    sides["rightQuery"] = f"{ALLOC_SPACE.id}{{}}"
    assert client.get("/pyroscope/render-diff", query_string=sides).status_code == 400


def test_label_values(client: FlaskClient) -> None:
    asked = {"label": "service_name", "from": "now-30m"}
    assert json.loads(client.get("/pyroscope/label-values", query_string=asked).data) == [
        "api", "web",
    ]  # fmt: skip


def call(client: FlaskClient, method: str, message: Any, status: int = 200) -> Any:
    answer = client.post(SERVICE + method, json=message)
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/json"
    return json.loads(answer.data)


@pytest.mark.parametrize(
    "spelling", ["profileTypeID", "profile_typeID", "profileTypeId", "profile_type_id"]
)
@pytest.mark.parametrize("number", [int, str])
def test_select_merge_stacktraces(
    client: FlaskClient, start: int, spelling: str, number: type
) -> None:
    message = {
        spelling: CPU.id,
        "labelSelector": '{service_name="api"}',
        "start": number(start),
        "end": number(start + 60_000),
        "maxNodes": number(1_000),
    }
    graph = call(client, "SelectMergeStacktraces", message)["flamegraph"]
    assert graph["total"] == str(sum(STACKS.values()))
    assert graph["maxSelf"] == "50"
    levels = [[int(value) for value in level["values"]] for level in graph["levels"]]
    assert all(isinstance(value, str) for level in graph["levels"] for value in level["values"])
    assert decode(graph["names"], levels) == STACKS


def test_start_and_end_of_0_mean_all(client: FlaskClient) -> None:
    for span in ({"start": 0, "end": "0"}, {}):
        message = {"profileTypeID": CPU.id, "labelSelector": "{}", **span}
        graph = call(client, "SelectMergeStacktraces", message)["flamegraph"]
        assert graph["total"] == str(sum(STACKS.values()) + 60)
    types = call(client, "ProfileTypes", {"start": 0, "end": 0})["profileTypes"]
    assert {each["ID"] for each in types} == {CPU.id, INUSE_SPACE.id, ALLOC_SPACE.id}
    assert types[-1] == {
        "ID": CPU.id, "name": "process_cpu", "sampleType": "cpu", "sampleUnit": "nanoseconds",
        "periodType": "cpu", "periodUnit": "nanoseconds",
    }  # fmt: skip


def test_without_data_the_graph_is_absent(client: FlaskClient) -> None:
    for message in (
        {"profileTypeID": "no:such:count:type:count"},
        {"profileTypeID": CPU.id, "labelSelector": '{service_name="nobody"}'},
    ):
        assert call(client, "SelectMergeStacktraces", message) == {}
    assert call(client, "SelectSeries", {"profileTypeID": "no:such:count:t:c"}) == {"series": []}


def test_labels_and_series(client: FlaskClient) -> None:
    assert call(client, "LabelNames", {})["names"] == ["pod", "service_name"]
    assert call(client, "LabelValues", {"name": "pod"})["names"] == ["api-1", "web-1"]
    narrowed = {"name": "pod", "matchers": ['{service_name="web"}']}
    assert call(client, "LabelValues", narrowed)["names"] == ["web-1"]
    assert call(client, "Series", {"labelNames": ["service_name"]}) == {
        "labelsSet": [
            {"labels": [{"name": "service_name", "value": "api"}]},
            {"labels": [{"name": "service_name", "value": "web"}]},
        ]
    }
    (web,) = call(client, "Series", {"matchers": ['{pod=~"web.*"}']})["labelsSet"]
    assert [each["name"] for each in web["labels"]] == ["pod", "service_name"]


def test_select_series_points_cover_the_step_that_ends_there(
    client: FlaskClient, start: int
) -> None:
    message = {
        "profileTypeID": CPU.id, "labelSelector": "{}", "start": str(start),
        "end": str(start + 180_000), "step": 60, "groupBy": ["service_name"],
    }  # fmt: skip
    api, web = call(client, "SelectSeries", message)["series"]
    assert api["labels"] == [{"name": "service_name", "value": "api"}]
    assert api["points"] == [{"value": sum(STACKS.values()), "timestamp": str(start + 60_000)}]
    assert web["points"] == [{"value": 60, "timestamp": str(start + 120_000)}]
    (together,) = call(client, "SelectSeries", {**message, "groupBy": []})["series"]
    assert together["labels"] == []
    assert [point["timestamp"] for point in together["points"]] == [
        str(start + 60_000), str(start + 120_000),
    ]  # fmt: skip
    gauge = {**message, "profileTypeID": INUSE_SPACE.id, "groupBy": []}
    ((point,),) = [each["points"] for each in call(client, "SelectSeries", gauge)["series"]]
    assert point == {"value": 200, "timestamp": str(start + 60_000)}


def test_diff(client: FlaskClient) -> None:
    sides = {
        "left": {"profileTypeID": CPU.id, "labelSelector": '{service_name="api"}'},
        "right": {"profileTypeID": CPU.id, "labelSelector": '{service_name="web"}'},
    }
    graph = call(client, "Diff", sides)["flamegraph"]
    assert (graph["leftTicks"], graph["rightTicks"]) == (str(sum(STACKS.values())), "60")
    assert graph["levels"][0]["values"] == [
        "0",
        str(sum(STACKS.values())),
        "0",
        "0",
        "60",
        "0",
        "0",
    ]
    assert all(len(level["values"]) % 7 == 0 for level in graph["levels"])


@pytest.mark.parametrize(
    ("method", "message", "words"),
    [
        ("SelectMergeStacktraces", {}, "profileTypeID"),
        ("SelectMergeStacktraces", {"profileTypeID": 5}, "string"),
        ("SelectMergeStacktraces", {"profileTypeID": "cpu"}, "five parts"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU.id, "labelSelector": "{"}, "character 2"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU.id, "start": 5, "end": 5}, "before"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU.id, "start": "x"}, "whole number"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU.id, "end": 2**63}, "64-bit"),
        ("SelectSeries", {"profileTypeID": CPU.id, "step": -1}, "step"),
        ("SelectSeries", {"profileTypeID": CPU.id, "step": "NaN"}, "step"),
        ("SelectSeries", {"profileTypeID": CPU.id, "groupBy": "pod"}, "list"),
        ("LabelValues", {}, "name"),
        ("Diff", {"left": {}}, "right"),
        ("LabelNames", [], "JSON object"),
    ],
)
def test_connect_errors(client: FlaskClient, method: str, message: Any, words: str) -> None:
    error = call(client, method, message, 400)
    assert set(error) == {"code", "message"}
    assert error["code"] == "invalid_argument"
    assert words in error["message"]


def test_connect_errors_of_the_protocol(client: FlaskClient) -> None:
    path = SERVICE + "LabelNames"
    for answer, status, code in (
        (client.post(SERVICE + "NoSuchCall", json={}), 404, "unimplemented"),
        (client.get(path), 405, "unimplemented"),
        (client.post(path, data=b"", content_type="application/proto"), 415, "invalid_argument"),
        (client.post(path, data=b"{", content_type="application/json"), 400, "invalid_argument"),
        (
            client.post(path, data=b" " * (2 << 20), content_type="application/json"),
            413,
            "resource_exhausted",
        ),
    ):
        assert (answer.status_code, json.loads(answer.data)["code"]) == (status, code)
