"""Turns a window's samples into CPU time. Pure.

A process's CPU clock says how much; samples say where. Nothing is lost and nothing invented: the
profiles of a window add up to exactly the CPU time that they were given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flamewell_agent.model import Frame, Process, Profile, Resource, Stack, WindowResult
from flamewell_agent.pictures import Picture
from flamewell_wire.attributes import (
    EXTRAPOLATED_LABEL,
    LABEL_ATTRIBUTE_PREFIX,
    NATIVE_FRAME,
    THREAD_LABEL,
    UNSAMPLED_FRAME,
)
from flamewell_wire.profile_types import CPU, WALL

Samples = tuple[tuple[Stack, int], ...]

NATIVE_STACK: Stack = (Frame(NATIVE_FRAME),)
UNSAMPLED_STACK: Stack = (Frame(UNSAMPLED_FRAME),)
LOOKS_THAT_TELL = 20.0
"""CPU time worth fewer looks than this says nothing about native code: chance alone would show a
fifth of it as native."""
LOOKS_REMEMBERED = 400.0
"""Worth of evidence: the noise of a share is then 5 points at most; one busy window has more."""
OTHER_THREADS = "other"
_THREAD_LABELS_AT_MOST, _THREAD_LABEL_LENGTH = 32, 64
_DIGITS = re.compile(r"\d+")
_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the last windows of a process say about its native code.

    Attributes:
        held_nanos: Time for which looks found the GIL held.
        cpu_nanos: CPU time that was used meanwhile.
        looks: How many looks would have found the GIL held, had all of it been Python's.
    """

    held_nanos: float = 0.0
    cpu_nanos: float = 0.0
    looks: float = 0.0

    @property
    def python_share(self) -> float:
        """Share of the CPU time that is Python's, 0 to 1; 1 as long as little is known.

        Each look that found the GIL held stands for one sampling interval of wall time; more than
        the CPU time that was used can't have been Python's (a holder may wait for a core).
        """
        if self.looks < LOOKS_THAT_TELL:
            return 1.0
        return min(1.0, self.held_nanos / self.cpu_nanos)


def add_evidence(known: Evidence | None, result: WindowResult) -> Evidence:
    """Take a window into account; what is known fades as far as the window knows better."""
    if not result.kept_pace:
        return known or Evidence()
    interval_nanos = _NANOS * max(
        1 / result.window.rate_hz, result.wall_seconds / max(result.intervals, 1)
    )
    looks = result.target_cpu_nanos / interval_nanos
    keep = max(0.0, 1 - looks / LOOKS_REMEMBERED)
    before = known or Evidence()
    held = sum(count for _, count in result.samples) + result.errors
    return Evidence(
        before.held_nanos * keep + held * interval_nanos,
        before.cpu_nanos * keep + result.target_cpu_nanos,
        before.looks * keep + looks,
    )


def can_be_told(result: WindowResult, evidence: Evidence) -> bool:
    """Tell whether a window says where CPU time went; if not, it is carried to the next one.

    A window without a sample says so only of a process that is known to hold no GIL.
    """
    return bool(result.samples) or evidence.python_share == 0.0


def cpu_profiles(
    result: WindowResult,
    resource: Resource,
    *,
    cpu_nanos: int,
    python_share: float,
    start_unix_nanos: int,
) -> list[Profile]:
    """Divide CPU time among a window's stacks.

    Args:
        result: A window without a failure.
        resource: Whose it is.
        cpu_nanos: What the window's stacks stand for: more than the window's own where cycles, or
            siblings, without a window came before.
        python_share: How much of it is Python's, 0 to 1.
        start_unix_nanos: When the window began.

    Returns:
        Profiles of counted samples (one; one a thread name where names were asked for), whose
        period is the CPU time that a sample stands for, and one of amounts for the rest: native
        time, and the remainder of the division.
    """
    duration = int(result.wall_seconds * _NANOS)
    python_nanos = round(cpu_nanos * python_share) if result.samples else 0
    period, rest = _divide(result.samples, python_nanos, cpu_nanos - python_nanos)
    profiles = [
        Profile(whose, CPU.id, start_unix_nanos, duration, period, samples)
        for whose, samples in _by_thread(result, resource).items()
        if period
    ]
    if rest:
        profiles.append(Profile(resource, CPU.id, start_unix_nanos, duration, 1, rest))
    return profiles


def extrapolated_profiles(
    picture: Picture,
    resource: Resource,
    *,
    cpu_nanos: int,
    start_unix_nanos: int,
    duration_nanos: int,
) -> list[Profile]:
    """Divide CPU time that no window tells among the stacks of earlier ones, marked as such.

    The mark is a label, so that a selector can leave these out.
    """
    marked = with_label(resource, EXTRAPOLATED_LABEL, "true")
    python_nanos = round(cpu_nanos * picture.python_share) if picture.samples else 0
    period, rest = _divide(picture.samples, python_nanos, cpu_nanos - python_nanos)
    parts = ((period, picture.samples), (1, rest))
    return [
        Profile(marked, CPU.id, start_unix_nanos, duration_nanos, stands_for, samples)
        for stands_for, samples in parts
        if stands_for and samples
    ]


def wall_profiles(
    result: WindowResult, resource: Resource, *, wall_nanos: int, start_unix_nanos: int
) -> list[Profile]:
    """Tell where threads are, on a CPU or not: each look stands for an equal part of the time.

    Args:
        result: A window of kind ``wall`` without a failure.
        resource: Whose it is.
        wall_nanos: The time that the window stands for, of all processes it stands for.
        start_unix_nanos: When the window began.
    """
    period = wall_nanos // result.intervals if result.intervals else 0
    duration = int(result.wall_seconds * _NANOS)
    return [
        Profile(whose, WALL.id, start_unix_nanos, duration, period, samples)
        for whose, samples in _by_thread(result, resource).items()
        if period
    ]


def unsampled_profile(
    resource: Resource, *, cpu_nanos: int, start_unix_nanos: int, duration_nanos: int
) -> Profile:
    """Say how much CPU time there is no stack for."""
    samples = ((UNSAMPLED_STACK, cpu_nanos),)
    return Profile(resource, CPU.id, start_unix_nanos, duration_nanos, 1, samples)


def with_label(resource: Resource, name: str, value: str) -> Resource:
    """Give a resource with one label more."""
    attributes = dict(resource.attributes)
    attributes[LABEL_ATTRIBUTE_PREFIX + name] = value
    return Resource.of(attributes)


def _divide(
    samples: Samples, python_nanos: int, native_nanos: int
) -> tuple[int, tuple[tuple[Stack, int], ...]]:
    """Give what a sample stands for, and what is left over, so that nothing is lost."""
    counted = sum(count for _, count in samples)
    period = python_nanos // counted if counted else 0
    rest: list[tuple[Stack, int]] = []
    remainder = python_nanos - period * counted
    if remainder:
        # Less than one ns a sample: it goes to the stack that was seen most.
        rest.append((max(samples, key=lambda sample: sample[1])[0], remainder))
    if native_nanos:
        rest.append((NATIVE_STACK, native_nanos))
    return period, tuple(rest)


def _by_thread(result: WindowResult, resource: Resource) -> dict[Resource, Samples]:
    if not result.thread_names:
        return {resource: result.samples} if result.samples else {}
    found: dict[str, list[tuple[Stack, int]]] = {}
    for sample, name in zip(result.samples, result.thread_names, strict=True):
        label = thread_label(name)
        known = label in found or len(found) < _THREAD_LABELS_AT_MOST
        found.setdefault(label if known else OTHER_THREADS, []).append(sample)
    return {
        with_label(resource, THREAD_LABEL, label): tuple(samples)
        for label, samples in found.items()
    }


def thread_label(name: str) -> str:
    """Make a thread's name fit for a label: the numbers in it would make a series a thread."""
    return _DIGITS.sub("N", name)[:_THREAD_LABEL_LENGTH] or "unnamed"


def can_be_sampled(process: Process) -> str:
    """Give why a process can't be sampled by py-spy, empty where it can."""
    if process.runtime != "cpython":
        return "not_python" if process.runtime == "other" else "go_has_pprof"
    return process.unreadable.partition(":")[0]
