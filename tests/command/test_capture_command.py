"""``flamewell capture`` against a real collector, with a thread that plays the agent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from flamewell import capture_command
from flamewell.cli import main
from flamewell.client import Client
from flamewell.errors import CommandError
from flamewell_collector.app import Collector, running_collector
from flamewell_collector.captures import Poll, Report
from flamewell_collector.config import CollectorConfig

T = "default"


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's
            pass

    config = CollectorConfig(data_dir=str(tmp_path / "data"), allow_tracing_captures=True)
    with running_collector(config) as running:
        server = make_server("127.0.0.1", 0, running.app, threaded=True, request_handler=Quiet)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("FLAMEWELL_URL", f"http://127.0.0.1:{server.server_port}")
        yield running
        server.shutdown()
        thread.join()
        server.server_close()


Answering = Callable[..., None]


@pytest.fixture
def agent(collector: Collector) -> Iterator[Answering]:
    """Give a function: what an agent is to say of the first order, one report after the other."""
    stop, threads = threading.Event(), []

    def answer(*reports: tuple[str, str, int, str]) -> None:
        def play() -> None:
            while not stop.wait(0.01):
                for order in collector.orders.dispatch.poll(T, Poll("n1", "a")).orders:
                    for state, detail, samples, text in reports:
                        report = Report("n1", "a", state, detail, samples, text)  # type: ignore[arg-type]
                        collector.orders.dispatch.report(T, order.capture_id, report)
                    return

        threads.append(threading.Thread(target=play))
        threads[-1].start()

    yield answer
    stop.set()
    for thread in threads:
        thread.join()


def made(collector: Collector) -> Any:
    (capture,) = collector.orders.dispatch.newest(T, state="", service="", limit=10)
    return capture


def test_asking_says_how_to_wait(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    line = "capture --service payments --seconds 12 --rate 49 --kind wall"
    assert main(line.split()) == 0
    capture = made(collector)
    assert (capture.wish.kind, capture.wish.seconds, capture.wish.rate_hz) == ("wall", 12, 49)
    out = capsys.readouterr().out
    assert f"flamewell capture wait {capture.capture_id}" in out
    assert "service=payments" in out
    assert main(["capture", "list"]) == 0
    assert capture.capture_id in capsys.readouterr().out
    assert main(["capture", "cancel", capture.capture_id]) == 0
    assert made(collector).state == "cancelled"
    assert main(["capture", "show", capture.capture_id]) == 1
    assert main(["capture", "cancel", capture.capture_id]) == 1
    assert "cancelled already" in capsys.readouterr().err


def test_waiting_shows_where_the_flame_graph_is(
    collector: Collector, agent: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    agent(("accepted", "", 0, ""), ("done", "", 250, ""))
    assert main(["capture", "--service", "payments", "--wait"]) == 0
    shown = capsys.readouterr()
    assert "/#service=&type=process_cpu" in shown.out
    assert "format=folded" in shown.out
    assert "250 samples" in shown.err


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (("refused", "over_budget: would cost 2.4 %", 0, ""), "over_budget"),
        (("failed", "process_ended", 0, ""), "process_ended"),
    ],
)
def test_what_comes_to_nothing_ends_with_1(
    agent: Answering,
    capsys: pytest.CaptureFixture[str],
    report: tuple[str, str, int, str],
    words: str,
) -> None:
    agent(("accepted", "", 0, ""), report)
    assert main(["capture", "--service", "payments", "--wait"]) == 1
    assert words in capsys.readouterr().out


def test_a_trace_is_printed_harmless_and_warned_of(
    agent: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    agent(("accepted", "", 0, ""), ("done", "", 0, "#0 main\t\x1b[2J\n#1 start"))
    line = "capture --node n1 --pid 7 --kind gdb --wait"
    assert main(line.split()) == 0
    shown = capsys.readouterr()
    assert "#0 main    \\x1b[2J\n#1 start\n" in shown.out
    assert "WARNING" in shown.err


def test_json(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "--service", "payments", "--json"]) == 0
    capture_id = json.loads(capsys.readouterr().out)["id"]
    assert main(["capture", "show", capture_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]
    assert main(["capture", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["captures"][0]["id"] == capture_id


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("capture", "say what to capture"),
        ("capture --pid 5", "without its node"),
        ("capture --service a --seconds 301", "from 1 to 300"),
        ("capture --service a --kind strace --seconds 11", "from 1 to 10"),
        ("capture wait", "needs the id"),
        ("capture list 0123", "one word too many"),
        ("capture show ../status", "not the id"),
    ],
)
@pytest.mark.usefixtures("collector")
def test_wrong_usage_ends_with_2(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("collector")
def test_an_unknown_capture_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "wait", "0123456789abcdef"]) == 1
    assert "there is no capture" in capsys.readouterr().err


def test_waiting_outlives_a_collector_that_is_away(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, looks = Client.get_json, []

    def get_json(client: Client, path: str, parameters: dict[str, str]) -> Any:
        looks.append(path)
        if len(looks) < 4:
            raise CommandError("cannot connect")
        (order,) = collector.orders.dispatch.poll(T, Poll("n1", "a")).orders or (None,)
        if order is not None:
            for state in ("accepted", "done"):
                report = Report("n1", "a", state)  # type: ignore[arg-type]  # one of its words
                collector.orders.dispatch.report(T, order.capture_id, report)
        return real(client, path, parameters)

    monkeypatch.setattr(capture_command, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Client, "get_json", get_json)
    assert main(["capture", "--service", "payments", "--wait"]) == 0
    monkeypatch.setattr(capture_command, "_PATIENCE_SECONDS", 0.05)

    def away(*_: Any) -> Any:
        raise CommandError("cannot connect")

    monkeypatch.setattr(Client, "get_json", away)
    assert main(["capture", "--service", "payments", "--wait"]) == 1
    assert "may still run: flamewell capture wait" in capsys.readouterr().err
