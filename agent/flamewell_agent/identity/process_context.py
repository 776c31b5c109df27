"""The service name that an OpenTelemetry SDK publishes in its process's memory for outside readers.

A small mapping named OTEL_CTX holds a header, and the header points at a protobuf message. Source
of the layout: OTEP 4719, "Process Context", version 2, and ``ProcessContext`` of
opentelemetry-proto.

All of it belongs to somebody who may wish us ill. It is read through /proc/PID/mem, and only out of
memory without a file behind it or with a memfd: a page of a file system in user space could keep
the reader waiting for ever.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamewell_agent import procfs
from flamewell_agent.errors import AgentError
from flamewell_agent.identity.service import tidy

_NAMES = frozenset(
    {"[anon:OTEL_CTX]", "[anon_shmem:OTEL_CTX]", "/memfd:OTEL_CTX", "/memfd:OTEL_CTX (deleted)"}
)
_NO_DEVICE = "00:00"
_HEADER = struct.Struct("=8sIIQQ")
"""Signature, version, payload size, when it was published (0 while it changes), payload address."""
_SIGNATURE, _VERSION = b"OTEL_CTX", 2
_PAYLOAD_BYTES_AT_MOST = 64 * 1024
"""The limit of OpenTelemetry's eBPF profiler."""
_TRIES = 3
_ATTRIBUTES_AT_MOST = 256
_WANTED = frozenset({"service.name", "service.version"})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class Area:
    """A line of /proc/PID/maps.

    Attributes:
        start: First address.
        end: The address after the last.
        readable: Whether the process may read it.
        device: ``major:minor`` in hexadecimal as the kernel writes it, of the file behind it.
        inode: Of the same; 0 where there is none.
        name: Path, or what stands in brackets.
    """

    start: int
    end: int
    readable: bool
    device: str
    inode: int
    name: str


def read_process_context(proc_root: Path, pid: int) -> dict[str, str]:
    """Give ``service.name`` and ``service.version``, tidied.

    Nothing where the process publishes none, may not be read, or where anything is odd. The caller
    makes sure that the pid is still the same process's.
    """
    try:
        maps = procfs.read_bytes(proc_root, pid, "maps")
        if _SIGNATURE not in maps:
            return {}
        areas = [area for area in parse_areas(maps) if _is_memory(area)]
        memory = os.open(f"{proc_root}/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (AgentError, OSError):
        return {}
    try:
        payload = _read_payload(memory, areas)
    except OSError:
        return {}
    finally:
        os.close(memory)
    return parse_context(payload)


def parse_areas(maps: bytes) -> Iterator[Area]:
    """Read /proc/PID/maps; lines that are not whole are left out. Pure."""
    for line in maps.split(b"\n"):
        fields = line.decode("utf-8", "replace").split(None, 5)
        if len(fields) < 5:  # noqa: PLR2004 - up to the inode
            continue
        start, _, end = fields[0].partition("-")
        try:
            yield Area(
                int(start, 16),
                int(end, 16),
                fields[1].startswith("r"),
                fields[3],
                int(fields[4]),
                fields[5] if len(fields) > 5 else "",  # noqa: PLR2004 - the name
            )
        except ValueError:
            continue


def parse_context(payload: bytes) -> dict[str, str]:
    """Take what names the service out of a ``ProcessContext`` message. Pure; survives any bytes."""
    found: dict[str, str] = {}
    count = 0
    # The numbers: a context's resource is field 1, a resource's attributes are 1, of an attribute
    # the key is 1 and the value 2, and of a value the text is 1.
    for resource in _fields(payload, 1):
        for attribute in _fields(resource, 1):
            count += 1
            if count > _ATTRIBUTES_AT_MOST:
                return found
            key = next(_fields(attribute, 1), b"").decode("utf-8", "replace")
            value = next((text for any_ in _fields(attribute, 2) for text in _fields(any_, 1)), b"")
            text = value.decode("utf-8", "replace").strip()
            if key in _WANTED and any(each.isalnum() for each in text):
                found.setdefault(key, tidy(text))
    return found


def _is_memory(area: Area) -> bool:
    """Tell whether a mapping is memory and no file.

    The kernel keeps memfds and shared memory on a mount of its own, whose device number is the same
    for the whole node and is no other file system's. An inode of 0 alone proves nothing: a file
    system in user space chooses its numbers itself.
    """
    no_file = area.inode == 0 and area.device == _NO_DEVICE
    return area.readable and (no_file or area.device == _memory_device())


def _memory_device() -> str:
    fd = os.memfd_create("flamewell", os.MFD_CLOEXEC)
    try:
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def _read_payload(memory: int, areas: Sequence[Area]) -> bytes:
    """Read header, payload and header again until both headers are the same.

    Raises:
        OSError: The memory is not there any more.
    """
    place = next((area for area in areas if area.name in _NAMES), None)
    if place is None or place.end - place.start < _HEADER.size:
        return b""
    for _ in range(_TRIES):
        header = os.pread(memory, _HEADER.size, place.start)
        if len(header) < _HEADER.size:
            return b""
        signature, version, size, published, address = _HEADER.unpack(header)
        if (signature, version) != (_SIGNATURE, _VERSION) or size > _PAYLOAD_BYTES_AT_MOST:
            return b""
        if not published or not _lies_in(areas, address, size):
            continue
        payload = os.pread(memory, size, address)
        if len(payload) == size and os.pread(memory, _HEADER.size, place.start) == header:
            return payload
    return b""


def _lies_in(areas: Sequence[Area], address: int, size: int) -> bool:
    """Tell whether a piece of memory is within one mapping, and where a read can ask for it."""
    end = address + size
    return (
        size > 0 and end <= sys.maxsize and any(a.start <= address and end <= a.end for a in areas)
    )


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """Give the length-delimited fields with a number, as far as a message can be understood."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                return
            if tag >> 3 == number:
                yield message[at : at + size]
            at += size
        else:
            return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Give a number and where the next field begins; beyond the end where it is not whole."""
    value = 0
    for index, byte in enumerate(message[at : at + _VARINT_BYTES_AT_MOST]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at + index + 1
    return 0, len(message) + 1
