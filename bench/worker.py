"""A target that works without pause and counts its units of work in a shared file.

Usage: worker.py COUNTERS INDEX [--depth N]
"""

from __future__ import annotations

import mmap
import struct
import sys


def leaf(n: int) -> int:
    total = 0
    for i in range(n):
        total += i * i
    return total


def descend(depth: int) -> int:
    if depth <= 1:
        return leaf(3000)
    return descend(depth - 1)


def main() -> None:
    path, index = sys.argv[1], int(sys.argv[2])
    depth = int(sys.argv[4]) if len(sys.argv) > 4 else 20
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as counters:
        units = 0
        while True:
            descend(depth)
            units += 1
            struct.pack_into("<q", counters, 8 * index, units)


main()
