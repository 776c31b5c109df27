"""Workers are their parent's service: forked, spawned, with titles, and real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from agent.conftest import TARGETS

from flamewell_agent.discovery import Discovery
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.model import Process, ProcessKey
from flamewell_agent.relabel import parse_rules

PREFORKING = str(TARGETS / "preforking.py")
ROOM_FOR_A_TITLE = "x" * 80
STAT = "{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 5 6 0 0 20 0 1 0 1 0 0 1 1 1 1 9"


@pytest.fixture(autouse=True)
def _proc_is_restored(monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/proc")


def tree(pid: int) -> set[int]:
    root = psutil.Process(pid)
    return {pid, *(each.pid for each in root.children(recursive=True))}


def names(identity: Identity, processes: list[Process]) -> set[str]:
    return {identity.subject(each).service_name for each in processes}


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("fork", 3),
        ("spawn", 4),  # with multiprocessing's resource tracker
        ("forkserver", 5),  # with that, and the server that forks
        ("title", 3),
        ("deep", 5),
    ],
)
@pytest.mark.parametrize("order", ["met", "children first"])
def test_real_workers_have_one_name(spawn, until, mode, size, order):
    target = spawn(sys.executable, PREFORKING, mode, ROOM_FOR_A_TITLE)

    def settled() -> list[Process]:
        pids = tree(target.pid)
        # Each time a new scan: titles are written after the start.
        found = [each for each in Discovery().scan() if each.key.pid in pids]
        titled = sum(each.cmdline[:1] != (sys.executable,) for each in found)
        ready = len(found) == size and (mode != "title" or titled == size)
        return found if ready and all(each.runtime == "cpython" for each in found) else []

    processes = until(settled, what="the workers")
    assert isinstance(processes, list)
    identity = Identity("n", Path("/proc"), {})
    if order == "met":
        identity.meet(processes)
    else:
        names(identity, sorted(processes, key=lambda each: -each.key.pid))
        identity.keep_only(processes)
    assert names(identity, processes) == {"shop.wsgi" if mode == "title" else "preforking"}
    assert len({identity.subject(each).resource for each in processes}) == 1


def worker(pid: int, parent: int, *arguments: str, **changed: object) -> Process:
    fields = {
        "key": ProcessKey(pid, 1),
        "runtime": "cpython",
        "runtime_version": "3.11",
        "executable": "python3.11",
        "cmdline": ("python", *arguments),
        "cgroup": "/a",
        "parent_pid": parent,
        **changed,
    }
    return Process(**fields)


def test_who_is_not_of_the_same_program_keeps_its_name(tmp_path):
    server = worker(10, 1, "shop.py")
    others = [
        worker(11, 10, "-c", "x", executable="python3.12"),
        worker(12, 10, "-c", "x", cgroup="/b"),
        worker(13, 10, "other.py"),
        worker(14, 99, "-c", "x"),
    ]
    identity = Identity("n", tmp_path, {})
    identity.meet([server, *others])
    found = [identity.subject(each).service_name for each in others]
    assert found == ["python3.12", "python3.11", "other", "python3.11"]


def write(root: Path, pid: int, environ: bytes = b"") -> None:
    (root / str(pid)).mkdir(exist_ok=True)
    (root / str(pid) / "environ").write_bytes(environ)
    (root / str(pid) / "stat").write_text(STAT.format(pid=pid))


def test_a_worker_has_what_its_parent_says_of_itself_unless_it_says_more(tmp_path):
    write(tmp_path, 10, b"OTEL_RESOURCE_ATTRIBUTES=service.name=checkout,service.version=3\0")
    write(tmp_path, 11)
    write(tmp_path, 12, b"OTEL_SERVICE_NAME=mail\0")
    write(tmp_path, 13)
    parent, forked = worker(10, 1, "shop.py"), worker(11, 10, "shop.py")
    named, other = worker(12, 10, "-c", "x"), worker(13, 10, "report.py")
    identity = Identity("n", tmp_path, {})
    identity.meet([parent, forked, named, other])
    found = [dict(identity.subject(each).resource.attributes) for each in (forked, named, other)]
    assert [each["service.name"] for each in found] == ["checkout", "mail", "report"]
    assert [each.get("service.version") for each in found] == ["3", "3", None]


def test_a_parent_that_ended_has_given_its_name(tmp_path):
    parent, child = worker(10, 1, "shop.py"), worker(11, 10, "-c", "x")
    identity = Identity("n", tmp_path, {})
    identity.meet([parent, child])
    assert identity.subject(child).service_name == "shop"
    identity.keep_only([child])
    assert identity.subject(child).service_name == "shop"


def test_endless_chains_and_circles_end(tmp_path):
    chain = [worker(pid, pid - 1, "-c", "x") for pid in range(2, 5000)]
    circle = [worker(6000, 6001, "-c", "x"), worker(6001, 6000, "-c", "x")]
    own = worker(7000, 7000, "-c", "x")
    identity = Identity("n", tmp_path, {})
    identity.meet([worker(1, 0, "shop.py"), *chain, *circle, own])
    assert names(identity, [chain[-1], *circle, own]) == {"python3.11"}
    # In the order of their pids, as a scan gives them, each finds its parent named.
    assert names(Identity("n", tmp_path, {}), []) == set()
    fresh = Identity("n", tmp_path, {})
    fresh.meet([worker(1, 0, "shop.py"), *chain])
    assert names(fresh, chain) == {"shop"}


def test_a_name_that_rules_made_is_not_made_twice(tmp_path):
    rules = parse_rules(
        [
            {
                "source_labels": ["service_name"],
                "target_label": "service_name",
                "replacement": "team-$1",
            }
        ]
    )
    parent, child = worker(os.getpid(), 1, "shop.py"), worker(11, os.getpid(), "-c", "x")
    identity = Identity("n", tmp_path, {}, rules=rules)
    identity.meet([parent, child])
    assert names(identity, [parent, child]) == {"team-shop"}
