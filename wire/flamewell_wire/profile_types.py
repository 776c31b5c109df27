"""The profile types flamewell knows, by their Pyroscope ids (stock Grafana draws those right).

An id is ``name:sample_type:sample_unit:period_type:period_unit``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["delta", "gauge"]


@dataclass(frozen=True, slots=True)
class ProfileType:
    """One kind of profile.

    Attributes:
        name: The group, e.g. ``process_cpu`` or ``memory``.
        sample_type: What one value counts, e.g. ``cpu``.
        sample_unit: ``nanoseconds``, ``bytes`` or ``count``.
        period_type: What was sampled to get it.
        period_unit: The unit of the sampling period.
        kind: ``delta`` values are summed over time, ``gauge`` values averaged, never summed.
    """

    name: str
    sample_type: str
    sample_unit: str
    period_type: str
    period_unit: str
    kind: Kind

    @property
    def id(self) -> str:
        """The Pyroscope id."""
        sampled = f"{self.name}:{self.sample_type}:{self.sample_unit}"
        return f"{sampled}:{self.period_type}:{self.period_unit}"


CPU = ProfileType("process_cpu", "cpu", "nanoseconds", "cpu", "nanoseconds", "delta")
WALL = ProfileType("wall", "wall", "nanoseconds", "wall", "nanoseconds", "delta")
INUSE_SPACE = ProfileType("memory", "inuse_space", "bytes", "space", "bytes", "gauge")
INUSE_OBJECTS = ProfileType("memory", "inuse_objects", "count", "space", "bytes", "gauge")
ALLOC_SPACE = ProfileType("memory", "alloc_space", "bytes", "space", "bytes", "delta")
ALLOC_OBJECTS = ProfileType("memory", "alloc_objects", "count", "space", "bytes", "delta")
GOROUTINE = ProfileType("goroutine", "goroutine", "count", "goroutine", "count", "gauge")
MUTEX_CONTENTIONS = ProfileType("mutex", "contentions", "count", "contentions", "count", "delta")
MUTEX_DELAY = ProfileType("mutex", "delay", "nanoseconds", "contentions", "count", "delta")
BLOCK_CONTENTIONS = ProfileType("block", "contentions", "count", "contentions", "count", "delta")
BLOCK_DELAY = ProfileType("block", "delay", "nanoseconds", "contentions", "count", "delta")
GROWTH = ProfileType("memory", "growth", "bytes", "space", "bytes", "delta")
LIVE_OBJECTS = ProfileType("memory", "live_objects", "count", "space", "bytes", "gauge")
LIVE_BYTES = ProfileType("memory", "live_bytes", "bytes", "space", "bytes", "gauge")

# Readings of a process's memory: profiles with one sample on the empty stack, so that they live
# in the same store and the same time lines as everything else.
PROCESS_ANON = ProfileType("process_memory", "anon", "bytes", "space", "bytes", "gauge")
PROCESS_RSS = ProfileType("process_memory", "rss", "bytes", "space", "bytes", "gauge")
PROCESS_LIMIT = ProfileType("process_memory", "limit", "bytes", "space", "bytes", "gauge")
PROCESS_START = ProfileType("process_memory", "start_time", "seconds", "space", "bytes", "gauge")
"""When the oldest process of a series was started, in seconds since the epoch: readings of memory
belong together only within one life."""

ALL: tuple[ProfileType, ...] = (
    CPU,
    WALL,
    INUSE_SPACE,
    INUSE_OBJECTS,
    ALLOC_SPACE,
    ALLOC_OBJECTS,
    GOROUTINE,
    MUTEX_CONTENTIONS,
    MUTEX_DELAY,
    BLOCK_CONTENTIONS,
    BLOCK_DELAY,
    GROWTH,
    LIVE_OBJECTS,
    LIVE_BYTES,
    PROCESS_ANON,
    PROCESS_RSS,
    PROCESS_LIMIT,
    PROCESS_START,
)
BY_ID: dict[str, ProfileType] = {each.id: each for each in ALL}


def parse_id(text: str) -> ProfileType:
    """Read a Pyroscope profile type id.

    A type that flamewell does not know is taken as a delta, except where its sample type is one
    of the two that Go and others use for amounts in use.

    Raises:
        ValueError: The text has not five parts separated by colons.
    """
    known = BY_ID.get(text)
    if known is not None:
        return known
    parts = text.split(":")
    if len(parts) != len(("name", "type", "unit", "period type", "period unit")):
        raise ValueError(
            f"{text!r} is not a profile type: five parts separated by colons are expected, "
            f"as in {CPU.id!r}"
        )
    kind: Kind = "gauge" if parts[1].startswith("inuse_") else "delta"
    return ProfileType(parts[0], parts[1], parts[2], parts[3], parts[4], kind)
