"""The Python half of a cycle: who is sampled, what the windows tell, what was learned of targets.

It joins the governor, the CPU accounts and the weighting; the daemon calls its verbs in the order
in which they stand here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from flamewell_agent import governor, weighting
from flamewell_agent.accounts import CARRY_SECONDS, CpuAccounts, Untold
from flamewell_agent.cpu_clock import process_cpu_nanos, ticks_since_boot
from flamewell_agent.governor import Candidate, Decision, Experience, Ordered
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import (
    NOT_LOOKED_AT,
    Process,
    ProcessKey,
    Profile,
    Resource,
    Subject,
    Wanted,
    WindowResult,
)
from flamewell_agent.pictures import Pictures
from flamewell_agent.wall_clocks import WallClocks
from flamewell_wire.attributes import CAPTURE_LABEL

log = logging.getLogger(__name__)

_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Room:
    """What a cycle's windows may take.

    Attributes:
        seconds: Length of the cycle, whole seconds.
        cpu_seconds: Of all windows together.
        memory_bytes: Of all samplers together.
    """

    seconds: int
    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What does not change from cycle to cycle.

    Attributes:
        max_rate_hz: Highest rate of one process.
        service_samples_per_second: Enough for one service.
        target_pause_budget: Share of its time for which a target may be stopped.
    """

    max_rate_hz: int
    service_samples_per_second: float
    target_pause_budget: float


class PythonSampling:
    """Remembers targets, their CPU time and their stacks from cycle to cycle.

    Args:
        subject_of: Names a process.
        metrics: Counts samples and what was given up.
        rules: For all cycles.
        own_pid: Of the agent.
        uniform: Random in [0, 1).
    """

    def __init__(
        self,
        subject_of: Callable[[Process], Subject],
        metrics: AgentMetrics,
        rules: Rules,
        *,
        own_pid: int,
        uniform: Callable[[], float],
    ) -> None:
        self.rules = rules
        self.experience = Experience()
        self._subject_of = subject_of
        self._metrics = metrics
        self._own_pid = own_pid
        self._uniform = uniform
        self._accounts = CpuAccounts(since_ticks=ticks_since_boot())
        self._pictures = Pictures()
        self._evidence: dict[Resource, weighting.Evidence] = {}
        self._members: dict[Resource, list[ProcessKey]] = {}
        self._wanted: Mapping[ProcessKey, Wanted] = {}
        self._walls = WallClocks()

    def reconfigure(self, rules: Rules) -> None:
        """Go on with other rules."""
        self.rules = rules

    def shed(self) -> None:
        """Give memory back: what only makes extrapolated stacks better goes first."""
        self._pictures = Pictures()

    def observe(
        self, processes: Sequence[Process], now: float, *, refused: Iterable[Process] = ()
    ) -> list[Profile]:
        """Read the CPU clocks; gives what processes that have ended used and had not told.

        Args:
            processes: All that may be profiled.
            now: Monotonic seconds.
            refused: Those that must be left alone.
        """
        readings = []
        passed_over = [each.key for each in refused if each.unreadable != NOT_LOOKED_AT]
        for process in processes:
            if process.runtime == "cpython":
                nanos = process_cpu_nanos(process.key.pid)
                if nanos is not None:
                    readings.append((process, nanos))
            elif process.unreadable != NOT_LOOKED_AT:
                passed_over.append(process.key)
        return self._untold(self._accounts.observe(readings, now, passed_over=passed_over))

    def decide(
        self,
        processes: Sequence[Process],
        room: Room,
        *,
        wanted: Mapping[ProcessKey, Wanted],
        service_nodes: Mapping[str, int],
        now: float,
    ) -> Decision:
        """Choose this cycle's windows.

        Args:
            processes: All that may be sampled.
            room: What the windows may take.
            wanted: On-demand captures.
            service_nodes: On how many nodes a service is sampled, where that is known.
            now: Monotonic seconds.
        """
        candidates, excluded = [], []
        self._members, self._wanted = {}, wanted
        for process in processes:
            # The agent waits in C while its windows run: a window on itself would find nothing.
            own = process.key.pid == self._own_pid
            reason = "agent_itself" if own else weighting.can_be_sampled(process)
            if not reason:
                candidates.append(self._candidate(process, now))
            elif process.runtime == "cpython":
                excluded.append((process, process.unreadable or reason))
        decision = governor.decide(
            governor.Inputs(
                candidates,
                window_seconds=room.seconds,
                allowance_cpu_seconds=room.cpu_seconds,
                max_rate_hz=self.rules.max_rate_hz,
                phase=self._uniform(),
                headroom=self.experience.headroom,
                service_samples_per_second=self.rules.service_samples_per_second,
                nodes_of_group=self._nodes_of_group(candidates, service_nodes),
                memory_left_bytes=room.memory_bytes,
                child_memory_bytes=self.experience.child_memory_bytes,
                target_pause_budget=self.rules.target_pause_budget,
            )
        )
        self.experience.decided(candidates, decision)
        self._metrics.set_given_up(decision.given_up)
        self._forget_services()
        return replace(decision, skipped=(*decision.skipped, *excluded))

    def weigh(
        self, results: Sequence[WindowResult], start_unix_nanos: int, now: float
    ) -> list[Profile]:
        """Make profiles of windows; one that tells nothing leaves its CPU time to the next."""
        standing: dict[Resource, list[WindowResult]] = {}
        walls: dict[Resource, list[WindowResult]] = {}
        work: list[Callable[[], list[Profile]]] = []
        for result in results:
            self._count(result)
            if result.failure:
                continue
            if result.window.kind == "cpu":
                work.append(partial(self._weigh_cpu, result, standing, start_unix_nanos, now))
            elif result.window.process.key in self._wanted:
                work.append(partial(self._captured_wall, result, start_unix_nanos))
            else:
                walls.setdefault(self._resource(result), []).append(result)
        profiles = self._each_alone(work)
        certain = {
            each.window.process.key
            for each in results
            if each.window.kind == "cpu" and not each.window.stands_for_siblings
        }
        together: list[Callable[[], list[Profile]]] = [
            partial(self._weigh_drawn, resource, drawn, certain, start_unix_nanos, now)
            for resource, drawn in standing.items()
        ]
        together += [
            partial(self._wall_profiles, resource, windows, start_unix_nanos, now)
            for resource, windows in walls.items()
        ]
        return profiles + self._each_alone(together)

    def _each_alone(self, work: Iterable[Callable[[], list[Profile]]]) -> list[Profile]:
        """Make profiles; what goes wrong with one costs no other."""
        profiles: list[Profile] = []
        for make in work:
            try:
                profiles += make()
            except Exception:
                log.exception("a window could not be weighed")
                self._metrics.add_stage_failure("weighting")
        return profiles

    def _weigh_cpu(
        self,
        result: WindowResult,
        standing: dict[Resource, list[WindowResult]],
        start_unix_nanos: int,
        now: float,
    ) -> list[Profile]:
        """Weigh a window that stands for one process; note one that stands for others too."""
        resource = self._resource(result)
        evidence = weighting.add_evidence(self._evidence.get(resource), result)
        self._evidence[resource] = evidence
        if not weighting.can_be_told(result, evidence):
            return []
        self._pictures.add(resource, result.samples, evidence.python_share)
        if result.window.stands_for_siblings:
            standing.setdefault(resource, []).append(result)
            return []
        key, nanos = result.window.process.key, result.target_clock_nanos
        cpu_nanos = self._accounts.settle(key, nanos, now)
        return self._cpu_profiles(result, cpu_nanos, start_unix_nanos)

    def _weigh_drawn(
        self,
        resource: Resource,
        drawn: Sequence[WindowResult],
        certain: set[ProcessKey],
        start_unix_nanos: int,
        now: float,
    ) -> list[Profile]:
        """Divide what a service's processes used among the windows that stand for them."""
        share, rest = divmod(self._settle_together(resource, drawn, certain, now), len(drawn))
        profiles: list[Profile] = []
        for at, result in enumerate(drawn):
            own = share + rest if at == 0 else share
            profiles += self._cpu_profiles(result, own, start_unix_nanos)
        return profiles

    def tell_overdue(self, now: float, carry_seconds: float = CARRY_SECONDS) -> list[Profile]:
        """Give what no window has told for so long."""
        return self._untold(self._accounts.overdue(now, carry_seconds))

    def learn(self, results: Sequence[WindowResult], now: float) -> None:
        """Note what windows cost, and how their targets took it."""
        self.experience.learn(results, now)
        for result in results:
            self._metrics.add_pause(result.pause_seconds)

    def _nodes_of_group(
        self, candidates: Iterable[Candidate], service_nodes: Mapping[str, int]
    ) -> dict[str, int]:
        if not service_nodes:
            return {}
        found = {}
        for each in candidates:
            nodes = service_nodes.get(self._subject_of(each.process).service_name, 1)
            if nodes > 1:
                found[each.group] = nodes
        return found

    def _candidate(self, process: Process, now: float) -> Candidate:
        subject = self._subject_of(process)
        self._members.setdefault(subject.resource, []).append(process.key)
        wanted = self._wanted.get(process.key)
        return self.experience.candidate(
            process,
            cpu_nanos_per_second=self._accounts.nanos_per_second(process.key),
            now=now,
            group=f"{subject.service_name}#{hash(subject.resource):x}",
            options=wanted.options if wanted else subject.options,
            ordered=Ordered(wanted.rate_hz, wanted.seconds) if wanted else None,
        )

    def _forget_services(self) -> None:
        """Forget what was known of services that have no process any more."""
        for resource in self._evidence.keys() - self._members.keys():
            del self._evidence[resource]
        self._walls.keep_only(self._members)

    def _resource(self, result: WindowResult) -> Resource:
        return self._subject_of(result.window.process).resource

    def _cpu_profiles(
        self, result: WindowResult, cpu_nanos: int, start_unix_nanos: int
    ) -> list[Profile]:
        resource = self._resource(result)
        return weighting.cpu_profiles(
            result,
            self._captured(result, resource),
            cpu_nanos=cpu_nanos,
            python_share=self._evidence[resource].python_share,
            start_unix_nanos=start_unix_nanos,
        )

    def _wall_profiles(
        self,
        resource: Resource,
        windows: Sequence[WindowResult],
        start_unix_nanos: int,
        now: float,
    ) -> list[Profile]:
        members = max(len(windows), len(self._members.get(resource, ())))
        nanos = self._walls.stand_for(resource, windows, members, now)
        return [
            profile
            for result, wall_nanos in zip(windows, nanos, strict=True)
            for profile in weighting.wall_profiles(
                result, resource, wall_nanos=wall_nanos, start_unix_nanos=start_unix_nanos
            )
        ]

    def _captured_wall(self, result: WindowResult, start_unix_nanos: int) -> list[Profile]:
        """A capture stands for its process and its own time alone."""
        return weighting.wall_profiles(
            result,
            self._captured(result, self._resource(result)),
            wall_nanos=int(result.wall_seconds * _NANOS),
            start_unix_nanos=start_unix_nanos,
        )

    def _captured(self, result: WindowResult, resource: Resource) -> Resource:
        wanted = self._wanted.get(result.window.process.key)
        if wanted is None:
            return resource
        return weighting.with_label(resource, CAPTURE_LABEL, wanted.capture_id)

    def _settle_together(
        self,
        resource: Resource,
        drawn: Iterable[WindowResult],
        certain: set[ProcessKey],
        now: float,
    ) -> int:
        """Give the untold CPU time of all processes for which the drawn ones stand."""
        clocks = {each.window.process.key: each.target_clock_nanos for each in drawn}
        keys = (set(self._members.get(resource, ())) | clocks.keys()) - certain
        return sum(self._accounts.settle(key, clocks.get(key, 0), now) for key in keys)

    def _untold(self, untold: Iterable[Untold]) -> list[Profile]:
        """Tell CPU time without a window: by the service's last stacks, or as not sampled."""
        sums: dict[Resource, tuple[int, float]] = {}
        for each in untold:
            resource = self._subject_of(each.process).resource
            nanos, seconds = sums.get(resource, (0, 0.0))
            sums[resource] = nanos + each.cpu_nanos, max(seconds, each.seconds)
        profiles = []
        unix_nanos = time.time_ns()
        for resource, (nanos, seconds) in sums.items():
            duration = int(seconds * _NANOS)
            start = unix_nanos - duration
            picture = self._pictures.get(resource)
            if picture is None:
                profiles.append(
                    weighting.unsampled_profile(
                        resource, cpu_nanos=nanos, start_unix_nanos=start, duration_nanos=duration
                    )
                )
            else:
                profiles += weighting.extrapolated_profiles(
                    picture,
                    resource,
                    cpu_nanos=nanos,
                    start_unix_nanos=start,
                    duration_nanos=duration,
                )
        return profiles

    def _count(self, result: WindowResult) -> None:
        self._metrics.add_samples("cpython", "ok", sum(count for _, count in result.samples))
        self._metrics.add_samples("cpython", "error", result.errors)
