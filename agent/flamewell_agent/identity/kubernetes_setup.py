"""Joins the options with the pod directory, and tries what it needs of the API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flamewell_agent.config import AgentConfig
from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity.kubernetes import GRANT, PodDirectory, explain

if TYPE_CHECKING:
    from flamewell_agent.identity.kubernetes_api import PodApi

SNAPSHOT_NAME = "pods.json"


def make_directory(
    config: AgentConfig,
    count_error: Callable[[str], None] = lambda _: None,
    *,
    snapshot: bool = True,
) -> PodDirectory:
    """Make the directory out of the options; imports the client when it is first needed.

    Args:
        config: The options.
        count_error: Called with a reason out of a bounded set.
        snapshot: Whether it keeps one: a command run beside the agent, perhaps as another user,
            must not put its own in the place of the agent's.
    """
    return PodDirectory(
        lambda: _connect(config),
        node_name=config.node_name,
        snapshot=Path(config.state_dir) / SNAPSHOT_NAME if snapshot else None,
        count_error=count_error,
    )


def probe(config: AgentConfig) -> tuple[bool, str, str]:
    """Try what the agent needs of the API.

    Returns:
        Whether it works, what was seen, and what to do about it (empty where nothing).
    """
    if config.kubernetes != "on":
        return True, "off", ""
    try:
        api = _connect(config)
        with contextlib.closing(api):
            pages = list(api.pages(resource_version="0"))
            count = sum(len(items) for items, _ in pages)
            since = pages[-1][1]
            with contextlib.closing(api.watch(since, seconds=1, stale_seconds=5)) as watch:
                next(watch, None)
    except KubernetesError as error:
        return False, explain(error), _mend(error)
    if not count:
        detail = f"no pod has spec.nodeName={config.node_name}"
        return False, detail, "set node_name to the pod's spec.nodeName (downward API)"
    return True, f"{count} pods of node {config.node_name}, list and watch work", ""


def _connect(config: AgentConfig) -> PodApi:
    # Here and not above: the client takes 21 MiB, which a host without Kubernetes is spared.
    from flamewell_agent.identity.kubernetes_api import PodApi  # noqa: PLC0415

    return PodApi(config.node_name, kubeconfig=config.kubeconfig)


def _mend(error: KubernetesError) -> str:
    return {
        "forbidden": f"{GRANT} to the agent's service account (ClusterRole)",
        "unauthorized": "the token is refused: look at its audience and at the service account",
        "not_configured": "mount the service account's token, set kubeconfig, or kubernetes: off",
        "tls": "the API server's certificate is not signed by the given authority",
    }.get(error.reason, "look at the way to the API server: network policy, proxy, firewall")
