"""Reads another process's memory by process_vm_readv, many places in one call.

Nothing is ever written. The target is not stopped: what it changes meanwhile may be half old, half
new, so that readers must check what they get.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamewell_agent.errors import AgentError, ProcessGoneError, ProcessUnreadableError

_AT_ONCE = 1_024
"""UIO_MAXIOV of the kernel: more places in one call are refused."""
_BYTES_AT_ONCE = 4 << 20
_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ \S+ (\d+) *(.*)")
_MAPPINGS_AT_MOST = 200_000

_libc = ctypes.CDLL(None, use_errno=True)
_readv = _libc.process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A stretch of addresses.

    Attributes:
        start: First address.
        end: One past the last.
        writable: Private and writable: where objects can be, static types included.
        anonymous: Of these, without a file: heap, arenas.
    """

    start: int
    end: int
    writable: bool
    anonymous: bool


class RemoteMemory:
    """The memory of one process.

    Args:
        pid: Of the process, in this PID namespace.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def mappings(self, proc_root: Path = Path("/proc")) -> list[Mapping]:
        """Read which addresses there are.

        Raises:
            ProcessGoneError: It has ended.
            ProcessUnreadableError: It may not be looked at.
        """
        try:
            content = (proc_root / str(self._pid) / "maps").read_bytes()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessGoneError("the process has ended") from error
        except OSError as error:
            raise ProcessUnreadableError(f"its memory map can't be read: {error}") from error
        return list(parse_maps(content))

    def read(self, address: int, size: int) -> bytes | None:
        """Read one place; None where it is not there as a whole."""
        return self.read_many((address,), size)[0]

    def read_many(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        """Read as many bytes at each address; None for those that are not there as a whole.

        Raises:
            ProcessGoneError: It has ended.
            ProcessUnreadableError: It may not be read.
        """
        found: list[bytes | None] = []
        at_once = max(1, min(_AT_ONCE, _BYTES_AT_ONCE // size))
        at = 0
        while at < len(addresses):
            part = addresses[at : at + at_once]
            got = self._read_row(part, size)
            found += got
            at += len(got)
            if len(got) < len(part):
                # The kernel stops at the first place that can't be read.
                found.append(None)
                at += 1
        return found

    def _read_row(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        buffer = bytearray(size * len(addresses))
        place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        local = array("Q", (ctypes.addressof(place), len(buffer)))
        remote = array("Q", [word for each in addresses for word in (each, size)])
        count = _readv(
            self._pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(addresses), 0
        )
        if count < 0:
            self._explain(ctypes.get_errno())
            return []
        whole = count // size
        return [bytes(buffer[each * size : (each + 1) * size]) for each in range(whole)]

    def _explain(self, number: int) -> None:
        """Raise what a failure means, unless it is only that the first place is not there."""
        if number == errno.EFAULT:
            return
        if number == errno.ESRCH:
            raise ProcessGoneError("the process has ended")
        if number == errno.EPERM:
            raise ProcessUnreadableError(
                "its memory may not be read: the capability SYS_PTRACE is needed, or the same user "
                "and kernel.yama.ptrace_scope 0"
            )
        raise AgentError(f"its memory can't be read: {os.strerror(number)}")


def parse_maps(content: bytes) -> Iterator[Mapping]:
    """Read /proc/PID/maps; lines that are none are left out."""
    for line in content.split(b"\n", _MAPPINGS_AT_MOST)[:_MAPPINGS_AT_MOST]:
        match = _LINE.match(line)
        if match is None:
            continue
        start, end, mode, inode, name = match.groups()
        writable = mode.startswith(b"rw") and mode.endswith(b"p")
        # [heap], [anon:...] and nothing are memory; [stack], [vvar] and the like are not looked at.
        memory = not name or name == b"[heap]" or name.startswith(b"[anon:")
        anonymous = writable and inode == b"0" and memory
        yield Mapping(int(start, 16), int(end, 16), writable, anonymous)
