"""The pods of this node on disk, for an agent that starts while the API server is away.

One JSON file, written whole and renamed into place, readable by its owner alone. Whatever is wrong
with it costs names until the API answers, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity.kubernetes_objects import PodRecord
from flamewell_agent.identity.pods import Pod, PodContainer, PodPort

_FORMAT = 1
_AT_MOST_BYTES = 16 * 1024 * 1024
_OLDEST_SECONDS = 24 * 3600.0
"""A pod seen longer ago says little about what runs now."""


def save(path: Path, node_name: str, records: Iterable[PodRecord], now_unix: float) -> None:
    """Write what is known; the old file stays where that fails.

    Raises:
        KubernetesError: ``snapshot``.
    """
    content = {
        "format": _FORMAT,
        "node": node_name,
        "saved_unix": now_unix,
        "pods": [asdict(each) for each in records],
    }
    data = json.dumps(content, separators=(",", ":")).encode()
    if len(data) > _AT_MOST_BYTES:
        raise KubernetesError("snapshot", f"{len(data)} bytes are too many for {path}")
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # never write through a link that somebody left
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise KubernetesError("snapshot", f"{path}: {error}") from error


def load(path: Path, node_name: str, now_unix: float) -> list[PodRecord]:
    """Read what an earlier agent of this node knew; nothing where it is older than a day.

    Raises:
        KubernetesError: ``snapshot``: there is a file and it cannot be used.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_AT_MOST_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KubernetesError("snapshot", f"{path}: {error}") from error
    try:
        content = json.loads(data)
        if content["format"] != _FORMAT or content["node"] != node_name:
            return []
        if not 0 <= now_unix - float(content["saved_unix"]) <= _OLDEST_SECONDS:
            return []
        return [_record(each) for each in content["pods"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KubernetesError("snapshot", f"{path} is damaged: {error!r}") from error


def _record(body: dict[str, Any]) -> PodRecord:
    pod = dict(body["pod"])
    containers = tuple(
        PodContainer(
            **{**each, "ports": tuple(PodPort(**port) for port in each["ports"])},
        )
        for each in pod.pop("containers")
    )
    ids = tuple((str(container_id), str(name)) for container_id, name in body["ids"])
    return PodRecord(Pod(**pod, containers=containers), tuple(map(str, body["uids"])), ids)
