"""Wakes who waits once another process has used so much CPU: timers of the kernel, no polling.

A look at a child every 20 ms costs more over a window than the window itself: 15 s of it took 25 to
48 ms of CPU, an attach of py-spy 13 to 30.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from flamewell_agent.cpu_clock import cpu_clock_id

_SIGNAL = signal.SIGRTMIN + 5
_SIGEV_SIGNAL = 0
_NANOS = 1_000_000_000


class _Sigevent(ctypes.Structure):
    """struct sigevent of sigevent(3type), 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_char * 48),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class CpuAlarms:
    """Alarms on the CPU clocks of processes, for as long as the context is open.

    Attributes:
        fd: Becomes readable when an alarm has gone off; ``clear`` makes it quiet again.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._former: Any = None
        self._timers: list[ctypes.c_void_p] = []

    def __enter__(self) -> Self:
        """Make the descriptor; only the main thread can be told of signals."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(_SIGNAL, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all alarms."""
        for timer in self._timers:
            _libc.timer_delete(timer)
        self._timers.clear()
        if self._former is not None:
            # Ignored, not as it was: one that is on its way would end the process.
            signal.signal(_SIGNAL, signal.SIG_IGN)
            self._former = None
        os.close(self.fd)

    def arm(self, pid: int, cpu_nanos: int) -> bool:
        """Set an alarm for when a process has used so much CPU from now on.

        Returns:
            False where none can be set: it has to be looked at time and again then.
        """
        if self._former is None or _libc is None:
            return False
        timer = ctypes.c_void_p()
        event = _Sigevent(None, _SIGNAL, _SIGEV_SIGNAL, b"")
        if _libc.timer_create(cpu_clock_id(pid), ctypes.byref(event), ctypes.byref(timer)):
            return False
        self._timers.append(timer)
        when = _Timespec(*divmod(max(1, cpu_nanos), _NANOS))
        wanted = _Itimerspec(_Timespec(0, 0), when)
        return bool(_libc.timer_settime(timer, 0, ctypes.byref(wanted), None) == 0)

    def clear(self) -> None:
        """Take note that the alarm has been heard."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        os.eventfd_write(self.fd, 1)


def _load() -> Any:
    """Find the timers: in libc since glibc 2.34 and in musl, in librt before; None: nowhere."""
    loaders: tuple[Callable[[], ctypes.CDLL], ...] = (
        lambda: ctypes.CDLL(None, use_errno=True),
        lambda: ctypes.CDLL("librt.so.1", use_errno=True),
    )
    for load in loaders:
        try:
            library = load()
            library.timer_create.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
            library.timer_settime.argtypes = (
                ctypes.c_void_p,
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
            )
            library.timer_delete.argtypes = (ctypes.c_void_p,)
        except (OSError, AttributeError):
            continue
        return library
    return None


_libc = _load()
