"""Burns in two named threads and waits in others: arguments are how many wait, and their name."""

import sys
import threading
import time


def spin():
    while True:
        for _ in range(1000):
            pass


def wait_for_ever():
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    waiting = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    name = sys.argv[2] if len(sys.argv) > 2 else "waiter"
    for _ in range(waiting):
        threading.Thread(target=wait_for_ever, name=name, daemon=True).start()
    threading.Thread(target=spin, name="burner", daemon=True).start()
    spin()
