"""Tells for how long it was kept from running, beside what its scheduler says.

Prints one line: wall, own CPU, wait for a CPU, gaps over 30 µs in its clock, the longest of them;
all in ms. Wall less CPU and wait is what a tracer took. Arguments: seconds, threads that wait.
"""

import sys
import threading
import time

GAP_NANOS = 30_000


def schedstat():
    with open("/proc/thread-self/schedstat") as file:  # noqa: PTH123 - no imports beyond need
        return [int(each) for each in file.read().split()[:2]]


def wait_for_ever():
    while True:
        time.sleep(3600)


def measure(seconds):
    clock = time.monotonic_ns
    gaps = longest = 0
    used, waited = schedstat()
    began = last = clock()
    end = began + int(seconds * 1e9)
    while last < end:
        now = clock()
        gap = now - last
        if gap > GAP_NANOS:
            gaps += gap
            longest = max(longest, gap)
        last = now
    used_after, waited_after = schedstat()
    return [last - began, used_after - used, waited_after - waited, gaps, longest]


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        threading.Thread(target=wait_for_ever, daemon=True).start()
    print(*[each / 1e6 for each in measure(float(sys.argv[1]))], flush=True)
