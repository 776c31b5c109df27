"""For how long a sampler stops its target: what the agent says beside what the target saw.

The target runs a loop on a monotonic clock and asks its scheduler for its CPU and its waiting:
what is missing from its wall time is what a tracer took. The agent cannot see that; it says an
upper bound, the CPU of the py-spy child and its waiting for a CPU. A third reading, the share of
looks at /proc/PID/stat that find the target in tracing stop, takes no part of either.

Usage: python bench/pauses.py [--seconds 4] [--rates 10 20 50] [--threads 0 15] [--load 0 4]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from machine import describe

from flamewell_agent.model import Process, ProcessKey, Window, WindowResult
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy

TARGET = Path(__file__).parent.parent / "tests/targets/gaps.py"
LOAD = Path(__file__).parent.parent / "tests/targets/shares.py"
PROC = Path("/proc")
LOOK_SECONDS = 0.003
SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class Reading:
    """One window. All in seconds.

    Attributes:
        said: The agent's upper bound.
        taken: Wall time of the target less its CPU and its waiting.
        looked: Share of looks in state ``t``, times the window.
        longest: Of the gaps in the target's clock.
    """

    said: float
    taken: float
    looked: float
    longest: float


def measure(spy: PySpy, rate_hz: int, seconds: int, waiting: int, *, native: bool) -> Reading:
    """Sample a target once, and read its pause in three ways."""
    target = subprocess.Popen(
        [sys.executable, str(TARGET), str(seconds + 3), str(waiting)], stdout=subprocess.PIPE
    )
    time.sleep(SETTLE_SECONDS)
    key = ProcessKey(target.pid, read_stat(PROC, target.pid).start_ticks)
    window = Window(Process(key, "cpython", "", "python", ()), rate_hz, seconds, 0.0, native=native)
    results: list[WindowResult] = []
    runner = threading.Thread(target=lambda: results.extend(spy.run([window], threading.Event())))
    runner.start()
    looks = stopped = 0
    while runner.is_alive():
        looks += 1
        stopped += read_stat(PROC, target.pid).state == "t"
        time.sleep(LOOK_SECONDS)
    output, _ = target.communicate()
    wall, used, waited, _, longest = (float(each) / 1000 for each in output.split())
    if results[0].failure:
        sys.exit(f"the window failed: {results[0].failure} {results[0].detail}")
    return Reading(
        results[0].pause_seconds,
        wall - used - waited,
        stopped / max(looks, 1) * results[0].wall_seconds,
        longest,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rates", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 15])
    parser.add_argument("--load", type=int, nargs="+", default=[0, 4])
    options = parser.parse_args()
    print(describe())
    print("mode     load threads  Hz  said ms  taken ms  looked ms  longest gap ms  said/taken")
    with tempfile.TemporaryDirectory() as folder:
        spy = PySpy(find_py_spy(), Path(folder) / "windows")
        for load in options.load:
            others = [
                subprocess.Popen([sys.executable, str(LOAD)], stdout=subprocess.DEVNULL)
                for _ in range(load)
            ]
            try:
                for threads in options.threads:
                    for rate_hz, native in [(options.rates[0], False)] + [
                        (each, True) for each in options.rates
                    ]:
                        read = measure(spy, rate_hz, options.seconds, threads, native=native)
                        mode = "native  " if native else "no pause"
                        print(
                            f"{mode} {load:4} {threads + 1:7} {rate_hz:3} {read.said * 1e3:8.1f} "
                            f"{read.taken * 1e3:9.1f} {read.looked * 1e3:10.1f} "
                            f"{read.longest * 1e3:15.1f} {read.said / max(read.taken, 1e-9):11.2f}",
                            flush=True,
                        )
            finally:
                for each in others:
                    each.kill()
                    each.wait()


if __name__ == "__main__":
    main()
