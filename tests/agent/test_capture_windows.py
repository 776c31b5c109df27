"""Orders are served by windows until their seconds are covered, or are told why not."""

from __future__ import annotations

import pytest

from flamewell_agent.capture_windows import (
    PROCESSES_AT_MOST,
    TRIES,
    CaptureWindows,
    NoOrders,
    Roster,
)
from flamewell_agent.governor import Decision
from flamewell_agent.model import (
    Frame,
    Process,
    ProcessKey,
    Resource,
    SamplingOptions,
    Subject,
    Window,
    WindowResult,
)
from flamewell_agent.order_parse import Order, Target

STACK = (Frame("work"),)


def process(pid: int) -> Process:
    return Process(ProcessKey(pid, 1), "cpython", "3.11", "python3", ("python3",))


class Source:
    def __init__(self, *orders: Order) -> None:
        self.waiting = list(orders)
        self.told: list[tuple[str, str, str, int]] = []
        self.over: set[str] = set()

    def take(self) -> list[Order]:
        taken, self.waiting = self.waiting, []
        return taken

    def report(self, order_id: str, state: str, detail: str = "", samples: int = 0) -> None:
        self.told.append((order_id, state, detail, samples))

    def is_over(self, order_id: str) -> bool:
        return order_id in self.over

    def service_nodes(self) -> dict[str, int]:
        return {"shop": 3}


def subject_of(each: Process) -> Subject:
    service = "shop" if each.key.pid < 50 else "mail"
    return Subject(Resource.of({"service.name": service}), service)


def make(source: Source) -> CaptureWindows:
    return CaptureWindows(source, Roster(subject_of))


def order(*processes: Process, kind="cpu", seconds=30, order_id="o-1") -> Order:
    return Order(order_id, kind, seconds, 47, Target(service="shop"), processes)


def window(each: Process, *, kind="cpu", seconds=15, failure="", samples=5) -> WindowResult:
    return WindowResult(
        Window(each, 47, seconds, 0.1, kind=kind),
        samples=((STACK, samples),) if samples else (),
        failure=failure,
    )


def test_an_order_is_wanted_until_its_seconds_are_covered():
    one = process(7)
    source = Source(order(one))
    captures = make(source)
    wanted = captures.wanted([one, process(8)])
    assert set(wanted) == {one.key}
    assert (wanted[one.key].capture_id, wanted[one.key].rate_hz) == ("o-1", 47)
    captures.ran(Decision(), [window(one)])
    assert captures.wanted([one])[one.key].seconds == 15
    captures.ran(Decision(), [window(one)])
    assert source.told == [("o-1", "running", "", 5), ("o-1", "done", "", 10)]
    assert captures.wanted([one]) == {}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("wall", SamplingOptions(wall=True)), ("native", SamplingOptions(native=True))],
)
def test_the_kind_says_how(kind, options):
    one = process(7)
    captures = make(Source(order(one, kind=kind)))
    assert captures.wanted([one])[one.key].options == options


def test_what_does_not_fit_for_some_cycles_is_refused_with_the_reason():
    one = process(7)
    source = Source(order(one))
    captures = make(source)
    skipped = Decision(skipped=((one, "over_budget: would cost 9 ms of 3 ms"),))
    for _ in range(TRIES):
        assert source.told == []
        captures.wanted([one])
        captures.ran(skipped, [])
    assert source.told == [("o-1", "refused", "over_budget: would cost 9 ms of 3 ms", 0)]


def test_windows_that_fail_are_told_with_the_samplers_words():
    one = process(7)
    source = Source(order(one))
    captures = make(source)
    for _ in range(TRIES):
        captures.wanted([one])
        captures.ran(Decision(), [window(one, failure="not_permitted")])
    assert source.told == [("o-1", "refused", "not_permitted", 0)]


def test_a_wall_order_is_not_done_by_cpu_windows():
    one = process(7)
    source = Source(order(one, kind="wall", seconds=15))
    captures = make(source)
    captures.wanted([one])
    captures.ran(Decision(wall_skipped=((one, "over_budget"),)), [window(one)])
    assert source.told == []
    captures.ran(Decision(), [window(one), window(one, kind="wall", samples=9)])
    assert source.told == [("o-1", "done", "", 9)]


def test_an_order_whose_process_ends_fails():
    one = process(7)
    source = Source(order(one))
    captures = make(source)
    captures.wanted([one])
    captures.ran(Decision(), [window(one)])
    assert captures.wanted([process(8)]) == {}
    assert source.told[-1] == ("o-1", "failed", "the process has ended", 5)


def test_a_cancelled_order_is_dropped_and_not_told():
    one = process(7)
    source = Source(order(one))
    captures = make(source)
    captures.wanted([one])
    source.over.add("o-1")
    assert captures.wanted([one]) == {}
    assert source.told == []


def test_a_later_order_for_the_same_process_waits_for_the_earlier():
    one = process(7)
    source = Source(order(one, seconds=15), order(one, seconds=15, order_id="o-2"))
    captures = make(source)
    assert captures.wanted([one])[one.key].capture_id == "o-1"
    captures.ran(Decision(), [window(one)])
    assert captures.wanted([one])[one.key].capture_id == "o-2"
    captures.ran(Decision(), [window(one, samples=3)])
    assert [told[:2] for told in source.told] == [("o-1", "done"), ("o-2", "done")]
    assert source.told[1][3] == 3


def test_few_processes_of_a_large_service_are_captured():
    many = [process(pid) for pid in range(100, 140)]
    captures = make(Source(order(*many)))
    assert len(captures.wanted(many)) == PROCESSES_AT_MOST


def test_without_orders_nothing_is_wanted():
    assert NoOrders().wanted([process(7)]) == {}
    NoOrders().ran(Decision(), [])


def test_orders_match_what_is_there_now():
    roster = Roster(subject_of)
    assert roster.match(order()) == []
    roster.update([process(7), process(60), process(8)])
    assert [each.key.pid for each in roster.match(order())] == [7, 8]
