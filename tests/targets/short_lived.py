"""Burns for so many seconds (first argument), then ends."""

import sys
import time


def burn_until(end):
    while time.time() < end:
        pass


if __name__ == "__main__":
    burn_until(time.time() + float(sys.argv[1]))
