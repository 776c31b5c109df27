"""What may be asked for, how a capture moves on, what is kept: rules, dispatch and store."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flamewell_collector import captures
from flamewell_collector.captures import (
    Capture,
    Poll,
    Report,
    Target,
    Wish,
    parse_report,
    parse_wish,
)
from flamewell_collector.dispatch import MAX_OPEN, Dispatch
from flamewell_collector.errors import Conflict, Forbidden, InvalidRequest, NotFound, Overloaded
from flamewell_collector.model import Series
from flamewell_collector.service_nodes import ServiceNodes, nodes_of_services
from flamewell_collector.store import captures as kept
from flamewell_collector.store.captures import CaptureStore

T = "default"
SERVICE = {"service": "payments"}


class Clock:
    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[CaptureStore]:
    opened = CaptureStore(path)
    yield opened
    opened.close()


@pytest.fixture
def dispatch(store: CaptureStore, clock: Clock) -> Dispatch:
    return Dispatch(store, allow_tracing=True, clock=clock)


def wish(**fields: Any) -> Wish:
    return parse_wish({"target": SERVICE, **fields})


def said(state: str, *, node: str = "n1", agent: str = "a1", **rest: Any) -> Report:
    return parse_report({"node": node, "agent_id": agent, "state": state, **rest})


class TestWish:
    def test_defaults(self) -> None:
        assert wish() == Wish(Target(service="payments"), "cpu", 30, 97)
        assert wish(kind="gdb") == Wish(Target(service="payments"), "gdb", 10, 0)
        assert wish(kind="heap") == Wish(Target(service="payments"), "heap", 30, 0)

    @pytest.mark.parametrize(
        "target",
        [
            {"service": "a"}, {"service": "a", "node": "n"}, {"container_id": "0123456789AB"},
            {"pod": "p"}, {"pod": "p", "container": "c", "namespace": "x"},
            {"node": "n", "pid": 17},
        ],
    )  # fmt: skip
    def test_targets(self, target: dict[str, Any]) -> None:
        named = parse_wish({"target": target}).target.named()
        assert named == {
            **target,
            **({"container_id": "0123456789ab"} if "container_id" in target else {}),
        }

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (None, "must be an object"),
            ([], "must be an object"),
            ({}, "target must be an object"),
            ({"target": {}}, "name one of service"),
            ({"target": {"service": "a", "pod": "b"}}, "names 2 things"),
            ({"target": {"pid": 1}}, "without its node"),
            ({"target": {"node": "n"}}, "names 0 things"),
            ({"target": {"node": "n", "pid": -1}}, "pid is -1"),
            ({"target": {"node": "n", "pid": True}}, "pid is True"),
            ({"target": {"service": "a", "container": "c"}}, "without a pod"),
            ({"target": {"container_id": "xyz"}}, "12 hex digits"),
            ({"target": {"service": "a\n"}}, "printable"),
            ({"target": {"service": "a" * 300}}, "256"),
            ({"target": {"service": 5}}, "printable"),
            ({"target": {"servce": "a"}}, "it may have service"),
            ({"target": SERVICE, "kind": "ebpf"}, "cpu, wall, native, heap, strace, gdb"),
            ({"target": SERVICE, "kind": ["cpu"]}, "cpu, wall, native, heap, strace, gdb"),
            ({"target": SERVICE, "seconds": 301}, "from 1 to 300"),
            ({"target": SERVICE, "seconds": 0}, "from 1 to 300"),
            ({"target": SERVICE, "seconds": 1.5}, "whole number"),
            ({"target": SERVICE, "seconds": "30"}, "whole number"),
            ({"target": SERVICE, "kind": "strace", "seconds": 11}, "from 1 to 10 for strace"),
            ({"target": SERVICE, "kind": "gdb", "rate_hz": 10}, "means nothing"),
            ({"target": SERVICE, "kind": "heap", "rate_hz": 10}, "means nothing"),
            ({"target": SERVICE, "rate_hz": 998}, "from 1 to 997"),
            ({"target": SERVICE, "speed": 1}, "it may have"),
        ],
    )
    def test_what_is_wrong_is_said(self, body: object, words: str) -> None:
        with pytest.raises(InvalidRequest, match=words):
            parse_wish(body)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "waiting"}, {"state": None}, {"node": ""}, {"agent_id": 5}, {"samples": -1},
        {"samples": "5"}, {"detail": 5}, {"result_text": 5}, {"more": 1},
        {"result_text": "x" * (captures.MAX_RESULT_BYTES + 1)},
    ],
)  # fmt: skip
def test_reports_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        parse_report({"node": "n", "agent_id": "a", "state": "done", **change})


def test_details_become_one_harmless_line() -> None:
    assert said("done", detail="a\nb\x1b[2J").detail == "a b [2J"


def test_the_first_agent_gets_it_and_the_second_does_not(dispatch: Dispatch) -> None:
    capture = dispatch.create(T, "me", wish())
    for node in ("n1", "n2"):
        assert [each.capture_id for each in dispatch.poll(T, Poll(node, "a")).orders] == [
            capture.capture_id
        ]
    got = dispatch.report(T, capture.capture_id, said("accepted"))
    assert (got.state, got.node) == ("accepted", "n1")
    with pytest.raises(Conflict, match="n1"):
        dispatch.report(T, capture.capture_id, said("accepted", node="n2"))
    with pytest.raises(Conflict):
        dispatch.report(T, capture.capture_id, said("done", agent="another run"))
    assert dispatch.report(T, capture.capture_id, said("accepted")).state == "accepted"
    assert not dispatch.poll(T, Poll("n2", "a")).orders
    done = dispatch.report(T, capture.capture_id, said("done", samples=5, result_text="text"))
    assert (done.state, done.samples, done.result_text) == ("done", 5, "text")
    with pytest.raises(Conflict, match="done already"):
        dispatch.report(T, capture.capture_id, said("running"))
    assert [line.what for line in dispatch.audit(capture.capture_id)] == [
        "create", "hand_out", "finish",
    ]  # fmt: skip


def test_orders_for_a_node_go_to_that_node(dispatch: Dispatch) -> None:
    capture = dispatch.create(T, "me", wish(target={"node": "n1", "pid": 5}))
    assert not dispatch.poll(T, Poll("n2", "a")).orders
    assert not dispatch.poll("other tenant", Poll("n1", "a")).orders
    assert dispatch.poll(T, Poll("n1", "a")).orders
    with pytest.raises(Conflict, match="for the agent of n1"):
        dispatch.report(T, capture.capture_id, said("accepted", node="n2"))
    with pytest.raises(NotFound):
        dispatch.report("other tenant", capture.capture_id, said("accepted"))
    with pytest.raises(Conflict, match="accept it first"):
        dispatch.report(T, capture.capture_id, said("running"))


def test_clusters_keep_their_namesakes_apart(dispatch: Dispatch, clock: Clock) -> None:
    anywhere = dispatch.create(T, "me", wish())
    for cluster in ("blue", "red"):
        dispatch.poll(T, Poll("n1", f"a {cluster}", (), cluster))
    dispatch.report(T, anywhere.capture_id, said("refused", detail="no", cluster="blue"))
    assert not dispatch.poll(T, Poll("n1", "a", (), "blue")).orders
    assert dispatch.poll(T, Poll("n1", "a", (), "red")).orders
    dispatch.cancel(T, "me", anywhere.capture_id)
    with pytest.raises(InvalidRequest, match="n1: blue, red; name the target's cluster"):
        dispatch.create(T, "me", wish(target={"node": "n1", "pid": 5}))
    there = dispatch.create(T, "me", wish(target={"node": "n1", "cluster": "red", "pid": 5}))
    assert not dispatch.poll(T, Poll("n1", "a", (), "blue")).orders
    with pytest.raises(Conflict, match="for the agent of red/n1"):
        dispatch.report(T, there.capture_id, said("accepted", cluster="blue"))
    assert dispatch.poll(T, Poll("n1", "a", (), "red")).orders
    dispatch.cancel(T, "me", there.capture_id)
    clock.ms += 3_600_001
    dispatch.poll(T, Poll("n1", "a", (), "red"))
    assert dispatch.create(T, "me", wish(target={"node": "n1", "pid": 5})).state == "waiting"


def test_an_order_that_its_agent_does_not_know_of_is_offered_to_it_again(
    dispatch: Dispatch,
) -> None:
    capture = dispatch.create(T, "me", wish())
    dispatch.report(T, capture.capture_id, said("accepted"))
    assert dispatch.poll(T, Poll("n1", "a1")).orders
    assert not dispatch.poll(T, Poll("n1", "a1", [capture.capture_id])).orders
    assert not dispatch.poll(T, Poll("n1", "another run")).orders
    assert dispatch.report(T, capture.capture_id, said("accepted")).state == "accepted"
    dispatch.report(T, capture.capture_id, said("running"))
    assert not dispatch.poll(T, Poll("n1", "a1")).orders


def test_a_refusal_leaves_it_to_others_unless_there_are_none(
    dispatch: Dispatch, clock: Clock
) -> None:
    anywhere = dispatch.create(T, "me", wish())
    refused = dispatch.report(T, anywhere.capture_id, said("refused", detail="tracing_off"))
    assert refused.state == "waiting"
    assert not dispatch.poll(T, Poll("n1", "a")).orders
    assert dispatch.poll(T, Poll("n2", "a")).orders
    clock.ms += captures.UNACCEPTED_MS
    ended = dispatch.get(T, anywhere.capture_id)
    assert (ended.state, ended.detail) == ("refused", "n1: tracing_off")
    there = dispatch.create(T, "me", wish(target={"node": "n1", "pid": 5}))
    ended = dispatch.report(T, there.capture_id, said("refused", detail="no"))
    assert (ended.state, ended.detail) == ("refused", "n1: no")
    budget = dispatch.create(T, "me", wish())
    dispatch.report(T, budget.capture_id, said("accepted"))
    text = "over_budget: would cost 2.4 % of the node's CPU, 1 % is the budget"
    ended = dispatch.report(T, budget.capture_id, said("refused", detail=text))
    assert (ended.state, ended.detail) == ("refused", text)


def test_nobody_accepts(dispatch: Dispatch, clock: Clock) -> None:
    capture = dispatch.create(T, "me", wish())
    clock.ms += captures.UNACCEPTED_MS - 1
    assert dispatch.get(T, capture.capture_id).state == "waiting"
    clock.ms += 1
    dispatch.expire()
    ended = dispatch.get(T, capture.capture_id)
    assert (ended.state, ended.finished_ms) == ("expired", clock.ms)
    assert "no agent has this target" in ended.detail
    assert not dispatch.poll(T, Poll("n1", "a")).orders


def test_an_agent_that_goes_silent(dispatch: Dispatch, clock: Clock) -> None:
    capture = dispatch.create(T, "me", wish(seconds=10))
    dispatch.report(T, capture.capture_id, said("accepted"))
    clock.ms += 60_000
    dispatch.poll(T, Poll("n1", "a1", [capture.capture_id]))
    clock.ms += 69_999
    assert dispatch.get(T, capture.capture_id).state == "accepted"
    clock.ms += 1
    ended = dispatch.get(T, capture.capture_id)
    assert (ended.state, ended.detail) == ("failed", "the agent of n1 went silent")


def test_no_capture_is_open_for_ever(dispatch: Dispatch, clock: Clock) -> None:
    capture = dispatch.create(T, "me", wish())
    dispatch.report(T, capture.capture_id, said("accepted"))
    for _ in range(captures.LONGEST_MS // 30_000):
        clock.ms += 30_000
        dispatch.poll(T, Poll("n1", "a1", [capture.capture_id]))
    assert "within an hour" in dispatch.get(T, capture.capture_id).detail


def test_an_agent_hears_what_nobody_waits_for(dispatch: Dispatch) -> None:
    capture = dispatch.create(T, "me", wish())
    dispatch.report(T, capture.capture_id, said("accepted"))
    assert dispatch.poll(T, Poll("n1", "a1", [capture.capture_id])).ended == ()
    assert dispatch.cancel(T, "me", capture.capture_id).state == "cancelled"
    ended = dispatch.poll(T, Poll("n1", "a1", [capture.capture_id, "unknown"])).ended
    assert ended == (capture.capture_id, "unknown")
    with pytest.raises(Conflict):
        dispatch.cancel(T, "me", capture.capture_id)
    with pytest.raises(NotFound):
        dispatch.cancel(T, "me", "no such")


def test_a_restart_keeps_orders_and_gives_agents_time(
    path: Path, store: CaptureStore, dispatch: Dispatch, clock: Clock
) -> None:
    waiting = dispatch.create(T, "me", wish(seconds=10))
    taken = dispatch.create(T, "me", wish(seconds=10))
    dispatch.report(T, taken.capture_id, said("accepted"))
    store.close()
    clock.ms += 100_000
    again = CaptureStore(path)
    restarted = Dispatch(again, allow_tracing=True, clock=clock)
    assert [each.capture_id for each in restarted.poll(T, Poll("n2", "a")).orders] == [
        waiting.capture_id
    ]
    assert restarted.get(T, taken.capture_id).state == "accepted"
    done = restarted.report(T, taken.capture_id, said("done", samples=7))
    assert (done.state, done.samples) == ("done", 7)
    assert [each.what for each in restarted.audit(taken.capture_id)] == [
        "create", "hand_out", "finish",
    ]  # fmt: skip
    again.close()


def test_tracing_is_forbidden_unless_allowed(
    store: CaptureStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flamewell.audit")
    strict = Dispatch(store, allow_tracing=False, clock=clock)
    with pytest.raises(Forbidden, match="13 to 25 times"):
        strict.create(T, "me", wish(kind="strace"))
    (record,) = caplog.records
    assert (record.who, record.what, record.result) == ("me", "create", "forbidden")  # type: ignore[attr-defined]
    assert strict.create(T, "me", wish()).state == "waiting"


def test_ends_are_counted_by_kind_and_state(store: CaptureStore, clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    counting = Dispatch(
        store, allow_tracing=False, clock=clock, count=lambda *each: told.append(each)
    )
    first, second = counting.create(T, "me", wish()), counting.create(T, "me", wish(kind="wall"))
    counting.report(T, first.capture_id, said("accepted"))
    assert told == []
    counting.report(T, first.capture_id, said("done", samples=3))
    counting.cancel(T, "me", second.capture_id)
    with pytest.raises(Forbidden):
        counting.create(T, "me", wish(kind="gdb"))
    assert told == [("cpu", "done"), ("wall", "cancelled"), ("gdb", "forbidden")]


def test_open_captures_are_bounded(dispatch: Dispatch, clock: Clock) -> None:
    for _ in range(MAX_OPEN):
        dispatch.create(T, "me", wish())
    with pytest.raises(Overloaded):
        dispatch.create(T, "me", wish())
    clock.ms += captures.UNACCEPTED_MS
    assert dispatch.create(T, "me", wish()).state == "waiting"


def test_what_is_kept_is_bounded(store: CaptureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("KEPT_CAPTURES", 5), ("KEPT_RESULTS", 2), ("KEPT_LINES", 4)):
        monkeypatch.setattr(kept, name, most)
    first = Capture("open", T, "me", wish(), created_ms=1)
    store.put(first, None)
    for number in range(20):
        each = replace(first, capture_id=f"c{number}", state="done", result_text="text")
        store.put(each, kept.AuditLine(f"c{number}", 1, "me", "finish", "gdb", {}, 1, "done"))
    found = [each.capture_id for each in store.newest(T, state="", service="", limit=100)]
    assert found == ["c19", "c18", "c17", "c16", "c15", "open"]
    with_text = [key for key in found if (one := store.get(T, key)) and one.result_text]
    assert with_text == ["c19", "c18"]
    assert not store.audit("c15")
    assert store.audit("c16")


def test_a_damaged_file_is_put_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"no database at all, and longer than a header of one would be " * 20)
    store = CaptureStore(path)
    assert store.open_captures() == []
    store.close()
    assert path.with_name(path.name + ".damaged").exists()
    assert "damaged" in caplog.text


def test_a_file_that_cannot_be_made_does_not_keep_the_collector_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CaptureStore(tmp_path / "no such folder" / "captures.sqlite")
    store.put(Capture("c", T, "me", wish(), created_ms=1), None)
    assert store.get(T, "c")
    store.close()
    assert "until the next start" in caplog.text


class TestServiceNodes:
    ROWS = (
        Series(1, {"service_name": "a", "node": "n1"}),
        Series(2, {"service_name": "a", "node": "n2"}),
        Series(3, {"service_name": "a", "node": "n2", "pod": "p"}),
        Series(4, {"service_name": "b", "node": "n2"}),
        Series(5, {"service_name": "c"}),
    )

    def test_counts(self) -> None:
        assert nodes_of_services(self.ROWS) == {"n1": {"a": 2}, "n2": {"a": 2, "b": 1}}

    def test_it_counts_only_while_somebody_asks(self) -> None:
        now, reads = [0.0], []

        def read() -> tuple[Series, ...]:
            reads.append(now[0])
            return self.ROWS

        nodes = ServiceNodes(read, clock=lambda: now[0])
        nodes.refresh()
        assert not reads
        assert nodes.on("n1") == {}
        nodes.refresh()
        assert nodes.on("n1") == {"a": 2}
        now[0] = 301.0
        nodes.refresh()
        assert reads == [0.0]
