"""What a process says of itself, in its environment and its memory; nothing else of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from flamewell_agent import procfs
from flamewell_agent.errors import AgentError
from flamewell_agent.identity.process_context import read_process_context
from flamewell_agent.identity.service import tidy
from flamewell_agent.model import ProcessKey

SERVICE_NAME = "service.name"
_OTEL_NAME, _OTEL_ATTRIBUTES = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"
_NOMAD: Mapping[str, str] = MappingProxyType(
    {
        "NOMAD_ALLOC_ID": "nomad.alloc.id",
        "NOMAD_JOB_NAME": "nomad.job",
        "NOMAD_GROUP_NAME": "nomad.group",
        "NOMAD_TASK_NAME": "nomad.task",
        "NOMAD_NAMESPACE": "nomad.namespace",
        "NOMAD_DC": "nomad.datacenter",
    }
)
"""Variables that Nomad sets in each task (its runtime environment reference)."""
_RESOURCE_KEYS = frozenset({SERVICE_NAME, "service.version"})
_VARIABLE_BYTES_AT_MOST = 16 * 1024
_ENTRIES_AT_MOST = 256


@dataclass(frozen=True, slots=True)
class Facts:
    """Attributes with their OpenTelemetry names, tidied.

    Attributes:
        service: ``service.name`` and ``service.version``, where the process has them.
        nomad: ``nomad.*``, empty outside Nomad.
        published: Whether the process publishes a process context (later than its start).
    """

    service: Mapping[str, str] = field(default_factory=dict)
    nomad: Mapping[str, str] = field(default_factory=dict)
    published: bool = False


def read_facts(proc_root: Path, key: ProcessKey) -> Facts:
    """Read a process's environment and its process context.

    Nothing where they may not be read, or where the pid is another process's by now.
    """
    context = read_process_context(proc_root, key.pid)
    try:
        content = procfs.read_bytes(proc_root, key.pid, "environ")
    except AgentError:
        content = b""
    try:
        # Last: had the pid become another's before, its start would be another one.
        if procfs.read_stat(proc_root, key.pid).start_ticks != key.start_ticks:
            return Facts()
    except AgentError:
        return Facts()
    return parse_facts(content, context)


def parse_facts(environ: bytes, context: Mapping[str, str] = MappingProxyType({})) -> Facts:
    """Take out of /proc/PID/environ and the process context what names the process. Pure.

    OTEL_SERVICE_NAME wins over the context, since whoever runs the program set it, and the context
    over OTEL_RESOURCE_ATTRIBUTES, which the SDK that published it has read already.
    """
    service = parse_resource_attributes(_variable(environ, _OTEL_ATTRIBUTES))
    service |= {key: value for key, value in context.items() if key in _RESOURCE_KEYS and value}
    own_name = _variable(environ, _OTEL_NAME).strip()
    if own_name:
        service[SERVICE_NAME] = tidy(own_name)
    nomad = {
        attribute: tidy(value)
        for name, attribute in _NOMAD.items()
        if (value := _variable(environ, name).strip())
    }
    return Facts(service, nomad, bool(context))


def parse_resource_attributes(text: str) -> dict[str, str]:
    """Read OTEL_RESOURCE_ATTRIBUTES: ``key=value,…``, percent-encoded. Pure.

    Source: the OpenTelemetry specification, resource SDK, "Specifying resource information via an
    environment variable". Entries that are no pair are left out.
    """
    found = {}
    for entry in text.split(",", _ENTRIES_AT_MOST)[:_ENTRIES_AT_MOST]:
        name, _, value = entry.partition("=")
        key, value = unquote(name.strip()), unquote(value.strip(), errors="replace").strip()
        if key in _RESOURCE_KEYS and value:
            found[key] = tidy(value)
    return found


def _variable(environ: bytes, name: str) -> str:
    """Give a variable, empty where it is not set; the first one where it is set twice, as libc.

    Not split into all variables: a megabyte of them would be many times that in objects.
    """
    start = f"{name}=".encode()
    at = 0 if environ.startswith(start) else environ.find(b"\0" + start) + 1
    if at == 0 and not environ.startswith(start):
        return ""
    at += len(start)
    end = environ.find(b"\0", at)
    value = environ[at : len(environ) if end < 0 else end]
    return value[:_VARIABLE_BYTES_AT_MOST].decode("utf-8", "replace")
