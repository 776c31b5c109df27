"""The native API by Flask's client: shapes, errors, headers, and a true OpenAPI document."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from collector.batches import P, batch
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flamewell_collector.app import Collector, now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_collector.web import openapi
from flamewell_wire.profile_types import CPU, INUSE_SPACE, PROCESS_RSS

API = {"service_name": "api", "pod": "api-1", "node": "n1", "runtime": "cpython"}
NEAR = "from=now-10m&until=now%2B1m"


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    config = CollectorConfig(data_dir=str(tmp_path_factory.mktemp("data")))
    with running_collector(config) as running:
        now = now_ms() // 60_000 * 60_000 - 60_000
        profiles = [
            P(API, now - 3_600_000, {"main a": 1_000, "main b": 3_000}, duration_ms=10_000),
            P(API, now, {"main a": 5_000, "main b c": 1_000}, duration_ms=10_000),
            P({**API, "pod": "api-2"}, now, {"main a": 4_000, "main main": 9}, duration_ms=10_000),
            P(API, now, {"main alloc": 640}, INUSE_SPACE.id),
            P(API, now, {"": 2_000}, PROCESS_RSS.id),
            P({"service_name": "<b>&'"}, now, {"<script>alert(1)</script>": 7}),
        ]
        running.storage.append(batch(profiles, batch_id="b"))
        yield running


@pytest.fixture
def client(collector: Collector) -> FlaskClient:
    return collector.app.test_client()


def get(client: FlaskClient, path: str, **parameters: Any) -> Any:
    answer = client.get(path, query_string=parameters or None)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


def near(client: FlaskClient, path: str, **parameters: Any) -> Any:
    return get(client, path, **{"from": "now-10m", "until": "now+1m", **parameters})


def test_services(client: FlaskClient) -> None:
    first, other = near(client, "/api/v1/services")["services"]
    assert first["service_name"] == "api"
    assert first["runtime"] == "cpython"
    assert first["labels"] == {"node": "n1", "runtime": "cpython"}
    assert first["types"] == sorted([CPU.id, INUSE_SPACE.id, PROCESS_RSS.id])
    assert (first["series"], first["memory_bytes"], first["memory_limit_bytes"]) == (2, 2_000, None)
    assert other["service_name"] == "<b>&'"


def test_lists(client: FlaskClient) -> None:
    assert near(client, "/api/v1/label-values", label="pod")["values"] == ["api-1", "api-2"]
    one = near(client, "/api/v1/label-values", label="pod", query='{pod!="api-1"}')
    assert one["values"] == ["api-2"]
    names = near(client, "/api/v1/labels", query='{service_name="api"}')["values"]
    assert names == ["node", "pod", "runtime", "service_name"]
    assert {
        "id": INUSE_SPACE.id,
        "name": "memory:inuse_space",
        "unit": "bytes",
        "kind": "gauge",
    } in (near(client, "/api/v1/profile-types")["types"])
    series = near(client, "/api/v1/series", type=INUSE_SPACE.id)["series"]
    assert series == [API]
    assert near(client, "/api/v1/label-values", label="no_such")["values"] == []


def test_flame_graph_is_in_preorder_and_adds_up(client: FlaskClient) -> None:
    graph = near(client, "/api/v1/flamegraph", query='{service_name="api"}')
    names = [graph["functions"][at] for at in graph["name"]]
    assert list(zip(names, graph["depth"], graph["self"], strict=True)) == [
        ("total", 0, 0), ("main", 1, 0), ("a", 2, 9_000), ("b", 2, 0), ("c", 3, 1_000),
        ("main", 2, 9),
    ]  # fmt: skip
    assert graph["total"] == sum(graph["self"]) == 10_009
    assert (graph["unit"], graph["kind"], graph["pruned"]) == ("nanoseconds", "delta", False)
    assert graph["nodes"] == len(graph["name"])
    pruned = near(client, "/api/v1/flamegraph", query='{service_name="api"}', max_nodes=3)
    assert pruned["pruned"]
    assert sum(pruned["self"]) == 10_009


def test_top_counts_recursion_once(client: FlaskClient) -> None:
    table = near(client, "/api/v1/top", query='{service_name="api"}')
    rows = {row["function"]: (row["self"], row["total"]) for row in table["rows"]}
    assert rows == {"a": (9_000, 9_000), "c": (1_000, 1_000), "main": (9, 10_009), "b": (0, 1_000)}
    assert table["total"] == 10_009
    assert len(near(client, "/api/v1/top", limit=1)["rows"]) == 1


def test_diff_against_itself_is_zero_everywhere(client: FlaskClient) -> None:
    now = str(now_ms())
    early = str(now_ms() - 600_000)
    same = {"from": early, "until": now, "base_from": early, "base_until": now}
    graph = get(client, "/api/v1/diff", **same)
    assert graph["self"] == graph["base_self"]
    assert graph["total"] == graph["base_total"] == 10_016
    rows = get(client, "/api/v1/top-diff", **same)["rows"]
    assert all(
        row["self"] == row["base_self"] and row["total"] == row["base_total"] for row in rows
    )
    left = {f"left{key}": value for key, value in (("From", early), ("Until", now))}
    right = {f"right{key}": value for key, value in (("From", early), ("Until", now))}
    double = get(client, "/pyroscope/render-diff", query=f"{CPU.id}{{}}", **left, **right)
    assert double["leftTicks"] == double["rightTicks"] == 10_016
    for level in double["flamebearer"]["levels"]:
        for at in range(0, len(level), 7):
            assert level[at : at + 3] == level[at + 3 : at + 6]


def test_diff_with_an_earlier_range(client: FlaskClient) -> None:
    graph = near(client, "/api/v1/diff", base_from="now-70m", base_until="now-10m",
                 query='{service_name="api"}')  # fmt: skip
    assert (graph["total"], graph["base_total"]) == (10_009, 4_000)
    assert sum(graph["base_self"]) == 4_000
    just_before = get(client, "/api/v1/diff", **{"from": "now-55m", "until": "now+1m"})
    assert just_before["base_until_ms"] == just_before["from_ms"]
    span = just_before["until_ms"] - just_before["from_ms"]
    assert just_before["from_ms"] - just_before["base_from_ms"] == span


def test_timeline(client: FlaskClient) -> None:
    line = near(client, "/api/v1/timeline", step=60, query='{service_name="api"}')
    assert line["step_ms"] == 60_000
    assert len(line["values"]) == 11
    shown = [value for value in line["values"] if value is not None]
    assert sum(shown) * 60 == pytest.approx(10_009, rel=1e-3)
    gauge = near(client, "/api/v1/timeline", step=60, type=INUSE_SPACE.id)
    assert next(value for value in gauge["values"] if value is not None) == 640
    assert gauge["kind"] == "gauge"


@pytest.mark.parametrize("form", ["pprof", "folded", "speedscope", "parquet", "svg"])
def test_export(client: FlaskClient, form: str) -> None:
    answer = client.get(f"/api/v1/export?format={form}&{NEAR}")
    assert answer.status_code == 200
    assert re.fullmatch(
        r'attachment; filename="[A-Za-z0-9._-]+"', answer.headers["Content-Disposition"]
    )
    if form == "pprof":
        from flamewell_wire.pprof import Profile

        profile = Profile.FromString(gzip.decompress(answer.data))
        assert sum(sample.value[0] for sample in profile.sample) == 10_016
    if form == "folded":
        assert sum(int(line.rsplit(" ", 1)[1]) for line in answer.text.splitlines()) == 10_016
    if form == "svg":
        assert "<script>alert" not in answer.text


def test_status_and_ops(client: FlaskClient) -> None:
    status = get(client, "/api/v1/status")
    assert (status["ready"], status["reason"], status["agents"]) == (True, "", 1)
    for path in ("/ready", "/-/ready", "/-/healthy"):
        assert client.get(path).status_code == 200
    metrics = client.get("/metrics").text
    for wanted in (
        'flamewell_collector_query_duration_seconds_count{endpoint="series"}',
        "flamewell_collector_store_head_rows",
        "flamewell_collector_store_writable 1.0",
    ):
        assert wanted in metrics
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v1/top?query={pod=x}", 400, "character 6"),
        ("/api/v1/top?query={pod=~%22(%22}", 400, "regular expression"),
        ("/api/v1/flamegraph?type=cpu", 400, "five parts"),
        ("/api/v1/flamegraph?from=now&until=now-1h", 400, "before"),
        ("/api/v1/flamegraph?max_nodes=-1", 400, "max_nodes"),
        ("/api/v1/timeline?step=0", 400, "step"),
        ("/api/v1/timeline?step=nan", 400, "step"),
        ("/api/v1/timeline?step=0.001&from=now-1w", 400, "points"),
        ("/api/v1/label-values", 400, "label"),
        ("/api/v1/export?format=exe", 400, "pprof, folded"),
        ("/api/v1/nothing", 404, "openapi"),
    ],
)
def test_errors_say_what_to_do(client: FlaskClient, path: str, status: int, words: str) -> None:
    answer = client.get(path)
    error = json.loads(answer.data)["error"]
    assert (answer.status_code, words in error["message"]) == (status, True), error
    assert error["code"] == {400: "invalid_argument", 404: "not_found"}[status]


def test_selector_errors_carry_the_position(client: FlaskClient) -> None:
    answer = client.get("/api/v1/top", query_string={"query": '{a="b" c}'})
    assert json.loads(answer.data)["error"]["position"] == 8


def test_other_methods_are_refused(client: FlaskClient) -> None:
    answer = client.post("/api/v1/top")
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]
    assert json.loads(answer.data)["error"]["code"] == "method_not_allowed"


def test_unknown_types_are_empty(client: FlaskClient) -> None:
    graph = near(client, "/api/v1/flamegraph", type="no:such:count:type:count")
    assert (graph["total"], graph["name"], graph["self"]) == (0, [0], [0])
    assert near(client, "/api/v1/top", type="no:such:count:type:count")["rows"] == []


def check_headers(answer: TestResponse) -> None:
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_every_answer_has_security_headers(client: FlaskClient) -> None:
    for path in ("/api/v1/services", "/nothing", "/metrics", "/ready", "/api/v1/top?query=x"):
        check_headers(client.get(path))
    check_headers(client.post("/v1development/profiles", data=b"x"))
    check_headers(client.get("/ready", headers={"Host": "evil.example"}))


def test_names_of_other_sites_do_not_reach_a_loopback_collector(client: FlaskClient) -> None:
    for host, status in (
        ("localhost", 200), ("127.0.0.1:4040", 200), ("[::1]:4040", 200),
        ("evil.example", 400), ("evil.example:4040", 400), ("", 400), ("[::1", 400),
        ("127.0.0.1.evil.example", 400), ("localhost@evil.example", 400),
    ):  # fmt: skip
        for path in ("/api/v1/services", "/ready"):
            assert client.get(path, headers={"Host": host}).status_code == status, host


def test_large_answers_are_compressed_for_those_who_take_it(
    collector: Collector, client: FlaskClient
) -> None:
    many = P({"service_name": "many"}, now_ms(), {f"main f{at}": 1 for at in range(2_000)})
    collector.storage.append(batch([many], batch_id="many"))
    path = f"/api/v1/flamegraph?{NEAR}&query={{service_name=%22many%22}}"
    plain = client.get(path)
    packed = client.get(path, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert json.loads(gzip.decompress(packed.data))["self"] == json.loads(plain.data)["self"]
    assert len(packed.data) < len(plain.data) / 3


class TestOpenApi:
    def test_it_names_every_route_and_no_other(self, collector: Collector) -> None:
        routes = {
            re.sub(r"<(\w+)>", r"{\1}", rule.rule)
            for rule in collector.app.url_map.iter_rules()
            if "/api/v1/" in rule.rule
        }
        assert routes == set(openapi.document("1")["paths"])

    @pytest.mark.parametrize("operation", openapi.OPERATIONS, ids=lambda each: each.path)
    def test_answers_fit_their_schema(
        self, client: FlaskClient, operation: openapi.Operation
    ) -> None:
        answer = client.get(f"{operation.path}?{NEAR}&label=pod")
        assert answer.status_code == 200, answer.text
        if operation.content_type == "application/json":
            assert answer.content_type == operation.content_type
        if operation.answer:
            check(json.loads(answer.data), openapi.SCHEMAS[operation.answer], operation.path)

    @pytest.mark.parametrize("operation", openapi.OPERATIONS, ids=lambda each: each.path)
    def test_parameters_are_read_where_they_are_named_and_only_there(
        self, client: FlaskClient, operation: openapi.Operation
    ) -> None:
        """A value that no parameter takes is refused exactly where the parameter counts."""
        for name in openapi.PARAMETERS:
            if name == "label":
                refused = client.get(operation.path).status_code == 400
            else:
                values = {"label": "pod", name: "\0no"}
                refused = client.get(operation.path, query_string=values).status_code == 400
            assert refused == (name in operation.parameters), name

    def test_errors_fit_their_schema(self, client: FlaskClient) -> None:
        answer = json.loads(client.get("/api/v1/top?query=x").data)
        check(answer, openapi.SCHEMAS["Error"], "error", closed=False)

    def test_the_document_refers_to_what_it_holds(self, client: FlaskClient) -> None:
        document = get(client, "/api/v1/openapi.json")
        for reference in re.findall(r'"#/([^"]+)"', json.dumps(document)):
            found = document
            for part in reference.split("/"):
                found = found[part]


def check(value: Any, schema: dict[str, Any], where: str, *, closed: bool = True) -> None:
    """Check a value against the part of JSON Schema that the document uses."""
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool,
        "integer": int, "number": int | float, "null": type(None),
    }  # fmt: skip
    wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, kinds[kind]) for kind in wanted), (where, value)
    if "enum" in schema:
        assert value in schema["enum"], where
    if "properties" in schema:
        if closed:
            assert set(value) == set(schema["properties"]), where
        for name in schema["required"]:
            check(value[name], schema["properties"][name], f"{where}.{name}", closed=closed)
    for each in value if "items" in schema else ():
        check(each, schema["items"], f"{where}[]", closed=closed)
