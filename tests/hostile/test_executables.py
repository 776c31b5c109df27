"""An executable file is its owner's: the kernel runs it whatever its section headers say."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flamewell_agent.discovery import Discovery
from flamewell_agent.elf import Executable, Executables, inspect_file

MIB = 1 << 20
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
PROGBITS, SYMTAB, STRTAB, NOBITS, DYNSYM, SYMTAB_SHNDX = 1, 2, 3, 8, 11, 18
COMPRESSED = 0x800
NAMES = b"\0.dynstr\0.strtab\0.go.buildinfo\0.names\0"
SECTION_TYPES = [*range(20), 0x6FFFFFF0, 0x6FFFFFF6, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF, 2**32 - 1]


def section(name: bytes, kind: int, offset: int, size: int, *, flags: int = 0, link: int = 0):
    return SECTION.pack(NAMES.find(name), kind, flags, 0, offset, size, link, 0, 1, 0)


def elf(*sections: bytes, body: bytes = b"", names_at: int = 1) -> bytes:
    """Make a file of sections; the first is empty, the second holds the names.

    The body begins at offset 4096.
    """
    names = section(b".names", STRTAB, 2048, len(NAMES))
    table = [bytes(SECTION.size), names, *sections]
    head = HEADER.pack(
        b"\x7fELF\2\1\1" + bytes(9), 2, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(table), names_at
    )
    return (head + b"".join(table)).ljust(2048, b"\0") + NAMES.ljust(2048, b"\0") + body


def looked_at(content: bytes, *, mebibytes: int = 256, seconds: float = 30) -> Executable:
    """Look at a file within bounds. The time is no measurement: unbounded it would be hours."""
    began = time.process_time()
    tracemalloc.start()
    try:
        found = inspect_file(io.BytesIO(content))
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MIB
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < seconds
    return found


def test_the_maker_of_files_makes_files_that_are_understood():
    symbols = b"\0_PyRuntime\0"
    found = looked_at(elf(section(b".dynstr", STRTAB, 4096, len(symbols)), body=symbols))
    assert found == Executable(python=True)


@pytest.mark.parametrize("kind", [SYMTAB, DYNSYM, SYMTAB_SHNDX])
@pytest.mark.parametrize("link", [2, 3])
def test_sections_that_link_in_a_circle(kind, link):
    circle = [section(b".dynstr", kind, 4096, 64, link=each) for each in (link, 2)]
    assert looked_at(elf(*circle, body=bytes(64))) == Executable()


def test_a_section_without_content_that_claims_to_be_compressed_and_huge():
    claim = struct.pack("<IIQQ", 1, 0, 1 << 31, 1)
    hostile = section(b".dynstr", NOBITS, 4096, 64, flags=COMPRESSED)
    assert looked_at(elf(hostile, body=claim)) == Executable()


@pytest.mark.parametrize("size", [10, 1 << 31, 2**64 - 1])
def test_a_section_that_is_a_decompression_bomb(size):
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(200)) + packer.flush()
    body = struct.pack("<IIQQ", 1, 0, size, 1) + bomb
    hostile = section(b".dynstr", STRTAB, 4096, len(body), flags=COMPRESSED)
    assert looked_at(elf(hostile, body=body)) == Executable()


def test_a_section_that_says_it_is_compressed_and_is_not():
    body = struct.pack("<IIQQ", 1, 0, 64, 1) + b"no zlib data at all"
    hostile = section(b".dynstr", STRTAB, 4096, len(body), flags=COMPRESSED)
    assert looked_at(elf(hostile, body=body)) == Executable()


@pytest.mark.parametrize("offset", [2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("name", [b".dynstr", b".go.buildinfo"])
def test_an_offset_beyond_what_a_file_can_have(tmp_path, offset, name):
    content = elf(section(name, STRTAB, offset, 64))
    assert looked_at(content) == Executable()
    path = tmp_path / "hostile"
    path.write_bytes(content)
    assert Executables().inspect(str(path)) == Executable()


@pytest.mark.parametrize("names_at", [0, 2, 3, 0xFFFF, 0xFEFF])
def test_a_name_table_that_is_no_name_table(names_at):
    hostile = section(b".dynstr", SYMTAB, 4096, 64, link=names_at)
    assert looked_at(elf(hostile, names_at=names_at)) == Executable()


numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 24, 64, 2048, 4096, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1)
)
wide = st.one_of(numbers, st.sampled_from([2**40, 2**62, 2**63, 2**64 - 1]))
hostile_sections = st.builds(
    SECTION.pack,
    st.one_of(st.sampled_from([1, 9, 17, 31]), numbers),
    st.one_of(st.sampled_from(SECTION_TYPES), numbers),
    st.one_of(st.sampled_from([0, COMPRESSED]), wide),
    wide,
    wide,
    wide,
    numbers,
    numbers,
    wide,
    wide,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(hostile_sections, max_size=6), st.integers(0, 8), st.binary(max_size=200))
def test_no_section_header_stops_the_look(sections, names_at, body):
    inspect_file(io.BytesIO(elf(*sections, body=body, names_at=names_at)))


def real_programs() -> list[Path]:
    found = [Path(sys.executable).resolve(), Path("/bin/sh").resolve()]
    for name in ("go", "uv", "ruff", "py-spy"):
        path = shutil.which(name) or str(Path(sys.executable).parent / name)
        if Path(path).is_file() and Path(path).read_bytes()[:4] == b"\x7fELF":
            found.append(Path(path).resolve())
    return [each for each in dict.fromkeys(found) if each.stat().st_size < 64 * MIB]


class Damaged(io.RawIOBase):
    """A real file of which some bytes are others; it is not copied."""

    def __init__(self, whole: bytes, damage: dict[int, int], length: int) -> None:
        self._whole, self._damage, self._length, self._at = whole, damage, length, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        begin = {0: 0, 1: self._at, 2: self._length}[whence]
        if not 0 <= begin + offset < 2**63:
            raise OverflowError("Python int too large to convert to C long")
        self._at = begin + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._length if size < 0 else min(self._length, self._at + size)
        part = bytearray(self._whole[self._at : max(self._at, end)])
        for at, value in self._damage.items():
            if self._at <= at < self._at + len(part):
                part[at - self._at] = value
        self._at += len(part)
        return bytes(part)


PROGRAMS = {path: path.read_bytes() for path in real_programs()}
HEADERS = {path: struct.unpack_from("<Q", whole, 40)[0] for path, whole in PROGRAMS.items()}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_damage_to_a_real_program_stops_the_look(path, data):
    """Where it hurts most: the header, the section headers, the first bytes of sections."""
    whole, table = PROGRAMS[path], HEADERS[path]
    places = st.one_of(
        st.integers(0, 63), st.integers(table, len(whole) - 1), st.integers(0, len(whole) - 1)
    )
    damage = data.draw(st.dictionaries(places, st.integers(0, 255), max_size=12))
    length = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    inspect_file(Damaged(whole, damage, length))  # type: ignore[arg-type]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _random(path: Path) -> None:
    path.symlink_to("/dev/urandom")


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(elf(section(b".dynstr", STRTAB, 1 << 40, 1 << 30)))
        file.truncate(1 << 42)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize(
    "make", [_fifo, _device, _random, _folder, _loop, _dangling, _sparse, _socket]
)
def test_an_exe_that_is_no_plain_file(tmp_path, make: Callable[[Path], None]):
    """A FIFO would be waited for and a device read for ever; no descriptor is left behind."""
    make(tmp_path / "exe")
    executables = Executables()
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        try:
            assert executables.inspect(str(tmp_path / "exe")) == Executable()
        except OSError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


STAT = b"%d (x) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0"


@pytest.mark.parametrize("make", [_fifo, _device, _random, _sparse])
def test_a_scan_goes_on_beyond_an_exe_that_is_no_plain_file(tmp_path, make):
    make(tmp_path / "target")
    for pid, exe in ((7, tmp_path / "target"), (8, Path(sys.executable).resolve())):
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        for name, content in {
            "stat": STAT % pid,
            "cmdline": b"x\0",
            "cgroup": b"",
            "maps": b"",
        }.items():
            (folder / name).write_bytes(content)
        (folder / "exe").symlink_to(exe)
    found = {each.key.pid: each.runtime for each in Discovery(tmp_path / "proc").scan()}
    assert found == {7: "other", 8: "cpython"}


def test_a_program_with_hostile_headers_really_runs_and_is_survived(tmp_path, spawn, until):
    """Nothing of this is theory: the kernel ignores section headers."""
    program = tmp_path / "hostile"
    whole = bytearray(Path("/bin/sleep").resolve().read_bytes())
    table = len(whole)
    names = SECTION.pack(1, STRTAB, 0, 0, table + 4 * SECTION.size, len(NAMES), 0, 0, 1, 0)
    struct.pack_into("<QI", whole, 40, table, 0)
    struct.pack_into("<HHH", whole, 58, SECTION.size, 4, 1)
    whole += bytes(SECTION.size) + names
    whole += section(b".dynstr", SYMTAB, 0, 64, link=2)
    whole += section(b".go.buildinfo", PROGBITS, 2**64 - 1, 64) + NAMES
    program.write_bytes(whole)
    program.chmod(0o755)
    target = spawn(str(program), "99")
    until(lambda: b"hostile" in Path(f"/proc/{target.pid}/cmdline").read_bytes())
    found = {each.key.pid: each for each in Discovery().scan()}
    assert found[target.pid].runtime == "other"
    assert found[os.getpid()].runtime == "cpython"
