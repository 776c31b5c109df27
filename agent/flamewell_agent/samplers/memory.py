"""Reads a process's memory: anonymous and resident from statm, the limit from its cgroup."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from flamewell_agent import procfs
from flamewell_agent.errors import AgentError
from flamewell_agent.model import MemoryReading, Process, ProcessKey, Profile, Resource
from flamewell_wire.profile_types import (
    PROCESS_ANON,
    PROCESS_LIMIT,
    PROCESS_RSS,
    PROCESS_START,
)

_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
_MEMORY_HIERARCHIES = ("", "memory", "unified")
"""Below the cgroup root: v2 has the groups there, v1 below ``memory``, hybrid has both."""
_DEPTH_AT_MOST = 32
"""Of a cgroup path: a container may nest its own as deep as it likes, and each costs six looks."""
_CGROUPS_KNOWN_AT_MOST = 10_000
_PAGES_AT_MOST = 1 << 40
_DIGITS_AT_MOST = 20
_REREAD_SECONDS = 120.0
"""After which a cgroup's limit is read again: limits seldom change. So is the time of boot, which
follows a wall clock that is set."""


class MemoryReader:
    """Reads memory of processes; about 10 µs a process.

    Args:
        proc_root: The node's /proc.
        cgroup_root: The node's /sys/fs/cgroup.
        clock: Seconds that grow steadily.
    """

    def __init__(
        self, proc_root: Path, cgroup_root: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proc_root = proc_root
        self._cgroup_root = cgroup_root
        self._clock = clock
        self._node_bytes = psutil.virtual_memory().total
        self._limits: dict[str, tuple[int, float]] = {}
        self._boot: tuple[int, float] | None = None

    def read(self, process: Process) -> MemoryReading | None:
        """Read one process; None where it is gone or can't be read."""
        try:
            content = procfs.read_bytes(self._proc_root, process.key.pid, "statm")
        except AgentError:
            return None
        pages = parse_statm(content)
        if pages is None:
            return None
        resident, shared = pages
        return MemoryReading(
            # statm's "shared" is file and shmem pages; the rest of what is resident is anonymous.
            anon_bytes=max(0, resident - shared) * procfs.PAGE_BYTES,
            rss_bytes=resident * procfs.PAGE_BYTES,
            limit_bytes=self._limit(process.cgroup),
            started_seconds=self._started(process.key),
        )

    def _started(self, key: ProcessKey) -> int:
        now = self._clock()
        if self._boot is None or now >= self._boot[1] + _REREAD_SECONDS:
            self._boot = (procfs.boot_seconds(self._proc_root), now)
        boot = self._boot[0]
        return boot + key.start_ticks // procfs.TICKS_PER_SECOND if boot else 0

    def _limit(self, cgroup: str) -> int:
        known = self._limits.get(cgroup)
        now = self._clock()
        if known is not None and now < known[1] + _REREAD_SECONDS:
            return known[0]
        limit = self._read_limit(cgroup)
        if len(self._limits) >= _CGROUPS_KNOWN_AT_MOST:
            self._limits.clear()
        self._limits[cgroup] = (limit, now)
        return limit

    def _read_limit(self, cgroup: str) -> int:
        """Give the smallest limit of the cgroup and its ancestors, 0 where there is none."""
        parts = [part for part in cgroup.split("/") if part not in {"", "..", "."}][:_DEPTH_AT_MOST]
        found: list[int] = []
        for depth in range(len(parts), 0, -1):
            for hierarchy in _MEMORY_HIERARCHIES:
                folder = self._cgroup_root / hierarchy / Path(*parts[:depth])
                found += [limit for name in _LIMIT_FILES if (limit := _number(folder / name))]
        limits = [limit for limit in found if 0 < limit < self._node_bytes]
        return min(limits, default=0)


def parse_statm(content: bytes) -> tuple[int, int] | None:
    """Give (resident, shared) in pages out of /proc/PID/statm; None where it is not one."""
    fields = content.split()
    try:
        resident, shared = int(fields[1]), int(fields[2])
    except (IndexError, ValueError):
        return None
    # Beyond, the amounts would be none that can be sent, and spoil what is sent with them.
    return (resident, shared) if 0 <= resident < _PAGES_AT_MOST and shared >= 0 else None


def _number(path: Path) -> int:
    """Read a limit; 0 for ``max``, and where there is no such file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdigit() and len(text) <= _DIGITS_AT_MOST else 0


def memory_profiles(
    readings: Mapping[Resource, Sequence[MemoryReading]], unix_nanos: int
) -> list[Profile]:
    """Make gauge profiles on the empty stack, one a resource and type.

    Processes of one resource (workers of a container) are added up; their limit is one and the
    same, so the smallest counts, and none where there is none. The oldest says when they began:
    a prefork server's workers come and go under it.
    """
    profiles = []
    for resource, found in readings.items():
        limits = [each.limit_bytes for each in found if each.limit_bytes]
        starts = [each.started_seconds for each in found if each.started_seconds]
        amounts = (
            (PROCESS_ANON, sum(each.anon_bytes for each in found)),
            (PROCESS_RSS, sum(each.rss_bytes for each in found)),
            (PROCESS_LIMIT, min(limits, default=0)),
            (PROCESS_START, min(starts, default=0)),
        )
        profiles += [
            Profile(resource, kind.id, unix_nanos, 0, 1, (((), amount),))
            for kind, amount in amounts
            if amount
        ]
    return profiles
