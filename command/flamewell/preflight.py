"""What is checked before anything is started, so that a problem is told in words."""

from __future__ import annotations

import errno
import http.client
import importlib.util
import os
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from flamewell.errors import CommandError, UsageError

LOOPBACK = "127.0.0.1"
_CAP_SYS_PTRACE = 19  # linux/capability.h
_NO_ATTACH = 3  # Yama's ptrace_scope at which nobody attaches
_MODULES_OF_EXTRA = {
    "collector": ("duckdb", "flask", "google.protobuf", "orjson", "pyarrow", "waitress", "yaml"),
    "agent": ("google.protobuf", "prometheus_client", "psutil", "urllib3", "yaml", "zstandard"),
}


@dataclass(frozen=True, slots=True)
class Privileges:
    """What this process may read of others.

    Attributes:
        root: It runs as uid 0.
        ptrace: It holds CAP_SYS_PTRACE.
        yama_scope: ``kernel.yama.ptrace_scope``; 0 where there is no Yama.
    """

    root: bool
    ptrace: bool
    yama_scope: int


def check_installed() -> None:
    """Make sure that collector and agent can run in this environment.

    Raises:
        UsageError: Names the extras that are missing.
    """
    missing = [
        extra
        for extra, modules in _MODULES_OF_EXTRA.items()
        if not all(_is_installed(module) for module in modules)
    ]
    if missing:
        raise UsageError(
            f"this installation lacks what the {' and the '.join(missing)} need; install it with: "
            "pip install 'flamewell[agent,collector]'"
        )


def choose_port(wanted: int) -> int:
    """Give the port to use: the wanted one if it is free, any free one for 0.

    Raises:
        CommandError: It is taken; says by whom where that is known, and what to do.
    """
    try:
        return _try_port(wanted)
    except PermissionError as error:
        raise CommandError(f"port {wanted} needs root; use one above 1023") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise CommandError(f"port {wanted} cannot be used: {error}") from error
    holder = "another program"
    if http_status(f"http://{LOOPBACK}:{wanted}/-/healthy") == http.HTTPStatus.OK:
        holder = f"a collector that runs already (http://{LOOPBACK}:{wanted})"
    raise CommandError(
        f"port {wanted} is in use by {holder}. Stop that first, or use another port, "
        f"for example --port {free_port(wanted + 10)}"
    )


def free_port(wanted: int = 0) -> int:
    """Give ``wanted`` if it is a free port of the loopback address, any free one otherwise."""
    try:
        return _try_port(wanted)
    except (OSError, OverflowError):
        return _try_port(0)


def http_status(url: str, *, seconds: float = 1.0) -> int:
    """Ask a loopback URL, past any proxy.

    Returns:
        The HTTP status; 0 if there was no answer.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=seconds) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, http.client.HTTPException):
        return 0


def read_privileges(proc_root: Path = Path("/proc")) -> Privileges:
    """Look up what this process may read of others."""
    status = (proc_root / "self/status").read_text(encoding="ascii", errors="replace")
    try:
        scope = int((proc_root / "sys/kernel/yama/ptrace_scope").read_text(encoding="ascii"))
    except (OSError, ValueError):
        scope = 0
    return Privileges(os.geteuid() == 0, has_capability(status, _CAP_SYS_PTRACE), scope)


def has_capability(status: str, number: int) -> bool:
    """Tell from the text of /proc/PID/status whether a capability is effective."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def privilege_note(privileges: Privileges) -> str:
    """Say what will not be seen without more privileges; empty if all will."""
    if privileges.yama_scope >= _NO_ATTACH:
        return (
            "kernel.yama.ptrace_scope is 3: no Python process can be sampled until a boot with a "
            "lower value. Memory readings and Go programs with /debug/pprof work."
        )
    if privileges.ptrace:
        return ""
    if privileges.root:
        return (
            "Root without CAP_SYS_PTRACE (a container?): other users' Python processes are "
            "skipped. Start the container with --cap-add SYS_PTRACE to sample them too."
        )
    if privileges.yama_scope == 0:
        return (
            "Not root: your own Python processes are sampled, other users' are skipped. "
            "With sudo all are. Memory readings cover all processes either way."
        )
    demo = ", but for the demo services, which allow it" if privileges.yama_scope == 1 else ""
    return (
        f"Not root, and kernel.yama.ptrace_scope is {privileges.yama_scope}: Python processes "
        f"cannot be sampled{demo}. Use sudo"
        + (", or `sudo sysctl kernel.yama.ptrace_scope=0`" if privileges.yama_scope == 1 else "")
        + ". Memory readings and Go programs with /debug/pprof work as it is."
    )


def _try_port(port: int) -> int:
    with socket.socket() as listener:
        # As servers do: connections in TIME_WAIT of an earlier start do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
        return int(listener.getsockname()[1])


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
