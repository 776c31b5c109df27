"""What a census of a Python heap costs agent and target, and how near it comes.

    python bench/heap_census.py                    a heap of 1.2 GB in this interpreter
    python bench/heap_census.py --python /opt/python3.9/bin/python3.9 --megabytes 400

The target keeps what json.loads returns until it has so much memory, and then works on: requests a
second are measured before, during and after censuses, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine

from flamewell_agent.heap.census import parse_version, take_census
from flamewell_agent.heap.remote_memory import RemoteMemory

TARGET = """
import json, sys, time
document = json.dumps({"id": 1, "amount": 12.5, "who": "alice",
                       "items": [{"sku": "a%d" % n, "count": n} for n in range(5)]})
kept, wanted = [], int(sys.argv[1]) << 20
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
while resident() < wanted:
    kept += [json.loads(document) for _ in range(1000)]
print("%d %d.%d" % (len(kept), sys.version_info[0], sys.version_info[1]), flush=True)
while True:
    until, done = time.time() + 0.2, 0
    slowest = last = time.perf_counter()
    slowest = 0.0
    while time.time() < until:
        json.loads(document)
        now = time.perf_counter()
        slowest, last, done = max(slowest, now - last), now, done + 1
    print("%d %.6f" % (done, slowest), flush=True)
"""
ROUNDS = 10


def main() -> None:
    """Print what it costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--megabytes", type=int, default=1_200)
    parser.add_argument("--pools", type=int, default=1_000, help="0 for all")
    asked = parser.parse_args()
    print(machine.describe())
    target = subprocess.Popen(
        [asked.python, "-c", TARGET, str(asked.megabytes)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert target.stdout is not None
        kept, version = target.stdout.readline().split()
        measure(target, int(kept), version, asked.pools)
    finally:
        target.kill()
        target.communicate()


def measure(target: subprocess.Popen[str], kept: int, version: str, pools: int) -> None:
    """Take censuses between turns without one."""
    assert target.stdout is not None
    memory = RemoteMemory(target.pid)
    ours, wall, ratios, slowest, quiet_slowest, errors = [], [], [], [], [], []
    target.stdout.readline()
    for _ in range(ROUNDS):
        quiet, longest = target.stdout.readline().split()
        quiet_slowest.append(float(longest))
        began, used = time.perf_counter(), time.process_time()
        census = take_census(memory, parse_version(version), pools=pools)
        ours.append(time.process_time() - used)
        wall.append(time.perf_counter() - began)
        # The turn in which it began, and the next: the slower one counts.
        turns = [target.stdout.readline().split() for _ in range(2)]
        ratios.append(min(int(done) for done, _ in turns) / int(quiet))
        slowest.append(max(float(each) for _, each in turns))
        found = {each.name: each for each in census.types}
        errors.append(found["dict"].count / (6 * kept) - 1)
    size = int(Path(f"/proc/{target.pid}/statm").read_text().split()[1]) * 4_096
    print(
        f"CPython {version}, {size / 1e9:.2f} GB resident, {census.pools:,} pools, "
        f"{census.pools_read:,} read"
    )
    print(f"agent: {statistics.median(ours):.2f} s of CPU, {statistics.median(wall):.2f} s wall")
    print(f"target: {statistics.median(ratios):.3f} of its requests in the slowest turn")
    print(
        f"target: longest request {1e3 * statistics.median(slowest):.2f} ms, "
        f"{1e3 * statistics.median(quiet_slowest):.2f} ms without a census"
    )
    print(
        f"dicts: {statistics.median(errors):+.2%} off (median), "
        f"{max(map(abs, errors)):.2%} at most of {ROUNDS}"
    )


if __name__ == "__main__":
    main()
