"""How services use memory, minute by minute: shapes that do not leak, and shapes that do.

A shape draws its figures once a service and gives what runs in it: a function of a life (from a
start of the process to its end) to megabytes above the base. Times are minutes, amounts megabytes.
The shapes for tuning are what thresholds were chosen on; those held out were written afterwards
and looked at only to report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
HOUR, DAY = 60, 1_440


@dataclass(frozen=True)
class Life:
    """A process from its start on.

    Attributes:
        start: Minute of the trace in which it starts; day and night follow from it.
        load: Work a minute, about 1 on average.
        rng: For what differs from life to life.
    """

    start: int
    load: Floats
    rng: np.random.Generator

    @property
    def minutes(self) -> int:
        """How long it lasts at most."""
        return len(self.load)

    @property
    def age(self) -> Floats:
        """Minutes since the start."""
        return np.arange(self.minutes, dtype=float)

    @property
    def clock(self) -> Floats:
        """Minutes of the trace."""
        return self.start + self.age


@dataclass(frozen=True)
class Course:
    """What a shape does in a life: MB that come and go, MB that were leaked, jobs' cores."""

    memory: Floats
    leaked: Floats
    jobs: Floats


@dataclass(frozen=True)
class Draw:
    """What a shape may draw from.

    Attributes:
        rng: The service's own.
        room: MB between the base and the limit.
        base: MB of the process at rest.
    """

    rng: np.random.Generator
    room: float
    base: float

    def between(self, low: float, high: float) -> float:
        """Draw evenly."""
        return float(self.rng.uniform(low, high))

    def around(self, low: float, high: float) -> float:
        """Draw evenly on a logarithmic scale."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))


Behaviour = Callable[[Life], Course]


@dataclass(frozen=True)
class Shape:
    """A way to use memory.

    Attributes:
        name: For reports.
        draw: Makes the behaviour of one service.
        load_swing: Of the daily cycle, from and to.
    """

    name: str
    draw: Callable[[Draw], Behaviour]
    load_swing: tuple[float, float] = field(default=(0.05, 0.6))


def _healthy(memory: Floats, jobs: Floats | None = None) -> Course:
    none = np.zeros(len(memory))
    return Course(memory, none, none if jobs is None else jobs)


def _lagged(values: Floats, minutes: float) -> Floats:
    """Follow values with a delay: an exponential average."""
    keep, found, last = np.exp(-1 / minutes), np.empty(len(values)), values[0]
    for at, value in enumerate(values):
        last = keep * last + (1 - keep) * value
        found[at] = last
    return found


def _events(life: Life, every: float) -> Floats:
    return life.rng.poisson(life.load / every).astype(float)


# Shapes that do not leak, for tuning.


def _steady(d: Draw) -> Behaviour:
    warm, tau = d.between(0.05, 0.4) * d.base, d.around(1, 20)
    return lambda life: _healthy(warm * (1 - np.exp(-life.age / tau)))


def _follows_load(d: Draw) -> Behaviour:
    share, lag = d.between(0.1, 0.4) * d.room, d.around(1, 30)
    return lambda life: _healthy(share * _lagged(life.load, lag))


def _cache(d: Draw) -> Behaviour:
    size, tau = d.between(0.1, 0.6) * d.room, d.around(10, 12 * HOUR)
    return lambda life: _healthy(size * (1 - np.exp(-np.cumsum(life.load) / tau)))


def _bounded_cache(d: Draw) -> Behaviour:
    size, full = d.between(0.05, 0.3) * d.room, d.around(30, 10 * HOUR)
    return lambda life: _healthy(size * np.minimum(1, np.cumsum(life.load) / full))


def _expiring(d: Draw) -> Behaviour:
    size, ttl = d.between(0.05, 0.3) * d.room, int(d.around(20, 8 * HOUR))

    def run(life: Life) -> Course:
        total = np.concatenate((np.zeros(ttl), np.cumsum(life.load)))
        return _healthy(size * (total[ttl:] - total[:-ttl]) / ttl)

    return run


def _sawtooth(d: Draw) -> Behaviour:
    height, period = d.between(0.1, 0.7) * d.room, d.around(5, 6 * HOUR)

    def run(life: Life) -> Course:
        work = np.cumsum(life.load) / period + life.rng.uniform()
        return _healthy(height * (work % 1))

    return run


def _batch(d: Draw) -> Behaviour:
    height, every = d.between(0.2, 0.8) * d.room, int(d.around(HOUR, DAY))
    length = max(5, int(every * d.between(0.05, 0.3)))
    offset, cores = int(d.rng.integers(every)), d.between(0.5, 2)

    def run(life: Life) -> Course:
        inside = (life.clock + offset) % every
        on = inside < length
        ramp = np.where(on, np.minimum(1, inside / (0.8 * length)), 0)
        return _healthy(height * ramp, cores * on)

    return run


def _fragments(d: Draw) -> Behaviour:
    scale, tau = d.between(0.03, 0.1) * d.room, d.around(2, HOUR)
    return lambda life: _healthy(scale * np.log1p(np.cumsum(life.load) / tau))


def _staircase(d: Draw) -> Behaviour:
    steps, height = int(d.rng.integers(2, 8)), d.between(0.2, 0.6) * d.room
    within = d.around(HOUR, 2 * DAY)

    def run(life: Life) -> Course:
        at = np.sort(life.rng.exponential(within / 3, steps))
        sizes = life.rng.dirichlet(np.ones(steps)) * height
        return _healthy((life.age[:, None] >= at).astype(float) @ sizes)

    return run


def _high_water(d: Draw) -> Behaviour:
    scale, tail = d.between(0.02, 0.06) * d.room, d.between(2.5, 5)

    def run(life: Life) -> Course:
        asked = scale * (life.rng.pareto(tail, life.minutes) + 1) * life.load
        return _healthy(np.minimum(np.maximum.accumulate(asked), 0.8 * d.room))

    return run


def _rescaled(d: Draw) -> Behaviour:
    share, every = d.between(0.1, 0.5) * d.room, d.around(2 * HOUR, DAY)

    def run(life: Life) -> Course:
        changes = np.cumsum(life.rng.poisson(1 / every, life.minutes))
        levels = life.rng.uniform(0.3, 1, changes[-1] + 1)
        return _healthy(share * _lagged(levels[changes] * life.load, 8), levels[changes] * 0.5)

    return run


def _pool(d: Draw) -> Behaviour:
    most, each = int(d.rng.integers(10, 200)), d.between(0.1, 0.4) * d.room
    tau = d.around(20, 10 * HOUR)

    def run(life: Life) -> Course:
        opened = np.floor(most * (1 - np.exp(-np.cumsum(life.load) / tau)))
        return _healthy(each * opened / most)

    return run


def _nightly(d: Draw) -> Behaviour:
    height, hour = d.between(0.1, 0.6) * d.room, int(d.rng.integers(DAY))
    kept = d.between(0, 0.5)
    length = int(d.around(10, 2 * HOUR))

    def run(life: Life) -> Course:
        inside = (life.clock - hour) % DAY
        on = (inside < length) & (life.age >= inside)
        seen = np.maximum.accumulate(on.astype(float)) * kept
        return _healthy(
            height * np.maximum(seen, on * np.minimum(1, inside / length * 2)), on * 1.0
        )

    return run


def _recycled(d: Draw) -> Behaviour:
    workers, life_of = int(d.rng.integers(1, 9)), d.around(HOUR, DAY)
    height = d.between(0.1, 0.5) * d.room

    def run(life: Life) -> Course:
        phases = life.rng.uniform(0.7, 1.3, workers)
        total = np.zeros(life.minutes)
        for phase in phases:
            total += (np.cumsum(life.load) / (life_of * phase)) % 1
        return _healthy(height * total / workers)

    return run


def _late_warmth(d: Draw) -> Behaviour:
    size, middle = d.between(0.1, 0.5) * d.room, d.around(30, 8 * HOUR)
    return lambda life: _healthy(size / (1 + np.exp(-(life.age - middle) / (middle / 4))))


def _noisy(d: Draw) -> Behaviour:
    sd, keep = d.between(0.02, 0.08) * d.room, d.between(0.5, 0.98)

    def run(life: Life) -> Course:
        shocks = life.rng.normal(0, sd * np.sqrt(1 - keep**2), life.minutes)
        return _healthy(_lagged(shocks / (1 - keep), -1 / np.log(keep)) + 3 * sd)

    return run


# Shapes that leak, for tuning.


def _leak(
    d: Draw, pace: Callable[[Life], Floats], *, low: float = 40, high: float = 3 * DAY
) -> Callable[[Life], Floats]:
    """Give leaked MB: the pace summed up, such that the room lasts so many minutes about."""
    lasts = d.around(low, high)
    return lambda life: d.room * np.cumsum(pace(life)) / lasts


def _leaky(leaked: Callable[[Life], Floats], beside: Behaviour | None = None) -> Behaviour:
    def run(life: Life) -> Course:
        other = beside(life) if beside else _healthy(np.zeros(life.minutes))
        return Course(other.memory, leaked(life), other.jobs)

    return run


def _constant(d: Draw) -> Behaviour:
    return _leaky(_leak(d, lambda life: np.ones(life.minutes)), _steady(d))


def _by_request(d: Draw) -> Behaviour:
    return _leaky(_leak(d, lambda life: life.load), _steady(d))


def _by_error(d: Draw) -> Behaviour:
    every = d.around(2, 40)
    return _leaky(_leak(d, lambda life: _events(life, every) * every, low=4 * HOUR), _steady(d))


def _fast(d: Draw) -> Behaviour:
    return _leaky(_leak(d, lambda life: life.load, low=30, high=120), _steady(d))


def _slow(d: Draw) -> Behaviour:
    return _leaky(_leak(d, lambda life: life.load, low=2 * DAY, high=4 * DAY), _steady(d))


def _under_collection(d: Draw) -> Behaviour:
    tooth = d.between(0.05, 0.2) * d.room
    period = d.around(5, 60)

    def beside(life: Life) -> Course:
        return _healthy(tooth * ((np.cumsum(life.load) / period) % 1))

    return _leaky(_leak(d, lambda life: life.load, low=6 * HOUR), beside)


def _speeding_up(d: Draw) -> Behaviour:
    lasts, power = d.around(3 * HOUR, 3 * DAY), d.between(1.2, 2)
    return _leaky(lambda life: d.room * (life.age / lasts) ** power, _steady(d))


def _slowing_down(d: Draw) -> Behaviour:
    lasts, power = d.around(3 * HOUR, 3 * DAY), d.between(0.75, 0.95)
    return _leaky(lambda life: d.room * (life.age / lasts) ** power, _steady(d))


def _in_noise(d: Draw) -> Behaviour:
    return _leaky(_leak(d, lambda life: life.load, low=12 * HOUR), _noisy(d))


def _beside_cache(d: Draw) -> Behaviour:
    size, tau = d.between(0.05, 0.25) * d.room, d.around(10, 4 * HOUR)

    def beside(life: Life) -> Course:
        return _healthy(size * (1 - np.exp(-np.cumsum(life.load) / tau)))

    return _leaky(_leak(d, lambda life: life.load, low=4 * HOUR), beside)


def _beside_load(d: Draw) -> Behaviour:
    share = d.between(0.05, 0.2) * d.room
    return _leaky(
        _leak(d, lambda life: life.load, low=6 * HOUR),
        lambda life: _healthy(share * _lagged(life.load, 5)),
    )


def _by_job(d: Draw) -> Behaviour:
    every, offset = int(d.around(15, HOUR)), int(d.rng.integers(HOUR))

    def pace(life: Life) -> Floats:
        return ((life.clock.astype(int) + offset) % every == 0) * float(every)

    return _leaky(_leak(d, pace, low=12 * HOUR), _steady(d))


def _after_a_while(d: Draw) -> Behaviour:
    begins = d.around(HOUR, DAY)
    return _leaky(_leak(d, lambda life: life.load * (life.age > begins)), _steady(d))


# Shapes held out: written after the thresholds were chosen.


def _two_caches(d: Draw) -> Behaviour:
    sizes = d.between(0.05, 0.3) * d.room, d.between(0.05, 0.3) * d.room
    taus = d.around(5, HOUR), d.around(HOUR, 10 * HOUR)

    def run(life: Life) -> Course:
        work = np.cumsum(life.load)
        return _healthy(sum(s * (1 - np.exp(-work / t)) for s, t in zip(sizes, taus, strict=True)))

    return run


def _buffer_flushed(d: Draw) -> Behaviour:
    height, every = d.between(0.1, 0.5) * d.room, d.around(20, 5 * HOUR)

    def run(life: Life) -> Course:
        level, found = 0.0, np.empty(life.minutes)
        until = every * life.rng.uniform(0.5, 1.5)
        for at, work in enumerate(life.load):
            level += work
            if level > until:
                level, until = 0.0, every * life.rng.uniform(0.5, 1.5)
            found[at] = level
        return _healthy(height * found / every / 1.5)

    return run


def _tenants(d: Draw) -> Behaviour:
    count, size = int(d.rng.integers(5, 60)), d.between(0.1, 0.4) * d.room

    def run(life: Life) -> Course:
        rates = life.rng.pareto(1.2, count) + 0.2
        first = life.rng.exponential(HOUR / rates)
        return _healthy(size * (life.age[:, None] > first).sum(axis=1) / count)

    return run


def _sessions(d: Draw) -> Behaviour:
    size, lag = d.between(0.1, 0.4) * d.room, d.around(30, 4 * HOUR)
    return lambda life: _healthy(size * _lagged(life.load, lag))


def _reports(d: Draw) -> Behaviour:
    height, every = d.between(0.1, 0.5) * d.room, d.around(3 * HOUR, DAY)

    def run(life: Life) -> Course:
        memory = np.zeros(life.minutes)
        for at in np.flatnonzero(life.rng.random(life.minutes) < 1 / every):
            length = int(life.rng.uniform(10, 60))
            part = memory[at : at + length]
            part += height * life.rng.uniform(0.3, 1) * np.arange(1, len(part) + 1) / length
        return _healthy(np.minimum(memory, 0.8 * d.room), (memory > 0) * 0.2)

    return run


def _imports(d: Draw) -> Behaviour:
    steps, size = int(d.rng.integers(20, 200)), d.between(0.1, 0.4) * d.room
    within = d.around(10, 3 * HOUR)

    def run(life: Life) -> Course:
        at = life.rng.exponential(within, steps)
        return _healthy(size * (life.age[:, None] > at).sum(axis=1) / steps)

    return run


def _campaign(d: Draw) -> Behaviour:
    share, begins = d.between(0.1, 0.4) * d.room, d.between(0.5, 4) * DAY
    length = d.between(3, 12) * HOUR

    def run(life: Life) -> Course:
        inside = life.clock - begins
        more = 1 / (1 + np.exp(-inside / 20)) - 1 / (1 + np.exp(-(inside - length) / 20))
        return _healthy(share * _lagged(life.load + more, 5), more * 0.5)

    return run


def _arena_walk(d: Draw) -> Behaviour:
    size = d.between(0.02, 0.06) * d.room

    def run(life: Life) -> Course:
        walk = np.cumsum(life.rng.normal(0, 0.1, life.minutes) - 0.002 * np.ones(life.minutes))
        walk -= np.minimum(np.minimum.accumulate(walk), 0)
        return _healthy(size * np.minimum(walk, 8))

    return run


def _by_connection(d: Draw) -> Behaviour:
    lag = d.around(20, 3 * HOUR)
    return _leaky(_leak(d, lambda life: _lagged(life.load, lag) ** 2), _sessions(d))


def _by_schedule(d: Draw) -> Behaviour:
    every = int(d.around(5, 20))

    def pace(life: Life) -> Floats:
        return (
            (life.clock.astype(int) % every == 0) * every * life.rng.uniform(0.5, 1.5, life.minutes)
        )

    return _leaky(_leak(d, pace, low=3 * HOUR), _steady(d))


def _table_doubling(d: Draw) -> Behaviour:
    """A dict: its entries grow evenly, its table by doubling."""
    table = d.between(0.03, 0.12)
    lasts = d.around(2 * HOUR, 3 * DAY)

    def leaked(life: Life) -> Floats:
        grown = np.cumsum(life.load) / lasts
        doubled = 2.0 ** np.floor(np.log2(np.maximum(grown, 2.0**-8)))
        return d.room * ((1 - table) * grown + table * doubled)

    return _leaky(leaked, _steady(d))


def _in_incidents(d: Draw) -> Behaviour:
    length, share = d.around(30, 3 * HOUR), d.between(0.4, 0.8)

    def pace(life: Life) -> Floats:
        flips = np.cumsum(life.rng.poisson(1 / length, life.minutes)) % 2
        return life.load * np.where(flips == 0, 1.0, 1 - share)

    return _leaky(_leak(d, pace, low=4 * HOUR), _steady(d))


def _partly_released(d: Draw) -> Behaviour:
    lasts, every, back = d.around(6 * HOUR, 3 * DAY), d.around(20, 90), d.between(0.1, 0.3)

    def leaked(life: Life) -> Floats:
        grown = np.cumsum(life.load)
        return d.room / lasts * (grown + back * every * ((grown / every) % 1) * 3)

    return _leaky(leaked, _steady(d))


def _threads(d: Draw) -> Behaviour:
    """Threads that never end: a stack each, touched a little."""
    each = d.between(0.1, 0.8)
    lasts = d.around(3 * HOUR, 2 * DAY)

    def leaked(life: Life) -> Floats:
        started = np.cumsum(life.rng.poisson(life.load * d.room / each / lasts))
        return each * started.astype(float)

    return _leaky(leaked, _steady(d))


BENIGN_TUNING = (
    Shape("steady", _steady),
    Shape("follows load", _follows_load, (0.2, 0.8)),
    Shape("cache", _cache),
    Shape("bounded cache", _bounded_cache),
    Shape("expiring", _expiring),
    Shape("sawtooth", _sawtooth),
    Shape("batch", _batch),
    Shape("fragments", _fragments),
    Shape("staircase", _staircase),
    Shape("high water", _high_water),
    Shape("rescaled", _rescaled),
    Shape("pool", _pool),
    Shape("nightly", _nightly),
    Shape("recycled workers", _recycled),
    Shape("late warmth", _late_warmth),
    Shape("noisy", _noisy),
)
LEAKY_TUNING = (
    Shape("constant", _constant),
    Shape("by request", _by_request),
    Shape("by error", _by_error),
    Shape("fast", _fast),
    Shape("slow", _slow),
    Shape("under collection", _under_collection),
    Shape("speeding up", _speeding_up),
    Shape("slowing down", _slowing_down),
    Shape("in noise", _in_noise),
    Shape("beside a cache", _beside_cache),
    Shape("beside load", _beside_load),
    Shape("by job", _by_job),
    Shape("after a while", _after_a_while),
)
BENIGN_HELD_OUT = (
    Shape("two caches", _two_caches),
    Shape("buffer flushed", _buffer_flushed),
    Shape("tenants", _tenants),
    Shape("sessions", _sessions, (0.2, 0.8)),
    Shape("reports", _reports),
    Shape("imports", _imports),
    Shape("campaign", _campaign),
    Shape("arena walk", _arena_walk),
)
LEAKY_HELD_OUT = (
    Shape("by connection", _by_connection, (0.2, 0.8)),
    Shape("by schedule", _by_schedule),
    Shape("table doubling", _table_doubling),
    Shape("in incidents", _in_incidents),
    Shape("partly released", _partly_released),
    Shape("threads", _threads),
)
