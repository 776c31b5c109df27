"""Drives a GoSampler as the daemon does, against Go programs that are really there."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from end_to_end.go_toolchain import build

from flamewell_agent.discovery import Discovery
from flamewell_agent.model import Process, Profile, Resource, Scrape, Subject
from flamewell_agent.samplers.gopprof import GoOptions, GoSampler

REPOSITORY = Path(__file__).parent.parent.parent
TARGET = REPOSITORY / "tests" / "targets" / "go"
ORDERS = REPOSITORY / "examples" / "orders"


def built(factory: pytest.TempPathFactory, source: Path) -> str:
    """Build a Go program, once a session."""
    program = factory.getbasetemp() / f"program-{source.name}"
    return str(program) if program.exists() else build(source, program)


@contextlib.contextmanager
def running(*command: str) -> Iterator[tuple[Process, str]]:
    """Run a Go program that prints its address; give it as the agent sees it, and that address."""
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = program.stdout.readline().strip()
        yield discovered(program.pid), address
    finally:
        program.kill()
        program.communicate()


def discovered(pid: int) -> Process:
    """Give a process as the agent's discovery finds it."""
    (process,) = (each for each in Discovery().scan() if each.key.pid == pid)
    assert process.runtime == "go"
    return process


def subject_of(process: Process, scrapes: tuple[Scrape, ...] = (), refused: str = "") -> Subject:
    """Name a process by its executable."""
    name = process.executable
    resource = Resource.of({"service.name": name, "process.runtime.name": "go"})
    return Subject(resource, name, scrapes=scrapes, refused=refused)


class Seen(Counter):
    """Counts what became of samples and pulls."""

    def __call__(self, result: str, count: int) -> None:
        self[result] += count


@contextlib.contextmanager
def sampling(
    *endpoints: tuple[str, str], seen: Seen | None = None, **options
) -> Iterator[GoSampler]:
    """Run a sampler in rounds of a second, unless ``cycle_seconds`` says otherwise."""
    settings = {
        "subject_of": subject_of,
        "base_attributes": {"host.name": "node-1"},
    }
    settings |= {key: options.pop(key) for key in list(options) if key == "subject_of"}
    allowed = options.pop("allow", None)
    options = {"cycle_seconds": 1} | options
    sampler = GoSampler(
        GoOptions(endpoints=endpoints, **options),
        count=seen if seen is not None else Seen(),
        **settings,
    )
    if allowed is not None:
        sampler.allow(allowed)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def collect(
    sampler: GoSampler, wanted: set[str], processes: Sequence[Process] = ()
) -> dict[str, Profile]:
    """Observe and drain until all wanted types have come; the last profile of each."""
    got: dict[str, Profile] = {}

    def complete() -> bool:
        sampler.observe(processes)
        for profile in sampler.drain():
            got[profile.type_id] = profile
        return wanted <= set(got)

    until(complete)
    return got


def covered(sampler: GoSampler, process: Process, reason: str) -> str:
    """Observe a process until it is covered for a reason; give the detail."""

    def told() -> bool:
        sampler.observe((process,))
        return [each.reason for each in sampler.coverage()] == [reason]

    until(told)
    return sampler.coverage()[0].detail


def totals(profiles: Sequence[Profile], type_id: str, function: str = "") -> list[int]:
    """Give the sum of each profile of a type, over stacks that have a function in them."""
    return [
        sum(
            value
            for stack, value in profile.samples
            if not function or any(frame.function == function for frame in stack)
        )
        for profile in profiles
        if profile.type_id == type_id
    ]
