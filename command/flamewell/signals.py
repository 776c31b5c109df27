"""Counts the signals that ask this program to stop."""

from __future__ import annotations

import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Self

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While it is entered, Ctrl-C, SIGTERM and SIGHUP are counted instead of ending the program.

    Attributes:
        count: How many came.
        wakeup: Readable after each of them, for a selector.
    """

    def __init__(self) -> None:
        """Make one; nothing is changed before it is entered."""
        self.count = 0
        self.wakeup, self._theirs = socket.socketpair()
        self.wakeup.setblocking(False)
        self._theirs.setblocking(False)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._wakeup_before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for each in _STOPPING:
            self._before[each] = signal.signal(each, self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for each, before in self._before.items():
            signal.signal(each, before)
        signal.set_wakeup_fd(self._wakeup_before)
        self.wakeup.close()
        self._theirs.close()

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
