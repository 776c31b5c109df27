"""Forks as fast as it can: argument 1 children in all, argument 2 at once; then burns.

Makes the file of argument 3 when all have ended.

Half of them only end, half execute another program first. Each is waited for.
"""

import os
import sys


def burn():
    while True:
        for _ in range(1000):
            pass


def child(number):
    if number % 2:
        os.execv("/bin/true", ["true"])
    os._exit(0)


def storm(total, at_once):
    running = 0
    for number in range(total):
        if os.fork() == 0:
            child(number)
        running += 1
        if running >= at_once:
            os.wait()
            running -= 1
    for _ in range(running):
        os.wait()


if __name__ == "__main__":
    storm(int(sys.argv[1]), int(sys.argv[2]))
    open(sys.argv[3], "w").close()
    burn()
