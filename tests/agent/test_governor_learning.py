"""Costs, limits, setbacks, pauses and the budget: what the governor learns from cycle to cycle."""

from __future__ import annotations

import random

import pytest
from agent.candidates import CORE, CYCLE, candidate, inputs, process, result
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.governor import Budget, Cost, Experience, decide, learn, reaction, set_back
from flamewell_agent.governor.budget import HEADROOM_AT_MOST, adapt_headroom
from flamewell_agent.governor.costs import (
    ATTACH_AT_LEAST,
    ATTACH_AT_MOST,
    DEAR_ATTACH_AT_MOST,
    FIRST_COST,
    LAG_SECONDS,
    learn_attach,
    learn_memory,
    price,
)
from flamewell_agent.governor.reactions import PauseHistory, learn_pause
from flamewell_agent.model import ATTACH_TOO_DEAR, INTERRUPTED, SamplingOptions


def test_a_dear_window_is_believed_at_once_a_cheap_one_slowly():
    first = learn(None, result(0.2, 1454))
    assert first.of(97, CYCLE) == pytest.approx(0.2, rel=0.01)
    second = learn(first, result(2.0, 1454))
    assert second.of(97, CYCLE) == pytest.approx(2.0, rel=0.01)
    assert 0.2 < learn(second, result(0.2, 1454)).of(97, CYCLE) < 2.0


@pytest.mark.parametrize("attach", [0.013, 0.022, 0.035])
def test_attach_and_sample_are_told_apart(attach):
    dice, known = random.Random(1), None
    for _ in range(60):
        looks = dice.choice([15, 60, 400, 900])
        known = learn(known, result(attach + 0.0002 * looks, looks))
    assert known is not None
    assert known.attach_seconds == pytest.approx(attach, abs=0.004)
    assert known.sample_seconds == pytest.approx(0.0002, rel=0.25)
    assert known.error < 0.1


def test_an_attach_has_bounds_and_the_samples_take_the_rest():
    dear = learn(None, result(1.0, 10))
    assert dear.attach_seconds == ATTACH_AT_MOST
    assert dear.of(1, 10) == pytest.approx(1.0)
    assert learn(None, result(0.0, 10)).attach_seconds >= ATTACH_AT_LEAST


def test_an_attach_that_did_not_fit_is_given_more_until_it_does():
    known, tries = None, 0
    while (limit := price(known, FIRST_COST, 7, 3).limit) < 0.3:
        known = learn_attach(known, result(limit, 0, failure=ATTACH_TOO_DEAR))
        tries += 1
    assert tries <= 3
    for _ in range(20):
        known = learn(known, result(0.3 + 0.0002 * 21, 21))
    assert known.of(7, 3) == pytest.approx(0.3 + 0.0002 * 21, rel=0.05)
    assert 0.2 < known.attach_seconds <= 0.45
    assert learn_attach(None, result(9.0, 0)).attach_seconds == DEAR_ATTACH_AT_MOST


def test_a_dear_attach_is_remembered_for_the_target_and_its_service():
    experience = Experience()
    known = experience.candidate(process(1), cpu_nanos_per_second=CORE, now=0.0, group="shop")
    experience.decided([known], decide(inputs([known])))
    experience.learn([result(0.08, 0, failure=ATTACH_TOO_DEAR)], 15.0)
    after = experience.candidate(process(1), cpu_nanos_per_second=CORE, now=15.0, group="shop")
    assert after.cost is not None
    assert after.cost.attach_seconds == pytest.approx(0.12)
    assert after.resting == ATTACH_TOO_DEAR
    assert after.siblings is not None
    assert after.siblings.cost == after.cost


def test_what_the_agent_interrupted_itself_is_no_setback():
    interrupted = result(0.01, 0, failure=INTERRUPTED)
    assert reaction(None, interrupted) is None
    before = set_back(None, "not_python")
    assert reaction(before, interrupted) == before


def test_a_window_is_given_a_limit_of_memory_inside_the_ceiling():
    def limit(**more: int) -> int:
        (window,) = decide(inputs([candidate(1, 0.5)], **more)).windows
        return window.memory_limit_bytes

    assert limit(child_memory_bytes=12 << 20) == 64 << 20
    assert limit(child_memory_bytes=30 << 20) == 120 << 20
    assert limit(child_memory_bytes=30 << 20, memory_left_bytes=50 << 20) == 50 << 20


def test_a_window_can_use_no_more_than_a_core():
    assert Cost(0.01, 0.5).of(97, 10) == pytest.approx(10.01)


def test_errors_widen_limits_and_calm_narrows_them():
    known = learn(None, result(0.1, 400))
    for _ in range(30):
        known = learn(known, result(known.of(1, 400), 400))
    calm = price(known, FIRST_COST, 29, CYCLE)
    wild = price(learn(known, result(0.5, 400)), FIRST_COST, 29, CYCLE)
    assert calm.limit / calm.predicted < 1.4
    assert wild.limit / wild.predicted > 1.9


def test_what_is_not_known_is_priced_at_what_it_may_cost():
    unknown = price(None, FIRST_COST, 7, 3)
    assert unknown.reserved == pytest.approx(unknown.limit + LAG_SECONDS)
    assert unknown.limit > 1.5 * unknown.predicted


def test_a_childs_memory_is_learned_at_its_highest():
    assert learn_memory(10, result(0.1, 9, memory_bytes=20)) == 20
    assert 10 < learn_memory(20, result(0.1, 9, memory_bytes=10)) < 20
    assert learn_memory(20, result(0.1, 9)) == 20


def test_failures_are_repeated_ever_less_often():
    setback, rests = None, []
    for _ in range(9):
        setback = set_back(setback, "not_python")
        rests.append(setback.cycles_left)
    assert rests == [2, 4, 8, 16, 32, 64, 64, 64, 64]


def test_a_target_that_reacts_badly_is_set_back():
    assert reaction(None, result(0.1, 100, errors=40)) is None
    torn = reaction(None, result(0.1, 100, errors=60))
    assert torn is not None
    assert torn.reason == "reacts_badly"
    limit = {"native": True, "pause_limit_seconds": 0.05}
    stopped = reaction(torn, result(0.1, 100, window=limit, pause_seconds=0.06))
    assert stopped is not None
    assert (stopped.reason, stopped.times) == ("reacts_badly", 2)
    assert reaction(torn, result(0.1, 100, window=limit, pause_seconds=0.051)) is None
    failed = reaction(None, result(0.0, 0, failure="not_python"))
    assert failed is not None
    assert failed.reason == "not_python"


def test_pauses_of_a_minute_and_of_ten_count():
    assert PauseHistory().left(0.001) == pytest.approx(0.06)
    assert PauseHistory(0.05, 0.3).left(0.001) == pytest.approx(0.01)
    assert PauseHistory(0.0, 0.595, 0.001).looks(0.001) == 5
    assert PauseHistory(1.0, 1.0).looks(0.001) == 0
    native = {"native": True}
    assert learn_pause(0.001, result(1, 10, window=native, pause_seconds=0.1)) == 0.01
    assert 0.001 < learn_pause(0.01, result(1, 10, window=native, pause_seconds=0.01)) < 0.01
    assert learn_pause(0.01, result(1, 10)) == 0.01


def test_no_budget_is_saved_up_for_a_burst():
    budget = Budget(0.01, 2)
    for second in range(0, 700, 10):
        budget.record(float(second), 0.0)
    assert budget.allowance(15, 0.0) == pytest.approx(3 * 0.02 * 15)


def test_what_was_overdrawn_is_paid_back():
    budget = Budget(0.01, 2)
    budget.record(0.0, 0.0)
    budget.record(15.0, 2.0)
    assert budget.allowance(15, 0.0) == 0.0
    assert budget.used_ratio(60) == pytest.approx(2.0 / 60 / 2)
    budget.record(120.0, 2.0)
    assert budget.allowance(15, 0.0) > 0


def test_all_of_an_allowance_may_be_used_at_once():
    """The minute that ends just after the start of the cycle holds all of the last minute."""
    budget = Budget(0.01, 2)
    for cycle in range(41):
        budget.record(cycle * 15.0, cycle * 0.25)
    assert budget.allowance(15, 0.0) == pytest.approx(60 * 0.02 - 4 * 0.25)


def test_the_agents_own_use_comes_off_first():
    budget = Budget(0.01, 2)
    budget.record(0.0, 0.0)
    assert budget.allowance(15, 0.0) - budget.allowance(15, 0.1) == pytest.approx(0.1)
    assert budget.allowance(15, 5.0) == 0.0


def test_headroom_follows_the_errors():
    after = adapt_headroom(0.9, reserved=0.2, used=0.35, share=0.3)
    assert after == pytest.approx(0.6)
    for _ in range(100):
        after = adapt_headroom(after, reserved=0.2, used=0.1, share=0.3)
    assert after == pytest.approx(HEADROOM_AT_MOST, abs=0.01)


def once(book: Experience, pid: int = 1, *, now: float = 0.0, executable: str = "python", **more):
    candidate = book.candidate(
        process(pid, executable), cpu_nanos_per_second=CORE, now=now, **{"group": "web", **more}
    )
    decision = decide(inputs([candidate]))
    book.decided([candidate], decision)
    return candidate, decision


def test_experience_remembers_targets_and_their_services():
    book = Experience()
    first, _ = once(book)
    assert (first.cost, first.siblings) == (None, None)
    book.learn([result(0.1, 300)], 15.0)
    second, _ = once(book)
    assert second.cost is not None
    # Another process of the same service knows what windows cost; one that is gone is forgotten.
    other, _ = once(book, 2)
    assert other.cost is None
    assert other.siblings is not None
    assert other.siblings.cost == second.cost
    again, _ = once(book, 1)
    assert again.cost is None


def test_a_process_that_became_another_program_is_new():
    book = Experience()
    once(book)
    book.learn([result(0.1, 300)], 15.0)
    changed, _ = once(book, executable="gunicorn", group="")
    assert (changed.cost, changed.siblings) == (None, None)


def test_a_setback_lasts_for_its_cycles():
    book = Experience()
    once(book)
    book.learn([result(0.0, 0, failure="not_python")], 15.0)
    rests = [once(book)[0].resting for _ in range(4)]
    assert rests == ["not_python", "not_python", "", ""]


def test_two_windows_of_a_target_make_one_setback():
    book = Experience()
    once(book)
    book.learn([result(0.0, 0, failure="not_python"), result(0.1, 300)], 15.0)
    assert once(book)[0].resting == "not_python"
    book.learn([result(0.1, 300)], 30.0)
    assert once(book)[0].resting == ""


def test_pauses_are_forgotten_after_ten_minutes():
    book = Experience()
    native = SamplingOptions(native=True)
    once(book, options=native)
    paused = result(0.1, 10, window={"native": True}, pause_seconds=0.04)
    book.learn([paused], 15.0)
    assert once(book, now=20.0, options=native)[0].pause == PauseHistory(
        0.04, 0.04, 0.004 + 0.001 * 0.7
    )
    assert once(book, now=80.0, options=native)[0].pause.minute_seconds == 0.0
    assert once(book, now=620.0, options=native)[0].pause.ten_minutes_seconds == 0.0


@given(
    st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 0.3)), min_size=1, max_size=60),
    st.sampled_from([1.0, 15.0, 60.0, 300.0]),
    st.floats(0, 0.2),
    st.floats(0, 0.02),
)
def test_no_span_that_ends_within_a_cycle_holds_more_than_its_budget(
    steps, cycle_seconds, own, per_second
):
    budget = Budget(0.01, 2)
    now = used = 0.0
    marks = [(0.0, 0.0)]
    budget.record(now, used)
    for seconds, more in steps:
        now, used = now + seconds, used + more
        budget.record(now, used)
        marks.append((now, used))
    allowed = budget.allowance(cycle_seconds, own, per_second)
    if not allowed:
        return
    for at in range(41):
        later = cycle_seconds * at / 40
        for horizon in (60.0, 600.0):
            # At the worst all that came after a mark came right after it.
            known = [spent for time, spent in marks if time <= now + later - horizon] or [0.0]
            inside = used - known[-1] if later < horizon else 0.0
            total = inside + allowed + own + per_second * min(later, horizon)
            assert total <= 0.02 * horizon + 1e-9


def test_what_threads_use_evenly_is_not_set_aside_twice():
    budget = Budget(0.005, 2)
    for second in range(0, 121, 2):
        # A minute's cycle: 0.1 at its start, then 2 ms a second.
        budget.record(float(second), 0.1 * (1 + second // 60) + 0.002 * second)
    assert budget.allowance(60, 0.1, 0.002) == pytest.approx(0.6 - 0.1 - 0.12 - 0.1, abs=0.005)
