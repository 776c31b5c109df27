"""Publishes an OpenTelemetry process context, as OTEP 4719 says, then sleeps.

Arguments: where the payload is (``inside`` the mapping, ``elsewhere`` in memory, ``withheld``: on a
page that a userfaultfd keeps back), version, when it was published, then attributes as KEY=VALUE.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
import time

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

_HEADER = struct.Struct("=8sIIQQ")
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00  # linux/userfaultfd.h


def encode(attributes: list[str]) -> bytes:
    resource = Resource()
    for each in attributes:
        key, _, value = each.partition("=")
        resource.attributes.add(key=key).value.string_value = value
    encoded = resource.SerializeToString()
    size, length = len(encoded), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x0a" + length + bytes([size]) + encoded  # ProcessContext.resource


def address_of(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def withhold(address: int) -> int:
    """Let whoever touches a page wait for an answer that never comes."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_USERFAULTFD[platform.machine()], 0)
    for request, argument in (
        (_UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0)),
        (_UFFDIO_REGISTER, struct.pack("=QQQQ", address, mmap.PAGESIZE, 1, 0)),
    ):
        if fd < 0 or libc.ioctl(fd, ctypes.c_ulong(request), argument) != 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
    return fd


where, version, published, *attributes = sys.argv[1:]
payload = encode(attributes)
fd = os.memfd_create("OTEL_CTX")
os.ftruncate(fd, 2 * mmap.PAGESIZE)
context = mmap.mmap(fd, 2 * mmap.PAGESIZE)
os.close(fd)
other = mmap.mmap(-1, max(len(payload), mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held = withhold(address_of(other)) if where == "withheld" else -1
if where == "inside":
    address = address_of(context) + _HEADER.size
    context[_HEADER.size : _HEADER.size + len(payload)] = payload
else:
    address = address_of(other)
    if where == "elsewhere":
        other[: len(payload)] = payload
header = _HEADER.pack(b"OTEL_CTX", int(version), len(payload), int(published), address)
context[8 : _HEADER.size] = header[8:]
context[:8] = header[:8]
time.sleep(300)
