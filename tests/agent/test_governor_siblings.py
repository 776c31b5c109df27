"""A few of a service's processes stand for all: over many draws each is told as much as it used."""

from __future__ import annotations

from collections import Counter

import pytest
from agent.candidates import CORE, candidate, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_agent.governor import Cost, decide
from flamewell_agent.governor.siblings import draw

PHASES = 499
"""A prime: its multiples of the step fall on no draw's own steps."""
cores = st.lists(st.floats(0.001, 4.0), min_size=1, max_size=40)


def shares(cpu: list[float], drawn: list[tuple[int, bool]]) -> Counter[int]:
    """Give the CPU that each process's stacks are shown with, as the weights have it."""
    told: Counter[int] = Counter()
    standing = [at for at, certain in drawn if not certain]
    left = sum(cpu) - sum(cpu[at] for at, certain in drawn if certain)
    for at, certain in drawn:
        told[at] += cpu[at] if certain else left / len(standing)  # type: ignore[assignment]
    return told


@given(cores, st.integers(1, 3))
def test_each_process_is_told_what_it_used_on_average(cpu, count):
    total: Counter[int] = Counter()
    for step in range(PHASES):
        drawn = draw(cpu, count, (step + 0.5) / PHASES)
        assert 1 <= len(drawn) <= count
        assert sum(shares(cpu, [(each.at, each.certain) for each in drawn]).values()) == (
            pytest.approx(sum(cpu))
        )
        total.update(shares(cpu, [(each.at, each.certain) for each in drawn]))
    for at, used in enumerate(cpu):
        assert total[at] / PHASES == pytest.approx(used, abs=4 * sum(cpu) / PHASES)


def test_who_uses_nothing_is_not_drawn_and_who_uses_all_is_certain():
    drawn = draw([0.0, 5.0, 0.0], 2, 0.7)
    assert [(each.at, each.certain) for each in drawn] == [(1, True)]
    assert draw([0.0, 0.0], 1, 0.5) == []
    assert len(draw([1.0, 2.0], 3, 0.5)) == 2


members = st.lists(
    st.tuples(st.floats(0.001, 2.0), st.floats(0.0001, 0.003)), min_size=2, max_size=12
)


@settings(max_examples=12, deadline=None)
@given(members, members, st.sampled_from([0.15, 0.4, 0.9]))
def test_decisions_are_unbiased_also_where_services_and_costs_compete(web, jobs, allowance):
    """Whoever has a turn: given that his service has one, each process has its fair share of it."""
    crowd, pid = [], 0
    for group, processes in (("web", web), ("jobs", jobs)):
        for cpu, sample in processes:
            cost = Cost(0.02, sample, 0.0)
            crowd.append(candidate(pid, cpu, cost=cost, group=group))
            pid += 1
    cpu_of = [each.cpu_nanos_per_second / CORE for each in crowd]
    total: Counter[int] = Counter()
    turns: Counter[str] = Counter()
    for step in range(PHASES):
        windows = decide(inputs(crowd, allowance=allowance, phase=(step + 0.5) / PHASES)).windows
        for group, first, size in (("web", 0, len(web)), ("jobs", len(web), len(jobs))):
            drawn = [
                (each.process.key.pid - first, not each.stands_for_siblings)
                for each in windows
                if first <= each.process.key.pid < first + size
            ]
            if drawn:
                turns[group] += 1
                for at, told in shares(cpu_of[first : first + size], drawn).items():
                    total[first + at] += told
    for group, first, size in (("web", 0, len(web)), ("jobs", len(web), len(jobs))):
        if turns[group] < PHASES / 3:
            continue
        used = sum(cpu_of[first : first + size])
        for at in range(first, first + size):
            assert total[at] / turns[group] == pytest.approx(cpu_of[at], abs=0.06 * used)
