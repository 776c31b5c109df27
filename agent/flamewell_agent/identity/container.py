"""Which container a cgroup path belongs to. Pure.

The corpus in tests/agent/cgroups holds an example of each shape: documented ones, with made-up ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CONTAINER = re.compile(r"(?:(.*)[-:])?([0-9a-f]{64})(?:\.scope)?")
"""A whole segment. Other units with such an id in their name (mounts, a pod's slice) hold no
processes of a container."""
_ECS = re.compile(r"[0-9a-f]{32}(?:-\d+)?")
_POD = re.compile(
    r"pod([0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])"
)
_NOMAD = re.compile(r"([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\.(.+?)(?:\.scope)?")
_LXC = re.compile(r"lxc\.payload\.(.+)")
_RUNTIMES = (
    ("cri-containerd", "containerd"),
    ("containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("docker", "docker"),
    ("k8s.io", "containerd"),
    ("libpod", "podman"),
)
"""What a container's segment begins with, or the segment above a bare id."""
_HELPERS = ("crio-conmon-", "libpod-conmon-", "kata_overhead")
"""Beside a container: what watches it, or the virtual machine around it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a process runs, as far as its cgroup path tells.

    Attributes:
        container_id: 64 hexadecimal digits (ECS on Fargate: what it uses instead), empty outside
            a container.
        pod_uid: With hyphens; the hash of a static pod.
        unit: systemd service without its suffix.
        nomad_alloc_id: Of Nomad's exec and raw_exec drivers.
        nomad_task: The same.
        container_name: Of LXC, which has no ids.
        runtime: ``containerd``, ``cri-o``, ``docker``, ``podman``, ``lxc``, ``ecs``; empty where
            the path does not tell (bare ids below a kubelet with the cgroupfs driver).
    """

    container_id: str = ""
    pod_uid: str = ""
    unit: str = ""
    nomad_alloc_id: str = ""
    nomad_task: str = ""
    container_name: str = ""
    runtime: str = ""


def parse_placement(cgroup: str) -> Placement:
    """Read a cgroup path; where ids nest (kind, Docker in Docker), the last one is meant."""
    segments = cgroup.removesuffix(" (deleted)").split("/")
    if any(each.startswith(_HELPERS) for each in segments):
        return Placement()
    container_id, runtime = _container(segments)
    pods = _POD.findall(cgroup)
    name = "" if container_id else _lxc_name(segments)
    alloc_id, task = _nomad(segments)
    units = [each for each in segments if each.endswith(".service") and len(each) > len(".service")]
    inside = bool(container_id or alloc_id)
    return Placement(
        container_id=container_id,
        pod_uid=pods[-1].replace("_", "-") if pods else "",
        # A container that systemd started is named for itself.
        unit=units[-1].removesuffix(".service") if units and not inside else "",
        nomad_alloc_id=alloc_id,
        nomad_task=task,
        container_name=name,
        runtime=runtime or ("lxc" if name else ""),
    )


def _container(segments: Sequence[str]) -> tuple[str, str]:
    """Give id and runtime of the innermost container."""
    for at in range(len(segments) - 1, -1, -1):
        match = _CONTAINER.fullmatch(segments[at])
        if match:
            above = segments[at - 1] if at else ""
            return match.group(2), _runtime(match.group(1) or above)
    # /ecs/TASK-N or /ecs/TASK/TASK-N.
    below = segments[segments.index("ecs") + 1 :][:2] if "ecs" in segments else ()
    tasks = [each for each in below if _ECS.fullmatch(each)]
    return (tasks[-1], "ecs") if tasks else ("", "")


def _runtime(text: str) -> str:
    """Tell the runtime from what stands before an id (``…slice:cri-containerd``, ``libpod``)."""
    word = text.rpartition(":")[2]
    return next((runtime for prefix, runtime in _RUNTIMES if word.startswith(prefix)), "")


def _lxc_name(segments: Sequence[str]) -> str:
    """Give the name of an LXC container: ``/lxc.payload.NAME``, before LXC 4 ``/lxc/NAME``."""
    for above, segment in zip(["", *segments], segments, strict=False):
        match = _LXC.fullmatch(segment)
        if match:
            return match.group(1)
        if above in {"lxc", "lxc.payload"} and segment:
            return segment
    return ""


def _nomad(segments: Sequence[str]) -> tuple[str, str]:
    """Give allocation and task: ``ALLOC.TASK`` somewhere below a segment of Nomad's."""
    roots = [at for at, each in enumerate(segments) if each.startswith("nomad")]
    for segment in segments[roots[0] + 1 :] if roots else ():
        match = _NOMAD.fullmatch(segment)
        if match:
            return match.group(1), match.group(2)
    return "", ""
