"""Each process has exactly one line, with a reason."""

from __future__ import annotations

from dataclasses import replace

from flamewell_agent.ledger import account
from flamewell_agent.model import Coverage, Frame, Process, ProcessKey, Window, WindowResult


def process(pid: int, runtime="cpython", **changed: str) -> Process:
    return Process(ProcessKey(pid, 1), runtime, "", f"program-{pid}", (), **changed)


def result(of: Process, **changed: object) -> WindowResult:
    return WindowResult(Window(of, 29, 15, 0.1), **changed)


def lines(processes, *, results=(), skipped=(), go=()) -> dict[int, Coverage]:
    found = account(
        processes,
        results=results,
        skipped=skipped,
        go=go,
        service_of=lambda each: each.executable,
    )
    assert [each.process for each in found] == list(processes)
    return {each.process.key.pid: each for each in found}


def test_each_process_has_one_line_and_a_reason():
    processes = [process(pid) for pid in range(1, 6)]
    processes += [process(6, "go"), process(7, "other"), process(8, "other", unreadable="zombie")]
    found = lines(
        processes,
        results=[
            result(processes[0], samples=(((Frame("f"),), 3),)),
            result(processes[1]),
            result(processes[2], failure="not_permitted", detail="words"),
        ],
        skipped=[(processes[3], "idle"), (processes[4], "not_permitted: /proc/5/maps: no")],
        go=[Coverage(processes[5], "orders", "sampled", "pprof")],
    )
    shown = {pid: (each.state, each.reason, each.detail) for pid, each in found.items()}
    assert shown == {
        1: ("sampled", "29hz", ""),
        2: ("sampled", "no_python_on_cpu", ""),
        3: ("failed", "not_permitted", "words"),
        4: ("skipped", "idle", ""),
        5: ("skipped", "not_permitted", "/proc/5/maps: no"),
        6: ("sampled", "pprof", ""),
        7: ("skipped", "memory_only", "no profiler for it"),
        8: ("skipped", "zombie", ""),
    }
    assert found[6].service_name == "orders"
    assert found[1].service_name == "program-1"


def test_lines_of_processes_that_are_not_in_the_scan_are_left_out():
    gone = process(9)
    assert lines([], results=[result(gone)], skipped=[(gone, "idle")]) == {}


def test_a_wall_clock_window_that_is_missing_or_failed_is_told():
    both, alone, broken = process(1), process(2), process(3)
    wall = Window(alone, 19, 15, 0.1, kind="wall")
    found = account(
        [both, alone, broken],
        results=[
            result(both, samples=(((Frame("f"),), 3),)),
            WindowResult(wall),
            WindowResult(replace(wall, process=broken), failure="not_permitted"),
        ],
        skipped=[(alone, "idle"), (broken, "idle")],
        go=[],
        service_of=lambda each: each.executable,
        wall_skipped=[(both, "over_budget")],
    )
    assert [(each.state, each.reason, each.detail) for each in found] == [
        ("sampled", "29hz", "no wall-clock window: over_budget"),
        ("sampled", "wall_clock_only", ""),
        ("skipped", "idle", "wall-clock window failed: not_permitted"),
    ]
