"""What the stages hand each other. Frozen, no behaviour beyond small derivations, no I/O."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Runtime = Literal["cpython", "go", "other"]
WindowKind = Literal["cpu", "wall"]
NOT_LOOKED_AT = "not_looked_at_yet"
"""Coverage reason of a process that is known by its pid only so far: its turn comes."""


class ProcessKey(NamedTuple):
    """A process for good: a pid alone is reused.

    Attributes:
        pid: In the agent's PID namespace.
        start_ticks: Field 22 of /proc/PID/stat, clock ticks after boot.
    """

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process as discovery saw it.

    Attributes:
        key: Its pid and start time.
        runtime: What runs in it.
        runtime_version: ``3.11``, ``go1.22.1`` or empty when it is not known.
        executable: Base name of the executable file (comm where the link is not readable).
        cmdline: Arguments; empty for a zombie.
        cgroup: The process's cgroup path (unified or memory hierarchy), empty if unknown.
        unreadable: Why it could not be looked at fully, empty otherwise.
        parent_pid: Of its parent when it was looked at.
    """

    key: ProcessKey
    runtime: Runtime
    runtime_version: str
    executable: str
    cmdline: tuple[str, ...]
    cgroup: str = ""
    unreadable: str = ""
    parent_pid: int = 0

    def __hash__(self) -> int:
        """Hash what tells processes apart: the whole of it is dear, and is asked for often."""
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class Resource:
    """Whose samples these are: attributes with their OpenTelemetry names, sorted by name.

    Two processes with equal attributes (workers of one container) are one series.
    """

    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, attributes: dict[str, str]) -> Resource:
        """Make one from a dict; empty values are left out."""
        return cls(tuple(sorted((key, value) for key, value in attributes.items() if value)))


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """What the owner of a target asked for, by annotation or by relabelling.

    Attributes:
        rate_hz: Samples a second at most, 0: the governor decides alone.
        wall: Also tell where threads are that are not on a CPU.
        native: Unwind native frames; each sample stops the target, inside the pause budget.
        threads: Keep the names of threads, as a label.
    """

    rate_hz: int = 0
    wall: bool = False
    native: bool = False
    threads: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an on-demand capture wants of a process.

    Attributes:
        capture_id: Label of what it brings.
        rate_hz: At this rate, 0: any.
        seconds: For how long.
        options: In place of the owner's.
    """

    capture_id: str
    rate_hz: int
    seconds: int
    options: SamplingOptions


@dataclass(frozen=True, slots=True)
class Scrape:
    """A pprof endpoint that an annotation names.

    Attributes:
        kinds: Of ``cpu``, ``memory``, ``goroutine``, ``mutex``, ``block``: what may be pulled.
        url: Base URL, with the path where it is not /debug/pprof.
    """

    kinds: tuple[str, ...]
    url: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a process is, and what may be done with it.

    Attributes:
        resource: Whose its samples are.
        service_name: The same as its ``service.name``.
        options: What its owner asked for.
        refused: A coverage reason (``opted_out``, ``dropped_by_relabelling``) where it must not
            be sampled, empty otherwise.
        scrapes: Pprof endpoints of its pod.
    """

    resource: Resource
    service_name: str
    options: SamplingOptions = SamplingOptions()
    refused: str = ""
    scrapes: tuple[Scrape, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``line`` is 1-based, 0 where unknown (py-spy -F: the function's first line)."""

    function: str
    file: str = ""
    line: int = 0


Stack = tuple[Frame, ...]
"""Leaf first."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples of one type, of one resource, over one window.

    Attributes:
        resource: Whose it is.
        type_id: Pyroscope profile type id.
        start_unix_nanos: When the window began.
        duration_nanos: How long it was; 0 for an instant.
        period: What a value of 1 stands for, in the type's unit. 1: values are amounts already.
            Otherwise values are sample counts, and amount = value * period.
        samples: Stack and value; a stack may come more than once.
    """

    resource: Resource
    type_id: str
    start_unix_nanos: int
    duration_nanos: int
    period: int
    samples: tuple[tuple[Stack, int], ...]


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """A process's memory at an instant, in bytes; limit 0 where there is none.

    ``started_seconds`` is when the process was started, since the epoch; 0 where it is not known.
    """

    anon_bytes: int
    rss_bytes: int
    limit_bytes: int
    started_seconds: int = 0


ATTACH_TOO_DEAR, INTERRUPTED = "attach_too_dear", "interrupted"
"""Failures of a window that tell of what was expected of it, and of the agent's own end or reload,
not of its target."""


@dataclass(frozen=True, slots=True)
class Window:
    """An order to sample one process, as the governor decided.

    Attributes:
        process: Whom.
        rate_hz: Samples a second.
        seconds: Whole seconds (py-spy takes no fractions).
        predicted_cpu_seconds: What the governor expects it to cost.
        cpu_limit_seconds: It is ended early where it costs more than this.
        kind: ``cpu``: who holds the GIL; ``wall``: all threads, those that wait included.
        native: With native frames: each look stops the target.
        threads: With the names of threads.
        pause_limit_seconds: It is ended early where it stopped its target for longer than this.
        memory_limit_bytes: It is ended early where it has more than this resident.
        stands_for_siblings: Its stacks also tell of the processes of the same resource that have
            no window in this cycle.
    """

    process: Process
    rate_hz: int
    seconds: int
    predicted_cpu_seconds: float
    cpu_limit_seconds: float = math.inf
    kind: WindowKind = "cpu"
    native: bool = False
    threads: bool = False
    pause_limit_seconds: float = math.inf
    memory_limit_bytes: int = sys.maxsize
    stands_for_siblings: bool = False


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a window brought.

    Attributes:
        window: The order.
        samples: Stack and count of samples (kind ``cpu``: that held the GIL).
        intervals: How often the sampler looked, or should have where it did not keep pace.
        kept_pace: Whether it looked as often as it should.
        errors: Looks that failed (torn or vanished stacks).
        cpu_seconds: What the sampler child itself used (user + system, os.wait4).
        wall_seconds: How long it ran.
        target_cpu_nanos: CPU that the target used meanwhile.
        target_clock_nanos: The target's CPU clock at the end; reckoned from what was seen where
            the target ended first.
        failure: A coverage reason where nothing usable came back, empty otherwise.
        detail: The sampler's own words on a failure.
        thread_names: Parallel to ``samples`` where names were asked for, else empty.
        pause_seconds: For how long the target was stopped, at most.
        memory_bytes: Resident memory of the sampler child at its highest.
    """

    window: Window
    samples: tuple[tuple[Stack, int], ...] = ()
    intervals: int = 0
    kept_pace: bool = True
    errors: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    target_cpu_nanos: int = 0
    target_clock_nanos: int = 0
    failure: str = ""
    detail: str = ""
    thread_names: tuple[str, ...] = ()
    pause_seconds: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Coverage:
    """One line of the coverage ledger: what became of a process in a cycle, and why."""

    process: Process
    service_name: str
    state: Literal["sampled", "skipped", "failed"]
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is spooled and shipped as one unit.

    Attributes:
        sequence: Grows by one for each batch of this agent.
        profiles: All profiles of one cycle.
    """

    sequence: int
    profiles: tuple[Profile, ...] = field(default_factory=tuple)
