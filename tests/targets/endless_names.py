"""Burns below functions with names of so many characters (first argument), ever new ones."""

import sys
import time
import types


def burn(seconds):
    end = time.time() + seconds
    while time.time() < end:
        pass


def wrapped(name):
    code = burn.__code__.replace(co_name=name)
    if hasattr(code, "co_qualname"):
        code = code.replace(co_qualname=name)
    return types.FunctionType(code, globals())


if __name__ == "__main__":
    size, count = int(sys.argv[1]), 0
    while True:
        count += 1
        wrapped(str(count) * (size // len(str(count))))(0.01)
