"""Whatever stands below /proc: the scan gives all other processes, and costs a bounded amount."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flamewell_agent import procfs
from flamewell_agent.discovery import NOT_LOOKED_AT, Discovery
from flamewell_agent.identity.container import parse_placement
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.identity.service import python_service, tidy
from flamewell_agent.model import Batch, Frame, Process, ProcessKey, Profile
from flamewell_agent.otlp import encode
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_wire.profile_types import CPU

MIB = 1 << 20
GOOD_PID = 4_000_000
STAT = b"%d (%s) S 1 1 1 0 -1 4194304 0 0 0 0 5 6 0 0 20 0 1 0 77 0 0 1 1 1 1 %d"
MAPS_LINE = b"7f0000000000-7f0000200000 r-xp 00001000 fe:00 2 "
CONTAINER = "ab" * 32

Place = Callable[[Path], None]


def file(content: bytes) -> Place:
    def place(path: Path) -> None:
        path.write_bytes(content)

    return place


def link(target: str) -> Place:
    def place(path: Path) -> None:
        path.symlink_to(target)

    return place


odd_places = st.sampled_from(
    [
        lambda path: None,
        lambda path: path.mkdir(),
        link("/nowhere"),
        link("exe"),
        link("stat"),
        link("."),
        link("/etc/passwd"),
        link("\x0b\u2028\udcff"),
        link("/usr/bin/python3.11 (deleted)"),
    ]
)
separators = st.sampled_from([b"\0", b"\n", b" ", b":", b"\x0b", b"\x1c", b"\r", b"\xe2\x80\xa8"])
names = st.one_of(
    st.sampled_from([b"/usr/lib/libpython3.8.so", b"/a (deleted)", b"python3", b"-m", b"r-xp"]),
    st.binary(max_size=30),
)
words = st.lists(st.one_of(names, separators), max_size=12).map(b"".join)
stats = st.one_of(
    words,
    st.builds(lambda name, end: STAT % (1, name, end), words, st.integers(-(2**70), 2**70)),
    st.builds(
        lambda rest: b"1 (x) S " + b" ".join(b"%d" % n for n in rest),
        st.lists(st.integers(-(2**70), 2**70), min_size=18, max_size=30),
    ),
)
maps = st.one_of(
    words,
    st.lists(words, max_size=5).map(lambda each: b"\n".join(MAPS_LINE + line for line in each)),
)
cgroups = st.one_of(
    words, st.lists(words, max_size=4).map(lambda each: b"\n".join(b"0::/" + line for line in each))
)
numbers = st.lists(st.integers(-(2**70), 2**70), max_size=8).map(
    lambda each: b" ".join(b"%d" % n for n in each)
)


def places(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[Place]:
    return st.one_of(contents.map(file), odd_places)


processes = st.fixed_dictionaries(
    {
        "stat": st.one_of(stats.map(file), places(stats)),
        "cmdline": places(words),
        "cgroup": places(cgroups),
        "maps": places(maps),
        "statm": places(st.one_of(words, numbers)),
        "environ": places(words.map(lambda each: b"OTEL_SERVICE_NAME=" + each)),
        "exe": odd_places,
    }
)


def make(root: Path, pid: int, contents: dict[str, Place]) -> None:
    (root / str(pid)).mkdir()
    for name, place in contents.items():
        place(root / str(pid) / name)


def good(root: Path, pid: int = GOOD_PID) -> None:
    contents = {
        "stat": file(STAT % (pid, b"python", 1)),
        "cmdline": file(b"/usr/bin/python3.12\0shop.py\0"),
        "cgroup": file(b"0::/docker/" + CONTAINER.encode() + b"\n"),
        "maps": file(MAPS_LINE + b"/usr/lib/libpython3.12.so.1.0\n"),
        "statm": file(b"1000 200 50 1 0 100 0\n"),
        "environ": file(b""),
        "exe": link("/usr/bin/python3.12"),
    }
    make(root, pid, contents)


def identity(root: Path) -> Identity:
    return Identity("node", root, {})


def named(process: Process, root: Path) -> dict[str, str]:
    return dict(identity(root).subject(process).resource.attributes)


def look_at_all(root: Path) -> list[Process]:
    """Do with each process what a cycle does before it samples; encode what would be sent."""
    psutil.PROCFS_PATH = "/proc"  # for the size of the node's memory
    naming, memory = identity(root), MemoryReader(root, root / "no-cgroups")
    found = Discovery(root).scan()
    profiles = []
    for process in found:
        resource = naming.subject(process).resource
        memory.read(process)
        stack = ((Frame("f", "f.py", 1),), 1)
        profiles.append(Profile(resource, CPU.id, 1, 1, 1, (stack,)))
    assert encode(Batch(1, tuple(profiles)), agent_id="a")
    naming.keep_only(found)
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(processes, min_size=1, max_size=4))
def test_nothing_below_proc_hides_the_others(contents):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        good(root)
        for pid, each in enumerate(contents, start=7):
            make(root, pid, each)
        (process,) = (each for each in look_at_all(root) if each.key.pid == GOOD_PID)
        assert process.runtime == "cpython"
        attributes = named(process, root)
        assert attributes["service.name"] == "shop"
        assert attributes["container.id"] == CONTAINER


@pytest.mark.parametrize(
    "separator", ["\x0b", "\x0c", "\r", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_only_a_line_feed_ends_a_line(separator):
    """The kernel escapes no other end of a line: a file's or a cgroup's name may hold them all."""
    path = f"/tmp/a{separator}zz r-xp 0 0 0 /usr/lib/libpython3.8.so"
    (mapped,) = procfs.executable_maps(MAPS_LINE + path.encode() + b"\n")
    assert mapped.path == path
    cgroup = f"/docker/{CONTAINER}/x{separator}0::/kubepods/{'cd' * 32}"
    assert procfs.parse_cgroup(f"0::{cgroup}\n".encode()) == cgroup


def test_a_mapped_file_may_have_any_name(tmp_path, spawn, until):
    """Nothing of this is theory: each user can map a file of such a name."""
    library = tmp_path / "a\u2028zz r-xp 0 0 0 \u2028x"
    shutil.copy("/bin/true", library)
    code = (
        "import mmap, os, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "held = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)\n"
        "time.sleep(99)\n"
    )
    target = spawn(sys.executable, "-c", code, str(library))
    until(lambda: b"zz r-xp" in Path(f"/proc/{target.pid}/maps").read_bytes())
    found = {each.key.pid: each for each in Discovery().scan()}
    assert found[target.pid].runtime == "cpython"
    assert found[os.getpid()].runtime == "cpython"


@settings(max_examples=300)
@given(st.text(max_size=300))
@example("/" + "a" * 100_000)
@example("/kubepods" * 20_000)
@example("/pod" + "0" * 100_000)
@example("/nomad/" * 20_000)
@example("/x.service" * 20_000)
@example("/ecs/" * 20_000)
@example("/nomad.slice/share.slice/" + "0" * 8 + "-0000" * 3 + "-" + "0" * 12 + "." + "." * 100_000)
def test_any_cgroup_path_tells_something_that_is_fit_for_a_label(cgroup):
    placement = parse_placement(cgroup)
    assert len(placement.container_id) <= 64
    assert set(placement.container_id) <= set("0123456789abcdef-")
    assert len(placement.pod_uid) <= 36


hostile_arguments = st.lists(
    st.one_of(
        st.sampled_from(["-m", "-c", "-", "-W", "/", "//", ".py", "a/", "-X", "/app.py"]),
        st.text(st.characters(codec=None), max_size=40),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(st.sampled_from(["python3", "", "python", "x\udcff", "python3.11"]), hostile_arguments)
@example("python", ["python", *(["-W", "x"] * 50_000)])
@example("python", ["python", "/" * 1_000_000])
@example("python", ["python", "\udcff" * 1_000_000])
@example("python", ["python", *(["-x"] * 500_000)])
@example("python", ["", *([""] * 500_000)])
@example("python", ["gunicorn: " * 100_000])
@example("python", ["[celeryd: " * 100_000])
def test_any_arguments_make_a_name(executable, arguments):
    cmdline = procfs.parse_cmdline("\0".join(arguments).encode("utf-8", "surrogatepass"))
    began = time.process_time()
    name = python_service(executable, cmdline)
    assert time.process_time() - began < 20  # no measurement: quadratic would be minutes
    assert 0 < len(name) <= 120
    assert name.isprintable()
    name.encode()
    assert tidy(name) == name


@pytest.mark.parametrize("statm", [b"1 2", b"1 99 -5", b"1 -7 2", b"1 %d 1" % 2**70, b"9" * 9999])
def test_a_statm_that_is_none_does_not_spoil_a_batch(tmp_path, statm):
    make(tmp_path, 7, {"statm": file(statm)})
    reading = MemoryReader(tmp_path, tmp_path).read(
        Process(ProcessKey(7, 1), "cpython", "", "x", ())
    )
    if reading is not None:
        assert 0 <= reading.anon_bytes < 2**63
        assert 0 <= reading.rss_bytes < 2**63


@pytest.mark.parametrize("cgroup", ["/a\0b", "/" + "x/" * 2000, "/" + "x" * 5000, "/\udcff", "/.."])
def test_a_cgroup_path_that_is_none_has_no_limit(tmp_path, cgroup):
    make(tmp_path, 7, {"statm": file(b"1 2 3")})
    process = Process(ProcessKey(7, 1), "cpython", "", "x", (), cgroup=cgroup)
    reading = MemoryReader(tmp_path, tmp_path / "cgroup").read(process)
    assert reading is not None
    assert reading.limit_bytes == 0


@pytest.mark.parametrize("limit", [b"9" * 10_000, b"-1", b"\xff", b"1_000", b""])
def test_a_limit_that_is_none(tmp_path, limit):
    make(tmp_path, 7, {"statm": file(b"1 2 3")})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "memory.max").write_bytes(limit)
    process = Process(ProcessKey(7, 1), "cpython", "", "x", (), cgroup="/c")
    reading = MemoryReader(tmp_path, tmp_path).read(process)
    assert reading is not None
    assert reading.limit_bytes == 0


def test_cgroups_that_come_and_go_are_not_remembered_for_ever(tmp_path):
    make(tmp_path, 7, {"statm": file(b"1 2 3")})
    reader = MemoryReader(tmp_path, tmp_path / "none")
    for number in range(10_500):
        reader.read(Process(ProcessKey(7, 1), "other", "", "x", (), cgroup=f"/{number}"))
    assert len(reader._limits) <= 10_000


def test_endless_files_are_cut_and_cost_little(tmp_path):
    """1 MiB is read of each; none of the parsers may take more than a few times that."""
    good(tmp_path)
    endless = {
        "stat": file(STAT % (7, b"x", 1)),
        "cmdline": file(b"python\0" + b"-x\0" * (2 * MIB)),
        "cgroup": file(b"0::/x\n" * MIB),
        "maps": file(b"".join(MAPS_LINE + b"/x%d\n" % n for n in range(80_000))),
        "statm": file(b"1 2 3" * MIB),
        "environ": file(b"A=B\0" * (2 * MIB)),
        "exe": link("/usr/bin/python3"),
    }
    make(tmp_path, 7, endless)
    tracemalloc.start()
    began = time.process_time()
    try:
        found = look_at_all(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {each.key.pid for each in found} == {7, GOOD_PID}
    assert peak < 100 * MIB
    assert time.process_time() - began < 30  # no measurement


def test_what_is_remembered_of_processes_with_endless_arguments_is_bounded(tmp_path):
    """A hundred processes with 1 MiB of arguments: the agent's goal is 100 MiB for all it does."""
    arguments = file(b"/usr/bin/python3\0" + b"-x\0" * MIB)
    for pid in range(10, 110):
        make(
            tmp_path,
            pid,
            {
                "stat": file(STAT % (pid, b"python", 1)),
                "cmdline": arguments,
                "cgroup": file(b"0::/x"),
                "maps": file(b""),
                "exe": link("/usr/bin/python3"),
            },
        )
    discovery = Discovery(tmp_path)
    tracemalloc.start()
    try:
        found = discovery.scan()
        assert len(found) == 100
        assert tracemalloc.get_traced_memory()[0] < 30 * MIB
    finally:
        tracemalloc.stop()


def test_a_node_full_of_processes(tmp_path):
    """20,000 at once: those that there is no time for are named, and remembered cheaply."""
    for pid in range(10, 20_010):
        os.mkdir(tmp_path / str(pid))  # noqa: PTH102 - many
        with open(tmp_path / str(pid) / "stat", "wb") as out:  # noqa: PTH123 - many
            out.write(STAT % (pid, b"x", 1))
    good(tmp_path)
    discovery = Discovery(tmp_path)
    tracemalloc.start()
    try:
        found = discovery.scan(look_cpu_seconds=0.0)
        assert tracemalloc.get_traced_memory()[0] < 40 * MIB
    finally:
        tracemalloc.stop()
    assert len(found) >= 20_000
    assert {each.unreadable for each in found[-100:]} == {NOT_LOOKED_AT}
