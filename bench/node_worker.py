"""One Python service of the node that bench/node.py plays: threads, depth, a known truth.

Each thread spends its CPU time in eight functions with shares that are known only by what it
counts itself, by its own CPU clock, in a shared file. Between slices it sleeps, so that the process
uses the given share of a core.

Usage: node_worker.py COUNTERS INDEX THREADS DEPTH DUTY SEED
"""

from __future__ import annotations

import mmap
import random
import struct
import sys
import threading
import time

FUNCTIONS = 8
THREADS_AT_MOST = 32
ROW = struct.Struct(f"<{FUNCTIONS + 1}q")  # CPU time of each function in ns, units of work
WORKER_BYTES = ROW.size * THREADS_AT_MOST
SLICE_SECONDS = 0.002


def spin(until: float) -> int:
    units = 0
    while time.thread_time() < until:
        total = 0
        for i in range(100):
            total += i * i
        units += 1
    return units


def work_0(until):
    return spin(until)


def work_1(until):
    return spin(until)


def work_2(until):
    return spin(until)


def work_3(until):
    return spin(until)


def work_4(until):
    return spin(until)


def work_5(until):
    return spin(until)


def work_6(until):
    return spin(until)


def work_7(until):
    return spin(until)


WORK = (work_0, work_1, work_2, work_3, work_4, work_5, work_6, work_7)


def descend(depth, work, until):
    return work(until) if depth <= 1 else descend(depth - 1, work, until)


def serve(counters, row, depth, duty, dice, shares):
    nanos, units = [0] * FUNCTIONS, 0
    at = row * ROW.size
    while True:
        chosen = dice.choices(range(FUNCTIONS), shares)[0]
        began, length = time.thread_time_ns(), dice.expovariate(1 / SLICE_SECONDS)
        units += descend(depth, WORK[chosen], time.thread_time() + length)
        nanos[chosen] += time.thread_time_ns() - began
        ROW.pack_into(counters, at, *nanos, units)
        if duty < 1:
            time.sleep(length * (1 - duty) / duty)


def main() -> None:
    path, index, threads, depth, duty, seed = sys.argv[1], *map(float, sys.argv[2:7])
    dice = random.Random(int(seed))
    shares = [dice.expovariate(1) for _ in range(FUNCTIONS)]
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as counters:
        for at in range(int(threads)):
            # Two threads do most of the work, the others are the idle ones of a pool.
            own = duty * (0.5 if at < 2 else 0.02) if threads > 1 else duty
            arguments = (
                counters,
                int(index) * THREADS_AT_MOST + at,
                int(depth),
                min(1.0, own),
                random.Random(int(seed) * 1000 + int(index) * 50 + at),
                shares,
            )
            threading.Thread(target=serve, args=arguments, daemon=True).start()
        threading.Event().wait()


if __name__ == "__main__":
    main()
