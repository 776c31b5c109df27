"""Reads /proc: one small reader a file, and a pure parser beside it.

``proc_root`` is a parameter everywhere: in a container the node's /proc may be mounted elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flamewell_agent.errors import ProcessGoneError, ProcessUnreadableError

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_READ_AT_MOST = 1 << 20
"""No file read here is larger on a sane machine; a hostile cmdline or environ is cut."""
_KERNEL_THREAD_FLAG = 0x00200000
"""PF_KTHREAD of include/linux/sched.h, field 9 of /proc/PID/stat."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is used of /proc/PID/stat.

    Attributes:
        comm: Name of the main thread, 15 bytes at most.
        state: One letter, ``Z`` for a zombie.
        parent: Pid of the parent.
        kernel_thread: Whether it is one.
        start_ticks: Clock ticks after boot.
    """

    comm: str
    state: str
    parent: int
    kernel_thread: bool
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file that is mapped into a process with execute permission."""

    path: str
    start: int


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
            start_ticks=int(fields[19]),
        )
    except (ValueError, UnicodeDecodeError):
        return None


def parse_cmdline(content: bytes) -> tuple[str, ...]:
    """Split /proc/PID/cmdline at its NULs."""
    text = content.decode("utf-8", "surrogateescape")
    return tuple(text.removesuffix("\0").split("\0")) if text else ()


def parse_environ(content: bytes, name: str) -> str:
    """Give one variable of /proc/PID/environ, empty where it is not set."""
    start = f"{name}=".encode()
    for entry in content.split(b"\0"):
        if entry.startswith(start):
            return entry[len(start) :].decode("utf-8", "replace")
    return ""


def parse_cgroup(content: bytes) -> str:
    """Give the cgroup path out of /proc/PID/cgroup.

    The unified hierarchy where it is used, else the memory controller's: on a hybrid machine the
    unified one may hold ``/`` for everything.
    """
    unified = memory = ""
    for line in content.decode("utf-8", "replace").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            unified = path
        elif "memory" in controllers.split(","):
            memory = path
    return unified if len(unified) > 1 else memory or unified


def executable_maps(content: bytes) -> Iterator[Mapped]:
    """Give the files that /proc/PID/maps shows as executable, each once."""
    seen: set[str] = set()
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):  # noqa: PLR2004 - with a path
            path = fields[5].removesuffix(" (deleted)")
            if path not in seen:
                seen.add(path)
                start, _, _ = fields[0].partition("-")
                yield Mapped(path, int(start, 16))


def _read_up_to(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := os.read(fd, min(size, 1 << 16))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
