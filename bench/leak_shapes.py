"""How services use memory, minute by minute: what shapes are made of.

A shape draws its figures once a service and gives what runs in it: a function of a life (from a
start of the process to its end) to megabytes above the base. Times are minutes, amounts megabytes.
Thresholds were chosen on the shapes of leak_shapes_tuning.py, on none of leak_shapes_held_out.py.
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


def healthy(memory: Floats, jobs: Floats | None = None) -> Course:
    none = np.zeros(len(memory))
    return Course(memory, none, none if jobs is None else jobs)


def lagged(values: Floats, minutes: float) -> Floats:
    """Follow values with a delay: an exponential average."""
    keep, found, last = np.exp(-1 / minutes), np.empty(len(values)), values[0]
    for at, value in enumerate(values):
        last = keep * last + (1 - keep) * value
        found[at] = last
    return found


def events(life: Life, every: float) -> Floats:
    return life.rng.poisson(life.load / every).astype(float)


def leak(
    d: Draw, pace: Callable[[Life], Floats], *, low: float = 40, high: float = 3 * DAY
) -> Callable[[Life], Floats]:
    """Give leaked MB: the pace summed up, such that the room lasts so many minutes about."""
    lasts = d.around(low, high)
    return lambda life: d.room * np.cumsum(pace(life)) / lasts


def leaky(leaked: Callable[[Life], Floats], beside: Behaviour | None = None) -> Behaviour:
    def run(life: Life) -> Course:
        other = beside(life) if beside else healthy(np.zeros(life.minutes))
        return Course(other.memory, leaked(life), other.jobs)

    return run


def steady(d: Draw) -> Behaviour:
    """Warm up, then stay."""
    warm, tau = d.between(0.05, 0.4) * d.base, d.around(1, 20)
    return lambda life: healthy(warm * (1 - np.exp(-life.age / tau)))
