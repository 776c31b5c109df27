"""Pod objects of the Kubernetes API, read into what the agent keeps of them. Pure.

JSON from the API is foreign: what has not the type it should have is taken as absent, and lists
and texts are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flamewell_agent.identity.kubernetes_owners import workload_of
from flamewell_agent.identity.pods import Pod, PodContainer, PodPort, is_read

_CONFIG_HASHES = ("kubernetes.io/config.hash", "kubernetes.io/config.mirror")
"""A static pod's own uid, which its cgroups carry, while the API's copy of it has another one."""
_CONTAINER_LISTS = (
    ("containers", "containerStatuses"),
    ("initContainers", "initContainerStatuses"),
    ("ephemeralContainers", "ephemeralContainerStatuses"),
)
_TEXT_AT_MOST = 1024
_LIST_AT_MOST = 256
_ID_AT_MOST = 128
_PORT_AT_MOST = 65535


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod and by what it is found.

    Attributes:
        pod: As the rest of the agent sees it.
        uids: Its uid, and the configuration hashes of a static pod.
        ids: Container id and container name, those of ended containers included.
    """

    pod: Pod
    uids: tuple[str, ...]
    ids: tuple[tuple[str, str], ...]


def read_pod(body: object) -> PodRecord | None:
    """Read a pod; None where it has no uid or no name."""
    if not isinstance(body, dict):
        return None
    metadata, spec, status = (_dict(body, key) for key in ("metadata", "spec", "status"))
    uid, name = _text(metadata, "uid"), _text(metadata, "name")
    if not uid or not name:
        return None
    labels, annotations = _texts(metadata, "labels"), _texts(metadata, "annotations")
    kind, workload = workload_of(metadata, labels)
    containers, ids = _containers(spec, status)
    pod = Pod(
        uid=uid,
        namespace=_text(metadata, "namespace"),
        name=name,
        ip=_text(status, "podIP"),
        host_network=spec.get("hostNetwork") is True,
        labels=labels,
        annotations={key: value for key, value in annotations.items() if is_read(key)},
        workload_kind=kind[:_TEXT_AT_MOST],
        workload_name=workload[:_TEXT_AT_MOST],
        containers=containers,
    )
    hashes = (annotations[each] for each in _CONFIG_HASHES if annotations.get(each))
    return PodRecord(pod, tuple(dict.fromkeys((uid, *hashes))), ids)


def resource_version(body: object) -> str:
    """Give metadata.resourceVersion of an object or a list, empty where it has none."""
    return _text(_dict(body, "metadata"), "resourceVersion") if isinstance(body, dict) else ""


def strip_scheme(container_id: str) -> str:
    """Take ``containerd://``, ``docker://`` or ``cri-o://`` off a container id."""
    return container_id.rpartition("://")[2].lower()[:_ID_AT_MOST]


def _containers(
    spec: Mapping[str, Any], status: Mapping[str, Any]
) -> tuple[tuple[PodContainer, ...], tuple[tuple[str, str], ...]]:
    """Give all containers, and all container ids with the names they belong to."""
    found: list[PodContainer] = []
    ids: dict[str, str] = {}
    for spec_key, status_key in _CONTAINER_LISTS:
        current: dict[str, str] = {}
        for each in _dicts(status, status_key):
            name, known = _text(each, "name"), list(_ids(each))
            current[name] = known[0]
            ids |= {container_id: name for container_id in known if container_id}
        found += [
            PodContainer(
                name=_text(each, "name"),
                id=current.get(_text(each, "name"), ""),
                image=_text(each, "image"),
                ports=tuple(_ports(each)),
            )
            for each in _dicts(spec, spec_key)
        ]
    return tuple(found), tuple(ids.items())


def _ids(status: Mapping[str, Any]) -> Iterator[str]:
    """Give the present id (it may be empty), then those of runs that have ended."""
    yield strip_scheme(_text(status, "containerID"))
    for key in ("state", "lastState"):
        yield strip_scheme(_text(_dict(_dict(status, key), "terminated"), "containerID"))


def _ports(container: Mapping[str, Any]) -> Iterator[PodPort]:
    for each in _dicts(container, "ports"):
        number = each.get("containerPort")
        if each.get("protocol", "TCP") != "TCP" or not isinstance(number, int):
            continue
        if 0 < number <= _PORT_AT_MOST:
            yield PodPort(_text(each, "name"), number)


def _dict(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def _dicts(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = body.get(key)
    items = value[:_LIST_AT_MOST] if isinstance(value, list) else []
    return [each for each in items if isinstance(each, dict)]


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return value[:_TEXT_AT_MOST] if isinstance(value, str) else ""


def _texts(body: Mapping[str, Any], key: str) -> dict[str, str]:
    pairs = list(_dict(body, key).items())[:_LIST_AT_MOST]
    return {name: value[:_TEXT_AT_MOST] for name, value in pairs if isinstance(value, str)}
