"""Interpreters whose files are gone, others, or closed, and such as no machine of ours has."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from agent.pyspy_windows import functions, window
from containers import runc
from containers.looking import BOUND, INTERPRETERS, MUSL, copy_of, pid_with, seen
from containers.rootfs import (
    INSIDE,
    Interpreter,
    free_threaded_interpreter,
)

pytestmark = [pytest.mark.containers]

FREE_THREADED = free_threaded_interpreter()
STATIC_BYTES = 1 << 20
"""A program that only loads libpython is far smaller than that."""
BUILT_BY = "it is made by scripts/interpreters.sh"


@pytest.fixture
def own_copy(tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    """Give an interpreter whose files may be deleted; it is at no path of the host's inside."""
    if BOUND is None:
        pytest.skip("no interpreter outside of /usr")
    return copy_of(BOUND, tmp_path_factory.mktemp("copy"))


def library_of(interpreter: Interpreter) -> Path:
    found = list(interpreter.prefix.glob(f"lib/libpython{interpreter.version}*.so.1.0"))
    if not found:
        pytest.skip("the interpreter outside of /usr has no libpython")
    return found[0]


def burns_are_seen(spy, pid: int, seconds: int = 1) -> None:
    (result,) = spy.run([window(pid, seconds=seconds)], threading.Event())
    assert result.failure == "", result.detail
    found = functions(result)
    assert found.get("burn_sixty", 0) > 0
    assert {each for each in found if each.startswith("burn_")} <= {
        "burn_sixty", "burn_twenty_five", "burn_ten", "burn_five",
    }  # fmt: skip


def test_an_interpreter_that_only_the_container_has_is_sampled(start, until, spy):
    if BOUND is None:
        pytest.skip("no interpreter outside of /usr")
    pid = pid_with(until, start(BOUND, "/work/shares.py"))
    assert not Path(INSIDE).exists()
    burns_are_seen(spy, pid)


def test_a_deleted_interpreter_is_still_cpython_and_sampled(start, until, spy, own_copy):
    pid = pid_with(until, start(own_copy, "/work/shares.py"))
    shutil.rmtree(own_copy.prefix / "bin")
    assert str(Path(f"/proc/{pid}/exe").readlink()).endswith(" (deleted)")
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", own_copy.version)
    burns_are_seen(spy, pid)


@pytest.fixture
def static_copy(tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    """Give a copy of an interpreter without a libpython, as distributions have them."""
    for each in INTERPRETERS.values():
        host = Path("/usr/bin") / f"python{each.version}"
        if host.exists() and host.stat().st_size > STATIC_BYTES:
            prefix = tmp_path_factory.mktemp("static")
            prefix.chmod(0o755)
            (prefix / "bin").mkdir()
            shutil.copy(host, prefix / "bin")
            return Interpreter(each.version, f"{INSIDE}/bin/{host.name}", prefix=prefix)
    pytest.skip("no static interpreter below /usr")


@pytest.mark.parametrize("then", ["nothing", "no program"])
def test_a_static_interpreter_that_is_deleted_or_replaced(start, until, spy, static_copy, then):
    """The program that runs is read, and not what has its name now."""
    pid = pid_with(until, start(static_copy, "/work/shares.py"))
    program = static_copy.prefix / "bin" / f"python{static_copy.version}"
    program.unlink()
    if then == "no program":
        program.write_bytes(b"no ELF file")
    assert str(Path(f"/proc/{pid}/exe").readlink()).endswith(" (deleted)")
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", static_copy.version)
    burns_are_seen(spy, pid)


def without_library(interpreter: Interpreter) -> None:
    """Delete the interpreter whole, as one does who removes a package."""
    shutil.rmtree(interpreter.prefix / "bin")
    library_of(interpreter).unlink()


def with_new_build(interpreter: Interpreter) -> None:
    """Put the same build there in a new file, as a package manager does."""
    put_library(interpreter, library_of(interpreter))


def with_other_version(interpreter: Interpreter) -> None:
    """Put another version's library there, under the old name."""
    others = [each for each in INTERPRETERS.values() if each.prefix]
    if len(others) < 2:
        pytest.skip("only one version outside of /usr")
    put_library(interpreter, library_of(others[-1]))


def put_library(interpreter: Interpreter, content: Path) -> None:
    library = library_of(interpreter)
    new = library.with_suffix(".new")
    shutil.copy(content, new)
    new.replace(library)


@pytest.fixture(params=[without_library, with_new_build, with_other_version])
def gone_library(request, start, until, own_copy) -> tuple[int, Interpreter]:
    """Give a process, and its interpreter, whose libpython is not at its path any more."""
    library_of(own_copy)
    pid = pid_with(until, start(own_copy, "/work/shares.py"))
    request.param(own_copy)
    return pid, own_copy


def test_a_library_that_is_gone_leaves_a_name_and_gives_no_wrong_stacks(gone_library, spy):
    """py-spy asks for the path, and not for what is mapped; then it says so."""
    pid, interpreter = gone_library
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", interpreter.version)
    assert process.unreadable == ""
    (result,) = spy.run([window(pid, seconds=1)], threading.Event())
    assert result.samples == ()
    assert "No such file" in result.detail
    assert result.failure


def test_a_library_that_is_gone_is_no_ended_process(start, until, spy, own_copy):
    library_of(own_copy)
    pid = pid_with(until, start(own_copy, "/work/shares.py"))
    without_library(own_copy)
    (result,) = spy.run([window(pid, seconds=1)], threading.Event())
    assert result.failure == "interpreter_files_gone"


def test_a_closed_directory_of_another_user_hides_nothing_from_root(start, until, spy, own_copy):
    shutil.chown(own_copy.prefix, runc.UID, runc.UID)
    own_copy.prefix.chmod(0o700)
    pid = pid_with(until, start(own_copy, "/work/shares.py"))
    assert seen(pid).unreadable == ""
    burns_are_seen(spy, pid)


@pytest.mark.skipif(MUSL is None, reason=f"no CPython with musl: {BUILT_BY} musl")
def test_an_interpreter_with_musl_is_named_and_sampled(start, until, spy):
    pid = pid_with(until, start(MUSL, "/work/shares.py"))
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "ld-musl" in maps
    assert "libc.so.6" not in maps
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", "3.11")
    assert process.unreadable == ""
    burns_are_seen(spy, pid)


@pytest.mark.skipif(
    FREE_THREADED is None, reason=f"no CPython without a GIL: {BUILT_BY} free-threaded"
)
def test_an_interpreter_without_a_gil_is_told_apart(start, until, spy):
    pid = pid_with(until, start(FREE_THREADED, "/work/sleeper.py"))
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", "3.13")
    assert process.unreadable == "free_threaded"
    # It is not sampled for that; if it were, it would say that it can't be read.
    (result,) = spy.run([window(pid, seconds=1)], threading.Event())
    assert result.failure == "interpreter_not_found"
    assert result.samples == ()
