"""Heaps of interpreters with a C library of their own, in containers."""

from __future__ import annotations

import pytest
from containers.looking import INTERPRETERS, MUSL, pid_with
from containers.rootfs import free_threaded_interpreter

from flamewell_agent.errors import HeapRefusedError
from flamewell_agent.heap.census import VERSIONS, parse_version, take_census
from flamewell_agent.heap.remote_memory import RemoteMemory

pytestmark = [pytest.mark.containers, pytest.mark.interpreters]

HEAP = ("/work/heap_of_known_objects.py", "-")
KNOWN = {**INTERPRETERS, **({"3.11-musl": MUSL} if MUSL else {})}


@pytest.mark.parametrize("name", KNOWN)
def test_a_census_from_outside_the_container(start, until, name):
    version = parse_version(KNOWN[name].version)
    memory = RemoteMemory(pid_with(until, start(KNOWN[name], *HEAP)))
    if not VERSIONS[0] <= version <= VERSIONS[1]:
        with pytest.raises(HeapRefusedError, match="is not known"):
            take_census(memory, version)
        return

    def counted():
        try:
            census = take_census(memory, version, pools=0)
        except HeapRefusedError:
            return None  # the interpreter has only just begun
        found = {each.name: each.count for each in census.types}
        return found if found.get("complex", 0) >= 6_000 else None

    found = until(counted, what="all objects")
    assert 20_000 <= found["__main__.Payment"] <= 20_300
    assert 15_000 <= found["__main__.Slotted"] <= 15_300
    assert 5_000 <= found["__main__.Mapping"] <= 5_300


def test_a_free_threaded_heap_is_refused(start, until):
    interpreter = free_threaded_interpreter()
    if interpreter is None:
        pytest.skip("no free-threaded interpreter: scripts/interpreters.sh free-threaded")
    pid = pid_with(until, start(interpreter, *HEAP))
    with pytest.raises(HeapRefusedError, match="no pools"):
        take_census(RemoteMemory(pid), (3, 13))
