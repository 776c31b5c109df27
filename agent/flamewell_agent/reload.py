"""Reading the options anew while the agent runs, on SIGHUP."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from flamewell_agent.config import AgentConfig, load_config
from flamewell_agent.errors import ConfigError

_log = logging.getLogger(__name__)

NEEDS_RESTART = frozenset(
    {
        "state_dir",
        "spool_max_bytes",
        "spool_max_age_seconds",
        "compression",
        "proc_root",
        "cgroup_root",
        "metrics_listen",
        "node_name",
        "py_spy",
        "log_format",
        "kubernetes",
        "kubeconfig",
    }
)
"""What is held for a whole run: files and ports that are open, and the agent's own name."""


@dataclass(frozen=True, slots=True)
class Reload:
    """What reading the options anew gave.

    Attributes:
        config: What holds now: the old options where the new ones are wrong.
        changed: Names of options with another value in ``config`` than before.
        ignored: Names of options that were changed but need a restart; ``config`` has the old.
        error: Why the new options were not taken, empty where they were.
    """

    config: AgentConfig
    changed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    error: str = ""


def reloaded(
    old: AgentConfig,
    flags: argparse.Namespace,
    environ: Mapping[str, str],
    problem_of: Callable[[AgentConfig], str] = lambda _: "",
) -> Reload:
    """Read the file, the environment and the flags anew; never raises.

    Args:
        old: What holds now.
        flags: Those that the agent was started with.
        environ: The agent's own environment: only the file can have changed.
        problem_of: Tells what else stands against options that can be read, empty for nothing.
    """
    try:
        new = load_config(flags, environ).settings
    except ConfigError as error:
        return _refused(old, str(error))
    if problem := problem_of(new):
        return _refused(old, problem)
    result = compare(old, new)
    if result.ignored:
        _log.warning("changed options that need a restart: %s", ", ".join(result.ignored))
    _log.info(
        "configuration read again: %s",
        f"changed {', '.join(result.changed)}" if result.changed else "nothing to change",
    )
    return result


def _refused(old: AgentConfig, problem: str) -> Reload:
    _log.error("the configuration is wrong, the old one stays: %s", problem)
    return Reload(old, error=problem)


def compare(old: AgentConfig, new: AgentConfig) -> Reload:
    """Take over what can change while the agent runs. Pure."""
    different = [
        each.name
        for each in fields(AgentConfig)
        if getattr(old, each.name) != getattr(new, each.name)
    ]
    ignored = tuple(name for name in different if name in NEEDS_RESTART)
    changed = tuple(name for name in different if name not in NEEDS_RESTART)
    return Reload(replace(new, **{name: getattr(old, name) for name in ignored}), changed, ignored)
