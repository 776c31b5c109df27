"""What is told of processes in containers: who they are, their limits, and what hides them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from agent.pyspy_windows import functions, window
from containers import runc
from containers.rootfs import INSIDE, Interpreter, interpreters

from flamewell_agent.discovery import Discovery
from flamewell_agent.identity.container import parse_placement
from flamewell_agent.model import Process
from flamewell_agent.samplers.memory import MemoryReader

pytestmark = [pytest.mark.containers]

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
INTERPRETERS = interpreters()
BOUND = next((each for each in INTERPRETERS.values() if each.prefix is not None), None)


def seen(pid: int) -> Process:
    (found,) = [each for each in Discovery().scan() if each.key.pid == pid]
    return found


def pid_with(until, running: runc.Running) -> int:
    """Give the pid once it runs the interpreter: runc's own stub comes first."""
    until(lambda: "python" in Path(f"/proc/{running.pid}/comm").read_text(), what="the interpreter")
    until(lambda: b"libc" in Path(f"/proc/{running.pid}/maps").read_bytes(), what="its libraries")
    return running.pid


@pytest.mark.interpreters
@pytest.mark.parametrize("version", INTERPRETERS)
def test_discovery_names_each_version_in_a_container(start, until, version):
    pid = pid_with(until, start(INTERPRETERS[version], "/work/sleeper.py"))
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", version)
    assert process.unreadable == ""


def test_the_cgroup_of_a_container_gives_its_id(start, until, interpreter):
    running = start(interpreter, "/work/sleeper.py")
    process = seen(pid_with(until, running))
    assert parse_placement(process.cgroup).container_id == running.id


def test_the_memory_limit_is_the_containers(start, until, interpreter):
    limits = runc.Limits(memory_bytes=192 << 20)
    process = seen(pid_with(until, start(interpreter, "/work/sleeper.py", limits=limits)))
    reading = MemoryReader(PROC, CGROUPS).read(process)
    assert reading is not None
    assert reading.limit_bytes == limits.memory_bytes
    assert 0 < reading.anon_bytes < reading.rss_bytes < limits.memory_bytes


def test_the_memory_limit_of_a_version_two_machine_is_found_by_the_same_path(
    start, until, interpreter, tmp_path
):
    process = seen(pid_with(until, start(interpreter, "/work/sleeper.py")))
    group = tmp_path / process.cgroup.lstrip("/")
    group.mkdir(parents=True)
    (group / "memory.max").write_text("100663296\n")
    (group.parent / "memory.max").write_text("max\n")
    reading = MemoryReader(PROC, tmp_path).read(process)
    assert reading is not None
    assert reading.limit_bytes == 96 << 20


def test_no_group_is_left_of_a_container_that_is_deleted(tmp_path, interpreter):
    tmp_path.chmod(0o755)
    with runc.container(tmp_path, interpreter, ["/work/sleeper.py"]) as running:
        assert runc.leftovers(running.id)
    assert runc.leftovers(running.id) == []
    assert not Path(f"/proc/{running.pid}/exe").exists()


@pytest.fixture
def own_copy(tmp_path_factory: pytest.TempPathFactory):
    """Give an interpreter whose files may be deleted; it is at no path of the host's inside."""
    if BOUND is None or BOUND.prefix is None:
        pytest.skip("no interpreter outside of /usr")
    prefix = tmp_path_factory.mktemp("copy") / "prefix"
    shutil.copytree(
        BOUND.prefix,
        prefix,
        symlinks=True,
        ignore=shutil.ignore_patterns("test", "site-packages", "*.a", "__pycache__", "share"),
    )
    return Interpreter(BOUND.version, BOUND.python, prefix=prefix)


def test_an_interpreter_that_only_the_container_has_is_sampled(start, until, spy):
    if BOUND is None:
        pytest.skip("no interpreter outside of /usr")
    pid = pid_with(until, start(BOUND, "/work/shares.py"))
    assert not Path(INSIDE).exists()
    (result,) = spy.run([window(pid, seconds=3)], threading.Event())
    assert result.failure == "", result.detail
    assert functions(result).get("burn_sixty", 0) > 0


def test_a_deleted_interpreter_is_still_cpython_and_sampled(start, until, spy, own_copy):
    pid = pid_with(until, start(own_copy, "/work/shares.py"))
    shutil.rmtree(own_copy.prefix / "bin")
    assert str(Path(f"/proc/{pid}/exe").readlink()).endswith(" (deleted)")
    process = seen(pid)
    assert (process.runtime, process.runtime_version) == ("cpython", own_copy.version)
    (result,) = spy.run([window(pid, seconds=3)], threading.Event())
    assert result.failure == "", result.detail
    assert functions(result).get("burn_sixty", 0) > 0


def test_a_closed_directory_of_another_user_hides_nothing_from_root(start, until, spy, own_copy):
    closed = own_copy.prefix
    shutil.chown(closed, runc.UID, runc.UID)
    closed.chmod(0o700)
    pid = pid_with(until, start(own_copy, "/work/shares.py"))
    assert seen(pid).unreadable == ""
    (result,) = spy.run([window(pid, seconds=3)], threading.Event())
    assert result.failure == "", result.detail
    assert functions(result).get("burn_sixty", 0) > 0


LOOK = """
import json, sys
from pathlib import Path
from flamewell_agent.checks import check_hidepid, parse_capabilities
from flamewell_agent.discovery import Discovery
pid = int(sys.argv[1])
capabilities = parse_capabilities(Path("/proc/self/status").read_text())
check = check_hidepid(Path("/proc/self/mounts").read_text(), "/proc", capabilities)
found = [p for p in Discovery().scan() if p.key.pid == pid]
print(json.dumps({
    "status": check.status, "says": check.detail,
    "runtime": found[0].runtime if found else "hidden",
    "unreadable": found[0].unreadable if found else "",
}))
"""


def look_with_hidepid(pid: int, *wrapper: str) -> dict[str, str]:
    """Look from a mount namespace whose /proc hides others, behind a command that drops rights.

    As root's uid, so that our own files can be read: hidepid asks for the capability or the
    target's uid, and that is another one.
    """
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh",
         *wrapper, sys.executable, "-c", LOOK, str(pid)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hidepid_is_lifted_by_the_capability(start, until, interpreter):
    pid = pid_with(until, start(interpreter, "/work/sleeper.py"))
    told = look_with_hidepid(pid)
    assert (told["status"], told["runtime"], told["unreadable"]) == ("ok", "cpython", "")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing: util-linux")
def test_hidepid_without_the_capability_hides_others_and_check_says_so(start, until, interpreter):
    pid = pid_with(until, start(interpreter, "/work/sleeper.py"))
    # The mount's group sees all, and that is group 0 unless it says gid=.
    told = look_with_hidepid(
        pid, "setpriv", "--regid=65534", "--clear-groups", "--bounding-set=-sys_ptrace"
    )
    assert told["status"] == "fail"
    assert "hidepid" in told["says"]
    assert told["runtime"] == "hidden"
