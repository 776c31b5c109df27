"""What is told of processes in containers: who they are, and their limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from containers import runc
from containers.looking import INTERPRETERS, pid_with, seen

from flamewell_agent.identity.container import parse_placement
from flamewell_agent.samplers.memory import MemoryReader

pytestmark = [pytest.mark.containers]

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


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
