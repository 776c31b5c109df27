"""What would work on this node and what would not, each with how to mend it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from flamewell_agent.captures import find_tracer
from flamewell_agent.check_node import (
    check_cgroups,
    check_file_capabilities,
    check_kernel,
    check_seccomp,
    check_user,
    status_field,
    try_reading_a_child,
)
from flamewell_agent.check_result import Check, render
from flamewell_agent.check_sending import check_collector, check_credentials
from flamewell_agent.config import AgentConfig, parse_go_endpoint
from flamewell_agent.errors import EndpointError, SamplerError
from flamewell_agent.identity import kubernetes_setup
from flamewell_agent.samplers.go_fetch import PprofClient, make_tls
from flamewell_agent.samplers.pyspy import find_py_spy

__all__ = ["Check", "check_kernel", "render", "run_checks"]

_CAP_DAC_READ_SEARCH, _CAP_SYS_PTRACE = 2, 19
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel
_TIMEOUT_SECONDS = 10.0
_LOW_DISK_RATIO = 2.0
# The kernel keeps this many values for kernel.yama.ptrace_scope; 3 forbids reading altogether.
_YAMA_DESCENDANTS, _YAMA_ADMIN, _YAMA_NONE = 1, 2, 3


def run_checks(config: AgentConfig) -> Iterator[Check]:
    """Look at everything, one finding after the other."""
    status = _read(Path("/proc/self/status"))
    capabilities = parse_capabilities(status)
    yama = _read(Path("/proc/sys/kernel/yama/ptrace_scope")).strip()
    may_ptrace = bool(capabilities >> _CAP_SYS_PTRACE & 1)
    yield check_kernel(platform.system(), platform.release())
    yield check_user(os.geteuid(), capabilities)
    yield check_seccomp(status, try_reading_a_child())
    yield check_ptrace(capabilities, int(yama) if yama.isdecimal() else 0, own_uid=os.geteuid())
    yield check_other_users(capabilities)
    mounts = _read(Path("/proc/self/mounts"))
    yield check_hidepid(mounts, config.proc_root, capabilities, parse_groups(status))
    yield check_pid_namespace(config.proc_root)
    yield check_py_spy(config.py_spy)
    with contextlib.suppress(SamplerError):  # told above
        program = find_py_spy(config.py_spy)
        yield check_file_capabilities(status, program, has_ptrace=may_ptrace)
    yield check_cgroups(Path(config.cgroup_root))
    if config.on_demand and config.tracing_captures:
        yield check_tracing(find_tracer)
    if config.kubernetes == "on":
        yield check_kubernetes(config)
    yield check_state_dir(Path(config.state_dir), config.spool_max_bytes)
    for url in config.collector_url:
        yield from check_collector(url, config)
    yield check_credentials(config)
    for text in config.go_endpoints:
        yield check_go_endpoint(text, config)
    if config.metrics_address is not None:
        yield check_listen(config.metrics_address)


def check_ptrace(capabilities: int, yama_scope: int, *, own_uid: int) -> Check:
    """Tell whose memory may be read, by CAP_SYS_PTRACE and yama. Pure."""
    name = "reading processes"
    if yama_scope >= _YAMA_NONE:
        return Check(
            name,
            "fail",
            "kernel.yama.ptrace_scope is 3: no process may read another",
            "set kernel.yama.ptrace_scope to 2 or less and restart the node",
        )
    if capabilities >> _CAP_SYS_PTRACE & 1:
        return Check(name, "ok", "CAP_SYS_PTRACE is there")
    mend = "run as root, or give the agent and py-spy the capability SYS_PTRACE"
    if yama_scope >= _YAMA_ADMIN:
        return Check(name, "fail", f"no CAP_SYS_PTRACE, ptrace_scope is {yama_scope}", mend)
    if yama_scope == _YAMA_DESCENDANTS:
        return Check(name, "warn", "only processes that name the agent as their tracer", mend)
    return Check(name, "warn", f"only processes of uid {own_uid}", mend)


def check_other_users(capabilities: int) -> Check:
    """Tell whether other users' files below /proc can be read. Pure."""
    if capabilities >> _CAP_DAC_READ_SEARCH & 1:
        return Check("other users' files", "ok", "CAP_DAC_READ_SEARCH is there")
    return Check(
        "other users' files",
        "warn",
        "no CAP_DAC_READ_SEARCH: interpreters in closed directories and sockets stay unknown",
        "give the agent and py-spy the capability DAC_READ_SEARCH",
    )


def check_hidepid(
    mounts: str, proc_root: str, capabilities: int, groups: Collection[int] = ()
) -> Check:
    """Tell whether /proc hides other users' processes. Pure.

    Args:
        mounts: Of /proc/self/mounts.
        proc_root: Where the node's /proc is.
        capabilities: The effective ones.
        groups: Numbers of the groups by which the kernel judges this process.
    """
    name = "hidepid"
    options = _proc_options(mounts, proc_root)
    hidden = options.get("hidepid", "off")
    if hidden in {"0", "off"}:
        return Check(name, "ok", f"{proc_root} hides nothing")
    if capabilities >> _CAP_SYS_PTRACE & 1:
        return Check(name, "ok", f"hidepid={hidden}, lifted by CAP_SYS_PTRACE")
    # As has_pid_permissions() of fs/proc/base.c: no group lifts hidepid=4.
    detail = f"{proc_root} is mounted with hidepid={hidden}: other users' processes are hidden"
    if hidden in {"4", "ptraceable"}:
        return Check(name, "fail", detail, "give CAP_SYS_PTRACE: no group lifts it")
    group = options.get("gid", "0")
    if group.isdecimal() and int(group) in groups:
        return Check(name, "ok", f"hidepid={hidden}, lifted by the group {group}")
    return Check(name, "fail", detail, f"give CAP_SYS_PTRACE, or the group {group} to the agent")


def _proc_options(mounts: str, proc_root: str) -> dict[str, str]:
    """Give the options of the topmost mount of proc at a place; none where there is none."""
    options: dict[str, str] = {}
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == proc_root and fields[2] == "proc":  # noqa: PLR2004 - device, where, type, options
            pairs = (each.partition("=") for each in fields[3].split(","))
            options = {key: value for key, _, value in pairs}
    return options


def check_tracing(which: Callable[[str], str | None]) -> Check:
    """Tell whether the programs of tracing captures are there."""
    name = "tracing captures"
    found = {program: which(program) for program in ("strace", "gdb")}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        return Check(
            name,
            "warn",
            f"tracing_captures is on, but not installed: {', '.join(missing)}",
            f"install {' and '.join(missing)} where the agent runs, or set tracing_captures: false",
        )
    return Check(name, "ok", f"on, with {found['strace']} and {found['gdb']}")


def check_pid_namespace(proc_root: str) -> Check:
    """Tell whether all of the node's processes are in sight."""
    try:
        namespace = str((Path(proc_root) / "self/ns/pid").readlink())
    except OSError as error:
        return Check("processes in sight", "fail", str(error), "mount /proc, or set proc_root")
    if namespace == _INITIAL_PID_NAMESPACE:
        return Check("processes in sight", "ok", "all of the node's")
    return Check(
        "processes in sight",
        "warn",
        f"those of the agent's own PID namespace ({namespace})",
        "start the agent's container with the host's PID namespace (hostPID: true)",
    )


def check_py_spy(configured: str) -> Check:
    """Read a Python process with py-spy, as sampling does."""
    mend = "pip install 'flamewell[agent]', or set py_spy to the program"
    try:
        program = find_py_spy(configured)
    except SamplerError as error:
        return Check("py-spy", "fail", str(error), mend)
    target = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert target.stdout is not None  # noqa: S101 - for the type checker; it is a pipe
        target.stdout.readline()
        result = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(target.pid)],
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("py-spy", "fail", f"{program} does not run: {error}", mend)
    finally:
        target.kill()
        target.communicate()
    if result.returncode != 0:
        said = result.stderr.decode("utf-8", "replace").strip().splitlines()
        return Check(
            "py-spy",
            "fail",
            f"{program} cannot read a child: {said[0] if said else result.returncode}",
            "a seccomp profile may forbid process_vm_readv; allow it, or use RuntimeDefault",
        )
    return Check("py-spy", "ok", f"{program} reads a Python process")


def check_state_dir(directory: Path, spool_max_bytes: int) -> Check:
    """Write a file where unsent batches wait, and compare the free space.

    Nothing is made: a directory of whoever checks would be closed to the agent's own user.
    """
    name = "state directory"
    spool = directory / "spool"
    try:
        there = next(each for each in (spool, *spool.parents) if each.exists())
        with tempfile.NamedTemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Check(name, "fail", str(error), "set state_dir to a directory that can be written")
    if free < spool_max_bytes * _LOW_DISK_RATIO:
        return Check(
            name,
            "warn",
            f"{directory}: {free >> 20} MiB are free, the spool may take {spool_max_bytes >> 20}",
            "lower spool_max_bytes, or set state_dir to a larger disk",
        )
    how = "can be written" if there in {directory, spool} else "can be made"
    return Check(name, "ok", f"{directory} {how}, {free >> 20} MiB are free")


def check_kubernetes(config: AgentConfig) -> Check:
    """List and watch the pods of this node."""
    works, detail, mend = kubernetes_setup.probe(config)
    return Check("kubernetes", "ok" if works else "warn", detail, mend)


def check_go_endpoint(text: str, config: AgentConfig) -> Check:
    """Ask a configured Go program for its command line, believing whom sampling believes."""
    _, url = parse_go_endpoint(text)
    ca_file = Path(config.go_tls_ca_file) if config.go_tls_ca_file else None
    try:
        tls = make_tls(ca_file, insecure=config.go_tls_insecure)
    except OSError as error:
        return Check("go endpoint", "fail", f"{ca_file}: {error}", "mend go_tls_ca_file")
    try:
        PprofClient(url, tls).get("cmdline", timeout_seconds=_TIMEOUT_SECONDS, max_bytes=1 << 20)
    except EndpointError as error:
        return Check(
            "go endpoint", "warn", f"{url}: {error}", "import net/http/pprof there, check the port"
        )
    return Check("go endpoint", "ok", f"{url} serves pprof")


def check_listen(address: tuple[str, int]) -> Check:
    """Tell whether the agent's own metrics port is free."""
    shown = f"{address[0]}:{address[1]}"
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return Check(
                "metrics port",
                "warn",
                f"{shown}: {error.strerror}",
                "an agent may run already; or set metrics_listen",
            )
    return Check("metrics port", "ok", f"{shown} is free")


def parse_capabilities(status: str) -> int:
    """Read the effective capabilities out of /proc/self/status; 0 where there are none. Pure."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def parse_groups(status: str) -> frozenset[int]:
    """Read the groups by which the kernel judges access to files out of /proc/self/status. Pure."""
    # "Gid:" holds the real, effective, saved and file system ids; in_group_p() takes the last.
    own = status_field(status, "Gid").split()[3:]
    return frozenset(int(each) for each in own + status_field(status, "Groups").split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
