"""Which workload a pod belongs to, by what the pod itself says: no further right is needed. Pure.

The names are those that the controllers of Kubernetes give: a Deployment's ReplicaSet is
``<deployment>-<pod-template-hash>``, a CronJob's Job is ``<cronjob>-<minutes since 1970>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HASH_LABELS = (
    ("rollouts-pod-template-hash", "Rollout"),  # Argo Rollouts
    ("pod-template-hash", "Deployment"),
)
_SCHEDULED = re.compile(r"(?P<name>.+)-(?P<time>\d{8}|\d{10})")
_MINUTES = range(26_000_000, 60_000_000)
"""2019 to 2084. A Job whose name ends with a date, such as 20260115, lies outside."""
_SECONDS = range(1_500_000_000, 3_600_000_000)
"""The same for controllers before Kubernetes 1.21, which wrote seconds."""


def workload_of(metadata: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, str]:
    """Give kind and name of a pod's workload.

    A static pod, owned by its node, is a ``StaticPod`` under the name of its manifest, so that
    those of all nodes are one. A pod that nobody owns is a ``Pod`` under its own name.

    Args:
        metadata: Of the pod.
        labels: The same pod's, checked already.
    """
    pod_name = str(metadata.get("name", ""))
    kind, name = _controller(metadata)
    if not kind or not name:
        return "Pod", pod_name
    if kind == "ReplicaSet":
        for label, owner_kind in _HASH_LABELS:
            suffix = f"-{labels[label]}" if labels.get(label) else ""
            if suffix and name.endswith(suffix) and name != suffix:
                return owner_kind, name.removesuffix(suffix)
    if kind == "Job":
        match = _SCHEDULED.fullmatch(name)
        if match and int(match["time"]) in (_MINUTES if len(match["time"]) == 8 else _SECONDS):  # noqa: PLR2004 - digits, as in the pattern
            return "CronJob", match["name"]
    if kind == "Node":
        return "StaticPod", pod_name.removesuffix(f"-{name}") or pod_name
    return kind, name


def _controller(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Give kind and name of the owner that controls a pod, else of its first owner."""
    references = metadata.get("ownerReferences")
    if not isinstance(references, list):
        return "", ""
    owners = [each for each in references if isinstance(each, dict)]
    owners.sort(key=lambda each: each.get("controller") is not True)
    owner = owners[0] if owners else {}
    kind, name = owner.get("kind"), owner.get("name")
    return (kind, name) if isinstance(kind, str) and isinstance(name, str) else ("", "")
