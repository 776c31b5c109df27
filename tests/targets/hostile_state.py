"""Spoils what samplers read of CPython 3.11 in its own memory (argument 1 says how), then burns.

Nothing that is spoilt is used by the interpreter as long as the program goes on as it does.
Offsets are those of 3.11's include/cpython/pystate.h, internal/pycore_frame.h and unicodeobject.h.
"""

import ctypes
import sys
import threading
import time

NEXT, CFRAME, CURRENT_FRAME, CODE, PREVIOUS = 8, 56, 8, 32, 48
WILD = 0xDEAD0000DEAD0000
LENGTH_OF_TEXT = 16
NAME_OF_CODE = 112

current = ctypes.pythonapi.PyThreadState_Get
current.restype = ctypes.c_void_p
states = {}


def word(address):
    return ctypes.c_uint64.from_address(address)


def frame_of(state):
    return word(word(state + CFRAME).value + CURRENT_FRAME).value


def burn():
    while True:
        for _ in range(1000):
            pass


def wait_for_ever():
    states["waiter"] = current()
    while True:
        time.sleep(100_000)


def a_circle_of_threads():
    word(current() + NEXT).value = current()


def a_circle_of_frames():
    # frame_of finds its own frame; before it come this function's and the module's.
    module = word(word(frame_of(current()) + PREVIOUS).value + PREVIOUS).value
    word(module + PREVIOUS).value = module


def a_wild_frame():
    word(word(states["waiter"] + CFRAME).value + CURRENT_FRAME).value = WILD


def a_wild_code():
    word(frame_of(states["waiter"]) + CODE).value = WILD


def a_wild_thread():
    word(states["waiter"] + NEXT).value = WILD


def a_huge_name():
    word(id(burn.__code__.co_name) + LENGTH_OF_TEXT).value = 1 << 40


def a_negative_name():
    word(id(burn.__code__.co_name) + LENGTH_OF_TEXT).value = 2**64 - 1


def code_that_is_no_code():
    word(frame_of(states["waiter"]) + CODE).value = id(states)


WAYS = {
    each.__name__: each
    for each in (
        a_circle_of_threads,
        a_circle_of_frames,
        a_wild_frame,
        a_wild_code,
        a_wild_thread,
        a_huge_name,
        a_negative_name,
        code_that_is_no_code,
    )
}

if __name__ == "__main__":
    threading.Thread(target=wait_for_ever, daemon=True).start()
    time.sleep(0.3)
    WAYS[sys.argv[1]]()
    burn()
