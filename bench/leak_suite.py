"""Services with memory, CPU, deploys, restarts and gaps, minute by minute, made of shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from leak_shapes import DAY, Behaviour, Course, Draw, Floats, Life, Shape

DAYS = 5
MINUTES = DAYS * DAY
BEYOND = 5 * DAY
"""How much further a life is followed, to know when it would have ended."""


@dataclass(frozen=True)
class Leak:
    """One leaking life: when the leak began, and when memory is (or would have been) full."""

    begins: int
    full: int | None
    ends: int


@dataclass(frozen=True)
class Trace:
    """One container of a service.

    Attributes:
        shape: How it uses memory.
        anon: (MINUTES,) lowest anonymous MB of each minute; NaN where none was read.
        cpu: (MINUTES,) cores.
        born: (MINUTES,) minute in which the process that is there was started.
        limit: MB.
        leaks: Each leaking life; empty where it does not leak.
    """

    shape: str
    anon: Floats
    cpu: Floats
    born: npt.NDArray[np.int64]
    limit: float
    leaks: tuple[Leak, ...]


def traces(shapes: Iterable[Shape], *, leaky: bool, each: int, seed: int) -> list[Trace]:
    """Make so many services of each shape."""
    return [
        _trace(shape, leaky=leaky, rng=np.random.default_rng((seed, number, *shape.name.encode())))
        for shape in shapes
        for number in range(each)
    ]


def _trace(shape: Shape, *, leaky: bool, rng: np.random.Generator) -> Trace:
    base = float(np.exp(rng.uniform(np.log(60), np.log(1_500))))
    limit = base * float(rng.uniform(1.5, 5))
    behaviour = shape.draw(Draw(rng, limit - base, base))
    load = _load(rng, shape.load_swing)
    noise = base * float(np.exp(rng.uniform(np.log(0.0005), np.log(0.01))))
    leak_from = 0 if not leaky or rng.random() < 0.5 else int(rng.uniform(0.5, 2.5) * DAY)
    deploys = _deploys(rng, leak_from)
    anon, jobs = np.full(MINUTES, np.nan), np.zeros(MINUTES)
    born = np.zeros(MINUTES, np.int64)
    leaks: list[Leak] = []
    start = 0
    while start < MINUTES:
        end = min(min((each for each in deploys if each > start), default=MINUTES), MINUTES)
        life = Life(start, load[start : MINUTES + BEYOND], rng)
        course = behaviour(life)
        leaking = leaky and start >= leak_from
        memory = base + course.memory + (course.leaked if leaking else 0)
        memory = np.ceil(memory + rng.normal(0, noise, len(memory)))
        over = np.flatnonzero(memory >= limit)
        full = start + int(over[0]) if len(over) else None
        end = end if full is None else min(end, full)
        anon[start:end] = memory[: end - start]
        jobs[start:end] = course.jobs[: end - start]
        born[start:] = start
        if leaking:
            begins = start + int(np.argmax(course.leaked > 0))
            if begins < end:
                leaks.append(Leak(begins, full, end))
        start = end + int(rng.integers(1, 5))
    cpu = load[:MINUTES] * float(rng.uniform(0.05, 1)) + jobs
    cpu = cpu * rng.lognormal(0, float(rng.uniform(0.02, 0.3)), MINUTES)
    _gaps(rng, anon, cpu)
    if rng.random() < 0.2:
        cpu[:] = np.nan
    return Trace(shape.name, anon, cpu, born, limit, tuple(leaks))


def _load(rng: np.random.Generator, swing: tuple[float, float]) -> Floats:
    minutes = np.arange(MINUTES + BEYOND + 1)
    share = rng.uniform(*swing)
    day = 1 + share * np.sin(2 * np.pi * (minutes / DAY + rng.uniform()))
    slow = np.exp(np.cumsum(rng.normal(0, 0.004, len(minutes))))
    slow = np.clip(slow, 0.6, 1.6)
    return np.maximum(0.02, day * slow * rng.lognormal(0, rng.uniform(0.02, 0.2), len(minutes)))


def _deploys(rng: np.random.Generator, leak_from: int) -> Sequence[int]:
    count = rng.poisson(DAYS / 2)
    return sorted(
        {*rng.integers(HALF_DAY, MINUTES, count).tolist(), *([leak_from] * (leak_from > 0))}
    )


HALF_DAY = DAY // 2


def _gaps(rng: np.random.Generator, anon: Floats, cpu: Floats) -> None:
    """Leave out minutes: the agent was restarted, the network was away, a reading failed."""
    for at in rng.integers(0, MINUTES, rng.poisson(DAYS)):
        length = int(np.exp(rng.uniform(0, np.log(60))))
        anon[at : at + length] = np.nan
        cpu[at : at + length] = np.nan
    anon[rng.random(MINUTES) < 0.005] = np.nan


__all__ = ["DAYS", "MINUTES", "Behaviour", "Course", "Leak", "Trace", "traces"]
