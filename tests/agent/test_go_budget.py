"""What pulls may cost, which endpoints annotations give, and windows that cover a part."""

from __future__ import annotations

import math
from pathlib import Path

from agent.pprof_server import PprofServer

from flamewell_agent.model import Frame, Process, ProcessKey, Resource, Scrape, Subject
from flamewell_agent.samplers.go_budget import PullBudget
from flamewell_agent.samplers.go_counters import CounterRoom, Counters
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_finding import EndpointFinder
from flamewell_agent.samplers.go_pulls import scaled


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_an_allowance_everything_runs_and_with_none_nothing():
    budget = PullBudget(clock=Clock())
    assert budget.admit("a", "heap", 1)
    budget.allow(0.0)
    assert not budget.admit("a", "heap", 1)


def test_use_stays_under_the_allowance_and_everybody_gets_turns():
    clock = Clock()
    budget = PullBudget(clock=clock)
    budget.allow(0.01)
    runs = dict.fromkeys("abcdefgh", 0)
    for _ in range(4_000):
        clock.now += 1.0
        for url in runs:
            if budget.admit(url, "profile", 4):
                runs[url] += 1
                budget.settle(url, "profile", 0.05)
    assert budget.cpu_seconds() <= 0.01 * (4_000 + 60) + 0.05 * len(runs)
    assert budget.cpu_seconds() >= 0.01 * 4_000 * 0.9
    assert max(runs.values()) - min(runs.values()) <= 0.2 * max(runs.values())


def test_a_pull_that_costs_more_than_can_be_saved_runs_now_and_then():
    clock = Clock()
    budget = PullBudget(clock=clock)
    budget.allow(0.001)
    runs = 0
    for _ in range(100_000):
        clock.now += 1.0
        if budget.admit("a", "heap", 1):
            runs += 1
            budget.settle("a", "heap", 1.0)
    assert 80 <= runs <= 110
    budget.allow(math.inf)
    assert budget.admit("a", "heap", 1)


def test_scaling_keeps_the_sum_to_the_last_unit():
    samples = tuple(((Frame(str(index)),), 7) for index in range(10))
    assert sum(value for _, value in scaled(samples, 10, 3)) == 70 * 10 // 3


def test_counters_that_do_not_fit_give_no_delta_instead_of_a_huge_one():
    rows = {key: (1, key) for key in range(100)}
    packed = Counters.pack(1, rows, 2, room_bytes=24 * 10)
    later = {key: (2, key + 5) for key in range(110)}
    assert not packed.restarted(later)
    assert packed.deltas(later, 1) == (dict.fromkeys(range(90, 100), 5), 100)


def test_memory_for_counters_is_shared():
    room = CounterRoom(limit_bytes=1_000_000)
    assert room.take("greedy", 10_000_000) == 1_000_000
    assert 0 < room.take("late", 10_000_000) < 1_000_000
    room.release("greedy")
    assert room.take("late", 10_000_000) == 1_000_000


def claimed(
    url: str, *programs: tuple[int, str, str]
) -> tuple[list[Process], dict[ProcessKey, Subject]]:
    processes, subjects = [], {}
    for pid, name, refused in programs:
        process = Process(ProcessKey(pid, pid), "go", "", name, (name,))
        processes.append(process)
        scrapes = (Scrape(("cpu", "memory"), url),)
        subjects[process.key] = Subject(Resource(()), name, refused=refused, scrapes=scrapes)
    return processes, subjects


def test_an_annotated_endpoint_is_of_the_process_whose_arguments_it_tells(tmp_path: Path):
    with PprofServer({"cmdline": b"server"}) as server:
        finder = EndpointFinder((), detect=False, proc_root=tmp_path, connect=PprofClient)
        both = claimed(server.url, (1, "helper", ""), (2, "server", ""))
        (endpoint,) = finder.find(*both)
        assert endpoint.process == both[0][1]
        assert endpoint.kinds == {"cpu", "memory"}
        assert finder.look_of(both[0][0]) is not None


def test_who_refuses_is_not_pulled_from_though_annotated(tmp_path: Path):
    finder = EndpointFinder((), detect=True, proc_root=tmp_path, connect=PprofClient)
    processes, subjects = claimed("http://10.0.0.1:6060", (1, "server", "opted_out"))
    assert finder.find(processes, subjects) == ()
    assert finder.look_of(processes[0]).reason == "opted_out"
