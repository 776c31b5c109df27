"""Burns at the end of a recursion; the argument is its depth."""

import sys
import threading


def dive(left):
    if left:
        dive(left - 1)
    while True:
        for _ in range(1000):
            pass


if __name__ == "__main__":
    sys.setrecursionlimit(100_000)
    threading.stack_size(512 << 20)
    thread = threading.Thread(target=dive, args=(int(sys.argv[1]),))
    thread.start()
