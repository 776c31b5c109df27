"""Burns 60, 25, 10 and 5 % of its CPU time in four functions. Runs on CPython 2.7 and newer.

Each slice is metered by the thread's own CPU clock, so that the shares hold on a loaded machine too.
Slices have random lengths: of a fixed pattern the kernel's own time slices would always cut the same
function, and whoever looks at the clock on the wall would see that one wait for a core.
"""

import random
import time

try:
    cpu_seconds = time.thread_time
except AttributeError:
    cpu_seconds = time.clock if hasattr(time, "clock") else time.process_time

SLICE = 0.002  # seconds, on average; short against a sampling interval


def work():
    total = 0
    for i in range(200):
        total += i * i
    return total


def burn_sixty(until):
    while cpu_seconds() < until:
        work()


def burn_twenty_five(until):
    while cpu_seconds() < until:
        work()


def burn_ten(until):
    while cpu_seconds() < until:
        work()


def burn_five(until):
    while cpu_seconds() < until:
        work()


def main():
    # Each function's debt grows by its share of what was used; the one that is owed most is next.
    shares = ((burn_sixty, 0.60), (burn_twenty_five, 0.25), (burn_ten, 0.10), (burn_five, 0.05))
    began = cpu_seconds()
    used = [0.0] * len(shares)
    print("burning")
    while True:
        now = cpu_seconds()
        total = now - began
        owed = [share * total - used[at] for at, (_, share) in enumerate(shares)]
        at = owed.index(max(owed))
        shares[at][0](now + random.expovariate(1 / SLICE))
        used[at] += cpu_seconds() - now


if __name__ == "__main__":
    main()
