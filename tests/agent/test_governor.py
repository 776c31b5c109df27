"""Inside the allowance the samples go where the CPU goes; whoever gets none is named."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from agent.candidates import CORE, CYCLE, KNOWN, candidate, inputs, process, rates, reasons
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.governor import Candidate, Cost, GroupHistory, Ordered, PauseHistory, decide
from flamewell_agent.governor.allotment import FORGET_CYCLES, PROBE_SECONDS, UNKNOWN_RATE_HZ
from flamewell_agent.governor.decision import GIVEN_UP
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import SamplingOptions

costs = st.none() | st.builds(Cost, st.floats(0, 0.2), st.floats(0, 0.05), st.floats(0, 1))
options = st.builds(
    SamplingOptions,
    rate_hz=st.sampled_from([0, 0, 3, 50]),
    wall=st.sampled_from([False, False, True]),
    native=st.sampled_from([False, False, True]),
)
anybody = st.fixed_dictionaries(
    {
        "cpu_nanos_per_second": st.sampled_from([0.0, 1e5]) | st.floats(0, 64 * CORE),
        "waited_cycles": st.integers(0, 1000),
        "cost": costs,
        "resting": st.sampled_from(["", "", "", "not_python"]),
        "group": st.sampled_from(["", "", "web", "jobs"]),
        "siblings": st.none() | st.builds(GroupHistory, st.integers(0, 99), costs),
        "options": options,
        "wall_cost": costs,
        "pause": st.builds(PauseHistory, st.floats(0, 0.1), st.floats(0, 1), st.floats(0, 0.05)),
        "ordered": st.sampled_from(
            [None] * 5 + [Ordered(), Ordered(19), Ordered(997, 3), Ordered(0, 999)]
        ),
    }
)


@given(
    st.lists(anybody, max_size=40),
    st.floats(0, 2),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 1000),
    st.integers(0, 64),
    st.integers(0, 300 << 20),
)
def test_each_process_is_decided_once_and_all_limits_hold(  # noqa: PLR0917 - hypothesis fills them
    nodes, allowance, phase, max_rate, max_windows, memory
):
    candidates = [Candidate(process(pid), **each) for pid, each in enumerate(nodes)]
    decision = decide(
        inputs(
            candidates,
            allowance=allowance,
            phase=phase,
            max_rate_hz=max_rate,
            max_windows=max_windows,
            memory_left_bytes=memory,
            child_memory_bytes=12 << 20,
        )
    )
    predicted = sum(each.predicted_cpu_seconds for each in decision.windows)
    assert predicted <= decision.reserved_cpu_seconds <= allowance + 1e-9
    assert sum(each.cpu_limit_seconds for each in decision.windows) <= allowance + 1e-9
    assert len(decision.windows) <= max_windows
    assert len(decision.windows) * (12 << 20) <= memory
    decided = [each.process.key.pid for each in decision.windows if each.kind == "cpu"]
    decided += [each.key.pid for each, _ in decision.skipped]
    assert sorted(decided) == list(range(len(candidates)))
    wall = [each.process.key.pid for each in decision.windows if each.kind == "wall"]
    wall += [each.key.pid for each, _ in decision.wall_skipped]
    assert sorted(wall) == [each.process.key.pid for each in candidates if each.options.wall]
    for each in decision.windows:
        one = candidates[each.process.key.pid]
        assert 1 <= each.seconds <= CYCLE
        if not one.ordered:
            assert 1 <= each.rate_hz <= min(max_rate, one.options.rate_hz or max_rate)
        if each.native:
            stops = each.rate_hz * each.seconds * one.pause.sample_seconds
            assert stops <= each.pause_limit_seconds + 1e-9
    assert set(decision.given_up) == set(GIVEN_UP)


def test_one_busy_process_gets_all_the_samples_that_are_wanted():
    one = candidate(1, 1.0, cost=KNOWN)
    assert rates(decide(inputs([one]))) == {1: 61}
    assert rates(decide(inputs([one], service_samples_per_second=1000))) == {1: 97}
    assert decide(inputs([one])).given_up["rate_lowered"] == 0


def test_an_unknown_process_is_tried_gently():
    (window,) = decide(inputs([candidate(1, 1.0)])).windows
    assert (window.rate_hz, window.seconds) == (UNKNOWN_RATE_HZ, PROBE_SECONDS)
    assert window.cpu_limit_seconds < 0.1


def test_idle_and_resting_processes_are_named():
    crowd = [candidate(1, 0.0001), candidate(2, 1.0, resting="not_python")]
    decision = decide(inputs(crowd, allowance=0.3))
    assert decision.windows == ()
    assert reasons(decision) == {1: "idle", 2: "backing_off: not_python"}


def test_an_idle_process_has_a_turn_now_and_then():
    crowd = [candidate(pid, 0.0001, waited=pid) for pid in range(1, 9)]
    assert list(rates(decide(inputs(crowd)))) == [8]
    assert rates(decide(inputs([candidate(1, 0.0, waited=99)]))) == {}


def test_many_that_are_idle_may_be_busy_together():
    crowd = [candidate(pid, 0.0005, group="web") for pid in range(300)]
    (window,) = decide(inputs(crowd)).windows
    assert window.stands_for_siblings


def test_without_an_allowance_nobody_is_sampled():
    decision = decide(inputs([candidate(1, 1.0)], allowance=0.0))
    assert reasons(decision) == {1: "over_budget"}
    assert decision.given_up["over_budget"] == 1


def test_a_dear_target_gets_fewer_looks_and_one_too_dear_is_tried_again_later():
    (window,) = decide(inputs([candidate(1, 1.0, cost=Cost(0.01, 0.02, 0.0))])).windows
    assert window.rate_hz * window.seconds <= 10
    dearest = Cost(0.01, 0.5)
    assert reasons(decide(inputs([candidate(1, 1.0, cost=dearest)]))) == {1: "over_budget"}
    later = candidate(1, 1.0, cost=dearest, waited=FORGET_CYCLES)
    assert rates(decide(inputs([later]))) == {1: UNKNOWN_RATE_HZ}


def test_rates_follow_the_cpu_use():
    crowd = [candidate(1, 0.9, cost=KNOWN), candidate(2, 0.3, cost=KNOWN)]
    decision = decide(inputs(crowd, service_samples_per_second=1000))
    found = rates(decision)
    assert found[1] > found[2]
    assert decision.given_up["rate_lowered"] == 2


def test_small_budgets_mean_fewer_windows_and_not_shorter_ones():
    crowd = [candidate(pid, 0.2, cost=KNOWN) for pid in range(20)]
    few, many = (decide(inputs(crowd, allowance=each)).windows for each in (0.15, 0.9))
    assert len(few) < len(many)
    assert {each.seconds for each in (*few, *many)} == {CYCLE}


def test_a_crowd_of_light_processes_does_not_take_the_samples_of_a_burner():
    crowd = [candidate(0, 0.9, cost=KNOWN)]
    crowd += [candidate(pid, 0.002, cost=KNOWN) for pid in range(1, 40)]
    assert rates(decide(inputs(crowd)))[0] >= 19


def test_new_processes_come_before_equals():
    crowd = [candidate(pid, 0.1, cost=KNOWN) for pid in range(50)] + [candidate(50, 0.1)]
    assert 50 in rates(decide(inputs(crowd)))


def test_a_service_that_waited_for_a_minute_comes_before_heavier_ones():
    crowd = [candidate(pid, 0.9, cost=KNOWN) for pid in range(6)]
    light = candidate(20, 0.002, cost=KNOWN, waited=3)
    assert 20 in rates(decide(inputs([*crowd, light], allowance=0.15)))
    # Where not all can have their turn in a minute, the heavy ones do not wait for the light ones.
    assert 20 not in rates(decide(inputs([*crowd * 5, light], allowance=0.15)))


def test_equals_take_turns():
    """With as much CPU each, everybody has a window before anybody has three."""
    waited, windows = dict.fromkeys(range(30), 0), dict.fromkeys(range(30), 0)
    dice = random.Random(1)
    while min(windows.values()) == 0:
        crowd = [candidate(pid, 0.05, waited=waited[pid], cost=KNOWN) for pid in waited]
        chosen = rates(decide(inputs(crowd, phase=dice.random())))
        assert chosen
        for pid in waited:
            waited[pid] = 0 if pid in chosen else waited[pid] + 1
            windows[pid] += pid in chosen
    assert max(windows.values()) <= 2


def test_a_service_gets_a_few_windows_however_many_processes_it_has():
    web = [candidate(pid, 0.05, cost=KNOWN, group="web") for pid in range(300)]
    decision = decide(inputs([*web, candidate(300, 0.5, cost=KNOWN)], allowance=0.9))
    drawn = [each for each in decision.windows if each.process.key.pid < 300]
    assert len(drawn) == 3
    assert all(each.stands_for_siblings for each in drawn)
    assert decision.given_up["sibling_sampled"] == 297
    assert 300 in rates(decision)


def test_a_worker_that_uses_most_of_its_services_cpu_stands_for_itself():
    web = [candidate(1, 0.9, cost=KNOWN, group="web")]
    web += [candidate(pid, 0.01, cost=KNOWN, group="web") for pid in range(2, 12)]
    windows = decide(inputs(web, allowance=0.9)).windows
    assert {each.process.key.pid: each.stands_for_siblings for each in windows}[1] is False
    assert sum(each.stands_for_siblings for each in windows) == 2


def test_a_new_process_of_a_known_service_costs_what_its_siblings_do():
    known = GroupHistory(0, KNOWN)
    (window,) = decide(inputs([candidate(1, 0.5, group="web", siblings=known)])).windows
    assert window.seconds == CYCLE


def test_memory_and_window_limits_are_named():
    crowd = [candidate(pid, 0.5, cost=KNOWN) for pid in range(3)]
    more = {"allowance": 2.0, "child_memory_bytes": 10 << 20}
    tight = decide(inputs(crowd, memory_left_bytes=25 << 20, **more))
    assert list(reasons(tight).values()) == ["over_memory_ceiling"]
    none = decide(inputs(crowd, memory_left_bytes=-1, **more))
    assert none.given_up["over_memory_ceiling"] == 3
    few = decide(inputs(crowd, max_windows=2, **more))
    assert list(reasons(few).values()) == ["too_many_windows"]


def test_the_owners_rate_is_a_ceiling():
    gentle = SamplingOptions(rate_hz=10)
    assert rates(decide(inputs([candidate(1, 1.0, cost=KNOWN, options=gentle)]))) == {1: 7}


def test_wall_clock_windows_come_beside_those_of_cpu_time():
    wanted = SamplingOptions(wall=True, threads=True)
    one = candidate(1, 0.1, cost=KNOWN, wall_cost=Cost(0.015, 0.001), options=wanted)
    windows = decide(inputs([one], allowance=0.6)).windows
    assert sorted(each.kind for each in windows) == ["cpu", "wall"]
    assert all(each.threads for each in windows)
    tight = decide(inputs([one], allowance=0.06))
    assert [reason for _, reason in tight.wall_skipped] == ["over_budget"]


def test_a_window_that_stops_its_target_keeps_to_what_is_left_of_the_pause_budget():
    native = SamplingOptions(native=True)
    cost = Cost(0.05, 0.001, 0.0)

    def window(pause: PauseHistory):
        one = candidate(1, 1.0, cost=cost, options=native, pause=pause)
        return decide(inputs([one], allowance=2.0))

    (fresh,) = window(PauseHistory(0.0, 0.0, 0.0005)).windows
    assert fresh.rate_hz * fresh.seconds * 0.0005 <= fresh.pause_limit_seconds == 0.06
    (tired,) = window(PauseHistory(0.05, 0.59, 0.0005)).windows
    assert tired.pause_limit_seconds == pytest.approx(0.01)
    assert tired.rate_hz * tired.seconds <= 20
    assert reasons(window(PauseHistory(0.06, 0.06, 0.0005))) == {1: "over_pause_budget"}


def test_orders_come_first_at_their_rate_or_say_what_would_fit():
    crowd = [candidate(pid, 0.9, cost=KNOWN, waited=50) for pid in range(20)]
    wanted = candidate(99, 0.0, cost=KNOWN, ordered=Ordered(97))
    assert rates(decide(inputs([*crowd, wanted], allowance=0.3)))[99] == 97
    refused = reasons(decide(inputs([*crowd, wanted], allowance=0.15)))[99]
    assert refused.startswith("over_budget: would cost ")
    assert refused.endswith("ask for 37 Hz or less")


def test_an_order_gets_no_more_seconds_than_it_asked_for():
    options = SamplingOptions(wall=True)
    wanted = candidate(99, 0.5, cost=KNOWN, options=options, ordered=Ordered(19, 4))
    decision = decide(inputs([replace(wanted, wall_cost=KNOWN)], allowance=9.0))
    assert {(each.kind, each.seconds) for each in decision.windows} == {("cpu", 4), ("wall", 4)}
    (whole,) = decide(inputs([candidate(1, 0.5, ordered=Ordered(19))], allowance=9.0)).windows
    assert whole.seconds == inputs([], allowance=9.0).window_seconds


def test_an_order_that_would_stop_its_target_too_long_is_refused():
    order = candidate(1, 1.0, options=SamplingOptions(native=True), ordered=Ordered(47))
    decision = decide(inputs([order], allowance=9.0))
    assert reasons(decision)[1].startswith("over_pause_budget: would stop it for 3525 ms of 60 ms")


def test_what_was_given_up_is_told():
    metrics = AgentMetrics()
    metrics.set_given_up(decide(inputs([candidate(1, 1.0)], allowance=0.0)).given_up)
    shown = metrics.render().decode()
    assert 'flamewell_agent_given_up{what="over_budget"} 1.0' in shown
    assert 'flamewell_agent_given_up{what="rate_lowered"} 0.0' in shown


def test_wall_clock_windows_go_to_all_processes_of_a_service_alike():
    """Those that wait, which use no CPU at all, are what wall-clock profiles are for."""
    wall = {"group": "shop", "options": SamplingOptions(wall=True), "wall_cost": KNOWN}
    crowd = [candidate(1, 0.9, cost=KNOWN, **wall)]
    crowd += [candidate(pid, 0.0, **wall) for pid in range(2, 11)]
    drawn: Counter[int] = Counter()
    for at in range(400):
        decision = decide(inputs(crowd, allowance=9.0, phase=at / 400))
        drawn.update(each.process.key.pid for each in decision.windows if each.kind == "wall")
    assert sum(drawn.values()) == 3 * 400
    assert set(drawn) == set(range(1, 11))
    assert max(drawn.values()) - min(drawn.values()) <= 0.2 * 120


def test_a_service_that_only_waits_gets_wall_clock_windows():
    one = candidate(1, 0.0, options=SamplingOptions(wall=True), wall_cost=KNOWN)
    decision = decide(inputs([one], allowance=9.0))
    assert [each.kind for each in decision.windows] == ["wall"]
    assert reasons(decision) == {1: "idle"}
