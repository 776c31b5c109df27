"""Shapes on which no threshold of the leak detector was chosen; see docs/decisions/0019."""

from __future__ import annotations

import numpy as np
from leak_shapes import (
    DAY,
    HOUR,
    Behaviour,
    Course,
    Draw,
    Floats,
    Life,
    Shape,
    healthy,
    lagged,
    leak,
    leaky,
    steady,
)


def _two_caches(d: Draw) -> Behaviour:
    sizes = d.between(0.05, 0.3) * d.room, d.between(0.05, 0.3) * d.room
    taus = d.around(5, HOUR), d.around(HOUR, 10 * HOUR)

    def run(life: Life) -> Course:
        work = np.cumsum(life.load)
        return healthy(sum(s * (1 - np.exp(-work / t)) for s, t in zip(sizes, taus, strict=True)))

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
        return healthy(height * found / every / 1.5)

    return run


def _tenants(d: Draw) -> Behaviour:
    count, size = int(d.rng.integers(5, 60)), d.between(0.1, 0.4) * d.room

    def run(life: Life) -> Course:
        rates = life.rng.pareto(1.2, count) + 0.2
        first = life.rng.exponential(HOUR / rates)
        return healthy(size * (life.age[:, None] > first).sum(axis=1) / count)

    return run


def _sessions(d: Draw) -> Behaviour:
    size, lag = d.between(0.1, 0.4) * d.room, d.around(30, 4 * HOUR)
    return lambda life: healthy(size * lagged(life.load, lag))


def _reports(d: Draw) -> Behaviour:
    height, every = d.between(0.1, 0.5) * d.room, d.around(3 * HOUR, DAY)

    def run(life: Life) -> Course:
        memory = np.zeros(life.minutes)
        for at in np.flatnonzero(life.rng.random(life.minutes) < 1 / every):
            length = int(life.rng.uniform(10, 60))
            part = memory[at : at + length]
            part += height * life.rng.uniform(0.3, 1) * np.arange(1, len(part) + 1) / length
        return healthy(np.minimum(memory, 0.8 * d.room), (memory > 0) * 0.2)

    return run


def _imports(d: Draw) -> Behaviour:
    steps, size = int(d.rng.integers(20, 200)), d.between(0.1, 0.4) * d.room
    within = d.around(10, 3 * HOUR)

    def run(life: Life) -> Course:
        at = life.rng.exponential(within, steps)
        return healthy(size * (life.age[:, None] > at).sum(axis=1) / steps)

    return run


def _campaign(d: Draw) -> Behaviour:
    share, begins = d.between(0.1, 0.4) * d.room, d.between(0.5, 4) * DAY
    length = d.between(3, 12) * HOUR

    def run(life: Life) -> Course:
        inside = life.clock - begins
        more = 1 / (1 + np.exp(-inside / 20)) - 1 / (1 + np.exp(-(inside - length) / 20))
        return healthy(share * lagged(life.load + more, 5), more * 0.5)

    return run


def _arena_walk(d: Draw) -> Behaviour:
    size = d.between(0.02, 0.06) * d.room

    def run(life: Life) -> Course:
        walk = np.cumsum(life.rng.normal(0, 0.1, life.minutes) - 0.002 * np.ones(life.minutes))
        walk -= np.minimum(np.minimum.accumulate(walk), 0)
        return healthy(size * np.minimum(walk, 8))

    return run


def _by_connection(d: Draw) -> Behaviour:
    lag = d.around(20, 3 * HOUR)
    return leaky(leak(d, lambda life: lagged(life.load, lag) ** 2), _sessions(d))


def _by_schedule(d: Draw) -> Behaviour:
    every = int(d.around(5, 20))

    def pace(life: Life) -> Floats:
        return (
            (life.clock.astype(int) % every == 0) * every * life.rng.uniform(0.5, 1.5, life.minutes)
        )

    return leaky(leak(d, pace, low=3 * HOUR), steady(d))


def _table_doubling(d: Draw) -> Behaviour:
    """A dict: its entries grow evenly, its table by doubling."""
    table = d.between(0.03, 0.12)
    lasts = d.around(2 * HOUR, 3 * DAY)

    def leaked(life: Life) -> Floats:
        grown = np.cumsum(life.load) / lasts
        doubled = 2.0 ** np.floor(np.log2(np.maximum(grown, 2.0**-8)))
        return d.room * ((1 - table) * grown + table * doubled)

    return leaky(leaked, steady(d))


def _in_incidents(d: Draw) -> Behaviour:
    length, share = d.around(30, 3 * HOUR), d.between(0.4, 0.8)

    def pace(life: Life) -> Floats:
        flips = np.cumsum(life.rng.poisson(1 / length, life.minutes)) % 2
        return life.load * np.where(flips == 0, 1.0, 1 - share)

    return leaky(leak(d, pace, low=4 * HOUR), steady(d))


def _partly_released(d: Draw) -> Behaviour:
    lasts, every, back = d.around(6 * HOUR, 3 * DAY), d.around(20, 90), d.between(0.1, 0.3)

    def leaked(life: Life) -> Floats:
        grown = np.cumsum(life.load)
        return d.room / lasts * (grown + back * every * ((grown / every) % 1) * 3)

    return leaky(leaked, steady(d))


def _threads(d: Draw) -> Behaviour:
    """Threads that never end: a stack each, touched a little."""
    each = d.between(0.1, 0.8)
    lasts = d.around(3 * HOUR, 2 * DAY)

    def leaked(life: Life) -> Floats:
        started = np.cumsum(life.rng.poisson(life.load * d.room / each / lasts))
        return each * started.astype(float)

    return leaky(leaked, steady(d))


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
