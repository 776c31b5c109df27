"""Turns a window's samples into CPU time. Pure.

A process's CPU clock says how much; samples say where. Nothing is lost and nothing invented: the
profiles of a window add up to exactly the CPU time that they were given.
"""

from __future__ import annotations

from flamewell_agent.model import Frame, Process, Profile, Resource, Stack, WindowResult
from flamewell_wire.attributes import NATIVE_FRAME, UNSAMPLED_FRAME
from flamewell_wire.profile_types import CPU

NATIVE_STACK: Stack = (Frame(NATIVE_FRAME),)
UNSAMPLED_STACK: Stack = (Frame(UNSAMPLED_FRAME),)
_NANOS = 1_000_000_000


def python_share(result: WindowResult) -> float:
    """Give the share of the target's CPU time in the window that was Python's, 0 to 1.

    Each look that found the GIL held stands for one sampling interval of wall time; more than the
    CPU time that was used can't have been Python's (a holder may wait for a core).
    """
    held = sum(count for _, count in result.samples) + result.errors
    if held == 0:
        return 0.0
    if result.target_cpu_nanos <= 0:
        return 1.0
    interval = max(1 / result.window.rate_hz, result.wall_seconds / max(result.intervals, 1))
    return min(1.0, held * interval * _NANOS / result.target_cpu_nanos)


def cpu_profiles(
    result: WindowResult, resource: Resource, *, cpu_nanos: int, start_unix_nanos: int
) -> list[Profile]:
    """Divide CPU time among a window's stacks.

    Args:
        result: A window without a failure.
        resource: Whose it is.
        cpu_nanos: What the process used since its CPU time was last accounted for; more than the
            window's own where cycles without a window came before.
        start_unix_nanos: When the window began.

    Returns:
        One profile of counted samples, whose period is the CPU time that a sample stands for, and
        one of amounts for the rest: native time, and the remainder of the division.
    """
    counted = sum(count for _, count in result.samples)
    python_nanos = int(cpu_nanos * python_share(result)) if counted else 0
    period = python_nanos // counted if counted else 0
    duration = int(result.wall_seconds * _NANOS)
    profiles = []
    rest = cpu_nanos - period * counted
    if period:
        profiles.append(
            Profile(resource, CPU.id, start_unix_nanos, duration, period, result.samples)
        )
    amounts: list[tuple[Stack, int]] = []
    native_nanos = cpu_nanos - python_nanos
    remainder = rest - native_nanos
    if remainder and period:
        # Less than one ns a sample: it goes to the stack that was seen most.
        top = max(result.samples, key=lambda sample: sample[1])[0]
        amounts.append((top, remainder))
    elif remainder:
        native_nanos += remainder
    if native_nanos:
        amounts.append((NATIVE_STACK, native_nanos))
    if amounts:
        profiles.append(Profile(resource, CPU.id, start_unix_nanos, duration, 1, tuple(amounts)))
    return profiles


def unsampled_profile(
    resource: Resource, *, cpu_nanos: int, start_unix_nanos: int, duration_nanos: int
) -> Profile:
    """Say how much CPU time there is no stack for."""
    samples = ((UNSAMPLED_STACK, cpu_nanos),)
    return Profile(resource, CPU.id, start_unix_nanos, duration_nanos, 1, samples)


def can_be_sampled(process: Process) -> str:
    """Give why a process can't be sampled by py-spy, empty where it can."""
    if process.runtime != "cpython":
        return "not_python" if process.runtime == "other" else "go_has_pprof"
    return process.unreadable.partition(":")[0]
