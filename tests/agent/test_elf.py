"""Executables tell what they are; damaged and hostile ones tell nothing, quickly."""

from __future__ import annotations

import io
import os
import struct
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from end_to_end.go_toolchain import build
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.elf import Executable, Executables, inspect_file

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
SECTION_BYTES = 64


def library() -> Path:
    folder = sysconfig.get_config_var("LIBDIR")
    name = sysconfig.get_config_var("LDLIBRARY")
    shared = Path(folder or "/", name or "")
    return shared if shared.suffix == ".so" and shared.exists() else Path(sys.executable).resolve()


def header(*, sections: int, section_bytes: int = SECTION_BYTES, names_at: int = 0) -> bytes:
    """Make the header of an ELF file whose section table follows at once."""
    return HEADER.pack(
        IDENT, 3, 62, 1, 0, 0, HEADER.size, 0, HEADER.size, 56, 0, section_bytes, sections, names_at
    )


def test_cpython_is_seen_by_its_symbols():
    assert Executables().inspect(str(library())) == Executable(python=True)


def test_other_programs_are_not_python():
    assert Executables().inspect("/bin/sh") == Executable()


@pytest.mark.go
def test_go_is_seen_by_its_build_info(tmp_path):
    program = build(Path(__file__).parent.parent / "targets" / "go", tmp_path / "program")
    found = Executables().inspect(str(program))
    assert found.go_version.startswith("go1.")
    assert not found.python


def test_a_file_is_looked_at_once_and_again_when_it_changed(tmp_path, monkeypatch):
    looked = []

    def look(file):
        looked.append(file.name)
        return Executable()

    monkeypatch.setattr("flamewell_agent.elf.inspect_file", look)
    path = tmp_path / "x"
    path.write_bytes(b"one")
    executables = Executables()
    executables.inspect(str(path))
    os.link(path, tmp_path / "same")
    executables.inspect(str(tmp_path / "same"))
    assert len(looked) == 1
    path.write_bytes(b"other")
    executables.inspect(str(path))
    assert len(looked) == 2


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Executables().inspect(str(tmp_path / "none"))


@given(st.binary(max_size=300))
def test_any_bytes_tell_nothing(content):
    assert inspect_file(io.BytesIO(content)) == Executable()
    assert inspect_file(io.BytesIO(IDENT + content)) == Executable()


@given(st.data())
def test_a_damaged_executable_is_survived(data):
    whole = bytearray(header(sections=3, names_at=1) + bytes(3 * SECTION_BYTES) + b"\0.dynstr\0")
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(16, len(whole) - 1))] = data.draw(st.integers(0, 255))
    inspect_file(io.BytesIO(bytes(whole)))


@pytest.mark.parametrize("section_bytes", [0, SECTION_BYTES])
def test_a_table_that_claims_to_be_endless_is_not_walked(section_bytes):
    # With e_shnum 0 the number of sections is the first one's size: up to 2**64. All headers are
    # string tables, so that each of them has a name.
    names = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, 1 << 40, 0, 0, 1, 0)
    hostile = header(sections=0, section_bytes=section_bytes) + names * 4
    assert inspect_file(io.BytesIO(hostile)) == Executable()


def test_a_large_sparse_file_is_not_walked(tmp_path):
    # 64 MiB of section headers that are all alike, and a name table without an end.
    names = struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, 1 << 40, 0, 0, 1, 0)
    path = tmp_path / "hostile"
    with path.open("wb") as file:
        file.write(header(sections=0) + names * (64 << 20 >> 6))
        file.truncate(8 << 30)
    began = time.process_time()
    assert Executables().inspect(str(path)) == Executable()
    assert time.process_time() - began < 20  # hours if it were walked; no measurement


def test_a_name_without_an_end_is_cut(tmp_path):
    section = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 1 << 20, 1 << 30, 0, 0, 1, 0)
    path = tmp_path / "hostile"
    with path.open("wb") as file:
        file.write(header(sections=4000) + section * 4000)
        file.seek(1 << 20)
        for _ in range(200):
            file.write(b"A" * (1 << 20))
    began = time.process_time()
    assert Executables().inspect(str(path)) == Executable()
    assert time.process_time() - began < 30  # 4000 names of 200 MiB each, were it not cut
