"""Does nothing, for ever."""

import time


def sleep_for_ever():
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sleep_for_ever()
