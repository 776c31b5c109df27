"""/proc is read in one place, and whatever stands there is survived."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent import procfs
from flamewell_agent.errors import ProcessGoneError, ProcessUnreadableError

PROC = Path("/proc")
STAT = (
    b"4242 (my) (prog) S 1 4242 4242 0 -1 4194304 186 0 0 0 3 1 0 0 20 0 5 0 987654 "
    b"14000000 2500 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)
ID = b"0123456789abcdef" * 4
MAPS = b"""\
55d0a0000000-55d0a0001000 r-xp 00000000 fe:00 1 /usr/bin/my prog
7f0000000000-7f0000200000 r-xp 00001000 fe:00 2 /usr/lib/libpython3.11.so.1.0 (deleted)
7f0000200000-7f0000300000 r--p 00001000 fe:00 2 /usr/lib/data.so
7f0000400000-7f0000500000 r-xp 00001000 fe:00 2 /usr/lib/libpython3.11.so.1.0 (deleted)
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0 [vdso]
7ffc00002000-7ffc00003000 rwxp 00000000 00:00 0
"""


def test_a_name_may_hold_parentheses_and_spaces():
    assert procfs.parse_stat(STAT) == procfs.Stat(
        comm="my) (prog",
        state="S",
        parent=1,
        kernel_thread=False,
        cpu_ticks=4,
        start_ticks=987654,
        stack_start=0,
    )


def test_kernel_threads_are_told_by_their_flag():
    kernel = STAT.replace(b"4194304", str(0x00200000 | 0x40).encode())
    stat = procfs.parse_stat(kernel)
    assert stat is not None
    assert stat.kernel_thread


def test_our_own_stat():
    stat = procfs.read_stat(PROC, os.getpid())
    assert stat.parent == os.getppid()
    assert stat.start_ticks > 0
    assert not stat.kernel_thread


@given(st.binary(max_size=400))
def test_any_stat_is_survived(content):
    procfs.parse_stat(content)
    procfs.parse_stat(b"1 (x) " + content)


@given(st.binary(max_size=400))
def test_any_other_file_is_survived(content):
    procfs.parse_cmdline(content)
    procfs.parse_cgroup(content)
    for mapped in procfs.executable_maps(content):
        assert mapped.path.startswith("/")


def test_arguments_are_split_at_nul():
    assert procfs.parse_cmdline(b"python\0-c\0\0print(1)\0") == ("python", "-c", "", "print(1)")
    assert procfs.parse_cmdline(b"title set by the process") == ("title set by the process",)
    assert procfs.parse_cmdline(b"") == ()


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"0::/system.slice/x.service\n", "/system.slice/x.service"),
        (b"0::/\n", "/"),
        (b"5:cpu:/c\n4:memory:/docker/abc\n0::/\n", "/docker/abc"),
        (b"4:cpuacct,memory:/m\n0::/unified\n", "/m"),
        (b"4:memory:/\n0::/unified\n", "/unified"),
        (b"4:memory:/m\n0::/system.slice/x.service\n", "/system.slice/x.service"),
        (b"4:memory:/system.slice/x.service\n0::/y.service\n", "/system.slice/x.service"),
        (b"3:cpu:/docker/%s\n4:memory:/\n0::/docker.service\n" % ID, "/docker/" + ID.decode()),
        (b"1:name=systemd:/docker/%s\n5:cpu:/\n" % ID, "/docker/" + ID.decode()),
        (b"2:cpu:/a\n1:name=systemd:/b\n", "/b"),
        (b"3:name=systemd:/a:b\n2:memory:/a:b\n", "/a:b"),
        (b"", ""),
    ],
)
def test_the_cgroup_path(content, path):
    assert procfs.parse_cgroup(content) == path


def test_executable_maps_are_given_once_each():
    assert [each.path for each in procfs.executable_maps(MAPS)] == [
        "/usr/bin/my prog",
        "/usr/lib/libpython3.11.so.1.0",
    ]


def test_what_is_gone_is_told_from_what_is_refused(tmp_path):
    with pytest.raises(ProcessGoneError):
        procfs.read_bytes(tmp_path, 1, "stat")
    with pytest.raises(ProcessGoneError):
        procfs.read_link(tmp_path, 1, "exe")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "stat").write_bytes(b"nonsense")
    with pytest.raises(ProcessUnreadableError, match="understood"):
        procfs.read_stat(tmp_path, 1)
    (tmp_path / "1" / "maps").mkdir()
    with pytest.raises(ProcessUnreadableError):
        procfs.read_bytes(tmp_path, 1, "maps")


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "environ").symlink_to("/etc/passwd")
    with pytest.raises(ProcessUnreadableError):
        procfs.read_bytes(tmp_path, 1, "environ")


def test_an_endless_file_is_cut(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cmdline").write_bytes(bytes(3 << 20))
    assert len(procfs.read_bytes(tmp_path, 1, "cmdline")) == 1 << 20
