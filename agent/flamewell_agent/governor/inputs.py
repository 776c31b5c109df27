"""What a decision depends on, and what it says. Frozen, no behaviour beyond small derivations."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flamewell_agent.governor.costs import Cost
from flamewell_agent.governor.reactions import PauseHistory
from flamewell_agent.model import Process, SamplingOptions, Window

AS_USUAL, NEVER_STOPPED = SamplingOptions(), PauseHistory()
Skipped = tuple[tuple[Process, str], ...]


@dataclass(frozen=True, slots=True)
class GroupHistory:
    """What is known of a service from the windows of its processes, those that ended included.

    Attributes:
        waited_cycles: Cycles since the last window of any of them.
        cost: What windows cost on them lately: for a process that had none itself.
    """

    waited_cycles: int = 0
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Ordered:
    """What somebody asked for of one process: it comes before all others.

    Attributes:
        rate_hz: At this rate or not at all; 0: at the highest that is allowed.
        seconds: What is still to be covered; 0: the whole cycle.
    """

    rate_hz: int = 0
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process that could be sampled.

    Attributes:
        process: Which.
        cpu_nanos_per_second: What it used lately.
        waited_cycles: Cycles since its last window (since it was first seen, where none was).
        cost: What its windows cost, None before the first and after it became another program.
        resting: Why its last windows failed, where it is left alone for a while; else empty.
        group: The service whose stacks it shares; empty: it has none but itself.
        siblings: What is known of the group; None where none of it ever had a window.
        options: What its owner asked for.
        wall_cost: What its windows of kind ``wall`` cost.
        pause: For how long it was stopped.
        ordered: What somebody asked for, None where nobody did.
    """

    process: Process
    cpu_nanos_per_second: float
    waited_cycles: int
    cost: Cost | None = None
    resting: str = ""
    group: str = ""
    siblings: GroupHistory | None = None
    options: SamplingOptions = AS_USUAL
    wall_cost: Cost | None = None
    pause: PauseHistory = NEVER_STOPPED
    ordered: Ordered | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a decision depends on.

    Attributes:
        candidates: Python processes that can be sampled.
        window_seconds: Length of this cycle: no window is longer.
        allowance_cpu_seconds: What the windows may cost together.
        max_rate_hz: Never more than this, but where it was ordered.
        max_windows: Never more at once.
        phase: Uniform in [0, 1): where draws start, and who comes first among equals.
        headroom: Share of the allowance that is given out, by the errors of earlier predictions.
        service_samples_per_second: Samples with a stack that are enough for one service.
        nodes_of_group: On how many nodes a service is sampled, this one included: each brings its
            part of the samples. One where it is not known.
        memory_left_bytes: What the samplers may take together.
        child_memory_bytes: What one of them takes.
        target_pause_budget: Share of its time for which a target may be stopped.
    """

    candidates: Sequence[Candidate]
    window_seconds: int
    allowance_cpu_seconds: float
    max_rate_hz: int
    max_windows: int = 64
    phase: float = 0.0
    headroom: float = 0.85
    service_samples_per_second: float = 60.0
    nodes_of_group: Mapping[str, int] = field(default_factory=dict)
    memory_left_bytes: int = sys.maxsize
    child_memory_bytes: int = 16 << 20
    target_pause_budget: float = 0.001


@dataclass(frozen=True, slots=True)
class Decision:
    """Who gets a window, and why the others do not.

    Attributes:
        windows: At most one of each kind a process.
        skipped: Processes without any window, with ``reason`` or ``reason: detail``.
        wall_skipped: Processes whose owners asked for wall-clock windows and that get none.
        given_up: How often something that was wanted did not fit, by what it was.
        reserved_cpu_seconds: What the windows use together at most.
    """

    windows: tuple[Window, ...] = ()
    skipped: Skipped = ()
    wall_skipped: Skipped = ()
    given_up: Mapping[str, int] = field(default_factory=dict)
    reserved_cpu_seconds: float = 0.0
