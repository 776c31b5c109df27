"""Draws few of a service's processes, so that they stand for all of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drawn:
    """One of a service's processes.

    Attributes:
        at: Its place in the list.
        certain: It was sure to be drawn, and stands for itself alone.
    """

    at: int
    certain: bool


def draw(cpu: Sequence[float], count: int, phase: float) -> list[Drawn]:
    """Draw by systematic sampling with a chance proportional to CPU use and a random start.

    Each that is not certain then stands for an equal part of what all that are not certain used:
    expected shares are the true ones (Horvitz and Thompson 1952; Madow 1949).

    Args:
        cpu: CPU use of each, in any unit.
        count: How many at most.
        phase: Uniform in [0, 1).
    """
    if count >= len(cpu):
        return [Drawn(at, certain=True) for at in range(len(cpu))]
    certain: set[int] = set()
    total = sum(cpu)
    # With the largest out, the next largest of the rest may be certain too.
    for at in sorted(range(len(cpu)), key=lambda at: -cpu[at])[:count]:
        if cpu[at] <= 0 or cpu[at] * (count - len(certain)) < total * (1 - 1e-12):
            break
        certain.add(at)
        total -= cpu[at]
    found = [Drawn(at, certain=True) for at in sorted(certain)]
    left = count - len(certain)
    # What rounding leaves of the total is no CPU of anybody.
    rest = [at for at in range(len(cpu)) if at not in certain and cpu[at] > 0]
    if not left or not rest:
        return found
    step = sum(cpu[at] for at in rest) / left
    mark, seen = phase * step, 0.0
    for at in rest:
        seen += cpu[at]
        if mark < seen:
            found.append(Drawn(at, certain=False))
            mark += step
    return found
