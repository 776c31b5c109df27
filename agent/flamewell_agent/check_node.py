"""Checks of the node: kernel, seccomp, user, cgroups, file capabilities."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from flamewell_agent.check_result import Check

_PIDFD_OPEN_KERNEL = (5, 3)
_CAPABILITIES: Final = {
    1: "DAC_OVERRIDE",
    2: "DAC_READ_SEARCH",
    12: "NET_ADMIN",
    19: "SYS_PTRACE",
    21: "SYS_ADMIN",
    38: "PERFMON",
    39: "BPF",
}
"""Numbers of include/uapi/linux/capability.h; only those that say something about profiling."""
_SECCOMP_MODES = {"0": "off", "1": "strict", "2": "filter"}


def status_field(status: str, name: str) -> str:
    """Read a line of /proc/PID/status; empty where there is none. Pure."""
    for line in status.split("\n"):
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    return ""


def check_kernel(system: str, release: str) -> Check:
    """Look at the operating system. Pure."""
    if system != "Linux":
        return Check("kernel", "fail", system, "run the agent on Linux")
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else ()
    if version and version < _PIDFD_OPEN_KERNEL:
        return Check(
            "kernel",
            "fail",
            f"Linux {release} has no pidfd_open",
            "use Linux 5.3 or later: samplers are watched by pidfd",
        )
    return Check("kernel", "ok", f"Linux {release}")


def check_user(uid: int, capabilities: int) -> Check:
    """Say as whom the agent runs, and with which capabilities by name. Pure."""
    names = [name for bit, name in _CAPABILITIES.items() if capabilities >> bit & 1]
    shown = ", ".join(names) or "none that matter"
    detail = f"uid {uid}, capabilities: {shown}"
    if "SYS_PTRACE" in names and "SYS_ADMIN" not in names:
        detail += "; SYS_ADMIN, PERFMON and BPF are not needed"
    return Check("user", "ok", detail)


def check_seccomp(status: str, reading_error: str) -> Check:
    """Tell whether a seccomp filter keeps processes from being read. Pure.

    Args:
        status: Of /proc/self/status.
        reading_error: What process_vm_readv said on a child, empty where it worked.
    """
    mode = _SECCOMP_MODES.get(status_field(status, "Seccomp"), "unknown")
    if not reading_error:
        return Check("seccomp", "ok", f"{mode}; process_vm_readv works")
    if mode == "filter":
        return Check(
            "seccomp",
            "fail",
            f"a filter is set and process_vm_readv on a child fails: {reading_error}",
            "allow process_vm_readv and ptrace in the profile (RuntimeDefault does, on Linux 4.8 "
            "and later with CAP_SYS_PTRACE)",
        )
    return Check(
        "seccomp",
        "fail",
        f"process_vm_readv on a child fails without a filter: {reading_error}",
        "a security module (SELinux, AppArmor) may forbid ptrace: look at its log",
    )


def try_reading_a_child() -> str:
    """Read one byte of a child's memory; give the error, empty where it worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = subprocess.Popen(["/proc/self/exe", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for line in Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8").splitlines():
            if line.split()[1].startswith("r"):
                address = int(line.partition("-")[0], 16)
                break
        else:
            return "it has no memory"
        into = ctypes.create_string_buffer(1)
        local = _IoVec(ctypes.addressof(into), 1)
        remote = _IoVec(address, 1)
        read = libc.process_vm_readv(
            child.pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, ctypes.c_ulong(0)
        )
        return "" if read == 1 else os.strerror(ctypes.get_errno())
    except OSError as error:
        return str(error)
    finally:
        child.kill()
        child.communicate()


def check_file_capabilities(status: str, program: str, *, has_ptrace: bool) -> Check:
    """Tell whether capabilities on the py-spy file take effect."""
    name = "file capabilities"
    try:
        os.getxattr(program, "security.capability")
    except OSError:
        return Check(name, "ok", "none are set on py-spy")
    if status_field(status, "NoNewPrivs") == "1":
        return Check(
            name,
            "ok" if has_ptrace else "fail",
            f"{program} has some, and no_new_privs takes them away",
            ""
            if has_ptrace
            else "set allowPrivilegeEscalation: true, or give the agent SYS_PTRACE",
        )
    return Check(name, "ok", f"{program} has its own")


def check_cgroups(cgroup_root: Path) -> Check:
    """Tell which cgroup hierarchy is there and whether memory limits can be read."""
    if (cgroup_root / "cgroup.controllers").exists():
        controllers = (cgroup_root / "cgroup.controllers").read_text(encoding="ascii").split()
        if "memory" in controllers:
            return Check("cgroups", "ok", f"v2 at {cgroup_root}, with memory")
        return Check(
            "cgroups",
            "warn",
            f"v2 at {cgroup_root} without memory",
            "boot with cgroup_enable=memory",
        )
    if (cgroup_root / "memory").is_dir():
        return Check("cgroups", "ok", f"v1 at {cgroup_root}, with memory")
    return Check(
        "cgroups",
        "warn",
        f"no memory controller below {cgroup_root}: memory limits are not known",
        "mount the node's /sys/fs/cgroup and set cgroup_root",
    )


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
