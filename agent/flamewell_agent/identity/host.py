"""Names a process on a plain host: its service, container, executable and runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from flamewell_agent import procfs
from flamewell_agent.errors import AgentError
from flamewell_agent.identity.container import Placement, parse_placement
from flamewell_agent.identity.service import python_service, tidy
from flamewell_agent.model import Process, Resource

SERVICE_NAME = "service.name"
_SHORT_ID_DIGITS = 12
_GENERIC_UNITS = ("user@", "docker", "containerd", "kubelet", "crio", "podman")
"""Units that hold other people's processes: their name says nothing about the process."""


class Identity:
    """Gives the resource of a process; looks once at each process.

    Args:
        node_name: Label ``node``.
        proc_root: The node's /proc.
        extra_attributes: On every resource (cluster, configured labels).
    """

    def __init__(
        self, node_name: str, proc_root: Path, extra_attributes: Mapping[str, str]
    ) -> None:
        self._node_name = node_name
        self._proc_root = proc_root
        self._extra_attributes = dict(extra_attributes)
        self._known: dict[Process, Resource] = {}

    def resource(self, process: Process) -> Resource:
        """Give whose samples those of this process are."""
        found = self._known.get(process)
        if found is None:
            found = self._known[process] = self._make(process)
        return found

    def service_name(self, process: Process) -> str:
        """Give the service name of a process."""
        return dict(self.resource(process).attributes)[SERVICE_NAME]

    def keep_only(self, processes: Iterable[Process]) -> None:
        """Forget processes that are gone."""
        alive = set(processes)
        self._known = {each: found for each, found in self._known.items() if each in alive}

    def _make(self, process: Process) -> Resource:
        placement = parse_placement(process.cgroup)
        attributes = {
            "host.name": self._node_name,
            SERVICE_NAME: self._own_name(process) or _service(process, placement),
            "process.executable.name": tidy(process.executable),
            "container.id": placement.container_id,
            "container.name": placement.container_id[:_SHORT_ID_DIGITS],
            "nomad.alloc.id": placement.nomad_alloc_id,
            "nomad.task": placement.nomad_task,
        }
        if process.runtime != "other":
            attributes["process.runtime.name"] = process.runtime
            attributes["process.runtime.version"] = process.runtime_version
        return Resource.of({**attributes, **self._extra_attributes})

    def _own_name(self, process: Process) -> str:
        """Give OTEL_SERVICE_NAME of the process's environment, where it may be read."""
        try:
            content = procfs.read_bytes(self._proc_root, process.key.pid, "environ")
        except AgentError:
            return ""
        name = procfs.parse_environ(content, "OTEL_SERVICE_NAME")
        return tidy(name) if name else ""


def _service(process: Process, placement: Placement) -> str:
    if placement.nomad_task:
        return tidy(placement.nomad_task)
    if process.runtime == "cpython":
        return python_service(process.executable, process.cmdline)
    unit = placement.unit
    if unit and process.runtime == "other" and not unit.startswith(_GENERIC_UNITS):
        return tidy(unit)
    return tidy(process.executable)
