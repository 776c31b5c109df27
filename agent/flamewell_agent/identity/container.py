"""Which container a cgroup path belongs to. Pure; the shapes come from real nodes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEX64 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_HEX32 = re.compile(r"/ecs/(?:[^/]+/)?([0-9a-f]{32}-\d+|[0-9a-f]{32})(?:/|$)")
_POD = re.compile(r"pod([0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12}|[0-9a-f]{32})")
_NOMAD = re.compile(
    r"/nomad(?:\.slice)?(?:/(?:share|reserve)\.slice)?/"
    r"([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\.([^/]+?)(?:\.scope)?$"
)
_UNIT = re.compile(r"/([^/]+)\.service(?:/|$)")
_HELPER = re.compile(r"(?:crio|libpod)-conmon-")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a process runs, as far as its cgroup path tells.

    Attributes:
        container_id: 64 hexadecimal digits (ECS: what ECS uses), empty outside a container.
        pod_uid: With hyphens; the hash of a static pod.
        unit: systemd service without its suffix.
        nomad_alloc_id: Of Nomad's exec and raw_exec drivers.
        nomad_task: The same.
    """

    container_id: str = ""
    pod_uid: str = ""
    unit: str = ""
    nomad_alloc_id: str = ""
    nomad_task: str = ""


def parse_placement(cgroup: str) -> Placement:
    """Read a cgroup path; where ids nest (kind), the last one is the container."""
    if _HELPER.search(cgroup):
        return Placement()
    nomad = _NOMAD.search(cgroup)
    if nomad:
        return Placement(nomad_alloc_id=nomad.group(1), nomad_task=nomad.group(2))
    containers = _HEX64.findall(cgroup) or _HEX32.findall(cgroup)
    pods = _POD.findall(cgroup)
    units = _UNIT.findall(cgroup)
    return Placement(
        container_id=containers[-1] if containers else "",
        pod_uid=pods[-1].replace("_", "-") if pods else "",
        unit=units[-1] if units and not containers else "",
    )
