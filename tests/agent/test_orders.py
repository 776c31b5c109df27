"""The polling thread against a real collector on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from agent.conftest import Spawn
from collector.batches import P, batch
from werkzeug.serving import WSGIRequestHandler, make_server

from flamewell_agent import procfs, trace_guard
from flamewell_agent.captures import TraceResult, Tracers
from flamewell_agent.collector_client import Destination
from flamewell_agent.errors import OrderError
from flamewell_agent.heap_captures import HeapCaptures, HeapResult
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import Process, ProcessKey
from flamewell_agent.order_client import Answer, OrderClient
from flamewell_agent.order_parse import Order, Target, fits, parse_handout, parse_order
from flamewell_agent.orders import MAX_AT_ONCE, Orders
from flamewell_collector.app import running_collector
from flamewell_collector.config import CollectorConfig

PAYMENTS = {
    "service.name": "payments",
    "k8s.namespace.name": "prod",
    "k8s.pod.name": "payments-1",
    "k8s.container.name": "app",
    "container.id": "0123456789abcdef" * 4,
}


def process(pid: int = 7, ticks: int = 1) -> Process:
    return Process(ProcessKey(pid, ticks), "cpython", "3.11", "python3", ("python3",))


class Collector:
    """The real app on a free port; can be stopped, and started again on the same one."""

    def __init__(self, data: Path, **options: Any) -> None:
        self.config = CollectorConfig(data_dir=str(data), agent_poll_seconds=1, **options)
        self.port = 0
        self.parts = contextlib.ExitStack()

    def start(self) -> None:
        self.running = self.parts.enter_context(running_collector(self.config))

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's
                pass

        server = make_server(
            "127.0.0.1", self.port, self.running.app, threaded=True, request_handler=Quiet
        )
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.parts.callback(server.server_close)
        self.parts.callback(thread.join)
        self.parts.callback(server.shutdown)

    def stop(self) -> None:
        self.parts.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + "/api/v1" + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def create(self, **wish: Any) -> str:
        wish = {"target": {"service": "payments"}, "seconds": 5, **wish}
        return str(self.ask("POST", "/captures", wish)["id"])

    def capture(self, order_id: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/captures/{order_id}"))

    def wait_for(self, order_id: str, state: str) -> dict[str, Any]:
        wait_for(lambda: self.capture(order_id)["state"] == state)
        return self.capture(order_id)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    running = Collector(tmp_path / "data", allow_tracing_captures=True)
    running.start()
    yield running
    running.stop()


@contextlib.contextmanager
def polling(
    *urls: str,
    processes: Sequence[Process] = (process(),),
    node: str = "n1",
    tracing: Any = None,
    heap: Any = None,
    **options: Any,
) -> Iterator[Orders]:
    def match(order: Order) -> list[Process]:
        return [each for each in processes if fits(order.target, each, PAYMENTS)]

    orders = Orders(
        OrderClient(Destination(urls), read_timeout_seconds=5.0),
        match,
        tracing,
        heap or HeapCaptures(),
        node=node,
        agent_id=f"agent of {node} {options.get('cluster', '')}",
        poll_seconds=0.05,
        **options,
    )
    orders.start()
    try:
        yield orders
    finally:
        orders.stop(20)


def test_a_census_runs_beside_the_loop(collector: Collector) -> None:
    class Heap:
        def run(self, processes: Any, seconds: int, stop: threading.Event) -> HeapResult:
            assert not stop.is_set()
            return HeapResult("done", f"{len(processes)} for {seconds} s", "a table")

    with polling(collector.url, heap=Heap()) as orders:
        order_id = collector.create(kind="heap", seconds=7)
        done = collector.wait_for(order_id, "done")
        assert (done["detail"], done["result_text"]) == ("1 for 7 s", "a table")
        assert (done["rate_hz"], done["page"], done["warning"]) == (0, "", "")
        assert orders.take() == []


def test_a_capture_from_beginning_to_end(collector: Collector) -> None:
    with polling(collector.url) as orders:
        order_id = collector.create(kind="wall", seconds=20, rate_hz=49)
        (order,) = wait_for(orders.take)
        assert order == Order(order_id, "wall", 20, 49, Target(service="payments"), (process(),))
        assert orders.take() == []
        assert not orders.is_over(order_id)
        assert collector.capture(order_id)["node"] == "n1"
        orders.report(order_id, "running", "2 windows", samples=10)
        assert collector.wait_for(order_id, "running")["samples"] == 10
        orders.report(order_id, "done", samples=25)
        orders.report(order_id, "running", samples=99)
        shown = collector.wait_for(order_id, "done")
        assert (shown["samples"], shown["detail"]) == (25, "2 windows")
        wait_for(lambda: orders.is_over(order_id))


def test_what_is_over_budget_is_told(collector: Collector) -> None:
    with polling(collector.url) as orders:
        order_id = collector.create()
        wait_for(orders.take)
        orders.report(order_id, "refused", "over_budget: would cost 2.4 % of the node's CPU")
        assert collector.wait_for(order_id, "refused")["detail"].startswith("over_budget: would")


def test_a_process_that_was_not_looked_at_yet_is_waited_for(collector: Collector) -> None:
    known = [replace(process(), runtime="other", unreadable="not_looked_at_yet")]
    order_id = collector.create(target={"node": "n1", "pid": 7})
    with polling(collector.url, processes=known) as orders:
        other = collector.create(target={"node": "n1", "pid": 7}, kind="gdb")
        collector.wait_for(other, "refused")  # it has polled
        assert collector.capture(order_id)["state"] == "waiting"
        known[0] = process()
        (order,) = wait_for(orders.take)
        assert order.order_id == order_id


def test_ends_are_counted_by_kind_and_result(collector: Collector) -> None:
    metrics = AgentMetrics()
    with polling(collector.url, count=metrics.add_capture) as orders:
        ids = [collector.create(kind=kind) for kind in ("cpu", "wall", "native")]
        taken: list[Order] = []
        wait_for(lambda: taken.extend(orders.take()) or len(taken) == 3)
        orders.report(ids[0], "running", samples=1)
        orders.report(ids[0], "done", samples=2)
        orders.report(ids[0], "failed", "too late")
        collector.ask("DELETE", f"/captures/{ids[1]}")
        wait_for(lambda: orders.is_over(ids[1]))
        traced = collector.create(kind="gdb", target={"node": "n1", "pid": 7})
        collector.wait_for(traced, "refused")

    def count(kind: str, result: str) -> float | None:
        labels = {"kind": kind, "result": result}
        return metrics.registry.get_sample_value("flamewell_agent_captures_total", labels)

    assert count("cpu", "done") == 1
    assert count("cpu", "failed") is None
    assert count("wall", "ended") == 1
    assert count("native", "failed") == 1  # the agent stopped
    assert count("gdb", "refused") == 1


def test_of_two_agents_one_gets_it(collector: Collector) -> None:
    with polling(collector.url, node="n1") as one, polling(collector.url, node="n2") as two:
        ids = [collector.create() for _ in range(MAX_AT_ONCE)]
        got: list[tuple[str, Order]] = []

        def all_taken() -> bool:
            for node, orders in (("n1", one), ("n2", two)):
                got.extend((node, each) for each in orders.take())
            return len(got) >= len(ids)

        wait_for(all_taken)
        time.sleep(0.2)
        all_taken()
        assert sorted(order.order_id for _, order in got) == sorted(ids)
        for node, order in got:
            assert collector.capture(order.order_id)["node"] == node


def test_an_agent_without_the_target_leaves_it(collector: Collector) -> None:
    with (
        polling(collector.url, node="n1", processes=()) as without,
        polling(collector.url, node="n2") as having,
    ):
        order_id = collector.create()
        wait_for(having.take)
        assert without.take() == []
        assert collector.capture(order_id)["refusals"] == []


def test_what_is_no_python_is_refused(collector: Collector) -> None:
    go = replace(process(), runtime="go")
    with polling(collector.url, processes=[go]):
        order_id = collector.create(target={"node": "n1", "pid": 7})
        assert "no_python" in collector.wait_for(order_id, "refused")["detail"]


def test_a_busy_node_says_so(collector: Collector) -> None:
    with polling(collector.url) as orders:
        for _ in range(MAX_AT_ONCE):
            collector.create()
        taken: list[Order] = []
        wait_for(lambda: taken.extend(orders.take()) or len(taken) == MAX_AT_ONCE)
        late = collector.create(target={"node": "n1", "pid": 7})
        assert "busy" in collector.wait_for(late, "refused")["detail"]
        orders.report(taken[0].order_id, "done")
        collector.wait_for(taken[0].order_id, "done")
        collector.create()
        wait_for(orders.take)


def test_a_cancel_reaches_the_agent(collector: Collector) -> None:
    with polling(collector.url) as orders:
        order_id = collector.create()
        wait_for(orders.take)
        collector.ask("DELETE", f"/captures/{order_id}")
        wait_for(lambda: orders.is_over(order_id))
        orders.report(order_id, "done", samples=5)
        assert collector.capture(order_id)["state"] == "cancelled"


def test_a_restarted_collector_still_has_the_orders(collector: Collector) -> None:
    with polling(collector.url) as orders:
        order_id = collector.create(seconds=60)
        wait_for(orders.take)
        collector.stop()
        waiting = threading.Timer(0.5, collector.start)
        waiting.start()
        orders.report(order_id, "done", samples=7)
        waiting.join()
        assert collector.wait_for(order_id, "done")["samples"] == 7
        later = collector.create()
        assert wait_for(orders.take)[0].order_id == later


def test_the_next_collector_is_asked_when_one_fails(collector: Collector) -> None:
    with polling("http://127.0.0.1:1", collector.url) as orders:
        order_id = collector.create()
        wait_for(orders.take)
        orders.report(order_id, "done")
        collector.wait_for(order_id, "done")


def test_an_agent_that_stops_says_so(collector: Collector) -> None:
    with polling(collector.url) as orders:
        order_id = collector.create()
        wait_for(orders.take)
    shown = collector.capture(order_id)
    assert (shown["state"], shown["detail"]) == ("failed", "the agent stops or was reconfigured")


def test_an_agent_hears_on_how_many_nodes_its_services_are(collector: Collector) -> None:
    labels = [{"service_name": "payments", "node": node} for node in ("n1", "n2", "n3")]
    profiles = [P(each, time.time_ns() // 1_000_000, {"main": 1}) for each in labels]
    collector.running.storage.append(batch(profiles, batch_id="b"))
    with polling(collector.url) as orders:

        def counted() -> bool:
            collector.running.orders.nodes.refresh()
            return bool(orders.service_nodes())

        wait_for(counted)
        assert orders.service_nodes() == {"payments": 3}


def test_stopping_waits_for_no_collector() -> None:
    with polling("http://127.0.0.1:1") as orders:
        time.sleep(0.2)
        assert orders.take() == []
        assert orders.service_nodes() == {}
    orders.report("unknown", "done")


def test_an_order_whose_acceptance_was_lost_is_offered_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = OrderClient.post, []

    def post(client: OrderClient, index: int, path: str, body: Mapping[str, Any]) -> Any:
        answer = real(client, index, path, body)
        if body.get("state") == "accepted" and len(lost) < 2:
            lost.append(answer)
            raise OrderError("unreachable", "the answer got lost")
        return answer

    monkeypatch.setattr(OrderClient, "post", post)
    with polling(collector.url) as orders:
        order_id = collector.create()
        (order,) = wait_for(orders.take)
        assert (order.order_id, len(lost)) == (order_id, 2)
        orders.report(order_id, "done", samples=3)
        assert collector.wait_for(order_id, "done")["samples"] == 3


def test_an_order_that_is_over_here_is_not_done_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrderClient.post

    def post(client: OrderClient, index: int, path: str, body: Mapping[str, Any]) -> Any:
        if body.get("state") == "done":
            return Answer(413, {}, "too large")
        return real(client, index, path, body)

    monkeypatch.setattr(OrderClient, "post", post)
    with polling(collector.url) as orders:
        order_id = collector.create()
        wait_for(orders.take)
        orders.report(order_id, "done")
        wait_for(lambda: orders.is_over(order_id))
        later = collector.create()
        assert [each.order_id for each in wait_for(orders.take)] == [later]
        assert collector.capture(order_id)["state"] == "accepted"


def test_namesakes_in_two_clusters_are_not_mixed_up(collector: Collector) -> None:
    with (
        polling(collector.url, node="n1", cluster="blue") as blue,
        polling(collector.url, node="n1", cluster="red") as red,
    ):
        for each in ("blue", "red"):  # both have polled
            first = collector.create(target={"node": "n1", "cluster": each, "pid": 8})
            collector.ask("DELETE", f"/captures/{first}")
        service = [collector.create() for _ in range(2)]
        taken: list[Order] = []
        wait_for(lambda: taken.extend([*blue.take(), *red.take()]) or len(taken) == len(service))

        def refused_without_cluster() -> bool:
            try:
                unclear = collector.create(target={"node": "n1", "pid": 7})
            except urllib.error.HTTPError as error:
                with error:
                    return "blue, red" in error.read().decode()
            collector.ask("DELETE", f"/captures/{unclear}")
            return False

        wait_for(refused_without_cluster)
        blue.take(), red.take()
        order_id = collector.create(target={"node": "n1", "cluster": "red", "pid": 7})
        (order,) = wait_for(red.take)
        assert order.order_id == order_id
        assert blue.take() == []


class Held:
    """A tracer that goes on until it is called off."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        self.running = 0

    def run(self, kind: str, key: ProcessKey, seconds: int, stop: threading.Event) -> TraceResult:
        self.running += 1
        self.began.release()
        stop.wait(30)
        self.running -= 1
        self.ended.release()
        return TraceResult("failed", "it was called off")


class TestTracing:
    def test_it_is_off_unless_both_sides_allow_it(
        self, collector: Collector, tmp_path: Path
    ) -> None:
        with polling(collector.url):
            order_id = collector.create(kind="strace", target={"node": "n1", "pid": 7})
            shown = collector.wait_for(order_id, "refused")
            assert "tracing_captures is off" in shown["detail"]
        strict = Collector(tmp_path / "strict")
        strict.start()
        try:
            with pytest.raises(urllib.error.HTTPError, match="403") as refused:
                strict.create(kind="strace")
            refused.value.close()
        finally:
            strict.stop()

    def test_one_process_is_traced_not_several(self, collector: Collector) -> None:
        several = (process(7), process(8))
        with polling(collector.url, processes=several, tracing=Tracers()):
            target = {"service": "payments", "node": "n1"}
            order_id = collector.create(kind="gdb", target=target)
            assert "7, 8" in collector.wait_for(order_id, "refused")["detail"]

    @pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
    def test_a_summary_arrives(self, collector: Collector, spawn: Spawn) -> None:
        child = spawn(sys.executable, "-S", "-c", "import os\nwhile True: os.stat('/')")
        ticks = procfs.read_stat(Path("/proc"), child.pid).start_ticks
        target = process(child.pid, ticks)
        with polling(collector.url, processes=[target], tracing=Tracers()) as orders:
            order_id = collector.create(
                kind="strace", seconds=1, target={"node": "n1", "pid": child.pid}
            )
            shown = collector.wait_for(order_id, "done")
            assert orders.take() == []
        assert "stat" in shown["result_text"]
        assert "13 to 25 times" in shown["detail"]
        assert [line["what"] for line in shown["audit"]] == ["create", "hand_out", "finish"]
        assert trace_guard.look(child.pid)[1] == 0

    @pytest.mark.parametrize("kind", ["strace", "gdb"])
    def test_a_cancel_reaches_it_while_polls_go_on(self, collector: Collector, kind: str) -> None:
        tracing = Held()
        metrics = AgentMetrics()
        with polling(collector.url, tracing=tracing, count=metrics.add_capture) as orders:
            order_id = collector.create(kind=kind, seconds=10)
            assert tracing.began.acquire(timeout=20)
            python = collector.create(kind="cpu")
            (order,) = wait_for(orders.take)  # a Python order is served meanwhile
            assert order.order_id == python
            second = collector.create(kind=kind, seconds=10)
            third = collector.create(kind="cpu")
            assert wait_for(orders.take)[0].order_id == third
            assert collector.capture(second)["state"] == "waiting"  # one after the other
            assert tracing.running == 1
            collector.ask("DELETE", f"/captures/{order_id}")
            assert tracing.ended.acquire(timeout=20)
            assert tracing.began.acquire(timeout=20)
            assert collector.capture(order_id)["state"] == "cancelled"
            assert tracing.running == 1
        assert collector.capture(second)["state"] == "failed"  # the agent stopped
        assert tracing.running == 0
        labels = {"kind": kind, "result": "ended"}
        value = metrics.registry.get_sample_value("flamewell_agent_captures_total", labels)
        assert value == 1

    def test_a_bug_in_a_tracer_does_not_leave_the_order_open(self, collector: Collector) -> None:
        class Broken:
            def run(self, *_: Any) -> Any:
                raise ZeroDivisionError

        with polling(collector.url, tracing=Broken()):
            order_id = collector.create(kind="gdb")
            assert "ZeroDivisionError" in collector.wait_for(order_id, "failed")["detail"]


class TestParsing:
    ORDER: ClassVar[dict[str, Any]] = {
        "id": "0123", "kind": "cpu", "seconds": 5, "rate_hz": 9, "target": {"service": "a"}
    }  # fmt: skip

    def test_an_order(self) -> None:
        assert parse_order(self.ORDER) == Order("0123", "cpu", 5, 9, Target(service="a"))

    @pytest.mark.parametrize(
        "change",
        [
            {"id": "../../x"}, {"id": 5}, {"id": ""}, {"kind": "rm"}, {"kind": ["cpu"]},
            {"seconds": 301}, {"seconds": 0}, {"seconds": None}, {"seconds": "5"},
            {"seconds": True}, {"kind": "strace", "seconds": 11}, {"rate_hz": 998},
            {"rate_hz": None}, {"target": None}, {"target": {"service": 5}},
            {"target": {"service": "a", "pid": "5"}},
        ],
    )  # fmt: skip
    def test_what_is_no_order_is_left_out(self, change: dict[str, Any]) -> None:
        assert parse_order({**self.ORDER, **change}) is None
        assert parse_handout({"orders": [{**self.ORDER, **change}, self.ORDER]}).orders == (
            Order("0123", "cpu", 5, 9, Target(service="a")),
        )

    @pytest.mark.parametrize(
        "content",
        [
            {}, {"orders": 5, "ended": {}, "poll_seconds": "x", "service_nodes": []},
            {"orders": [None], "ended": [5], "poll_seconds": 1e9, "service_nodes": {"a": "b"}},
        ],
    )  # fmt: skip
    def test_any_answer_is_borne(self, content: dict[str, Any]) -> None:
        found = parse_handout(content)
        assert (found.orders, found.ended, found.poll_seconds) == ((), (), 0.0)
        assert found.service_nodes == {}

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            (Target(service="payments"), True),
            (Target(service="orders"), False),
            (Target(pod="payments-1"), True),
            (Target(pod="payments-1", container="app", namespace="prod"), True),
            (Target(pod="payments-1", container="sidecar"), False),
            (Target(pod="payments-1", namespace="test"), False),
            (Target(container_id="0123456789ab"), True),
            (Target(container_id="0123"), False),
            (Target(container_id="ffffffffffff"), False),
            (Target(node="n1", pid=7), True),
            (Target(node="n1", pid=8), False),
            (Target(node="n1"), False),
        ],
    )
    def test_which_processes_fit(self, target: Target, expected: bool) -> None:
        assert fits(target, process(7), PAYMENTS) == expected
