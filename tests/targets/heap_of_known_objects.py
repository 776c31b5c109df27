"""Keeps so many objects of each kind, and goes on making some; any CPython from 3.8 on.

    python heap_of_known_objects.py MARK [GROW]

MARK is a file that is made when all is there, - for none. Of GROW are so many made a second, and kept.
"""

import sys
import time


class Payment(object):
    def __init__(self, number):
        self.number = number
        self.who = "x%d" % number


class Slotted(object):
    __slots__ = ("first", "second")

    def __init__(self, number):
        self.first = number
        self.second = None


class Mapping(dict):
    pass


COUNTS = {
    "Payment": 20000,
    "Slotted": 15000,
    "Mapping": 5000,
    "float": 30000,
    "set": 4000,
    "complex": 6000,
}
kept = [
    [Payment(number) for number in range(COUNTS["Payment"])],
    [Slotted(number) for number in range(COUNTS["Slotted"])],
    [Mapping() for number in range(COUNTS["Mapping"])],
    [float(number) for number in range(COUNTS["float"])],
    [set() for number in range(COUNTS["set"])],
    [complex(number) for number in range(COUNTS["complex"])],
]
grown = []

if __name__ == "__main__":
    if sys.argv[1] != "-":
        open(sys.argv[1], "w").close()
    a_second = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    while True:
        for number in range(a_second // 20):
            grown.append(Slotted(number))
        rubbish = [{"number": number} for number in range(1000)]
        time.sleep(0.05)
