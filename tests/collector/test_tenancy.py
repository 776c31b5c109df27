"""Tenants never see each other: not by a query, not by a route, not by names made to confuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import numpy as np
import pytest
from collector.batches import P, as_stacks, batch
from collector.stored import block_folders, let_go
from collector.test_query import HOUR, NOW, Store, select
from flask.testing import FlaskClient

from flamewell_collector.app import Collector, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_collector.query import ALL_TYPES
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS
from flamewell_collector.store.verify import verify
from flamewell_wire.profile_types import CPU, INUSE_SPACE, PROCESS_RSS

SECRET = "s3cret"
API = {"service_name": "api", "pod": "p"}
TYPES = (CPU.id, INUSE_SPACE.id, PROCESS_RSS.id)
HOSTILE = (
    "..", ".", "../default", "default/../x", "default%2Fx", "tenant=default", "Default", "default ",
    "default2", "*", "[a-z]*", "{a,default}", "?", "a\0b", "a\nb", "'; DROP TABLE blocks; --",
    '"', "\\", "ünï-\u202e", "x" * 200,
)  # fmt: skip
"""Names that would matter to a file system, a glob, SQL, or the eye."""


def profiles_of(tenant: str) -> list[P]:
    """Profiles of the same service, labels and times; one of the symbols is the tenant's own."""
    own = f"{SECRET}-{tenant}".replace(" ", "_").replace("\n", "_")
    return [
        P(API, NOW, {"main": 1, f"main {own}": len(tenant) + 2}, duration_ms=10_000),
        P({**API, "who": own}, NOW + 1, {"main": 4}, duration_ms=10_000),
        P({"service_name": own}, NOW, {"main": 8}),
        P(API, NOW, {f"main {own}": 16}, INUSE_SPACE.id),
        P(API, NOW, {"": 32}, PROCESS_RSS.id),
    ]


def brief(store: Store, tenant: str) -> dict[str, Any]:
    """Symbols, values and labels that a tenant is told."""
    asked = select(tenant=tenant)
    every = replace(asked, type_id=ALL_TYPES)
    return {
        "merge": as_stacks(store.query.merge(asked)),
        "values": store.query.label_values(every, "who"),
        "types": store.query.type_ids(every),
    }


def answers(store: Store, tenant: str) -> dict[str, Any]:
    """Everything that a query tells a tenant."""
    found: dict[str, Any] = {}
    query = store.query
    for type_id in TYPES:
        for selector in ("{}", '{service_name="api"}', '{pod=~".*"}', '{who!=""}'):
            asked = select(selector, type_id=type_id, tenant=tenant)
            found[f"merge {selector} {type_id}"] = as_stacks(query.merge(asked))
            line = query.timeline(asked, step_ms=HOUR).values
            found[f"timeline {selector} {type_id}"] = np.nan_to_num(line, nan=-1).tolist()
    every = replace(select(tenant=tenant), type_id=ALL_TYPES)
    found["series"] = sorted(str(sorted(each.labels.items())) for each in query.series(every))
    found["names"] = query.label_names(every)
    found["values"] = query.label_values(every, "who")
    found["types"] = query.type_ids(every)
    services = query.services(tenant, every.start_ms, every.end_ms)
    found["services"] = sorted(str(each) for each in services)
    readings = query.memory_readings(tenant)
    found["readings"] = sorted((each.type_id, each.value) for each in readings)
    return found


def ages(store: Store) -> Iterator[str]:
    """Let what is stored grow old: in memory, flushed, summed up, merged by days."""
    yield "in memory"
    store.storage.flush()
    yield "flushed"
    store.storage.maintain(NOW + 3 * HOUR)
    yield "summed up"
    store.storage.maintain(NOW + 2 * DAY_MS)
    yield "merged by days"


def alone(folder: Path, tenant: str) -> list[dict[str, Any]]:
    store = Store(folder)
    try:
        store.storage.append(batch(profiles_of(tenant), batch_id="1", tenant=tenant))
        return [answers(store, tenant) for _ in ages(store)]
    finally:
        store.engine.close()
        store.storage.close()


def test_answers_are_those_of_a_store_of_ones_own(tmp_path: Path) -> None:
    tenants = ("default", "other", "*")
    wanted = {each: alone(tmp_path / str(at), each) for at, each in enumerate(tenants)}
    store = Store(tmp_path / "shared")
    try:
        for tenant in tenants:
            # The same batch id: what one has sent is no duplicate of what another has.
            assert store.storage.append(batch(profiles_of(tenant), batch_id="1", tenant=tenant))
        for at, age in enumerate(ages(store)):
            for tenant in tenants:
                assert answers(store, tenant) == wanted[tenant][at], (tenant, age)
            assert answers(store, "nobody")["merge {} " + CPU.id] == {}
            assert answers(store, "")["series"] == []
    finally:
        store.engine.close()
        store.storage.close()


def test_hostile_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    data = tmp_path / "data"
    try:
        for tenant in HOSTILE:
            store.storage.append(batch(profiles_of(tenant), batch_id="1", tenant=tenant))
        wanted = {each: brief(store, each) for each in HOSTILE}
        for tenant, found in wanted.items():
            own = f"{SECRET}-{tenant}".replace(" ", "_").replace("\n", "_")
            assert found["values"] == [own]
            assert found["merge"] == {"main": 13, f"main {own}": len(tenant) + 2}
        for _ in ages(store):
            assert {tenant: brief(store, tenant) for tenant in HOSTILE} == wanted
        folders = {each.name for each in (data / "blocks").iterdir()}
        assert {unquote(each.removeprefix("tenant=")) for each in folders} == set(HOSTILE)
        assert {each.name for each in tmp_path.iterdir()} == {"data"}, "nothing outside"
        let_go(store.storage)
        assert verify(data, progress=lambda _done, _total: None).problems == []
        for path in data.glob("catalog.sqlite*"):
            path.unlink()
    finally:
        store.engine.close()
    again = Store(data)
    try:
        assert again.storage.tenants() == sorted(HOSTILE), "also from the names of folders alone"
        for tenant in HOSTILE:
            assert brief(again, tenant) == wanted[tenant]
    finally:
        again.engine.close()
        again.storage.close()


def test_damage_and_known_batches_are_ones_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    try:
        for tenant in ("default", "other"):
            assert not store.storage.seen(tenant, "1")
            store.storage.append(batch(profiles_of(tenant), batch_id="1", tenant=tenant))
            assert store.storage.seen(tenant, "1")
        store.storage.flush()
        wanted = answers(store, "other")
        for block in block_folders(tmp_path / "data"):
            if "tenant=default" in block.parts:
                (block / "samples.parquet").write_bytes(b"no table")
        assert answers(store, "default")["merge {} " + CPU.id] == {}
        assert answers(store, "other") == wanted
        assert len(store.damage) >= 1
        assert all("tenant=default" in each.parts for each, _ in store.damage)
    finally:
        store.engine.close()
        store.storage.close()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Two tenants' profiles, flushed and not."""
    config = CollectorConfig(data_dir=str(tmp_path_factory.mktemp("data")))
    with running_collector(config) as running:
        for tenant in ("default", "other"):
            _fill(running.storage, tenant)
        yield running


def _fill(storage: Storage, tenant: str) -> None:
    if tenant == "default":
        ours = [P(API, NOW, {"main ours": 5}, duration_ms=10_000)]
        storage.append(batch(ours, batch_id="1"))
        storage.append(batch([P(API, NOW, {"main ours": 7}, INUSE_SPACE.id)], batch_id="3"))
        return
    storage.append(batch(profiles_of(tenant), batch_id="1", tenant=tenant))
    storage.flush()
    storage.append(batch(profiles_of(tenant), batch_id="2", tenant=tenant))


ASKED = {
    "from": str(NOW - HOUR), "until": str(NOW + HOUR), "label": "who", "format": "folded",
    "node": "n",
    "start": str(NOW - HOUR), "end": str(NOW + HOUR), "tenant": "other", "namespace": "other",
}  # fmt: skip
CLAIMS = (
    {},
    {"X-Scope-OrgID": "other"},
    {"X-Tenant": "other", "X-Flamewell-Tenant": "other", "Tenant": "other"},
    {"Authorization": "Basic b3RoZXI6b3RoZXI="},
    {"Cookie": "tenant=other"},
)
SELECTORS = ("{}", '{tenant="other"}', '{__tenant__="other"}', '{who!=""}', '{service_name=~".*"}')


@pytest.fixture
def client(collector: Collector) -> FlaskClient:
    return collector.app.test_client()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda each: next(iter(each), "none"))
def test_no_route_tells_of_another_tenant(
    collector: Collector, client: FlaskClient, claim: dict[str, str]
) -> None:
    """Every GET route that there is, whatever a client claims to be."""
    paths = [
        rule.rule.replace("<capture_id>", "x").replace("<path:filename>", "css/page.css")
        for rule in collector.app.url_map.iter_rules()
        if "GET" in (rule.methods or ())
    ]
    assert {"/api/v1/export", "/pyroscope/render", "/metrics", "/api/v1/captures"} <= set(paths)
    told = 0
    for path in paths:
        for selector in SELECTORS:
            query = f"{CPU.id}{selector}" if "pyroscope" in path else selector
            answer = client.get(f"{path}?{urlencode({**ASKED, 'query': query})}", headers=claim)
            assert answer.status_code < 500
            assert SECRET not in answer.text, path
            told += "ours" in answer.text
    assert told, "there was something to see"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda each: next(iter(each), "none"))
def test_no_posted_question_tells_of_another_tenant(
    collector: Collector, client: FlaskClient, claim: dict[str, str]
) -> None:
    """Grafana's Connect calls: JSON and the same fields for all."""
    body = {
        "start": str(NOW - HOUR), "end": str(NOW + HOUR), "name": "who", "labelSelector": "{}",
        "profileTypeID": CPU.id, "profile_typeID": CPU.id, "matchers": [], "label_names": [],
        "labelNames": [], "step": 60, "tenant": "other",
    }  # fmt: skip
    paths = [
        rule.rule
        for rule in collector.app.url_map.iter_rules()
        if "POST" in (rule.methods or ()) and "<" not in rule.rule
    ]
    assert any("querier" in path for path in paths)
    answered = 0
    for path in paths:
        answer = client.post(path, json=body, headers=claim)
        assert answer.status_code < 500
        assert SECRET not in answer.get_data().decode(errors="replace"), path
        answered += answer.status_code == 200
    assert answered, "some understood the question"


def test_counts_are_ones_own(client: FlaskClient) -> None:
    span = urlencode({"from": str(NOW - HOUR), "until": str(NOW + HOUR)})
    assert client.get(f"/api/v1/top?{span}").json["total"] == 5
    assert client.get(f"/api/v1/flamegraph?{span}").json["total"] == 5
    (service,) = client.get(f"/api/v1/services?{span}").json["services"]
    assert (service["service_name"], service["series"]) == ("api", 1)
    assert service["types"] == sorted([CPU.id, INUSE_SPACE.id])
    types = client.get(f"/api/v1/profile-types?{span}").json["types"]
    assert {each["id"] for each in types} == {CPU.id, INUSE_SPACE.id}
    assert client.get(f"/api/v1/labels?{span}").json["values"] == ["pod", "service_name"]
