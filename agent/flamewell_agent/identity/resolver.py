"""Who a process is, and what may be done with it: all sources joined, then relabelled.

Names, in the order in which they win: an annotation, what the process calls itself
(OTEL_SERVICE_NAME, then what its SDK publishes), the workload, namespace and container, the Nomad
task, the program. Rules have the last word.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamewell_agent.identity.container import parse_placement
from flamewell_agent.identity.facts import SERVICE_NAME, Facts, read_facts
from flamewell_agent.identity.meta_labels import (
    Place,
    attribute_of_pod_label,
    control_labels,
    fit_to_send,
    labels_of,
    meta_labels,
    options_of,
    with_labels,
)
from flamewell_agent.identity.pods import NoPods, Pod, PodContainer, Pods, sampling_options, scrapes
from flamewell_agent.identity.service import is_generic, python_service, tidy
from flamewell_agent.model import Process, Resource, SamplingOptions, Subject
from flamewell_agent.relabel import RelabelRule, relabel

DROPPED = "dropped_by_relabelling"
_SHORT_ID_DIGITS = 12
_GENERIC_UNITS = ("user@", "docker", "containerd", "kubelet", "crio", "podman")
"""Units that hold other people's processes: their name says nothing about the process."""
_VERSION, _VERSION_LABEL = "service.version", "app.kubernetes.io/version"
_READ_AGAIN_AFTER = (4, 16)
"""Cycles after which a process that published nothing is looked at again: SDKs publish when they
begin, which may be after the process was seen first."""
_ANCESTORS_AT_MOST = 32


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found out about a process.

    Attributes:
        facts: What it says of itself.
        read_cycle: When that was read.
        reads: How often.
        revision: Of the pods, when they were asked.
        place: With what they said.
        service: The facts' ``service``, or what it has from the process that forked it.
        program: Its program's name, or that of the process that it comes from.
        origin: That process, where it is of the same program.
        subject: What follows from all that.
    """

    facts: Facts
    read_cycle: int
    reads: int
    revision: int
    place: Place
    service: Mapping[str, str]
    program: str
    origin: Process | None
    subject: Subject


class Identity:
    """Gives the subject of a process; looks at it a few times, and again when its pod changes.

    Any thread may call ``subject``.

    Args:
        node_name: Label ``node``.
        proc_root: The node's /proc.
        extra_attributes: On every resource (cluster, configured labels).
        pods: Of this node.
        rules: Decide what is profiled, and change its labels.
        pod_labels: Names of Kubernetes labels that become series labels.
    """

    def __init__(
        self,
        node_name: str,
        proc_root: Path,
        extra_attributes: Mapping[str, str],
        *,
        pods: Pods | None = None,
        rules: Sequence[RelabelRule] = (),
        pod_labels: Sequence[str] = (),
    ) -> None:
        self._node_name = node_name
        self._proc_root = proc_root
        self._extra_attributes = dict(extra_attributes)
        self._pods: Pods = NoPods() if pods is None else pods
        self._rules = tuple(rules)
        self._pod_labels = tuple(pod_labels)
        self._lock = threading.Lock()
        """Of what follows; not held while files are read."""
        self._known: dict[Process, _Known] = {}
        self._by_pid: dict[int, Process] = {}
        self._cycle = 0

    def subject(self, process: Process) -> Subject:
        """Name a process."""
        known = self._current(process)
        if known is None:
            # Those it comes from first, the eldest before all: they give it their name.
            for each in (*reversed(self._ancestors(process)), process):
                known = self._current(each) or self._look(each)
        assert known is not None  # noqa: S101 - the process itself was the last
        return known.subject

    def meet(self, processes: Iterable[Process]) -> None:
        """Hear of all processes before any of them is named: workers are named by their parents."""
        alive = {each.key.pid: each for each in processes}
        with self._lock:
            self._by_pid = alive

    def keep_only(self, processes: Iterable[Process]) -> None:
        """Forget processes that are gone; call it once a cycle, with all there are."""
        alive = {each.key.pid: each for each in processes}
        with self._lock:
            self._cycle += 1
            self._by_pid = alive
            everybody = set(alive.values())
            self._known = {each: found for each, found in self._known.items() if each in everybody}

    def _current(self, process: Process) -> _Known | None:
        """Give what is known, unless it is time to look again."""
        with self._lock:
            known = self._known.get(process)
            if known is None or known.revision != self._pods.revision:
                return None
            if self._is_due(process, known):
                return None
            return known if self._origin(process) in {known.origin, None} else None

    def _is_due(self, process: Process, known: _Known) -> bool:
        waited = self._cycle - known.read_cycle
        more = known.reads <= len(_READ_AGAIN_AFTER) and not known.facts.published
        if not more:
            return False
        # All those of a start are not read again in the same cycle.
        wanted = _READ_AGAIN_AFTER[known.reads - 1]
        return waited >= wanted + process.key.pid % wanted

    def _ancestors(self, process: Process) -> list[Process]:
        """Give the processes of the same program and place that it comes from, nearest first."""
        found: list[Process] = []
        with self._lock:
            self._by_pid.setdefault(process.key.pid, process)
            each = process
            while len(found) < _ANCESTORS_AT_MOST:
                origin = self._origin(each)
                if origin is None or origin in {process, *found}:
                    break
                found.append(origin)
                each = origin
        return found

    def _origin(self, process: Process) -> Process | None:
        """Give the parent, where both are of one program; the caller holds the lock."""
        parent = self._by_pid.get(process.parent_pid)
        alike = parent is not None and parent != process and _is_alike(process, parent)
        return parent if alike else None

    def _look(self, process: Process) -> _Known:
        """Find out about a process what is not known yet, or may have changed."""
        # Before the pods are asked: what changes meanwhile is asked for the next time.
        revision = self._pods.revision
        with self._lock:
            before, cycle = self._known.get(process), self._cycle
            origin = self._origin(process)
            known_origin = self._known.get(origin) if origin else None
        if before is None or self._is_due(process, before):
            facts = read_facts(self._proc_root, process.key)
            if before and facts == Facts():
                facts = before.facts  # it has ended, or may not be read any more
            reads, read_cycle = (before.reads if before else 0) + 1, cycle
        else:
            facts, reads, read_cycle = before.facts, before.reads, before.read_cycle
        place = self._place(process)
        program, service = _own_words(process, facts, known_origin)
        said = (facts, place, program, service)
        if before and said == (before.facts, before.place, before.program, before.service):
            subject = before.subject
        else:
            subject = self._make(process, facts, place, service, program)
        known = _Known(facts, read_cycle, reads, revision, place, service, program, origin, subject)
        with self._lock:
            self._known[process] = known
        return known

    def _place(self, process: Process) -> Place:
        placement = parse_placement(process.cgroup)
        if placement.container_id or placement.pod_uid:
            pod, container = self._pods.find(placement.container_id, placement.pod_uid) or (
                None,
                None,
            )
            return Place(placement, pod, container)
        return Place(placement)

    def _make(
        self,
        process: Process,
        facts: Facts,
        place: Place,
        service: Mapping[str, str],
        program: str,
    ) -> Subject:
        options, refused, wanted_name = SamplingOptions(), "", ""
        if place.pod is not None:
            options, refused, wanted_name = sampling_options(place.pod.annotations)
        attributes = self._attributes(process, facts, place)
        attributes[SERVICE_NAME] = (
            wanted_name or service.get(SERVICE_NAME) or _service(process, facts, place, program)
        )
        if _VERSION in service:
            attributes[_VERSION] = service[_VERSION]
        if self._rules and not refused:
            before = labels_of(attributes) | control_labels(options)
            nomad = {k: v for k, v in attributes.items() if k.startswith("nomad.")}
            after = relabel(before | meta_labels(process, place, nomad), self._rules)
            if after is None:
                refused = DROPPED
            else:
                attributes = with_labels(attributes, before, after)
                options = options_of(after)
        attributes = fit_to_send(attributes, self._extra_attributes)
        # The service's name is what everything else hangs on: it can be changed, not removed.
        name = attributes.setdefault(SERVICE_NAME, tidy(process.executable))
        wanted = place.pod is not None and not refused
        return Subject(
            Resource.of(attributes),
            name,
            options,
            refused,
            scrapes(place.pod, place.container) if place.pod is not None and wanted else (),
        )

    def _attributes(self, process: Process, facts: Facts, place: Place) -> dict[str, str]:
        placement = place.placement
        attributes = {
            "host.name": self._node_name,
            "process.executable.name": tidy(process.executable),
            "container.id": placement.container_id,
            "container.name": placement.container_name or placement.container_id[:_SHORT_ID_DIGITS],
            "nomad.alloc.id": placement.nomad_alloc_id,
            "nomad.task": placement.nomad_task,
            **facts.nomad,
        }
        if process.runtime != "other":
            attributes["process.runtime.name"] = process.runtime
            attributes["process.runtime.version"] = process.runtime_version
        if place.pod is not None:
            attributes |= self._of_pod(place.pod, place.container)
        return {name: value for name, value in attributes.items() if value} | self._extra_attributes

    def _of_pod(self, pod: Pod, container: PodContainer | None) -> dict[str, str]:
        found = {
            "k8s.namespace.name": pod.namespace,
            "k8s.pod.name": pod.name,
            "flamewell.workload.name": pod.workload_name,
            "flamewell.workload.kind": pod.workload_kind,
        }
        if _VERSION_LABEL in pod.labels:
            found[_VERSION] = tidy(pod.labels[_VERSION_LABEL])
        if container is not None:
            found["k8s.container.name"] = container.name
            # The same label: a name says more than the beginning of an id.
            found["container.name"] = ""
        for name in self._pod_labels:
            if name in pod.labels:
                found[attribute_of_pod_label(name)] = pod.labels[name]
        return found


def _is_alike(process: Process, parent: Process) -> bool:
    """Tell whether two are processes of one Python program, in one place."""
    return process.runtime == parent.runtime == "cpython" and (
        (process.executable, process.cgroup) == (parent.executable, parent.cgroup)
    )


def _own_words(
    process: Process, facts: Facts, origin: _Known | None
) -> tuple[str, Mapping[str, str]]:
    """Give the name of its program and what it says of its service.

    Forked and spawned workers (multiprocessing, preforking servers) are their parent's service: a
    fork takes no published context along, and a spawned one's arguments name no program.
    """
    if process.runtime != "cpython":
        return tidy(process.executable), facts.service
    program = python_service(process.executable, process.cmdline)
    if origin is None:
        return program, facts.service
    if is_generic(program, process.executable):
        program = origin.program
    if program != origin.program:
        return program, facts.service
    return program, {**origin.service, **facts.service}


def _service(process: Process, facts: Facts, place: Place, program: str) -> str:
    """Name a process that does not name itself."""
    if place.pod is not None and place.pod.workload_name:
        return tidy(place.pod.workload_name)
    if place.pod is not None and place.container is not None:
        return tidy(f"{place.pod.namespace}/{place.container.name}")
    task = facts.nomad.get("nomad.task") or place.placement.nomad_task
    if task:
        return tidy(task)
    unit = place.placement.unit
    if unit and process.runtime == "other" and not unit.startswith(_GENERIC_UNITS):
        return tidy(unit)
    return program
