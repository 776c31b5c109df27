"""Tells the C library to keep freed memory for the next request (docs/decisions/0013)."""

from __future__ import annotations

import ctypes
import logging
from typing import Final

log = logging.getLogger(__name__)

# malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MMAP_THRESHOLD_BYTES: Final = 32 << 20
_TRIM_THRESHOLD_BYTES: Final = 64 << 20


def keep_freed_memory() -> bool:
    """Let arrays come from memory that the process has already.

    glibc maps each array above 128 KiB anew and unmaps it after use: the kernel clears its pages
    each time, which took more than half of the time of decoding. Other threads than the first get
    heaps of 64 MiB that are given back as well: with one heap for all of them a flame graph of 200
    services takes half the time. Threads of Python seldom ask for memory at the same time.

    Returns:
        Whether the C library took it; others (musl) go on as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError) as error:
        log.debug("the C library has no mallopt: %s", error)
        return False
    taken = (
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES),
        mallopt(_M_ARENA_MAX, 1),
    )
    return taken == (1, 1, 1)
