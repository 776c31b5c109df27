"""Memory readings agree with the kernel's; limits come from wherever this kind of node has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent import procfs
from flamewell_agent.model import MemoryReading, Process, ProcessKey, Resource
from flamewell_agent.samplers.memory import MemoryReader, memory_profiles, parse_statm
from flamewell_wire.profile_types import (
    PROCESS_ANON,
    PROCESS_LIMIT,
    PROCESS_RSS,
    PROCESS_START,
)

MIB = 1 << 20
HOG = """
import mmap, time
anonymous = bytearray(64 << 20)
shared = mmap.mmap(-1, 32 << 20)
shared.write(bytes(32 << 20))
print("ready", flush=True)
time.sleep(99)
"""


def process(pid: int, cgroup: str = "/") -> Process:
    return Process(ProcessKey(pid, 1), "cpython", "3.11", "python", (), cgroup=cgroup)


@pytest.fixture
def cgroups(tmp_path):
    """A cgroup root to write limits into."""

    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return tmp_path, write


def limit(root: Path, cgroup: str) -> int:
    reading = MemoryReader(Path("/proc"), root).read(process(os.getpid(), cgroup))
    assert reading is not None
    return reading.limit_bytes


def test_anonymous_memory_is_told_from_shared():
    with subprocess.Popen([sys.executable, "-c", HOG], stdout=subprocess.PIPE) as hog:
        try:
            assert hog.stdout is not None
            hog.stdout.readline()
            reading = MemoryReader(Path("/proc"), Path("/nowhere")).read(process(hog.pid))
            seen = psutil.Process(hog.pid).memory_info()
        finally:
            hog.kill()
    assert reading is not None
    assert abs(reading.rss_bytes - seen.rss) < 4 * MIB
    assert 64 * MIB <= reading.anon_bytes < 90 * MIB
    assert reading.rss_bytes >= reading.anon_bytes + 32 * MIB


def test_the_start_of_a_process_is_told():
    own = psutil.Process()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    reading = MemoryReader(Path("/proc"), Path("/nowhere")).read(
        Process(ProcessKey(own.pid, ticks), "cpython", "3.11", "python", ())
    )
    assert reading is not None
    assert abs(reading.started_seconds - own.create_time()) <= 1.1


@given(st.binary(max_size=60))
def test_any_stat_is_survived(content):
    assert procfs.parse_boot(content) >= 0
    assert procfs.parse_boot(b"cpu 1\nbtime 1700000000\n" + content) == 1_700_000_000


def test_a_process_that_is_gone_has_no_reading(tmp_path):
    assert MemoryReader(tmp_path, tmp_path).read(process(1)) is None


def test_a_statm_that_is_none(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "statm").write_text("what")
    assert MemoryReader(tmp_path, tmp_path).read(process(1)) is None


@given(st.binary(max_size=60))
def test_any_statm_is_survived(content):
    parse_statm(content)


def test_statm():
    assert parse_statm(b"1000 200 50 1 0 100 0\n") == (200, 50)
    assert parse_statm(b"") is None


def test_the_limit_on_cgroup_v2_is_the_nearest_that_binds(cgroups):
    root, write = cgroups
    write("kubepods/pod1/memory.max", f"{256 * MIB}\n")
    write("kubepods/pod1/c/memory.max", "max\n")
    assert limit(root, "/kubepods/pod1/c") == 256 * MIB
    write("kubepods/pod1/c/memory.max", f"{64 * MIB}\n")
    assert limit(root, "/kubepods/pod1/c") == 64 * MIB
    write("kubepods/memory.max", f"{32 * MIB}\n")
    assert limit(root, "/kubepods/pod1/c") == 32 * MIB


def test_the_limit_on_cgroup_v1_and_hybrid(cgroups):
    root, write = cgroups
    write("memory/docker/c/memory.limit_in_bytes", f"{128 * MIB}\n")
    write("unified/docker/c/cgroup.procs", "")
    assert limit(root, "/docker/c") == 128 * MIB


def test_no_limit_is_zero(cgroups):
    root, write = cgroups
    assert limit(root, "/none") == 0
    write("memory/x/memory.limit_in_bytes", "9223372036854771712\n")
    assert limit(root, "/x") == 0
    write("y/memory.max", "nonsense\n")
    assert limit(root, "/y") == 0


def test_a_cgroup_path_cannot_lead_out_of_the_root(cgroups):
    root, write = cgroups
    write("outside/memory.max", f"{MIB}\n")
    (root / "inside").mkdir()
    assert limit(root / "inside", "/../outside") == 0


def test_a_changed_limit_is_seen_after_a_while(cgroups):
    root, write = cgroups
    write("c/memory.max", f"{64 * MIB}\n")
    now = [0.0]
    reader = MemoryReader(Path("/proc"), root, clock=lambda: now[0])
    one = process(os.getpid(), "/c")
    assert reader.read(one).limit_bytes == 64 * MIB
    write("c/memory.max", f"{32 * MIB}\n")
    assert reader.read(one).limit_bytes == 64 * MIB
    now[0] = 121.0
    assert reader.read(one).limit_bytes == 32 * MIB


def test_processes_of_a_service_are_added_up_their_limit_is_not():
    shop, other = Resource.of({"service.name": "shop"}), Resource.of({"service.name": "other"})
    profiles = memory_profiles(
        {
            shop: [MemoryReading(10, 30, 100, 700), MemoryReading(5, 20, 100, 600)],
            other: [MemoryReading(1, 2, 0)],
        },
        1234,
    )
    found = {(each.resource, each.type_id): each for each in profiles}
    values = {key: sum(value for _, value in each.samples) for key, each in found.items()}
    assert values == {
        (shop, PROCESS_ANON.id): 15,
        (shop, PROCESS_RSS.id): 50,
        (shop, PROCESS_LIMIT.id): 100,
        (shop, PROCESS_START.id): 600,
        (other, PROCESS_ANON.id): 1,
        (other, PROCESS_RSS.id): 2,
    }
    for each in profiles:
        assert (each.start_unix_nanos, each.duration_nanos, each.period) == (1234, 0, 1)
        assert [stack for stack, _ in each.samples] == [()]
