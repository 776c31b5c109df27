"""Runs processes in real containers by runc; whatever happens, no container is left.

Bundles are written by hand: an OCI config.json with its own pid, mount, uts, ipc and network
namespaces, a user, a CPU quota and a memory limit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containers.rootfs import INSIDE, Bind, Interpreter, build

UID = 10001
_PARENT = "/flamewell-tests"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a container.

    Attributes:
        cores: CPU quota, in cores.
        period_micros: Of the quota; the default is the kernel's and Kubernetes's.
        memory_bytes: At most.
    """

    cores: float = 0.5
    period_micros: int = 100_000
    memory_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Running:
    """A container at work.

    Attributes:
        id: 64 hexadecimal digits, as containerd gives them.
        pid: Of its first process, in our own PID namespace.
        limits: What it was started with.
        cpuacct: Its CPU accounting group (version 1), None on a version 2 machine.
    """

    id: str
    pid: int
    limits: Limits
    cpuacct: Path | None

    def cgroup_cpu_nanos(self) -> int:
        """Give the CPU time that the kernel charged to the container.

        Raises:
            OSError: The hierarchy of this machine tells no such thing.
        """
        if self.cpuacct is None:
            path = Path(f"/sys/fs/cgroup{_PARENT}/{self.id}/cpu.stat")
            return 1000 * int(path.read_text().split()[1])
        return int((self.cpuacct / "cpuacct.usage").read_text())


class RuncError(Exception):
    """Runc refused."""


def why_not() -> str:
    """Give why no container can be run here, empty where one can."""
    if os.geteuid() != 0:
        return "containers need root"
    if shutil.which("runc") is None:
        return "runc is missing: apt-get install runc"
    root = Path("/sys/fs/cgroup")
    controllers = root / "cgroup.controllers"
    if controllers.exists():
        there = set(controllers.read_text().split())
    else:
        there = {each for each in ("cpu", "memory") if (root / each / "cgroup.procs").exists()}
    missing = {"cpu", "memory"} - there
    if missing:
        return f"no cgroup controller for {', '.join(sorted(missing))}"
    if not os.access(root / ("cpu" if not controllers.exists() else ""), os.W_OK):
        return "/sys/fs/cgroup can't be written"
    return ""


@contextmanager
def container(
    directory: Path,
    interpreter: Interpreter,
    arguments: Sequence[str],
    *,
    limits: Limits | None = None,
    uid: int = UID,
    binds: Sequence[Bind] = (),
) -> Iterator[Running]:
    """Start a container whose first process is the interpreter; it is deleted in any case.

    Args:
        directory: For the bundle and runc's own state; nothing of it is used twice.
        interpreter: What runs inside.
        arguments: Its arguments.
        limits: Of CPU and memory.
        uid: User and group inside (and outside: there is no user namespace).
        binds: More of the host's directories.

    Raises:
        RuncError: With runc's own words.
    """
    limits = limits or Limits()
    identity = uuid.uuid4().hex + uuid.uuid4().hex
    bundle = directory / identity[:12]
    bundle.mkdir(parents=True)
    rootfs, own_binds = build(bundle / "rootfs", interpreter)
    config = oci_config(
        rootfs,
        [interpreter.python, *arguments],
        binds=[*own_binds, *binds],
        limits=limits,
        uid=uid,
        cgroup=f"{_PARENT}/{identity}",
    )
    (bundle / "config.json").write_text(json.dumps(config))
    pid_file = bundle / "pid"
    state = ("--root", str(bundle / "state"))
    try:
        with (bundle / "said").open("wb") as said:
            process = subprocess.Popen(
                ["runc", *state, "run", "--detach", "--bundle", str(bundle),
                 "--pid-file", str(pid_file), identity],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
            code = process.wait(timeout=60)
        if code != 0:
            raise RuncError((bundle / "said").read_text(errors="replace"))
        cpuacct = Path(f"/sys/fs/cgroup/cpuacct{_PARENT}/{identity}")
        yield Running(
            identity, int(pid_file.read_text()), limits, cpuacct if cpuacct.exists() else None
        )
    finally:
        _delete(state, identity)


def _delete(state: tuple[str, str], identity: str) -> None:
    """Delete a container and its groups; the parent group too when it is empty."""
    subprocess.run(["runc", *state, "delete", "--force", identity], check=False,
                   capture_output=True, timeout=60)  # fmt: skip
    deadline = time.monotonic() + 10
    while (left := leftovers(identity)) and time.monotonic() < deadline:
        for group in left:
            try:
                group.rmdir()
            except OSError:  # still busy: its processes are being reaped
                time.sleep(0.05)
    for parent in _groups(_PARENT):
        try:
            parent.rmdir()
        except OSError:  # another container of another test run
            continue
    if left:
        raise RuncError(f"groups are left behind: {left}")


def leftovers(identity: str) -> list[Path]:
    """Give the cgroups of a container that are still there."""
    return _groups(f"{_PARENT}/{identity}")


def _groups(path: str) -> list[Path]:
    root = Path("/sys/fs/cgroup")
    tops = [root, *(each for each in root.iterdir() if each.is_dir() and not each.is_symlink())]
    # runc puts its groups below its own in some hierarchies.
    return [found for top in tops if (found := top / path.lstrip("/")).is_dir()]


def oci_config(
    rootfs: Path,
    command: Sequence[str],
    *,
    binds: Sequence[Bind],
    limits: Limits,
    uid: int,
    cgroup: str,
) -> dict[str, Any]:
    """Give an OCI runtime configuration. Pure."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
    ]  # fmt: skip
    for bind in binds:
        options = ["rbind", "rprivate", "rw" if bind.writable else "ro"]
        mounts.append(
            {"destination": bind.destination, "type": "bind", "source": str(bind.source),
             "options": options}
        )  # fmt: skip
    quota = int(limits.cores * limits.period_micros)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": uid},
            "args": list(command),
            "env": ["PATH=/usr/bin:/bin", f"LD_LIBRARY_PATH={INSIDE}/lib"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "target",
        "mounts": mounts,
        "linux": {
            "namespaces": [
                {"type": each} for each in ("pid", "mount", "uts", "ipc", "network")
            ],
            "cgroupsPath": cgroup,
            "resources": {
                "cpu": {"quota": quota, "period": limits.period_micros},
                "memory": {"limit": limits.memory_bytes},
            },
        },
    }  # fmt: skip
