"""Each nanosecond is told once, by the right service, and marked where its stacks are guessed."""

from __future__ import annotations

import pytest

from flamewell_agent import sampling
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import (
    Frame,
    Process,
    ProcessKey,
    Resource,
    SamplingOptions,
    Subject,
    Wanted,
    Window,
    WindowResult,
)
from flamewell_agent.sampling import PythonSampling, Room, Rules
from flamewell_agent.weighting import UNSAMPLED_STACK
from flamewell_wire.profile_types import CPU, WALL

A, B = (Frame("a"), Frame("main")), (Frame("b"), Frame("main"))
SECOND = 1_000_000_000
AMPLE = Room(15, 10.0, 1 << 40)


class Node:
    """Processes with CPU clocks that the test sets; times are seconds."""

    def __init__(self, monkeypatch) -> None:
        self.clocks: dict[int, int] = {}
        self.services: dict[int, str] = {}
        self.options = SamplingOptions()
        monkeypatch.setattr(sampling, "process_cpu_nanos", self.clocks.get)
        self.metrics = AgentMetrics()
        self.sampling = PythonSampling(
            self.subject, self.metrics, Rules(97, 60.0, 0.001), own_pid=1, uniform=lambda: 0.5
        )
        self.told: list = []

    def add(self, pid: int, service: str) -> Process:
        self.clocks[pid] = 0
        self.services[pid] = service
        return Process(ProcessKey(pid, 10**12), "cpython", "3.11", "python3", ("python3",))

    def subject(self, process: Process) -> Subject:
        service = self.services[process.key.pid]
        return Subject(Resource.of({"service.name": service}), service, self.options)

    def observe(self, processes, now: float) -> None:
        self.told += self.sampling.observe(processes, now)

    def decide(self, processes, *, wanted=None, nodes=None, room=AMPLE, now=0.0):
        return self.sampling.decide(
            processes, room, wanted=wanted or {}, service_nodes=nodes or {}, now=now
        )

    def weigh(self, results, now: float) -> None:
        self.told += self.sampling.weigh(results, 7, now)

    def result(self, process: Process, samples, *, standing=False, **fields):
        window = Window(
            process, 97, 15, 0.1, kind=fields.pop("kind", "cpu"), stands_for_siblings=standing
        )
        return WindowResult(
            window,
            samples=tuple(samples.items()),
            intervals=15 * 97,
            wall_seconds=15.0,
            target_clock_nanos=self.clocks[process.key.pid],
            **fields,
        )

    def cpu(self, **labels: str) -> dict[tuple[str, str], int]:
        """Give CPU ns by service and leaf, of profiles that carry these labels."""
        found: dict[tuple[str, str], int] = {}
        for profile in self.told:
            attributes = dict(profile.resource.attributes)
            own = {k.removeprefix("label."): v for k, v in attributes.items() if "label." in k}
            if profile.type_id == CPU.id and own == labels:
                for stack, value in profile.samples:
                    key = (attributes["service.name"], stack[0].function)
                    found[key] = found.get(key, 0) + value * profile.period
        return found


@pytest.fixture
def node(monkeypatch) -> Node:
    return Node(monkeypatch)


def test_windows_that_stand_for_siblings_share_all_their_cpu_time(node):
    workers = [node.add(pid, "shop") for pid in range(10, 14)]
    node.observe(workers, 0.0)
    for pid, seconds in zip(range(10, 14), (1, 2, 3, 4), strict=True):
        node.clocks[pid] = seconds * SECOND
    node.observe(workers, 15.0)
    node.decide(workers)
    drawn = [
        node.result(workers[1], {A: 100}, standing=True),
        node.result(workers[3], {B: 300}, standing=True),
    ]
    node.weigh(drawn, 30.0)
    assert node.cpu() == {("shop", "a"): 5 * SECOND, ("shop", "b"): 5 * SECOND}
    node.observe(workers, 45.0)
    assert node.sampling.tell_overdue(80.0) == []


def test_a_process_that_was_sure_to_be_drawn_tells_its_own_cpu_time_alone(node):
    workers = [node.add(pid, "shop") for pid in (10, 11, 12)]
    node.observe(workers, 0.0)
    node.clocks.update({10: 8 * SECOND, 11: SECOND, 12: SECOND})
    node.observe(workers, 15.0)
    node.decide(workers)
    node.weigh(
        [node.result(workers[0], {A: 9}), node.result(workers[1], {B: 9}, standing=True)], 30.0
    )
    assert node.cpu() == {("shop", "a"): 8 * SECOND, ("shop", "b"): 2 * SECOND}


def test_a_failed_window_leaves_its_part_to_the_others_that_were_drawn(node):
    workers = [node.add(pid, "shop") for pid in (10, 11)]
    node.observe(workers, 0.0)
    node.clocks.update({10: SECOND, 11: 3 * SECOND})
    node.observe(workers, 15.0)
    node.decide(workers)
    failed = node.result(workers[1], {}, standing=True, failure="process_ended")
    node.weigh([node.result(workers[0], {A: 9}, standing=True), failed], 30.0)
    assert node.cpu() == {("shop", "a"): 4 * SECOND}


def test_what_is_overdue_is_told_by_the_services_last_stacks_and_marked(node):
    one, other = node.add(10, "shop"), node.add(11, "mail")
    node.observe([one, other], 0.0)
    node.clocks.update({10: SECOND, 11: SECOND})
    node.decide([one, other])
    node.weigh([node.result(one, {A: 3, B: 1})], 15.0)
    node.clocks.update({10: 5 * SECOND, 11: 2 * SECOND})
    node.observe([one, other], 30.0)
    node.told += node.sampling.tell_overdue(100.0)
    assert node.cpu(extrapolated="true") == {("shop", "a"): 3 * SECOND, ("shop", "b"): SECOND}
    assert node.cpu()["mail", UNSAMPLED_STACK[0].function] == 2 * SECOND


def test_what_ended_untold_is_told_by_the_services_last_stacks(node):
    one, two = node.add(10, "shop"), node.add(11, "shop")
    node.observe([one, two], 0.0)
    node.decide([one, two])
    node.clocks.update({10: SECOND, 11: SECOND})
    node.weigh([node.result(one, {A: 3})], 15.0)
    node.observe([one, two], 16.0)
    node.observe([one], 30.0)
    assert node.cpu(extrapolated="true") == {("shop", "a"): SECOND}


def test_shedding_memory_gives_up_extrapolation_only(node):
    one = node.add(10, "shop")
    node.observe([one], 0.0)
    node.decide([one])
    node.clocks[10] = SECOND
    node.weigh([node.result(one, {A: 3})], 15.0)
    node.sampling.shed()
    node.clocks[10] = 2 * SECOND
    node.observe([one], 30.0)
    node.told += node.sampling.tell_overdue(100.0)
    assert node.cpu() == {("shop", "a"): SECOND, ("shop", UNSAMPLED_STACK[0].function): SECOND}


def test_a_capture_marks_what_it_brought_and_nothing_is_told_twice(node):
    one = node.add(10, "shop")
    node.observe([one], 0.0)
    node.clocks[10] = SECOND
    node.observe([one], 15.0)
    wanted = {one.key: Wanted("o-1", 47, 15, SamplingOptions())}
    decision = node.decide([one], wanted=wanted)
    assert [(each.process, each.rate_hz) for each in decision.windows] == [(one, 47)]
    node.weigh([node.result(one, {A: 3})], 30.0)
    assert node.cpu(capture_id="o-1") == {("shop", "a"): SECOND}
    assert node.cpu() == {}


def test_wall_windows_stand_for_all_processes_and_all_the_time_since_the_last(node):
    workers = [node.add(pid, "shop") for pid in (10, 11)]
    node.options = SamplingOptions(wall=True)
    node.observe(workers, 0.0)
    node.decide(workers)
    looks = 15 * 97
    node.weigh([node.result(workers[0], {A: looks, B: looks}, kind="wall")], 15.0)
    node.weigh([node.result(workers[0], {A: looks}, kind="wall")], 45.0)
    amounts = [
        (stack[0].function, value * profile.period / SECOND)
        for profile in node.told
        if profile.type_id == WALL.id
        for stack, value in profile.samples
    ]
    # Two processes: 15 s of wall time each at first, then 30 s each.
    assert amounts == [
        ("a", pytest.approx(30)),
        ("b", pytest.approx(30)),
        ("a", pytest.approx(60)),
    ]


def test_the_agent_itself_and_what_cannot_be_read_are_named(node):
    own, closed = node.add(1, "agent"), node.add(12, "shop")
    closed = Process(closed.key, "cpython", "", "python3", (), unreadable="not_permitted: maps")
    node.observe([own, closed], 0.0)
    decision = node.decide([own, closed])
    assert dict(decision.skipped) == {own: "agent_itself", closed: "not_permitted: maps"}


def test_without_memory_there_are_no_windows_and_the_reason_is_told(node):
    one = node.add(10, "shop")
    node.observe([one], 0.0)
    node.clocks[10] = 10 * SECOND
    node.observe([one], 15.0)
    decision = node.decide([one], room=Room(15, 10.0, 0))
    assert dict(decision.skipped) == {one: "over_memory_ceiling"}
    assert b'given_up{what="over_memory_ceiling"} 1.0' in node.metrics.render()


def test_a_service_on_many_nodes_gets_its_part_of_the_samples_here(node):
    one = node.add(10, "shop")
    rates = []
    for seconds in range(6):
        node.clocks[10] = 15 * seconds * SECOND
        node.observe([one], 15.0 * seconds)
        decision = node.decide([one], nodes={"shop": 30} if seconds >= 3 else {})
        results = [
            WindowResult(
                window,
                samples=((A, window.rate_hz * 15),),
                intervals=window.rate_hz * 15,
                cpu_seconds=0.05,
                wall_seconds=15.0,
            )
            for window in decision.windows
        ]
        node.sampling.learn(results, 15.0 * seconds)
        rates.append([window.rate_hz for window in decision.windows])
    assert rates[2][0] >= 61
    assert rates[3] == [7]


def test_a_wall_clock_capture_stands_for_its_own_process_and_time_alone(node):
    workers = [node.add(pid, "shop") for pid in (10, 11, 12)]
    node.options = SamplingOptions(wall=True)
    node.observe(workers, 0.0)
    wanted = {workers[0].key: Wanted("o-1", 47, 15, SamplingOptions(wall=True))}
    node.decide(workers, wanted=wanted)
    looks = 15 * 97
    node.weigh([node.result(workers[0], {A: looks}, kind="wall")], 300.0)
    node.weigh([node.result(workers[0], {A: looks}, kind="wall")], 400.0)
    amounts = [
        value * profile.period / SECOND
        for profile in node.told
        if profile.type_id == WALL.id
        for _, value in profile.samples
    ]
    assert amounts == [pytest.approx(15), pytest.approx(15)]


def test_a_window_that_cannot_be_weighed_costs_no_other(node, monkeypatch):
    one, other = node.add(10, "shop"), node.add(11, "mail")
    node.observe([one, other], 0.0)
    node.clocks.update({10: SECOND, 11: SECOND})
    node.observe([one, other], 15.0)
    node.decide([one, other])
    broken, told = node.result(one, {A: 3}), node.result(other, {B: 3})
    cpu_profiles = sampling.weighting.cpu_profiles

    def choosy(result, *args, **fields):
        if result is broken:
            raise RuntimeError("a stack too much")
        return cpu_profiles(result, *args, **fields)

    monkeypatch.setattr(sampling.weighting, "cpu_profiles", choosy)
    node.weigh([broken, told], 30.0)
    assert node.cpu() == {("mail", "b"): SECOND}
    assert b'stage_failures_total{stage="weighting"} 1.0' in node.metrics.render()
