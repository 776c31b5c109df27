"""Burns CPU in native code that holds no GIL. Runs on CPython 2.7 and newer."""

import hashlib

DATA = b"x" * (8 << 20)


def hash_for_ever():
    # hashlib releases the GIL for data of 2 KiB and more.
    while True:
        hashlib.sha512(DATA).digest()


if __name__ == "__main__":
    hash_for_ever()
