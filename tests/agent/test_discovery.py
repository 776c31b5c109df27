"""Every process is found and told for what it is; none stops the scan."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import psutil
import pytest
from agent.conftest import INTERPRETERS, TARGETS

from flamewell_agent import procfs
from flamewell_agent.discovery import Discovery, classify
from flamewell_agent.elf import Executable, Executables
from flamewell_agent.errors import ProcessGoneError
from flamewell_agent.look_thread import LookThread
from flamewell_agent.model import NOT_LOOKED_AT, Process

SLEEPER = str(TARGETS / "sleeper.py")
STATIC = [path for path in Path("/usr/bin").glob("python3.*") if path.name[8:].isdecimal()]


@pytest.fixture(autouse=True)
def _proc_is_restored(monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/proc")


def found(discovery: Discovery, pid: int) -> Process | None:
    return next((each for each in discovery.scan() if each.key.pid == pid), None)


def seen(discovery: Discovery, pid: int) -> Process:
    process = found(discovery, pid)
    assert process is not None
    return process


def found_as(discovery: Discovery, pid: int, runtime: str) -> Process | None:
    process = found(discovery, pid)
    return process if process and process.runtime == runtime else None


@pytest.mark.interpreters
@pytest.mark.parametrize("version", INTERPRETERS)
def test_each_interpreter_is_found_with_its_version(spawn, until, version):
    target = spawn(INTERPRETERS[version], SLEEPER)
    discovery = Discovery()
    process = until(lambda: found_as(discovery, target.pid, "cpython"))
    assert process.runtime_version == version
    assert process.cmdline == (INTERPRETERS[version], SLEEPER)
    assert process.unreadable == ""


@pytest.mark.skipif(
    b"/libpython" not in Path("/proc/self/maps").read_bytes(),
    reason="this interpreter has no library, which tells its version: see the test below",
)
def test_a_renamed_interpreter_is_found(spawn, until, tmp_path):
    program = tmp_path / "myservice"
    shutil.copy(Path(sys.executable).resolve(), program)
    library = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    target = spawn(
        str(program), SLEEPER, env={"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": library}
    )
    discovery = Discovery()
    # Right after its start the file tells that it is Python, and nothing yet which one.
    process = until(
        lambda: (
            (seen := found_as(discovery, target.pid, "cpython")) and seen.runtime_version and seen
        )
    )
    assert process.executable == "myservice"
    assert process.runtime_version == f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.skipif(not STATIC, reason="Debian's python3 is the static interpreter at hand")
@pytest.mark.parametrize("deleted", [False, True])
def test_a_static_embedder_is_found_by_its_symbols_also_when_deleted(
    spawn, until, tmp_path, deleted
):
    program = tmp_path / "myservice"
    shutil.copy(STATIC[0], program)
    target = spawn(str(program), SLEEPER, env={"PYTHONHOME": "/usr"})
    until(lambda: b"myservice" in Path(f"/proc/{target.pid}/cmdline").read_bytes())
    if deleted:
        program.unlink()
    discovery = Discovery()
    process = until(lambda: found_as(discovery, target.pid, "cpython"))
    assert process.executable == "myservice"


def test_a_process_in_its_own_pid_and_mount_namespace_is_found(spawn, until):
    wrapper = ("unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")
    target = spawn(sys.executable, SLEEPER, wrapper=wrapper)
    discovery = Discovery()
    inner = until(lambda: psutil.Process(target.pid).children())
    process = until(lambda: found_as(discovery, inner[0].pid, "cpython"))
    assert process.cmdline[-1] == SLEEPER


def test_another_users_process_is_found(spawn, until):
    wrapper = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    system_python = str(STATIC[0]) if STATIC else sys.executable
    target = spawn(system_python, "-c", "import time; time.sleep(99)", wrapper=wrapper)
    discovery = Discovery()
    assert until(lambda: found_as(discovery, target.pid, "cpython"))
    assert psutil.Process(target.pid).uids().real == 65534


def test_what_execs_into_python_is_seen_as_python(spawn, until):
    target = spawn("/bin/sh", "-c", f"sleep 1.5; exec {sys.executable} {SLEEPER}")
    discovery = Discovery()
    assert until(lambda: found_as(discovery, target.pid, "other"))
    assert until(lambda: found_as(discovery, target.pid, "cpython"))


def test_python_that_execs_another_python_is_looked_at_anew(spawn, until):
    """Neither the pid, nor the start time, nor the name changes."""
    code = f"import os, sys, time; time.sleep(1); os.execv(sys.executable, ['python', {SLEEPER!r}])"
    target = spawn(sys.executable, "-c", code)
    discovery = Discovery()
    until(lambda: (process := found(discovery, target.pid)) and process.cmdline[-1] == code)
    until(lambda: (process := found(discovery, target.pid)) and process.cmdline[-1] == SLEEPER)


def test_looks_that_cost_too_much_are_made_by_later_scans(tmp_path):
    for pid in range(30, 40):
        _fake(tmp_path, pid, cmdline=b"x\0", cgroup=b"0::/\n")
        (tmp_path / str(pid) / "exe").mkdir()
    clock = iter(range(10_000))
    # Each reading of the clock is a second later: two looks fit into 2.5 s.
    discovery = Discovery(tmp_path, thread_cpu_seconds=lambda: float(next(clock)))

    def pending(limit: float) -> int:
        return sum(each.unreadable == NOT_LOOKED_AT for each in discovery.scan(limit))

    assert [pending(2.5) for _ in range(6)] == [8, 6, 4, 2, 0, 0]
    _fake(tmp_path, 50, cmdline=b"x\0", cgroup=b"0::/\n")
    (tmp_path / "50" / "exe").mkdir()
    assert pending(-1) == 1
    assert pending(math.inf) == 0


def test_what_outlived_a_scan_is_looked_at_before_what_is_new(tmp_path):
    for pid in (21, 22):
        _fake(tmp_path, pid, cmdline=b"old\0", cgroup=b"0::/\n")
        (tmp_path / str(pid) / "exe").mkdir()
    clock = iter(range(10_000))
    discovery = Discovery(tmp_path, thread_cpu_seconds=lambda: float(next(clock)))
    assert {each.unreadable for each in discovery.scan(0.5)} == {NOT_LOOKED_AT}
    _fake(tmp_path, 23, cmdline=b"new\0", cgroup=b"0::/\n")
    (tmp_path / "23" / "exe").mkdir()
    waiting = [each.key.pid for each in discovery.scan(2.5) if each.unreadable == NOT_LOOKED_AT]
    assert waiting == [23]


def test_a_zombie_is_named(spawn, until):
    child = subprocess.Popen(["true"])
    try:
        discovery = Discovery()
        until(lambda: procfs.read_stat(Path("/proc"), child.pid).state == "Z")
        process = found(discovery, child.pid)
        assert process is not None
        assert (process.runtime, process.unreadable) == ("other", "zombie")
    finally:
        child.wait()


def test_a_known_python_that_becomes_a_zombie_is_named(spawn, until):
    target = spawn(sys.executable, SLEEPER)
    discovery = Discovery()
    assert until(lambda: found_as(discovery, target.pid, "cpython"))
    target.kill()
    until(lambda: procfs.read_stat(Path("/proc"), target.pid).state == "Z")
    process = found(discovery, target.pid)
    assert process is not None
    assert process.unreadable == "zombie"


def test_kernel_threads_and_the_samplers_children_are_left_out(spawn):
    child = spawn("sleep", "99")
    pids = {each.key.pid for each in Discovery(excluded=lambda: [child.pid]).scan()}
    assert child.pid not in pids
    assert os.getpid() in pids
    assert not any(_is_kernel_thread(pid) for pid in pids)


def _is_kernel_thread(pid: int) -> bool:
    try:
        return procfs.read_stat(Path("/proc"), pid).kernel_thread
    except ProcessGoneError:
        return False


def test_a_known_process_costs_one_read(spawn, until, monkeypatch):
    target = spawn(sys.executable, SLEEPER)
    discovery = Discovery()
    # Before its exec it is a fork of this very Python.
    until(lambda: (process := found(discovery, target.pid)) and process.cmdline[-1] == SLEEPER)
    discovery.scan()
    read: list[tuple[int, str]] = []
    real = procfs.read_bytes
    monkeypatch.setattr(
        procfs,
        "read_bytes",
        lambda root, pid, name: read.append((pid, name)) or real(root, pid, name),
    )
    discovery.scan()
    assert [name for pid, name in read if pid == target.pid] == ["stat"]


def _fake(root: Path, pid: int, **files: bytes) -> None:
    folder = root / str(pid)
    folder.mkdir()
    tail = b" S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0"
    (folder / "stat").write_bytes(f"{pid} (x)".encode() + tail)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_processes_that_vanish_or_refuse_do_not_stop_the_scan(tmp_path):
    (tmp_path / "10").mkdir()  # gone before its stat was read
    _fake(tmp_path, 11)  # gone before the rest
    _fake(tmp_path, 12, cmdline=b"/usr/bin/python3.12\0app.py\0", cgroup=b"0::/\n")
    (tmp_path / "12" / "exe").mkdir()  # not a link: the read is refused
    _fake(tmp_path, 13, cmdline=b"nginx\0", cgroup=b"0::/\n")
    (tmp_path / "13" / "exe").mkdir()
    (tmp_path / "14").mkdir()
    (tmp_path / "14" / "stat").write_bytes(b"garbage")
    by_pid = {each.key.pid: each for each in Discovery(tmp_path).scan()}
    assert sorted(by_pid) == [12, 13]
    assert by_pid[12].runtime == "cpython"
    assert by_pid[12].unreadable.startswith("not_permitted: ")
    assert (by_pid[13].runtime, by_pid[13].executable) == ("other", "nginx")


def _real(root: Path, pid: int, maps: bytes = b"") -> Path:
    _fake(root, pid, cmdline=b"x\0", cgroup=b"0::/\n", maps=maps)
    (root / str(pid) / "exe").symlink_to("/bin/true")
    return root / str(pid)


def test_what_loads_python_long_after_its_start_is_found(tmp_path):
    """It was there at the first scan; the agent and the program started together."""
    folder = _real(tmp_path, 10)
    second = os.sysconf("SC_CLK_TCK")
    now = 77 + 5 * second
    discovery = Discovery(tmp_path, ticks=lambda: now)
    assert seen(discovery, 10).runtime == "other"
    (folder / "maps").write_bytes(b"1-2 r-xp 0 00:00 1 /usr/lib/libpython3.11.so.1.0\n")
    now += 4 * second
    assert seen(discovery, 10).runtime == "other"
    now += second
    assert seen(discovery, 10).runtime == "cpython"


def test_an_interpreter_looked_at_before_its_library_was_mapped_gets_its_version(
    tmp_path, monkeypatch
):
    folder = _real(tmp_path, 10)
    monkeypatch.setattr(Executables, "inspect", lambda _self, _path: Executable(python=True))
    second = os.sysconf("SC_CLK_TCK")
    now = 77 + second
    discovery = Discovery(tmp_path, ticks=lambda: now)
    process = seen(discovery, 10)
    assert (process.runtime, process.runtime_version) == ("cpython", "")
    (folder / "maps").write_bytes(b"1-2 r-xp 0 00:00 1 /usr/lib/libpython3.13t.so.1.0\n")
    now += second
    process = seen(discovery, 10)
    assert (process.runtime_version, process.unreadable) == ("3.13", "free_threaded")


def test_what_is_old_is_looked_at_once(tmp_path):
    folder = _real(tmp_path, 10)
    now = 77 + 500 * os.sysconf("SC_CLK_TCK")
    discovery = Discovery(tmp_path, ticks=lambda: now)
    assert seen(discovery, 10).runtime == "other"
    (folder / "maps").write_bytes(b"1-2 r-xp 0 00:00 1 /usr/lib/libpython3.11.so.1.0\n")
    now += 10**9
    assert seen(discovery, 10).runtime == "other"


def test_an_executable_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    _real(tmp_path, 10)
    answers = iter([OSError(errno.EMFILE, "Too many open files"), Executable(go_version="go1.25")])

    def inspect(_self: object, _path: str) -> Executable:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(Executables, "inspect", inspect)
    now = 10**9
    discovery = Discovery(tmp_path, ticks=lambda: now)
    assert seen(discovery, 10).unreadable == "look_failed: Too many open files"
    assert seen(discovery, 10).unreadable == "look_failed: Too many open files"
    now += 5 * os.sysconf("SC_CLK_TCK")
    process = seen(discovery, 10)
    assert (process.runtime, process.unreadable) == ("go", "")


def test_an_executable_on_a_dead_server_keeps_no_scan_waiting(tmp_path, monkeypatch, until):
    _real(tmp_path, 10)
    _real(tmp_path, 11)
    (tmp_path / "11" / "exe").unlink()
    (tmp_path / "11" / "exe").symlink_to("/bin/false")
    server_is_back = threading.Event()

    def inspect(_self: object, path: str) -> Executable:
        if path.endswith("/10/exe"):
            server_is_back.wait()
        return Executable(go_version="go1.25")

    monkeypatch.setattr(Executables, "inspect", inspect)
    discovery = Discovery(tmp_path, looks=LookThread(0.1))
    for _ in range(2):
        by_pid = {each.key.pid: each for each in discovery.scan()}
        assert by_pid[10].unreadable == "look_hung: /bin/true"
        assert by_pid[11].runtime == "go"
    server_is_back.set()
    until(lambda: found_as(discovery, 10, "go"))


def no_file() -> Executable:
    raise AssertionError("the executable need not be opened")


@pytest.mark.parametrize(
    ("executable", "mapped", "maps", "expected"),
    [
        ("python3.11", [], b"", ("cpython", "3.11", "")),
        ("python2.7", [], b"", ("cpython", "2.7", "")),
        ("python", [], b"/x/lib/python3.9/lib-dynload/a.so", ("cpython", "3.9", "")),
        ("uwsgi", ["/usr/lib/libpython3.8.so.1.0"], b"", ("cpython", "3.8", "")),
        ("x", ["/usr/lib/libpython3.6m.so.1.0"], b"", ("cpython", "3.6", "")),
        ("x", ["/usr/lib/libpython3.13t.so.1.0"], b"", ("cpython", "3.13", "free_threaded")),
        ("python3.13t", [], b"", ("cpython", "3.13", "free_threaded")),
        ("python3.12d", [], b"", ("cpython", "3.12", "")),
    ],
)
def test_names_tell_where_they_can(executable, mapped, maps, expected):
    assert classify(executable, mapped, all_paths=maps, inspect=no_file) == expected


@pytest.mark.parametrize(
    ("executable", "inside", "expected"),
    [
        ("orders", Executable(go_version="go1.25.4"), ("go", "go1.25.4", "")),
        ("pythonista", Executable(), ("other", "", "")),
        ("myservice", Executable(python=True), ("cpython", "", "")),
    ],
)
def test_the_file_tells_the_rest(executable, inside, expected):
    assert classify(executable, [], all_paths=b"", inspect=lambda: inside) == expected
