"""Decides whom to sample, how often and how long, inside the budget. ``decide`` is pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flamewell_agent.governor.allotment import (
    TURN_SECONDS,
    WORKERS_AT_ONCE,
    Service,
    give_left_over,
    give_turns,
    highest_rate,
    make_service,
    order_of_turns,
    raise_rates,
    rate_cap,
)
from flamewell_agent.governor.inputs import Candidate, Decision, Inputs, Ordered
from flamewell_agent.governor.opening import WALL_RATE_HZ, Openings
from flamewell_agent.governor.siblings import Drawn, draw

IDLE_NANOS_PER_SECOND = 1_000_000
"""0.1 % of a core: below it a window would find no sample."""
IDLE_TURN_SHARE = 0.25
"""One idle process has a turn where this share of the allowance is left."""
GIVEN_UP = (
    "rate_lowered",
    "over_budget",
    "sibling_sampled",
    "over_memory_ceiling",
    "over_pause_budget",
    "too_many_windows",
)
"""What ``Decision.given_up`` counts; the set is bounded."""


def decide(inputs: Inputs) -> Decision:
    """Choose windows: what was ordered, then turns for services, then higher rates.

    A process that is not chosen loses nothing but detail: its CPU time goes to the windows of its
    siblings, or is carried to its next one.
    """
    openings = Openings(inputs)
    busy, idle = _sort_out(openings)
    order = order_of_turns(busy, inputs)
    give_turns(order, inputs, openings.purse)
    drawn = {each.rank: _draw(each, openings) for each in order if each.windows}
    _open_walls(openings)
    lowered = raise_rates(order, inputs, openings.purse)
    give_left_over(order, openings.purse)
    for each in order:
        if each.windows:
            who = drawn[each.rank] if each.rank in drawn else _draw(each, openings)
            _open_windows(each, who, openings)
        else:
            openings.skip(each.members, openings.why_not())
    _give_idle_turn(idle, openings)
    reasons = Counter(reason.partition(":")[0] for _, reason in openings.skipped)
    return Decision(
        tuple(openings.windows),
        tuple(openings.skipped),
        openings.wall_skipped(),
        {name: reasons[name] for name in GIVEN_UP} | {"rate_lowered": lowered},
        openings.purse.spent,
    )


def _sort_out(openings: Openings) -> tuple[list[Service], list[Candidate]]:
    """Answer orders, leave out who rests; gives the services that are busy, and who is idle."""
    groups: dict[str, list[Candidate]] = {}
    alone: list[list[Candidate]] = []
    orders: list[tuple[Candidate, Ordered]] = []
    for each in openings.inputs.candidates:
        if each.resting:
            openings.skip((each,), f"backing_off: {each.resting}")
        elif each.ordered is not None:
            orders.append((each, each.ordered))
        elif each.group:
            groups.setdefault(each.group, []).append(each)
        else:
            alone.append([each])
    for each, ordered in orders:
        openings.open_ordered(each, ordered)
    busy: list[Service] = []
    idle: list[Candidate] = []
    for members in [*groups.values(), *alone]:
        # Many that are idle may be busy together.
        if sum(each.cpu_nanos_per_second for each in members) < IDLE_NANOS_PER_SECOND:
            idle += members
            continue
        awake = [each for each in members if each.cpu_nanos_per_second > 0]
        if len(awake) < len(members):
            idle += [each for each in members if each.cpu_nanos_per_second <= 0]
        busy.append(make_service(awake))
    return busy, idle


def _draw(service: Service, openings: Openings) -> list[Drawn]:
    """Draw a service's processes, and give back what was set aside for too many."""
    cpu = [each.cpu_nanos_per_second for each in service.members]
    found = draw(cpu, service.windows, service.draw_phase)
    openings.purse.take(service.price, len(found) - service.windows)
    service.windows = len(found)
    return found


def _open_walls(openings: Openings) -> None:
    """Open the wall-clock windows that fit, before rates are raised.

    All processes of a service have the same chance, those without any CPU use among them: a
    process that waits is what such windows are for.
    """
    inputs = openings.inputs
    groups: dict[str, list[Candidate]] = {}
    for each in inputs.candidates:
        if each.options.wall and not each.resting and each.ordered is None:
            groups.setdefault(each.group or f"#{each.process.key.pid}", []).append(each)
    listed = list(groups.values())
    first = int(inputs.phase * len(listed))
    start = inputs.phase * 7_919 % 1.0  # its further digits: who is drawn and who is first differ
    for members in listed[first:] + listed[:first]:
        count = min(WORKERS_AT_ONCE, len(members))
        for at in range(count):
            member = members[int((at + start) * len(members) / count)]
            rate = highest_rate(min(WALL_RATE_HZ, rate_cap(member, inputs)))
            openings.open_wall(member, rate, stands=count < len(members))


def _open_windows(service: Service, drawn: Iterable[Drawn], openings: Openings) -> None:
    """Open a service's windows; who is not drawn is told by who is."""
    chosen = set()
    for each in drawn:
        chosen.add(each.at)
        openings.open_drawn(service, service.members[each.at], stands=not each.certain)
    if len(chosen) < len(service.members):
        others = (m for at, m in enumerate(service.members) if at not in chosen)
        openings.skip(others, "sibling_sampled")


def _give_idle_turn(idle: list[Candidate], openings: Openings) -> None:
    """Look at one idle process where there is room; the others are named idle."""
    turn: Candidate | None = None
    if openings.purse.left > openings.purse.full * IDLE_TURN_SHARE:
        due = TURN_SECONDS / openings.inputs.window_seconds
        waiting = [
            each for each in idle if each.cpu_nanos_per_second > 0 and each.waited_cycles >= due
        ]
        turn = max(waiting, key=lambda each: each.waited_cycles, default=None)
    others = idle
    if turn is not None:
        service = make_service([turn])
        order_of_turns([service], openings.inputs)
        if openings.purse.fits(service.price):
            openings.purse.take(service.price)
            openings.open_drawn(service, turn, stands=False)
            others = [each for each in idle if each is not turn]
    openings.skip(others, "idle")
