"""Each nanosecond of CPU time is told once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.accounts import CARRY_SECONDS, CpuAccounts
from flamewell_agent.model import Process, ProcessKey

SECOND = 1_000_000_000
START = 1000


def process(pid: int, start_ticks: int) -> Process:
    return Process(ProcessKey(pid, start_ticks), "cpython", "3.11", "python", ())


OLD, YOUNG = process(1, START - 1), process(2, START)


def accounts() -> CpuAccounts:
    return CpuAccounts(since_ticks=START)


def test_what_an_older_process_used_before_is_not_ours():
    book = accounts()
    book.observe([(OLD, 500 * SECOND)], 0.0)
    assert book.nanos_per_second(OLD.key) == 0
    assert book.settle(OLD.key, 501 * SECOND, 1.0) == SECOND


def test_an_older_process_that_is_recognised_late_is_not_charged_its_past():
    book = accounts()
    book.observe([], 0.0)
    book.observe([(OLD, 500 * SECOND)], 15.0)
    assert book.settle(OLD.key, 500 * SECOND, 16.0) == 0
    assert book.nanos_per_second(OLD.key) == 0


def test_all_that_a_younger_process_used_is_told():
    book = accounts()
    book.observe([], 0.0)
    book.observe([(YOUNG, 3 * SECOND)], 15.0)
    assert book.nanos_per_second(YOUNG.key) > 0
    assert book.settle(YOUNG.key, 4 * SECOND, 16.0) == 4 * SECOND
    assert book.settle(YOUNG.key, 4 * SECOND, 17.0) == 0


def test_a_clock_that_seems_to_go_back_tells_nothing():
    book = accounts()
    book.observe([(YOUNG, 5 * SECOND)], 0.0)
    assert book.settle(YOUNG.key, 0, 1.0) == 5 * SECOND
    assert book.settle(YOUNG.key, 4 * SECOND, 2.0) == 0


def test_the_rate_follows_the_use():
    book = accounts()
    book.observe([(OLD, 0)], 0.0)
    for second in range(1, 20):
        book.observe([(OLD, second * SECOND // 2)], float(second))
    assert abs(book.nanos_per_second(OLD.key) - SECOND / 2) < SECOND / 100


def test_a_process_that_ended_tells_its_rest_once():
    book = accounts()
    book.observe([(YOUNG, SECOND)], 0.0)
    (ended,) = book.observe([], 15.0)
    assert (ended.process, ended.cpu_nanos, ended.seconds) == (YOUNG, SECOND, 15.0)
    assert book.observe([], 30.0) == []


def test_what_was_carried_too_long_is_told_once():
    book = accounts()
    book.observe([(YOUNG, SECOND)], 0.0)
    assert book.overdue(CARRY_SECONDS - 1) == []
    (late,) = book.overdue(CARRY_SECONDS)
    assert late.cpu_nanos == SECOND
    assert book.overdue(10 * CARRY_SECONDS) == []


def test_an_unknown_process_has_nothing_to_tell():
    assert accounts().settle(OLD.key, SECOND, 0.0) == 0
    assert accounts().nanos_per_second(OLD.key) == 0


steps = st.lists(st.tuples(st.sampled_from(["scan", "window", "overdue"]), st.integers(0, 10**10)))


@given(steps)
def test_whatever_happens_all_is_told_once(events):
    book = accounts()
    clock, told, now = 0, 0, 0.0
    book.observe([(YOUNG, 0)], now)
    for what, used in events:
        clock, now = clock + used, now + 20.0
        if what == "scan":
            told += sum(each.cpu_nanos for each in book.observe([(YOUNG, clock)], now))
        elif what == "window":
            told += book.settle(YOUNG.key, clock, now)
        else:
            told += sum(each.cpu_nanos for each in book.overdue(now))
    told += sum(each.cpu_nanos for each in book.observe([(YOUNG, clock)], now + 1))
    told += sum(each.cpu_nanos for each in book.observe([], now + 2))
    assert told == clock


def test_what_a_process_used_while_nobody_wanted_it_profiled_is_not_told():
    book = accounts()
    book.observe([(YOUNG, SECOND)], 0.0)
    assert book.settle(YOUNG.key, SECOND, 1.0) == SECOND
    assert book.observe([], 15.0, passed_over=[YOUNG.key]) == []
    book.observe([(YOUNG, 6 * 3600 * SECOND)], 30.0)
    assert book.nanos_per_second(YOUNG.key) == 0
    assert book.settle(YOUNG.key, 6 * 3600 * SECOND + 5, 31.0) == 5


def test_one_that_could_not_be_looked_at_for_a_while_is_told_from_its_start():
    book = accounts()
    book.observe([], 0.0)
    book.observe([], 15.0)
    book.observe([(YOUNG, 3 * SECOND)], 30.0)
    assert book.settle(YOUNG.key, 3 * SECOND, 31.0) == 3 * SECOND
