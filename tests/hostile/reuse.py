"""Run inside a PID namespace of its own: makes a target's pid another's, and asks the agent.

Prints one JSON object: what each part said. Argument 1 is a folder to work in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.discovery import Discovery
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import Process, Profile, Window, WindowResult
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy
from flamewell_agent.sampling import PythonSampling, Rules

PROC = Path("/proc")
TARGETS = Path(__file__).parent.parent / "targets"
PID = 3000


class Target:
    """A program with a pid of our choice."""

    def __init__(self, program: str, *arguments: str, service: str) -> None:
        (PROC / "sys/kernel/ns_last_pid").write_text(str(PID - 1))
        self.process = subprocess.Popen(
            [sys.executable, str(TARGETS / program), *arguments],
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "OTEL_SERVICE_NAME": service},
        )
        assert self.process.pid == PID

    def burn(self, seconds: float) -> None:
        while (process_cpu_nanos(PID) or 0) < seconds * 1e9:
            time.sleep(0.02)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        time.sleep(0.05)  # start times have a resolution of 10 ms


def nanos(profiles: list[Profile]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in profiles:
        name = dict(each.resource.attributes)["service.name"]
        found[name] = found.get(name, 0) + each.period * sum(value for _, value in each.samples)
    return found


def told(result: WindowResult) -> dict[str, object]:
    functions = sorted({frame.function for stack, _ in result.samples for frame in stack})
    return {
        "failure": result.failure,
        "functions": functions,
        "target_cpu_seconds": result.target_cpu_nanos / 1e9,
    }


class Cycle:
    """Scan, name, account."""

    def __init__(self) -> None:
        self.discovery = Discovery(PROC)
        self.identity = Identity("node", PROC, {})
        self.sampling = PythonSampling(
            self.identity.subject,
            AgentMetrics(),
            Rules(100, 1e9, 1.0),
            own_pid=os.getpid(),
            uniform=lambda: 0.5,
        )

    def scan(self) -> Process:
        while True:
            for each in self.discovery.scan():
                if each.key.pid == PID and each.runtime == "cpython":
                    self.identity.subject(each)
                    return each

    def observe(self, process: Process) -> dict[str, int]:
        return nanos(self.sampling.observe([process], time.monotonic()))


def between_scan_and_clock() -> dict[str, object]:
    """The old one's entry of a scan is used when the pid is another's already."""
    cycle = Cycle()
    old = Target("shares.py", service="old")
    old.burn(0.3)
    before = cycle.scan()
    cycle.observe(before)
    old.burn(1.0)
    cycle.observe(before)
    last = (process_cpu_nanos(PID) or 0) / 1e9
    old.end()
    new = Target("threads.py", "1", service="new")
    new.burn(0.1)
    late = cycle.observe(before)
    after = cycle.scan()
    ended = cycle.observe(after)
    new.burn(0.5)
    total = (process_cpu_nanos(PID) or 0) / 1e9
    again = cycle.observe(after)
    new.end()
    rest = nanos(cycle.sampling.observe([], time.monotonic()))
    return {
        "same_key": before.key == after.key,
        "old_seconds": last,
        "late": late,
        "ended": ended,
        "again": again,
        "rest": rest,
        "new_seconds": total,
        "names": [cycle.identity.subject(each).service_name for each in (before, after)],
    }


def between_scan_and_window(spy: PySpy) -> dict[str, object]:
    cycle = Cycle()
    old = Target("shares.py", service="old")
    old.burn(0.2)
    before = cycle.scan()
    old.end()
    new = Target("threads.py", "1", service="new")
    new.burn(0.2)
    (result,) = spy.run([Window(before, 97, 1, 0.0)], threading.Event())
    new.end()
    return told(result)


def amid_a_window(spy: PySpy) -> dict[str, object]:
    cycle = Cycle()
    old = Target("shares.py", service="old")
    old.burn(0.2)
    before = cycle.scan()
    results: list[WindowResult] = []
    order = Window(before, 97, 4, 0.0)
    thread = threading.Thread(target=lambda: results.extend(spy.run([order], threading.Event())))
    thread.start()
    time.sleep(1.5)
    old.end()
    new = Target("threads.py", "1", service="new")
    thread.join()
    new.end()
    return told(results[0])


def main(folder: Path) -> None:
    spy = PySpy(find_py_spy(), folder / "windows", PROC)
    found = {
        "clock": between_scan_and_clock(),
        "window": between_scan_and_window(spy),
        "amid": amid_a_window(spy),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
