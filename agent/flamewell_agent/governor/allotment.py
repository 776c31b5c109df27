"""Divides the allowance of a cycle among services: first turns, then rates. Pure.

A service is what shares its stacks: the processes of one resource, or one process alone. How many
windows it gets is settled before its processes are drawn, from what they cost on average: who is
drawn may not depend on what he costs, or the dear ones would be missing in the picture.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flamewell_agent.governor.costs import Cost, Price, first_cost, price
from flamewell_agent.governor.inputs import Candidate, GroupHistory, Inputs

RATES_HZ = (1, 2, 3, 5, 7, 11, 13, 19, 23, 29, 37, 47, 61, 79, 97, 131, 197, 283, 397, 599, 997)
"""Primes: a rate that divides a program's own period would always see the same moment."""
LOWEST_RATE_HZ = 7
"""Below it the attach would cost far more than the samples; only very dear targets get less."""
UNKNOWN_RATE_HZ, PROBE_SECONDS = 19, 3
"""The highest rate and the length of a first window: what a sample costs is not known yet."""
WORKERS_AT_ONCE = 3
"""Windows of one service in a cycle: each pays for its attach again."""
LEAST_SAMPLES_PER_SECOND = 1.0
"""Of a service, on however many nodes it runs: what is special about this one should show."""
BREADTH, BREADTH_SIBLINGS, BREADTH_AT_MOST = 0.5, 0.6, 0.75
"""Share of the allowance that goes to many targets first, to more processes of the same services,
and to turns where half of it is not enough for all; the rest goes to samples."""
FAIR_SHARE = 0.5
"""A lowest window that would take more of the allowance than this is made smaller."""
TURN_SECONDS = 60.0
"""How long CPU time is carried (accounts.CARRY_SECONDS): within it everybody should have a turn."""
FORGET_CYCLES = 20
"""A cost that kept a target out for so many cycles is forgotten: the target may have changed."""
_CORE_NANOS = 1e9
_MIXER, _GOLDEN = 10_007, 0.6180339887498949
"""Who is drawn must not hang together with who has a turn, which follows from the phase too: the
draw uses its further digits, each service from another start."""
_EPSILON = 1e-12
_NO_PRICE = Price(0.0, 0.0, 0.0)


@dataclass(slots=True)
class Purse:
    """What a decision may still spend: CPU and samplers."""

    full: float
    slots: int
    spent: float = 0.0
    windows: int = 0

    @property
    def left(self) -> float:
        """CPU seconds."""
        return self.full - self.spent

    def fits(self, cost: Price, count: int = 1, *, share: float = 1.0) -> bool:
        """Tell whether so many windows fit into a share of what there was at first."""
        return (
            self.spent + cost.reserved * count <= self.full * share + _EPSILON
            and self.windows + count <= self.slots
        )

    def take(self, cost: Price, count: int = 1) -> None:
        """Spend; a negative count gives back."""
        self.spent += cost.reserved * count
        self.windows += count


@dataclass(slots=True)
class Service:
    """Candidates that share their stacks, and what was settled for them.

    Attributes:
        members: Those with any CPU use, at least one.
        cpu: What they used together, ns a second.
        cost: Of a window on one of them, on average; None where nothing is known.
        windows: How many it gets, 0: none.
        rate_hz, seconds: Of each of them.
        due: It would wait for too long without a turn now.
        rank: Its place in the order of turns.
        draw_phase: Where the draw of its processes starts.
    """

    members: list[Candidate]
    cpu: float
    cost: Cost | None
    guess: Cost
    waited_cycles: int
    new: bool
    due: bool = False
    rank: int = 0
    draw_phase: float = 0.0
    windows: int = 0
    rate_hz: int = 0
    seconds: int = 0
    price: Price = _NO_PRICE

    def price_at(self, rate_hz: int, seconds: int) -> Price:
        """Price one of its windows."""
        return price(self.cost, self.guess, rate_hz, seconds)


def make_service(members: list[Candidate]) -> Service:
    """Sum up what is known of candidates of one service."""
    first = members[0]
    guess = first_cost("cpu", native=first.options.native)
    history = first.siblings
    if len(members) == 1 and history is None:
        cost = known_cost(first)
        cpu, waited, new = first.cpu_nanos_per_second, first.waited_cycles, first.cost is None
        return Service(members, cpu, cost, guess, waited, new)
    cpu = weight = attach = sample = error = 0.0
    waited = history.waited_cycles if history else FORGET_CYCLES
    for each in members:
        used = each.cpu_nanos_per_second
        cpu += used
        waited = min(waited, each.waited_cycles)
        cost = each.cost
        if cost is not None and each.waited_cycles < FORGET_CYCLES:
            weight += used
            attach += used * cost.attach_seconds
            sample += used * cost.sample_seconds
            error += used * cost.error
    if weight > 0:
        mean: Cost | None = Cost(attach / weight, sample / weight, error / weight)
    else:
        mean = _remembered(history)
    new = history is None and all(each.cost is None for each in members)
    if history is not None:
        waited = history.waited_cycles
    return Service(members, cpu, mean, guess, waited, new)


def known_cost(candidate: Candidate) -> Cost | None:
    """Give what a candidate's windows cost, or else those of its siblings."""
    if candidate.cost is not None and candidate.waited_cycles < FORGET_CYCLES:
        return candidate.cost
    return _remembered(candidate.siblings)


def _remembered(history: GroupHistory | None) -> Cost | None:
    if history is None or history.waited_cycles >= FORGET_CYCLES:
        return None
    return history.cost


def order_of_turns(services: Iterable[Service], inputs: Inputs) -> list[Service]:
    """Say who comes first: those that would wait too long, then by CPU, wait and price.

    The root of the CPU, since errors shrink with the root of the number of samples; over the root
    of the price, so that the error for a given budget is least (Neyman's allocation). A service
    that never had a window comes before its equals.
    """
    fair = inputs.allowance_cpu_seconds * FAIR_SHARE
    listed = list(services)
    for at, each in enumerate(listed):
        _smallest(each, inputs, fair)
        each.draw_phase = (inputs.phase * _MIXER + at * _GOLDEN) % 1.0
    # Where not all can have their turn in time, the heavy ones must not wait for the light ones.
    needed = sum(each.price.reserved for each in listed) * inputs.window_seconds / TURN_SECONDS
    all_fit = needed <= inputs.allowance_cpu_seconds * inputs.headroom
    due_after = TURN_SECONDS / inputs.window_seconds - 1
    keyed = []
    for at, each in enumerate(listed):
        waited = 1 + each.waited_cycles
        urgency = waited * math.sqrt(each.cpu / each.price.reserved) * (4 if each.new else 1)
        each.due = all_fit and each.waited_cycles >= due_after and each.price.reserved <= fair
        keyed.append((not each.due, -urgency, (at / len(listed) + inputs.phase) % 1.0, at))
    keyed.sort()
    found = [listed[at] for _, _, _, at in keyed]
    for rank, each in enumerate(found):
        each.rank = rank
    return found


def _smallest(service: Service, inputs: Inputs, fair: float) -> None:
    """Settle the least that a service gets, when it gets a turn."""
    cap = rate_cap(service.members[0], inputs)
    whole = inputs.window_seconds
    probe = min(PROBE_SECONDS, whole)
    seconds = whole if service.cost is not None else probe
    lowest = highest_rate(min(LOWEST_RATE_HZ, cap))
    # Where looks are very dear: fewer of them, and at last a short window.
    for rate, length in ((lowest, seconds), (3, seconds), (1, seconds), (1, probe)):
        service.rate_hz, service.seconds = min(rate, lowest), length
        service.price = service.price_at(service.rate_hz, length)
        attach = (service.cost or service.guess).attach_seconds
        # Where looks are not what costs, fewer of them would be no help, and waste the attach.
        if service.price.reserved <= fair or service.price.predicted <= 1.2 * attach:
            return


def give_turns(order: Sequence[Service], inputs: Inputs, purse: Purse) -> None:
    """Give as many services as possible their smallest window."""
    turns = math.ceil(len(order) * inputs.window_seconds / TURN_SECONDS)
    taken = 0
    for each in order:
        share = BREADTH_AT_MOST if taken < turns else BREADTH
        share = 1.0 if not taken or each.due else share
        if purse.fits(each.price, share=share):
            purse.take(each.price)
            each.windows = 1
            taken += 1
    for each in order:
        more = min(WORKERS_AT_ONCE, len(each.members)) - each.windows
        if each.windows and each.cost is not None and more > 0:
            while more and purse.fits(each.price, share=BREADTH_SIBLINGS):
                purse.take(each.price)
                each.windows += 1
                more -= 1


def give_left_over(order: Sequence[Service], purse: Purse) -> None:
    """Give what no rate could use to services that still have no window."""
    for each in order:
        if not each.windows and purse.fits(each.price):
            purse.take(each.price)
            each.windows = 1


def raise_rates(order: Sequence[Service], inputs: Inputs, purse: Purse) -> int:
    """Raise rates step by step, always where a look stands for the most CPU time.

    Returns:
        How many windows stay below the rate that was wanted for them.
    """
    wanted = {each.rank: _wanted_rate(each, inputs) for each in order if each.windows}
    # A heap: with hundreds of targets a search for the best at each step would itself cost.
    waiting = [(_weight(each), each.rank) for each in order if each.windows]
    heapq.heapify(waiting)
    lowered = 0
    while waiting:
        each = order[heapq.heappop(waiting)[1]]
        at = bisect.bisect_right(RATES_HZ, each.rate_hz)
        if at == len(RATES_HZ) or (higher := RATES_HZ[at]) > wanted[each.rank]:
            continue
        dearer = each.price_at(higher, each.seconds)
        purse.take(each.price, -each.windows)
        if purse.fits(dearer, each.windows):
            each.rate_hz, each.price = higher, dearer
            heapq.heappush(waiting, (_weight(each), each.rank))
        else:
            lowered += each.windows
        purse.take(each.price, each.windows)
    return lowered


def _weight(service: Service) -> float:
    cost = service.cost or service.guess
    looks = service.rate_hz * service.windows * math.sqrt(cost.sample_seconds)
    return -service.cpu / max(looks, 1e-12)


def _wanted_rate(service: Service, inputs: Inputs) -> int:
    """Give the rate at which a service's windows bring all the samples that are wanted of it.

    A look finds a stack as often as the process is on a CPU: what is drawn by CPU use is so with
    the mean of the squares over the sum.
    """
    cap = rate_cap(service.members[0], inputs)
    if service.cost is None:
        cap = min(cap, UNKNOWN_RATE_HZ)
    cores = [each.cpu_nanos_per_second / _CORE_NANOS for each in service.members]
    found = sum(each * min(each, 1.0) for each in cores) / sum(cores)
    nodes = max(1, inputs.nodes_of_group.get(service.members[0].group, 1))
    samples = max(LEAST_SAMPLES_PER_SECOND, inputs.service_samples_per_second / nodes)
    enough = samples / max(found * service.windows, 1e-9)
    return highest_rate(min(cap, next((rate for rate in RATES_HZ if rate >= enough), cap)))


def rate_cap(candidate: Candidate, inputs: Inputs) -> int:
    """Give the highest rate that is allowed for a candidate."""
    return min(inputs.max_rate_hz, candidate.options.rate_hz or inputs.max_rate_hz)


def highest_rate(cap: int) -> int:
    """Give the highest rate not above the cap."""
    return RATES_HZ[max(0, bisect.bisect_right(RATES_HZ, cap) - 1)]
