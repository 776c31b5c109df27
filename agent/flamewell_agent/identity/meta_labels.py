"""The labels that relabelling sees, and how what it leaves becomes attributes again. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from flamewell_agent.identity.container import Placement
from flamewell_agent.identity.pods import Pod, PodContainer
from flamewell_agent.identity.service import clean
from flamewell_agent.model import Process, SamplingOptions
from flamewell_wire.attributes import (
    CAPTURE_LABEL,
    EXTRAPOLATED_LABEL,
    LABEL_ATTRIBUTE_PREFIX,
    LABEL_OF_ATTRIBUTE,
    THREAD_LABEL,
)

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
_TRUE = frozenset({"true", "1", "yes", "on"})
_RATE_AT_MOST = 1_000
_FLAGS = ("wall", "native", "threads")
_POD_LABELS_AT_MOST = 64
"""Labels and annotations of a pod that rules can see, each: its owner may give it a thousand."""
RESERVED = frozenset(
    {*LABEL_OF_ATTRIBUTE.values(), EXTRAPOLATED_LABEL, THREAD_LABEL, CAPTURE_LABEL}
)
LABELS_AT_MOST = 27
"""Of a resource. The collector takes 30 a series; three come with some samples."""
ATTRIBUTE_OF_LABEL: dict[str, str] = {}
"""Where several attributes become one label, the first of them."""
for _attribute, _label in LABEL_OF_ATTRIBUTE.items():
    ATTRIBUTE_OF_LABEL.setdefault(_label, _attribute)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs, as far as it is known."""

    placement: Placement
    pod: Pod | None = None
    container: PodContainer | None = None


def sanitize(name: str) -> str:
    """Make a label name of a Kubernetes label or annotation, as Prometheus does."""
    return _NOT_IN_NAMES.sub("_", name)


def attribute_of_pod_label(name: str) -> str:
    """Give the attribute that a Kubernetes label of a pod is sent as.

    A pod's owner chooses its value: it must not pass for one of the agent's own labels.
    """
    label = sanitize(name)
    if label in RESERVED or label.startswith("__"):
        label = f"pod_label_{label}"
    elif not label or label[0].isdigit():
        label = f"_{label}"
    return LABEL_ATTRIBUTE_PREFIX + label


def fit_to_send(attributes: Mapping[str, str], first: Container[str]) -> dict[str, str]:
    """Clean all values, and keep to the number of labels that the collector takes.

    Args:
        attributes: Of a resource.
        first: Attributes that stay where some must go, besides those that are not free labels.
    """
    found = {name: clean(value) for name, value in attributes.items() if value}
    free = [name for name in found if name.startswith(LABEL_ATTRIBUTE_PREFIX)]
    free.sort(key=lambda name: (name not in first, name))
    others = len(labels_of(found)) - len(free)
    for name in free[max(0, LABELS_AT_MOST - others) :]:
        del found[name]
    return found


def labels_of(attributes: Mapping[str, str]) -> dict[str, str]:
    """Give the series labels that resource attributes become."""
    labels: dict[str, str] = {}
    for attribute, value in attributes.items():
        label = LABEL_OF_ATTRIBUTE.get(attribute)
        if label is None and attribute.startswith(LABEL_ATTRIBUTE_PREFIX):
            label = attribute.removeprefix(LABEL_ATTRIBUTE_PREFIX)
        if label:
            labels.setdefault(label, value)
    return labels


def meta_labels(process: Process, place: Place, nomad: Mapping[str, str]) -> dict[str, str]:
    """Give what rules can choose by: ``__meta_*``."""
    found = {
        "__meta_pid": str(process.key.pid),
        "__meta_process_executable": process.executable,
        "__meta_process_cmdline": " ".join(process.cmdline),
        "__meta_process_runtime": process.runtime,
        "__meta_process_runtime_version": process.runtime_version,
        "__meta_cgroup": process.cgroup,
        "__meta_container_id": place.placement.container_id,
        "__meta_container_runtime": place.placement.runtime,
        "__meta_systemd_unit": place.placement.unit,
    }
    found |= {f"__meta_{sanitize(name)}": value for name, value in nomad.items()}
    if place.pod is not None:
        found |= _of_pod(place.pod, place.container)
    return found


def _of_pod(pod: Pod, container: PodContainer | None) -> dict[str, str]:
    prefix = "__meta_kubernetes_"
    found = {
        "namespace": pod.namespace,
        "pod_name": pod.name,
        "pod_uid": pod.uid,
        "pod_ip": pod.ip,
        "workload_kind": pod.workload_kind,
        "workload_name": pod.workload_name,
        "pod_container_name": container.name if container else "",
        "pod_container_image": container.image if container else "",
    }
    found |= {f"pod_label_{name}": value for name, value in _first(pod.labels)}
    found |= {f"pod_annotation_{name}": value for name, value in _first(pod.annotations)}
    return {prefix + name: value for name, value in found.items()}


def _first(pairs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in sorted(pairs)[:_POD_LABELS_AT_MOST]:
        yield sanitize(name), pairs[name]


def control_labels(options: SamplingOptions) -> dict[str, str]:
    """Show sampling options as labels that rules can change: ``__rate_hz__`` and the like."""
    found = {f"__{name}__": "true" for name in _FLAGS if getattr(options, name)}
    if options.rate_hz:
        found["__rate_hz__"] = str(options.rate_hz)
    return found


def options_of(labels: Mapping[str, str]) -> SamplingOptions:
    """Read control labels; values that mean nothing are taken as absent."""
    wall, native, threads = (labels.get(f"__{name}__", "").lower() in _TRUE for name in _FLAGS)
    text = labels.get("__rate_hz__", "")
    rate = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0  # noqa: PLR2004 - digits of the limit
    return SamplingOptions(min(rate, _RATE_AT_MOST), wall, native, threads)


def with_labels(
    attributes: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, str]:
    """Change attributes as labels were changed; inputs and control labels are left out."""
    found = dict(attributes)
    for label in before.keys() | after.keys():
        value = after.get(label, "")
        if label.startswith("__") or value == before.get(label, ""):
            continue
        for attribute in [each for each in found if label in labels_of({each: "x"})]:
            del found[attribute]
        if value:
            found[ATTRIBUTE_OF_LABEL.get(label, LABEL_ATTRIBUTE_PREFIX + label)] = value
    return found
