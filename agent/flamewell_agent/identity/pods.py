"""Pods as the rest of the agent sees them, and what their owners ask for by annotation. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flamewell_agent.identity.service import tidy
from flamewell_agent.model import SamplingOptions, Scrape

OPTED_OUT = "opted_out"
_OWN = "flamewell.dev/"
_PYROSCOPE = "profiles.grafana.com/"
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"

_SCRAPE_KINDS = ("cpu", "memory", "goroutine", "block", "mutex")
_PROFILE_NAMES = frozenset(
    {"profile", "allocs", "heap", "goroutine", "block", "mutex"}
    | {"delta_heap", "delta_block", "delta_mutex"}
)
"""Pyroscope's annotation gives the path of one profile; what is kept is the path above it."""
_PATH = re.compile(r"(?:/[\w.~%+@:=-]+)+/?")
_PATH_LENGTH_AT_MOST = 200
_RATE_HZ_AT_MOST = 1000
_PORT_AT_MOST = 65535
_URLS_AT_MOST = 8
"""Pprof endpoints of one container: a pod with a hundred ports must not cost a hundred pulls."""
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class PodPort:
    """A TCP port that a container declares; the name may be empty."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class PodContainer:
    """A container of a pod.

    Attributes:
        name: Unique in the pod.
        id: As its runtime calls it, without the scheme; empty before it has started.
        image: As the pod's specification has it.
        ports: Those declared.
    """

    name: str
    id: str
    image: str
    ports: tuple[PodPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node.

    Attributes:
        uid: With hyphens.
        namespace: Where it lives.
        name: Unique in its namespace.
        ip: Empty before it has one.
        host_network: It shares the node's network.
        labels: All of them; who names a series keeps to the allow list.
        annotations: Only those that the agent reads.
        workload_kind: ``Deployment``, ``StatefulSet``, ``CronJob``, …; ``Pod`` where none owns it.
        workload_name: Of the same.
        containers: Ordinary ones first, in the order of the specification, then those that run
            before (init) and ephemeral ones.
    """

    uid: str
    namespace: str
    name: str
    ip: str = ""
    host_network: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    workload_kind: str = "Pod"
    workload_name: str = ""
    containers: tuple[PodContainer, ...] = ()


class Pods(Protocol):
    """Finds the pod of a process."""

    @property
    def revision(self) -> int:
        """Grows with every change of what ``find`` may answer."""
        ...

    def find(self, container_id: str, pod_uid: str) -> tuple[Pod, PodContainer | None] | None:
        """Give the pod and the container that a cgroup path tells of.

        Args:
            container_id: 64 hexadecimal digits without a scheme, or empty.
            pod_uid: With hyphens, or the configuration hash of a static pod, or empty.

        Returns:
            None where neither is known; no container where only the pod is.
        """
        ...


class NoPods:
    """Knows no pod: a host without Kubernetes."""

    revision = 0

    def find(self, container_id: str, pod_uid: str) -> None:
        """Find nothing."""
        del container_id, pod_uid


def is_read(annotation: str) -> bool:
    """Tell whether the agent reads this annotation at all; others are not kept in memory."""
    return annotation.startswith((_OWN, _PYROSCOPE)) or annotation == _DEFAULT_CONTAINER


def sampling_options(annotations: Mapping[str, str]) -> tuple[SamplingOptions, str, str]:
    """Read what the owner of a pod asks for.

    Values that mean nothing are taken as absent; ``problems`` names them.

    Returns:
        The options; ``opted_out`` or empty; a service name or empty.
    """
    reader = _Reader(annotations)
    options = SamplingOptions(
        rate_hz=reader.number(_OWN + "rate_hz", _RATE_HZ_AT_MOST),
        wall=reader.truth(_OWN + "wall", otherwise=False),
        native=reader.truth(_OWN + "native", otherwise=False),
        threads=reader.truth(_OWN + "threads", otherwise=False),
    )
    refused = "" if reader.truth(_OWN + "profile", otherwise=True) else OPTED_OUT
    return options, refused, reader.name(_OWN + "service_name", _PYROSCOPE + "service_name")


def scrapes(pod: Pod, container: PodContainer | None) -> tuple[Scrape, ...]:
    """Give the pprof endpoints that a pod's annotations name, as far as they are this container's.

    A port is asked only where the pod declares it or an annotation has its number. A number that
    no container declares belongs to the pod's default container (kubectl's annotation, else the
    first). Without a port, every declared port is meant, as Grafana's own scrape rules have it.

    Args:
        pod: Its annotations are read.
        container: The one a process runs in; None: all of the pod's.
    """
    reader = _Reader(pod.annotations)
    host = "127.0.0.1" if pod.host_network else pod.ip
    if not host:
        return ()
    kinds_of: dict[str, list[str]] = {}
    for kind in _SCRAPE_KINDS:
        if not reader.truth(f"{_PYROSCOPE}{kind}.scrape", otherwise=False):
            continue
        origin = f"{reader.scheme(kind)}://{f'[{host}]' if ':' in host else host}"
        for port in _ports(pod, container, reader, kind):
            kinds_of.setdefault(f"{origin}:{port}{reader.base_path(kind)}", []).append(kind)
    found = (Scrape(tuple(kinds), url) for url, kinds in kinds_of.items())
    return tuple(found)[:_URLS_AT_MOST]


def problems(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Name the annotations whose value means nothing, each with what may stand there."""
    reader = _Reader(annotations)
    _ = reader.truth(_OWN + "profile", otherwise=True)
    for name in ("wall", "native", "threads"):
        _ = reader.truth(_OWN + name, otherwise=False)
    _ = reader.number(_OWN + "rate_hz", _RATE_HZ_AT_MOST)
    _ = reader.name(_OWN + "service_name"), reader.name(_PYROSCOPE + "service_name")
    for kind in _SCRAPE_KINDS:
        _ = reader.truth(f"{_PYROSCOPE}{kind}.scrape", otherwise=False)
        _ = reader.number(f"{_PYROSCOPE}{kind}.port", _PORT_AT_MOST)
        _ = reader.scheme(kind), reader.base_path(kind)
    return tuple(reader.problems)


def _ports(pod: Pod, container: PodContainer | None, reader: _Reader, kind: str) -> tuple[int, ...]:
    """Give the ports of this container that may be asked for a kind of profile, each once."""
    mine = (container,) if container is not None else pod.containers
    declared = [port for each in mine for port in each.ports]
    number = reader.number(f"{_PYROSCOPE}{kind}.port", _PORT_AT_MOST)
    if number:
        anywhere = {port.number for each in pod.containers for port in each.ports}
        owners = declared if number in anywhere else _undeclared(pod, container, number)
        return (number,) if any(port.number == number for port in owners) else ()
    wanted = reader.text(f"{_PYROSCOPE}{kind}.port_name")
    return tuple(dict.fromkeys(port.number for port in declared if wanted in {"", port.name}))


def _undeclared(pod: Pod, container: PodContainer | None, number: int) -> list[PodPort]:
    name = pod.annotations.get(_DEFAULT_CONTAINER, "")
    names = [each.name for each in pod.containers]
    owner = name if name in names else next(iter(names), "")
    return [PodPort("", number)] if container is None or container.name == owner else []


class _Reader:
    """Reads annotations one by one and notes those that mean nothing.

    Attributes:
        problems: What was noted.
    """

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._annotations = annotations
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._annotations.get(name, "").strip()

    def truth(self, name: str, *, otherwise: bool) -> bool:
        text = self.text(name).lower()
        if text in _TRUE | _FALSE:
            return text in _TRUE
        self._note(name, text, "true or false")
        return otherwise

    def number(self, name: str, high: int) -> int:
        """Give a number from 1 to ``high``, 0 where there is none."""
        text = self.text(name)
        if text.isascii() and text.isdecimal() and len(text) <= len(str(high)):
            value = int(text)
            if 1 <= value <= high:
                return value
        self._note(name, text, f"a number from 1 to {high}")
        return 0

    def name(self, *names: str) -> str:
        """Give the first of several annotations that has a name fit for a label."""
        for name in names:
            text = self.text(name)
            if any(each.isalnum() for each in text):
                return tidy(text)
            self._note(name, text, "a name")
        return ""

    def scheme(self, kind: str) -> str:
        name = f"{_PYROSCOPE}{kind}.scheme"
        text = self.text(name).lower()
        if text in {"http", "https"}:
            return text
        self._note(name, text, "http or https")
        return "http"

    def base_path(self, kind: str) -> str:
        """Give the path above a profile, empty for the usual /debug/pprof."""
        name = f"{_PYROSCOPE}{kind}.path"
        text = self.text(name)
        steps = text.strip("/").split("/")
        usable = len(text) <= _PATH_LENGTH_AT_MOST and _PATH.fullmatch(text)
        if usable and not {".", ".."} & set(steps) and steps[0] not in _PROFILE_NAMES:
            above = steps[:-1] if steps[-1] in _PROFILE_NAMES else steps
            return "" if above == ["debug", "pprof"] else "/" + "/".join(above)
        self._note(name, text, "a path such as /debug/pprof/profile")
        return ""

    def _note(self, name: str, text: str, expected: str) -> None:
        if text:
            self.problems.append(f"{name} is {text[:80]!r}, {expected} is expected")
