"""What pulls may cost, which endpoints annotations give, and windows that cover a part."""

from __future__ import annotations

import math
from pathlib import Path

from agent.pprof_bytes import Builder
from agent.pprof_server import PprofServer

from flamewell_agent.model import Frame, Process, ProcessKey, Resource, Scrape, Subject
from flamewell_agent.samplers.go_budget import PullBudget
from flamewell_agent.samplers.go_counters import CounterRoom, Counters
from flamewell_agent.samplers.go_endpoints import Endpoint
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_finding import EndpointFinder
from flamewell_agent.samplers.go_pulls import PULLS, Converter, Span, scaled
from flamewell_agent.samplers.go_worker import EndpointWorker, Pulling
from flamewell_agent.samplers.pprof_parse import parse


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


def window(
    converter: Converter, start_seconds: float, seconds: float, value: int
) -> tuple[float, float, int]:
    """Convert a CPU window that began then; give start and end of what it stands for, and total."""
    data = Builder(("samples", "count"), ("cpu", "nanoseconds")).simple({("f",): (1, value)})
    data.message.duration_nanos = int(seconds * 1e9)
    start = int(start_seconds * 1e9)
    # The wall clock stands an hour ahead of the one that never steps.
    span = Span(start + 3600 * 10**9, data.message.duration_nanos, start)
    cpu = next(each for each in PULLS if each.windowed)
    (profile,) = converter.convert(parse(data.encode()), cpu, resource=Resource(()), span=span)
    begin = profile.start_unix_nanos / 1e9 - 3600
    return begin, begin + profile.duration_nanos / 1e9, sum(value for _, value in profile.samples)


def test_windows_that_cover_a_part_stand_for_all_the_time_since_the_one_before():
    converter = Converter(whole_from=1.0)
    assert window(converter, 100, 3, 30) == (100, 103, 30)
    assert window(converter, 112, 3, 30) == (103, 115, 120)
    assert window(converter, 116, 9, 90) == (115, 125, 100)  # nine tenths, and stretched
    assert window(converter, 125, 3, 30) == (125, 128, 30)


def test_windows_that_follow_each_other_are_taken_as_they_are():
    converter = Converter()
    window(converter, 100, 15, 10)
    assert window(converter, 116, 15, 10) == (116, 131, 10)
    # One that a budget left out is stood for by the next.
    assert window(converter, 146, 15, 10) == (131, 161, 20)


def test_a_rare_window_stands_for_ten_minutes_at_most():
    converter = Converter(whole_from=1.0)
    window(converter, 0.5, 1, 10)
    assert window(converter, 300.5, 1, 10) == (1.5, 301.5, 3_000)
    begin, end, value = window(converter, 5_000, 1, 10)
    assert (end - begin, value) == (600, 6_000)


def test_after_a_connection_was_lost_a_window_stands_for_itself():
    converter = Converter(whole_from=1.0)
    window(converter, 1, 1, 10)
    converter.forget()
    assert window(converter, 50, 1, 10) == (50, 51, 10)


def test_where_windows_must_be_short_the_other_pulls_keep_to_the_cycle():
    clock = Clock()
    clock.now = 1_000.0
    with PprofServer({"profile": (400, b"profile duration exceeds server's WriteTimeout")}) as go:
        pulling = Pulling(16, lambda _: None, lambda _result, _count: None, clock=clock)
        kinds = frozenset({"cpu", "goroutine"})
        worker = EndpointWorker(Endpoint(go.url, kinds=kinds), Resource(()), pulling)
        for _ in range(5):
            worker._round()
            clock.now += 4
        worker.stop()
    paths = [each.removeprefix("/debug/pprof/") for each in go.requests]
    assert [each for each in paths if each.startswith("profile")] == [
        f"profile?seconds={seconds}" for seconds in (16, 8, 4, 2, 1)
    ]
    # At 1000 s and, as more than nine tenths of 16 s have passed by then, at 1016 s.
    assert paths.count("goroutine") == 2
