"""Reads /proc: one small reader a file, and a pure parser beside it.

``proc_root`` is a parameter everywhere: in a container the node's /proc may be mounted elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flamewell_agent.errors import ProcessGoneError, ProcessUnreadableError

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_BOOT_DIGITS = 12
_READ_AT_MOST = 1 << 20
"""No file read here is larger on a sane machine; a hostile cmdline or environ is cut."""
ARGUMENT_BYTES_AT_MOST, ARGUMENTS_AT_MOST = 8192, 256
"""Of a process: anybody may start a hundred with 1 MiB of one-letter arguments each, which would
take 2 GiB here. All that is asked of arguments stands at their beginning."""
_KERNEL_THREAD_FLAG = 0x00200000
"""PF_KTHREAD of include/linux/sched.h, field 9 of /proc/PID/stat."""
_STACK_START = 25
"""Field 28 of /proc/PID/stat, counted from the state."""
_CONTAINER_ID = re.compile(
    r"[0-9a-f]{64}|[0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12}|pod[0-9a-f]{32}"
    r"|/ecs/[0-9a-f]{32}|/lxc[/.]"
)
"""In a cgroup path: an id of a container, a pod, an allocation, an LXC container's name."""
_SERVICE = re.compile(r"\.service(?:/|$)")


@dataclass(frozen=True, slots=True)
class Stat:
    """What is used of /proc/PID/stat.

    Attributes:
        comm: Name of the main thread, 15 bytes at most.
        state: One letter, ``Z`` for a zombie.
        parent: Pid of the parent.
        kernel_thread: Whether it is one.
        cpu_ticks: User and system CPU of all threads, in clock ticks.
        start_ticks: Clock ticks after boot.
        stack_start: Address of the main thread's stack: an exec changes it, and nothing else
            does. 0 where the kernel does not tell (it asks for the right to trace).
    """

    comm: str
    state: str
    parent: int
    kernel_thread: bool
    cpu_ticks: int
    start_ticks: int
    stack_start: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file that is mapped into a process with execute permission."""

    path: str


def read_bytes(proc_root: Path, pid: int, name: str) -> bytes:
    """Read a file of a process.

    Raises:
        ProcessGoneError: It ended.
        ProcessUnreadableError: The kernel refuses.
    """
    try:
        # Joined as text: a Path a file would cost more than reading it.
        fd = os.open(f"{proc_root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _read_up_to(fd, _READ_AT_MOST)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(f"process {pid} ended") from error
    except OSError as error:
        raise ProcessUnreadableError(f"/proc/{pid}/{name}: {error.strerror}") from error


def boot_seconds(proc_root: Path) -> int:
    """Give when the node was started, seconds since the epoch; 0 where /proc/stat does not tell."""
    try:
        content = (proc_root / "stat").read_bytes()
    except OSError:
        return 0
    return parse_boot(content)


def parse_boot(content: bytes) -> int:
    """Give ``btime`` out of /proc/stat; 0 where it is not there."""
    for line in content.splitlines():
        name, _, value = line.partition(b" ")
        if name == b"btime":
            return int(value) if value.isdigit() and len(value) <= _BOOT_DIGITS else 0
    return 0


def read_link(proc_root: Path, pid: int, name: str) -> str:
    """Read a symbolic link of a process.

    Raises:
        ProcessGoneError: It ended (or it is a kernel thread).
        ProcessUnreadableError: The kernel refuses.
    """
    try:
        return str((proc_root / str(pid) / name).readlink())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(f"process {pid} ended") from error
    except OSError as error:
        raise ProcessUnreadableError(f"/proc/{pid}/{name}: {error.strerror}") from error


def read_stat(proc_root: Path, pid: int) -> Stat:
    """Read /proc/PID/stat. Errors as ``read_bytes``."""
    stat = parse_stat(read_bytes(proc_root, pid, "stat"))
    if stat is None:
        raise ProcessUnreadableError(f"/proc/{pid}/stat can't be understood")
    return stat


def parse_stat(content: bytes) -> Stat | None:
    """Take /proc/PID/stat apart; None where it is not one. The name may hold any byte."""
    head, opening, rest = content.partition(b"(")
    comm, closing, tail = rest.rpartition(b")")
    fields = tail.split()
    if not head or not opening or not closing or len(fields) < 20:  # noqa: PLR2004 - up to field 22
        return None
    try:
        return Stat(
            comm=comm.decode("utf-8", "replace"),
            state=fields[0].decode("ascii"),
            parent=int(fields[1]),
            kernel_thread=bool(int(fields[6]) & _KERNEL_THREAD_FLAG),
            cpu_ticks=int(fields[11]) + int(fields[12]),
            start_ticks=int(fields[19]),
            stack_start=int(fields[_STACK_START]) if len(fields) > _STACK_START else 0,
        )
    except (ValueError, UnicodeDecodeError):
        return None


def parse_cmdline(content: bytes) -> tuple[str, ...]:
    """Split /proc/PID/cmdline at its NULs; what is beyond the limits is left out."""
    text = content.removesuffix(b"\0")[:ARGUMENT_BYTES_AT_MOST].decode("utf-8", "surrogateescape")
    return tuple(text.split("\0", ARGUMENTS_AT_MOST)[:ARGUMENTS_AT_MOST]) if content else ()


def parse_cgroup(content: bytes) -> str:
    """Give that path out of /proc/PID/cgroup that tells most.

    The memory controller's, else the unified hierarchy's: where a controller is still in a
    hierarchy of its own (hybrid), the unified one may show ``/``, or the service of the container
    engine, for everything. A path with an id of a container wins over one with a service, and that
    over any other: where the memory controller is switched off, or a user may not use it, only
    systemd's hierarchy or the CPU's has the id.
    """
    memory = unified = systemd = ""
    others: list[str] = []
    # Not splitlines: the kernel takes care of line feeds alone, all else may stand in a name.
    for line in content.decode("utf-8", "replace").split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            unified = path
        elif "memory" in controllers.split(","):
            memory = path
        elif controllers == "name=systemd":
            systemd = path
        else:
            others.append(path)
    paths = [path for path in (memory, unified, systemd, *others) if len(path) > 1]
    for telling in (_CONTAINER_ID, _SERVICE):
        found = next(filter(telling.search, paths), "")
        if found:
            return found
    return paths[0] if paths else memory or unified or systemd


def executable_maps(content: bytes) -> Iterator[Mapped]:
    """Give the files that /proc/PID/maps shows as executable, each once."""
    seen: set[str] = set()
    for line in content.split(b"\n"):
        # Of bytes, only ASCII white space separates; a name may hold any other.
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and b"x" in fields[1] and fields[5].startswith(b"/"):  # noqa: PLR2004 - with a path
            path = os.fsdecode(fields[5].removesuffix(b" (deleted)"))
            if path not in seen:
                seen.add(path)
                yield Mapped(path)


def _read_up_to(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := os.read(fd, min(size, 1 << 16))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
