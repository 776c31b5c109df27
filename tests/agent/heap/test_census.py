"""Real heaps of every CPython that is installed, counted from outside."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.conftest import INTERPRETERS, TARGETS, Spawn

from flamewell_agent.cli import main
from flamewell_agent.errors import HeapRefusedError, ProcessGoneError
from flamewell_agent.heap import report
from flamewell_agent.heap.census import parse_version, take_census
from flamewell_agent.heap.remote_memory import RemoteMemory
from flamewell_wire.attributes import OTHER_BLOCKS_FRAME

TARGET = str(TARGETS / "heap_of_known_objects.py")
COUNTS = {
    "__main__.Payment": 20_000, "__main__.Slotted": 15_000, "__main__.Mapping": 5_000,
    "float": 30_000, "set": 4_000, "complex": 6_000,
}  # fmt: skip
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
COUNTABLE = [each for each in INTERPRETERS if (3, 8) <= parse_version(each) <= (3, 14)]
OTHERS = [each for each in INTERPRETERS if each not in COUNTABLE]
Until = Callable[..., object]


@pytest.fixture
def target(spawn: Spawn, until: Until, tmp_path: Path) -> Callable[..., int]:
    """Start one; give its pid once all its objects are there."""

    def start(version: str = OWN, *words: str, **env: str) -> int:
        mark = tmp_path / f"mark{version}"
        process = spawn(INTERPRETERS[version], TARGET, str(mark), *words, env=env)
        until(mark.exists, what="the target")
        return process.pid

    return start


@pytest.mark.interpreters
@pytest.mark.parametrize("version", COUNTABLE)
def test_a_full_census_is_exact(target: Callable[..., int], version: str) -> None:
    pid = target(version)
    # What goes on meanwhile would make two looks differ.
    os.kill(pid, signal.SIGSTOP)
    census = take_census(RemoteMemory(pid), parse_version(version), pools=0)
    found = {each.name: each for each in census.types}
    for name, count in COUNTS.items():
        assert count <= found[name].count <= count + 300, name
        assert found[name].count_error == 0
    assert found["str"].count >= COUNTS["__main__.Payment"]
    total = sum(each.size_bytes for each in census.types)
    assert total == pytest.approx(census.used_bytes, rel=0.001)
    assert census.pools == census.pools_read
    assert 0.8 < census.occupancy <= 1
    assert found[OTHER_BLOCKS_FRAME].size_bytes < 0.6 * total


@pytest.mark.interpreters
@pytest.mark.parametrize("version", COUNTABLE)
def test_a_sample_is_as_far_off_as_it_says(target: Callable[..., int], version: str) -> None:
    pid = target(version)
    os.kill(pid, signal.SIGSTOP)
    memory, uniform = RemoteMemory(pid), random.Random(7).random
    sizes = []
    for _ in range(12):
        census = take_census(memory, parse_version(version), pools=200, uniform=uniform)
        assert census.pools_read < 300
        found = {each.name: each for each in census.types}
        sizes += [
            (found[name].count - count) / found[name].count_error
            for name, count in COUNTS.items()
            if name in found and found[name].count_error > 10
        ]
    # In units of the stated error: of a normal distribution, .95 are within 2, and half within .67.
    # Types that lie in few pools have longer tails.
    assert sum(abs(each) < 2 for each in sizes) > 0.8 * len(sizes)
    assert 0.3 < statistics.median(abs(each) for each in sizes) < 1.2


def test_what_grows_is_told_from_what_comes_and_goes(
    target: Callable[..., int], until: Until
) -> None:
    pid = target(OWN, "4000")
    memory, version = RemoteMemory(pid), parse_version(OWN)
    first = take_census(memory, version, pools=300)

    def grown() -> report.Growth | None:
        second = take_census(memory, version, pools=300, before=first)
        rows = [each for each in report.growth(first, second) if each.is_sure]
        found = {each.name: each for each in rows if each.count > 3_000}
        assert "__main__.Payment" not in found
        return found.get("__main__.Slotted")

    until(grown, what="growth")


def test_of_a_large_heap_every_nth_place_is_looked_at(target: Callable[..., int]) -> None:
    pid = target(OWN, "4000")
    memory, version = RemoteMemory(pid), parse_version(OWN)
    first = take_census(memory, version, pools=0, headers=200)
    assert first.sample.step > 2
    assert len(first.sample.pools) <= 200
    found = {each.name: each.count for each in first.types}
    for name in ("__main__.Payment", "float"):
        assert 0.6 * COUNTS[name] < found[name] < 1.6 * COUNTS[name]
    second = take_census(memory, version, pools=0, headers=100, before=first)
    assert second.sample.step == first.sample.step
    assert len(first.sample.pools & second.sample.pools) > 0.8 * len(first.sample.pools)


def test_a_process_that_is_still_has_not_grown(target: Callable[..., int]) -> None:
    pid = target()
    os.kill(pid, signal.SIGSTOP)
    memory, version = RemoteMemory(pid), parse_version(OWN)
    first = take_census(memory, version, pools=100)
    second = take_census(memory, version, pools=100, before=first)
    assert {each.count for each in report.growth(first, second)} <= {0}
    assert set(first.sample.read) == set(second.sample.read)


@pytest.mark.parametrize("version", OTHERS)
def test_other_versions_are_refused(target: Callable[..., int], version: str) -> None:
    with pytest.raises(HeapRefusedError, match=r"is not known: 3\.8 to 3\.14 are"):
        take_census(RemoteMemory(target(version)), parse_version(version))


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"PYTHONMALLOC": "malloc"}, "no pools of CPython's allocator"),
        ({"PYTHONMALLOC": "debug"}, "PYTHONMALLOC=debug"),
        ({"PYTHONDEVMODE": "1"}, "PYTHONMALLOC=debug"),
        ({"PYTHONMALLOC": "malloc_debug"}, "no pools of CPython's allocator"),
    ],
)
def test_other_allocators_are_refused(
    target: Callable[..., int], env: dict[str, str], why: str
) -> None:
    with pytest.raises(HeapRefusedError, match=why):
        take_census(RemoteMemory(target(**env)), parse_version(OWN))


def test_a_program_without_python_is_refused(spawn: Spawn) -> None:
    with pytest.raises(HeapRefusedError, match="no pools"):
        take_census(RemoteMemory(spawn("/usr/bin/sleep", "99").pid), (3, 11))


def test_a_process_that_is_gone(spawn: Spawn) -> None:
    process = spawn("/usr/bin/true")
    process.wait()
    with pytest.raises(ProcessGoneError):
        take_census(RemoteMemory(process.pid), (3, 11))


@pytest.mark.parametrize("text", ["", "3", "three", "3.13t"])
def test_versions_that_are_not_known(text: str) -> None:
    with pytest.raises(HeapRefusedError, match="version"):
        parse_version(text)


class TestCommand:
    def test_a_table(self, target: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["heap", str(target())]) == 0
        first, head, *rows = capsys.readouterr().out.splitlines()
        assert "pools of small objects" in first
        assert head.split() == ["OBJECTS", "±", "SIZE", "TYPE"]
        assert {"__main__.Payment", "__main__.Slotted", "float"} <= {
            each.split()[-1] for each in rows
        }

    def test_growth_as_json(
        self, target: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        pid = target(OWN, "8000")
        assert main(["heap", str(pid), "--full", "--again", "1", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["pools"] == told["pools_read"]
        grown = {each["name"]: each["count"] for each in told["growth"]}
        assert grown["__main__.Slotted"] >= 400
        assert 1 <= told["seconds"] < 30

    def test_growth_as_a_table(
        self, target: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["heap", str(target(OWN, "8000")), "--full", "--again", "1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(each.endswith("  __main__.Slotted *") for each in lines)

    def test_names_can_be_kept_back(
        self, target: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["heap", str(target()), "--full", "--heap-redact", "__main__.*"]) == 0
        text = capsys.readouterr().out
        assert "Payment" not in text
        assert re.search(r"^ +4\d,\d{3} .* MiB  \(redacted\)$", text, re.MULTILINE)
        assert "  float\n" in text

    def test_errors(self, spawn: Spawn, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["heap", "999999999"]) == 1
        assert "there is no process 999999999" in capsys.readouterr().err
        assert main(["heap", str(spawn("/usr/bin/sleep", "99").pid)]) == 1
        assert "does not run CPython" in capsys.readouterr().err


LIBRARIES = """
import collections, decimal, sys, time
class Inner:
    class Nested: pass
kept = [
    [decimal.Decimal(number) for number in range(900)],
    [collections.OrderedDict() for number in range(800)],
    [collections.Counter() for number in range(700)],
    [Inner.Nested() for number in range(600)],
]
Inner.Nested.__module__ = "shop.cart"
open(sys.argv[1], "w").close()
time.sleep(99)
"""


@pytest.mark.interpreters
@pytest.mark.parametrize("version", COUNTABLE)
def test_types_are_named_with_their_modules(
    spawn: Spawn, until: Until, tmp_path: Path, version: str
) -> None:
    mark = tmp_path / "mark"
    pid = spawn(INTERPRETERS[version], "-c", LIBRARIES, str(mark)).pid
    until(mark.exists, what="the target")
    census = take_census(RemoteMemory(pid), parse_version(version), pools=0)
    found = {each.name: each.count for each in census.types}
    assert found["decimal.Decimal"] == pytest.approx(900, abs=10)
    assert found["collections.OrderedDict"] == pytest.approx(800, abs=20)
    assert found["collections.Counter"] == 700
    assert found["shop.cart.Nested"] == 600
    assert "dict" in found
