"""From stored readings to verdicts, answers, metrics and the command lines, over a real store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collector.batches import P, batch
from collector.leaking_shop import HOURS, LEAKY, LIMIT, MIB, MINUTE, Shop, served

from flamewell.cli import main as flamewell
from flamewell.client import Client
from flamewell_collector import cli, leak_state
from flamewell_collector.analysis.leaks.detector import Detector
from flamewell_collector.app import Collector, now_ms, running_collector
from flamewell_collector.captures import Capture, Report, Target, Wish
from flamewell_collector.errors import Conflict, StorageError
from flamewell_collector.investigation import Growing, Investigations
from flamewell_collector.leak_metrics import LeakGauges
from flamewell_collector.leak_readings import TYPES
from flamewell_collector.leaks import LeakWatch, Suspect
from flamewell_wire.profile_types import GROWTH


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("leaks") / "data")


@pytest.fixture(scope="module")
def collector(shop: Shop) -> Iterator[Collector]:
    with running_collector(shop.config) as running:
        running.leaks.refresh()
        yield running


def ask(collector: Collector, **parameters: str) -> Any:
    answer = collector.app.test_client().get("/api/v1/leaks", query_string=parameters)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.data)


def test_the_leak_is_told_with_all_that_it_rests_on(collector: Collector) -> None:
    answer = ask(collector)
    assert answer["containers"] == 3
    (leak,) = answer["leaks"]
    assert leak["labels"] == LEAKY
    assert (leak["service_name"], leak["tier"]) == ("payments", "confirmed")
    assert leak["growth_bytes_per_hour"] == pytest.approx(700 / HOURS * MIB, rel=0.1)
    assert leak["limit_bytes"] == LIMIT
    left = (LIMIT - leak["memory_bytes"]) / leak["growth_bytes_per_hour"] * 3_600
    assert leak["seconds_to_limit"] == pytest.approx(left, rel=0.1)
    assert leak["earliest_seconds"] < leak["seconds_to_limit"] < leak["latest_seconds"]
    assert (leak["replicas"], leak["replicas_growing"]) == (2, 1)
    assert leak["confirmed_since_ms"] >= leak["since_ms"]
    assert leak["evidence"]["order"] > 0.9
    assert leak["explanation"].startswith("memory grew steadily by")
    assert leak["url"].startswith("https://flame.example/x/#service=payments&type=process_memory")


def test_what_is_asked_for(collector: Collector) -> None:
    assert ask(collector, tier="suspected")["leaks"] == []
    assert len(ask(collector, tier="confirmed", service="payments")["leaks"]) == 1
    assert ask(collector, service="orders")["leaks"] == []
    refused = collector.app.test_client().get("/api/v1/leaks?tier=certain")
    assert refused.status_code == 400
    assert "suspected, confirmed" in refused.text


def test_metrics_are_by_workload(collector: Collector) -> None:
    text = collector.app.test_client().get("/metrics").text
    shop_labels = (
        'cluster="eu",container="app",namespace="shop",service_name="payments",workload="payments"'
    )

    def value(name: str, labels: str = shop_labels) -> float:
        line = next(each for each in text.splitlines() if each.startswith(f"{name}{{{labels}"))
        return float(line.rsplit(" ", 1)[1])

    assert value("flamewell_leak_suspected") == 1
    assert value("flamewell_leak_score") == 1
    rate = 700 / HOURS / 3_600 * MIB
    assert value("flamewell_memory_growth_bytes_per_second") == pytest.approx(rate, rel=0.1)
    assert 0 < value("flamewell_memory_time_to_limit_seconds") < 3_600 * HOURS
    other = 'cluster="",container="",namespace="",service_name="other<b>",workload=""'
    assert value("flamewell_leak_suspected", other) == 0
    assert value("flamewell_memory_time_to_limit_seconds", other) == float("inf")
    infos = [each for each in text.splitlines() if each.startswith("flamewell_leak_info{")]
    assert len(infos) == 1
    assert 'pod="payments-1"' in infos[0]
    assert 'url="https://flame.example/x/#service=payments' in infos[0]


def watch(collector: Collector, path: Path | None = None, **more: Any) -> LeakWatch:
    def fetch(start_ms: int, end_ms: int) -> Any:
        return collector.query.series_bins("default", TYPES, (start_ms, end_ms), bin_ms=MINUTE)

    return LeakWatch(fetch, now_ms=more.pop("now_ms", now_ms), state_path=path, **more)


def test_a_restart_keeps_the_verdict_and_when_it_began(
    collector: Collector, tmp_path: Path
) -> None:
    path = tmp_path / "leaks.npz"
    before = watch(collector, path)
    before.refresh()
    before.save()
    read: list[int] = []

    def fetch(start_ms: int, end_ms: int) -> Any:
        read.append((end_ms - start_ms) // MINUTE)
        return collector.query.series_bins("default", TYPES, (start_ms, end_ms), bin_ms=MINUTE)

    after = LeakWatch(fetch, now_ms=lambda: now_ms() + MINUTE, state_path=path)
    after.refresh()
    assert sum(read) <= 2
    one, two = (each.found.suspects[0].verdict for each in (before, after))
    assert (one.since, one.confirmed_since) == (two.since, two.confirmed_since)


def test_without_a_state_it_begins_from_the_store(collector: Collector) -> None:
    fresh = watch(collector)
    fresh.refresh()
    assert [each.labels["pod"] for each in fresh.found.suspects] == ["payments-1"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"\x93NUMPY" * 50])
def test_a_damaged_state_costs_nothing_else(
    collector: Collector, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "leaks.npz"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        leak_state.load(path, Detector())
    found = watch(collector, path)
    found.refresh()
    assert found.found.suspects
    assert "from the store anew" in caplog.text
    found.save()
    assert leak_state.load(path, Detector()) is not None


def test_a_state_that_cannot_be_written_is_told(
    collector: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = watch(collector, tmp_path / "gone" / "leaks.npz")
    found.refresh()
    found.save()
    assert "is not kept" in caplog.text


def test_a_clock_that_jumps_begins_anew(collector: Collector) -> None:
    clock = [now_ms()]
    found = watch(collector, now_ms=lambda: clock[0])
    found.refresh()
    minute = found.found.minute
    clock[0] -= 3 * 3_600_000
    found.refresh()
    assert found.found.minute == minute - 180
    clock[0] += 3 * 3_600_000
    found.refresh()
    assert found.found.minute == minute
    assert found.found.suspects


def test_containers_that_are_gone_are_forgotten(collector: Collector) -> None:
    clock = [now_ms()]
    found = watch(collector, now_ms=lambda: clock[0])
    found.refresh()
    assert found.found.containers == 3
    clock[0] += 20 * MINUTE
    found.refresh()
    assert found.found.containers == 0
    assert not found.found.suspects


def test_metrics_are_bounded(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flamewell_collector.leak_metrics.MAX_WORKLOADS", 1)
    gauges = LeakGauges(
        lambda: collector.leaks.found,
        growing_of=lambda _suspect: [Growing("shop.Cart", 7)],
        url="http://x",
    )
    counts = {each.name: len(each.samples) for each in gauges.collect()}
    assert set(counts.values()) == {1}
    (info,) = next(each.samples for each in gauges.collect() if each.name.endswith("info"))
    assert (info.labels["workload"], info.labels["frame"]) == ("payments", "shop.Cart")


def waiting(capture_id: str) -> Capture:
    return Capture(capture_id, "default", "me", Wish(Target(), "heap", 60, 0), 0)


class TestInvestigation:
    def test_what_a_census_has_found_is_told(self, collector: Collector) -> None:
        found = collector.leaks.found
        (suspect,) = found.suspects
        states = ["waiting", "done", "done"]
        grown: list[list[Growing]] = [[], [Growing("shop.Cart", 9), Growing("dict", 4)]]

        def look(capture_id: str) -> Capture:
            state: Any = states.pop(0)
            finished_ms = found.minute * MINUTE if state == "done" else 0
            return replace(waiting(capture_id), state=state, finished_ms=finished_ms)

        looking = Investigations(
            lambda _who, _wish: waiting("id"), look, lambda _suspect, _since: grown.pop(0)
        )
        for _ in range(5):
            assert looking.growing_of(suspect) == ()
            looking.look(found)
            if not states:
                break
        assert [each.name for each in looking.growing_of(suspect)] == ["shop.Cart", "dict"]
        looking.look(found)
        assert not states

    def test_a_census_that_was_refused_is_not_looked_at_again(self, collector: Collector) -> None:
        found, looks = collector.leaks.found, []

        def look(capture_id: str) -> Capture:
            looks.append(capture_id)
            return replace(waiting(capture_id), state="refused", finished_ms=1)

        looking = Investigations(lambda _who, _wish: waiting("id"), look, lambda *_: [])
        for _ in range(4):
            looking.look(found)
        assert looks == ["id"]

    def test_a_census_without_growth_is_not_read_for_ever(self, collector: Collector) -> None:
        found, reads = collector.leaks.found, []

        def look(capture_id: str) -> Capture:
            finished_ms = found.minute * MINUTE
            return replace(waiting(capture_id), state="done", finished_ms=finished_ms)

        def grown(_suspect: Suspect, _since_ms: int) -> list[Growing]:
            reads.append(1)
            return []

        looking = Investigations(lambda _who, _wish: waiting("id"), look, grown)
        for later in (0, 1, 9, 10, 11, 12):
            looking.look(replace(found, minute=found.minute + later))
        assert len(reads) == 3

    def test_growth_is_read_from_the_store(self, collector: Collector) -> None:
        (suspect,) = collector.leaks.found.suspects
        collector.watchers.refresh_leaks()
        capture_id = collector.watchers.census_of(suspect)[0]
        dispatch = collector.orders.dispatch
        grown = P(
            suspect.labels, now_ms(), {"shop.Cart": 3 * MIB, "dict": MIB}, GROWTH.id,
            duration_ms=60_000,
        )  # fmt: skip
        collector.storage.append(batch([grown], batch_id="grown"))
        for state in ("accepted", "done"):
            dispatch.report("default", capture_id, Report("n1", "a", state, cluster="eu"))
        collector.watchers.refresh_leaks()
        (leak,) = ask(collector)["leaks"]
        assert leak["growing"] == [
            {"type": "shop.Cart", "bytes_per_hour": 180 * MIB},
            {"type": "dict", "bytes_per_hour": 60 * MIB},
        ]
        metrics = collector.app.test_client().get("/metrics").text
        assert 'frame="shop.Cart"' in metrics

    def test_the_agent_of_a_suspect_is_asked_for_a_census(self, collector: Collector) -> None:
        asked: list[Any] = []

        def ask(who: str, wish: Wish) -> Capture:
            asked.append(wish)
            return Capture(f"id{len(asked)}", "default", who, wish, 0)

        found = collector.leaks.found
        looking = Investigations(ask, waiting, lambda _suspect, _since: [])
        looking.look(found)
        looking.look(found)
        pod = Target(namespace="shop", pod="payments-1", container="app", cluster="eu", node="n1")
        assert asked == [Wish(pod, "heap", 60, 0)]
        (suspect,) = found.suspects
        assert looking.capture_of(suspect) == "id1"
        later = replace(found, minute=found.minute + 6 * 60)
        looking.look(later)
        assert looking.capture_of(suspect) == "id2"
        looking.look(replace(found, suspects=()))
        assert looking.capture_of(suspect) == ""

    def test_only_python_is_counted_and_few_at_once(self, collector: Collector) -> None:
        (suspect,) = collector.leaks.found.suspects
        asked: list[Wish] = []

        def ask(who: str, wish: Wish) -> Capture:
            asked.append(wish)
            if len(asked) == 2:
                raise Conflict("there are too many")
            return Capture(str(len(asked)), "default", who, wish, 0)

        def like(**labels: str) -> Suspect:
            return replace(suspect, labels={**suspect.labels, **labels})

        many = tuple(like(pod="", service_name=f"s{each}") for each in range(9))
        found = replace(collector.leaks.found, suspects=(like(runtime="go"), *many))
        looking = Investigations(ask, waiting, lambda _suspect, _since: [])
        looking.look(found)
        assert [each.target.service for each in asked] == ["s0", "s1", "s2", "s3"]
        looking.look(found)
        # The one that was refused is asked for again.
        assert [each.target.service for each in asked[4:]] == ["s1", "s4", "s5", "s6"]

    def test_the_answer_names_the_census(self, collector: Collector) -> None:
        collector.watchers.refresh_leaks()
        (leak,) = ask(collector)["leaks"]
        shown = collector.app.test_client().get(f"/api/v1/captures/{leak['heap_capture']}").json
        assert (shown["kind"], shown["requested_by"]) == ("heap", "leak watch")


class TestCommands:
    @pytest.fixture
    def serving(self, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with served(collector) as url:
            monkeypatch.setenv("FLAMEWELL_URL", url)
            yield

    @pytest.mark.usefixtures("serving")
    def test_leaks(self, collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
        collector.watchers.refresh_leaks()
        assert flamewell(["leaks"]) == 0
        # What other tests have found to grow stands between the two.
        head, row, _, why, *_, census = capsys.readouterr().out.splitlines()
        assert head.split() == [
            "SERVICE", "CONTAINER", "TIER", "SINCE", "MEMORY", "LIMIT", "AN", "HOUR", "FULL", "IN",
        ]  # fmt: skip
        assert row.split()[:3] == ["payments", "shop/payments-1/app", "confirmed"]
        assert "1.17 GiB" in row
        assert why.startswith("payments: memory grew steadily by")
        assert re.fullmatch(r"  its heap: flamewell capture show [0-9a-f]{16}", census)

    def test_objects_that_grow_are_shown(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        growing = [{"type": "shop.Cart", "bytes_per_hour": 180 * MIB}]
        told = ask(collector)
        told["leaks"][0]["growing"] = growing
        monkeypatch.setattr(Client, "get_json", lambda *_: told)
        assert flamewell(["leaks"]) == 0
        assert "  objects that grow: shop.Cart +180 MiB/h" in capsys.readouterr().out

    @pytest.mark.usefixtures("serving")
    def test_scripts_can_ask(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert flamewell(["leaks", "--fail"]) == 1
        assert flamewell(["leaks", "orders", "--fail"]) == 0
        assert "no leak is suspected of orders; 3 containers" in capsys.readouterr().out
        assert flamewell(["leaks", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["leaks"][0]["service_name"] == "payments"

    def test_without_a_server(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        stopped = Shop(tmp_path / "data")

        def run(*words: str) -> str:
            assert cli.main(["leaks", "--data-dir", str(stopped.data), *words]) == 0
            return capsys.readouterr().out

        assert run().startswith("confirmed  payments payments-1: memory grew steadily by")
        assert json.loads(run("--json"))["leaks"][0]["labels"] == LEAKY
        assert "none of 3 containers" in run("--service", "other<b>")
        assert "none of 3 containers" in run("--until", "now-5h")
        assert cli.main(["leaks", "--data-dir", str(stopped.data), "--tier", "sure"]) == 2
