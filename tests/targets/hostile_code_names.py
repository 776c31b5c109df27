"""Burns in functions of hostile names: argument 1 says which. Runs on CPython 3.8 and newer."""

import sys
import types

NAMES = {
    "endless": "x" * (1 << 20),
    "wide": "\U0001f525" * (1 << 18),
    "nul": "a\0b\0\0c",
    "ansi": "\x1b[2J\x1b]0;title\x07red",
    "separators": "a;b;c (d:1) 9\n;\n 7\nthread (1): x;f (g.py:1) 99999999999999999999\n",
    "surrogates": "a\udcff\ud800b",
    "bidi": "\u202egnp.exe\u2028\x85",
    "empty": "",
}


def burn():
    total = 0
    for i in range(100_000):
        total += i * i
    return total


def named(name):
    changes = {"co_name": name, "co_filename": "/x/" + name}
    if hasattr(burn.__code__, "co_qualname"):
        changes["co_qualname"] = name
    return types.FunctionType(burn.__code__.replace(**changes), globals())


if __name__ == "__main__":
    hostile = named(NAMES[sys.argv[1]])
    while True:
        hostile()
