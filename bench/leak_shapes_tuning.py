"""Shapes on which the thresholds of the leak detector were chosen."""

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
    events,
    healthy,
    lagged,
    leak,
    leaky,
    steady,
)

# Shapes that do not leak, for tuning.


def _follows_load(d: Draw) -> Behaviour:
    share, lag = d.between(0.1, 0.4) * d.room, d.around(1, 30)
    return lambda life: healthy(share * lagged(life.load, lag))


def _cache(d: Draw) -> Behaviour:
    size, tau = d.between(0.1, 0.6) * d.room, d.around(10, 12 * HOUR)
    return lambda life: healthy(size * (1 - np.exp(-np.cumsum(life.load) / tau)))


def _bounded_cache(d: Draw) -> Behaviour:
    size, full = d.between(0.05, 0.3) * d.room, d.around(30, 10 * HOUR)
    return lambda life: healthy(size * np.minimum(1, np.cumsum(life.load) / full))


def _expiring(d: Draw) -> Behaviour:
    size, ttl = d.between(0.05, 0.3) * d.room, int(d.around(20, 8 * HOUR))

    def run(life: Life) -> Course:
        total = np.concatenate((np.zeros(ttl), np.cumsum(life.load)))
        return healthy(size * (total[ttl:] - total[:-ttl]) / ttl)

    return run


def _sawtooth(d: Draw) -> Behaviour:
    height, period = d.between(0.1, 0.7) * d.room, d.around(5, 6 * HOUR)

    def run(life: Life) -> Course:
        work = np.cumsum(life.load) / period + life.rng.uniform()
        return healthy(height * (work % 1))

    return run


def _batch(d: Draw) -> Behaviour:
    height, every = d.between(0.2, 0.8) * d.room, int(d.around(HOUR, DAY))
    length = max(5, int(every * d.between(0.05, 0.3)))
    offset, cores = int(d.rng.integers(every)), d.between(0.5, 2)

    def run(life: Life) -> Course:
        inside = (life.clock + offset) % every
        on = inside < length
        ramp = np.where(on, np.minimum(1, inside / (0.8 * length)), 0)
        return healthy(height * ramp, cores * on)

    return run


def _fragments(d: Draw) -> Behaviour:
    scale, tau = d.between(0.03, 0.1) * d.room, d.around(2, HOUR)
    return lambda life: healthy(scale * np.log1p(np.cumsum(life.load) / tau))


def _staircase(d: Draw) -> Behaviour:
    steps, height = int(d.rng.integers(2, 8)), d.between(0.2, 0.6) * d.room
    within = d.around(HOUR, 2 * DAY)

    def run(life: Life) -> Course:
        at = np.sort(life.rng.exponential(within / 3, steps))
        sizes = life.rng.dirichlet(np.ones(steps)) * height
        return healthy((life.age[:, None] >= at).astype(float) @ sizes)

    return run


def _high_water(d: Draw) -> Behaviour:
    scale, tail = d.between(0.02, 0.06) * d.room, d.between(2.5, 5)

    def run(life: Life) -> Course:
        asked = scale * (life.rng.pareto(tail, life.minutes) + 1) * life.load
        return healthy(np.minimum(np.maximum.accumulate(asked), 0.8 * d.room))

    return run


def _rescaled(d: Draw) -> Behaviour:
    share, every = d.between(0.1, 0.5) * d.room, d.around(2 * HOUR, DAY)

    def run(life: Life) -> Course:
        changes = np.cumsum(life.rng.poisson(1 / every, life.minutes))
        levels = life.rng.uniform(0.3, 1, changes[-1] + 1)
        return healthy(share * lagged(levels[changes] * life.load, 8), levels[changes] * 0.5)

    return run


def _pool(d: Draw) -> Behaviour:
    most, each = int(d.rng.integers(10, 200)), d.between(0.1, 0.4) * d.room
    tau = d.around(20, 10 * HOUR)

    def run(life: Life) -> Course:
        opened = np.floor(most * (1 - np.exp(-np.cumsum(life.load) / tau)))
        return healthy(each * opened / most)

    return run


def _nightly(d: Draw) -> Behaviour:
    height, hour = d.between(0.1, 0.6) * d.room, int(d.rng.integers(DAY))
    kept = d.between(0, 0.5)
    length = int(d.around(10, 2 * HOUR))

    def run(life: Life) -> Course:
        inside = (life.clock - hour) % DAY
        on = (inside < length) & (life.age >= inside)
        seen = np.maximum.accumulate(on.astype(float)) * kept
        return healthy(height * np.maximum(seen, on * np.minimum(1, inside / length * 2)), on * 1.0)

    return run


def _recycled(d: Draw) -> Behaviour:
    workers, life_of = int(d.rng.integers(1, 9)), d.around(HOUR, DAY)
    height = d.between(0.1, 0.5) * d.room

    def run(life: Life) -> Course:
        phases = life.rng.uniform(0.7, 1.3, workers)
        total = np.zeros(life.minutes)
        for phase in phases:
            total += (np.cumsum(life.load) / (life_of * phase)) % 1
        return healthy(height * total / workers)

    return run


def _late_warmth(d: Draw) -> Behaviour:
    size, middle = d.between(0.1, 0.5) * d.room, d.around(30, 8 * HOUR)
    return lambda life: healthy(size / (1 + np.exp(-(life.age - middle) / (middle / 4))))


def _noisy(d: Draw) -> Behaviour:
    sd, keep = d.between(0.02, 0.08) * d.room, d.between(0.5, 0.98)

    def run(life: Life) -> Course:
        shocks = life.rng.normal(0, sd * np.sqrt(1 - keep**2), life.minutes)
        return healthy(lagged(shocks / (1 - keep), -1 / np.log(keep)) + 3 * sd)

    return run


# Shapes that leak, for tuning.


def _constant(d: Draw) -> Behaviour:
    return leaky(leak(d, lambda life: np.ones(life.minutes)), steady(d))


def _by_request(d: Draw) -> Behaviour:
    return leaky(leak(d, lambda life: life.load), steady(d))


def _by_error(d: Draw) -> Behaviour:
    every = d.around(2, 40)
    return leaky(leak(d, lambda life: events(life, every) * every, low=4 * HOUR), steady(d))


def _fast(d: Draw) -> Behaviour:
    return leaky(leak(d, lambda life: life.load, low=30, high=120), steady(d))


def _slow(d: Draw) -> Behaviour:
    return leaky(leak(d, lambda life: life.load, low=2 * DAY, high=4 * DAY), steady(d))


def _under_collection(d: Draw) -> Behaviour:
    tooth = d.between(0.05, 0.2) * d.room
    period = d.around(5, 60)

    def beside(life: Life) -> Course:
        return healthy(tooth * ((np.cumsum(life.load) / period) % 1))

    return leaky(leak(d, lambda life: life.load, low=6 * HOUR), beside)


def _speeding_up(d: Draw) -> Behaviour:
    lasts, power = d.around(3 * HOUR, 3 * DAY), d.between(1.2, 2)
    return leaky(lambda life: d.room * (life.age / lasts) ** power, steady(d))


def _slowing_down(d: Draw) -> Behaviour:
    lasts, power = d.around(3 * HOUR, 3 * DAY), d.between(0.75, 0.95)
    return leaky(lambda life: d.room * (life.age / lasts) ** power, steady(d))


def _in_noise(d: Draw) -> Behaviour:
    return leaky(leak(d, lambda life: life.load, low=12 * HOUR), _noisy(d))


def _beside_cache(d: Draw) -> Behaviour:
    size, tau = d.between(0.05, 0.25) * d.room, d.around(10, 4 * HOUR)

    def beside(life: Life) -> Course:
        return healthy(size * (1 - np.exp(-np.cumsum(life.load) / tau)))

    return leaky(leak(d, lambda life: life.load, low=4 * HOUR), beside)


def _beside_load(d: Draw) -> Behaviour:
    share = d.between(0.05, 0.2) * d.room
    return leaky(
        leak(d, lambda life: life.load, low=6 * HOUR),
        lambda life: healthy(share * lagged(life.load, 5)),
    )


def _by_job(d: Draw) -> Behaviour:
    every, offset = int(d.around(15, HOUR)), int(d.rng.integers(HOUR))

    def pace(life: Life) -> Floats:
        return ((life.clock.astype(int) + offset) % every == 0) * float(every)

    return leaky(leak(d, pace, low=12 * HOUR), steady(d))


def _after_a_while(d: Draw) -> Behaviour:
    begins = d.around(HOUR, DAY)
    return leaky(leak(d, lambda life: life.load * (life.age > begins)), steady(d))


BENIGN_TUNING = (
    Shape("steady", steady),
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
