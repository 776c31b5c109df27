"""What an executable file tells about itself: an embedded CPython, or a Go binary."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from dataclasses import dataclass
from typing import IO, cast

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

_SECTION_BYTES_AT_MOST = 64 << 20
_READ_AT_MOST = 160 << 20
"""Three sections and the tables: what a file may have us read, whatever its headers claim."""
_SECTIONS_AT_MOST = 4096
_FILES_KNOWN_AT_MOST = 10_000
_PYTHON_SYMBOLS = (b"\0_PyRuntime\0", b"\0_PyThreadState_Current\0", b"\0Py_BytesMain\0")
"""3.7 and newer have _PyRuntime; 2.7 to 3.6 _PyThreadState_Current."""
_GO_MAGIC = b"\xff Go buildinf:"
_GO_VERSION = re.compile(rb"go1\.[0-9][0-9A-Za-z.\-+ ]{0,40}")
_GO_INLINE_STRINGS = 2
"""Flag in a build-info blob of Go 1.18 and newer: the version string follows inline."""


@dataclass(frozen=True, slots=True)
class Executable:
    """What was found in the file.

    Attributes:
        python: It has CPython's runtime linked in.
        go_version: ``go1.22.1``, ``go`` where only the section was there, empty if not Go.
    """

    python: bool = False
    go_version: str = ""


class Executables:
    """Looks at each file once; keyed by device, inode, size and time of change."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], Executable] = {}

    def inspect(self, path: str) -> Executable:
        """Look at a file; one that is no ELF file, or a damaged one, tells nothing.

        Raises:
            OSError: It can't be opened or read: nothing is known of it, and nothing remembered.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return Executable()
        with os.fdopen(fd, "rb") as file:
            key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            found = self._known.get(key)
            if found is None:
                if len(self._known) >= _FILES_KNOWN_AT_MOST:
                    self._known.clear()
                found = self._known[key] = inspect_file(file)
            return found


class _Bounded:
    """A file that gives no more than so many bytes over all reads; just what ELFFile needs."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _READ_AT_MOST
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """Read as a file does.

        Raises:
            ValueError: It was too much in all.
        """
        if size > self._left:
            raise ValueError("the file claims to hold too much")
        content = self._file.read(size if size >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("the file holds too much")
        return content


def inspect_file(file: IO[bytes]) -> Executable:
    """Look at an open ELF file; anything else, and a damaged one, tells nothing.

    Raises:
        OSError: It can't be read.
    """
    try:
        elf = ELFFile(cast("IO[bytes]", _Bounded(file)))
        if elf.num_sections() > _SECTIONS_AT_MOST:
            return Executable()
        go_version = _go_version(elf)
        return Executable(python=not go_version and _has_python(elf), go_version=go_version)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place in the file that can't be
            raise
        return Executable()
    except (ELFError, ValueError, LookupError, OverflowError, struct.error):
        return Executable()


def _has_python(elf: ELFFile) -> bool:
    for name in (".dynstr", ".strtab"):
        names = _content(elf, name)
        if any(each in names for each in _PYTHON_SYMBOLS):
            return True
    return False


def _go_version(elf: ELFFile) -> str:
    blob = _content(elf, ".go.buildinfo")
    at = blob.find(_GO_MAGIC)
    if at < 0:
        return ""
    # debug/buildinfo: magic (14 bytes), pointer size, flags, and from offset 32 the strings.
    flags = blob[at + 15] if len(blob) > at + 15 else 0
    found = _GO_VERSION.search(blob, at + 32) if flags & _GO_INLINE_STRINGS else None
    return found.group().decode("ascii").strip() if found else "go"


def _content(elf: ELFFile, name: str) -> bytes:
    """Give a section's bytes; none where they do not stand in the file as they are.

    One that is compressed, or has no bytes, may claim any size, and would be given it.
    """
    section = elf.get_section_by_name(name)
    if section is None or section.compressed or section["sh_type"] == "SHT_NOBITS":
        return b""
    return section.data() if section["sh_size"] <= _SECTION_BYTES_AT_MOST else b""
