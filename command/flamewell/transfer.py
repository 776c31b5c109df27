"""Shows that an answer is being waited for or read, once that takes longer than a second."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self, TextIO

from flamewell.amounts import amount

_QUIET_SECONDS = 1.0
_INTERVAL_SECONDS = 0.25


class Progress:
    """A line on a terminal that says how much has come; nothing anywhere else.

    Attributes:
        received_bytes: Set by who reads.
    """

    def __init__(self, what: str, out: TextIO, *, quiet_seconds: float = _QUIET_SECONDS) -> None:
        """Make one.

        Args:
            what: What is being read; harmless text.
            out: Where to show it, as long as that is a terminal.
            quiet_seconds: Nothing is shown before.
        """
        self.received_bytes = 0
        self._what = what
        self._out = out
        self._quiet_seconds = quiet_seconds
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start the clock."""
        if self._out.isatty():
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wipe the line."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        start = time.monotonic()
        if self._done.wait(self._quiet_seconds):
            return
        while not self._done.wait(_INTERVAL_SECONDS):
            seconds = time.monotonic() - start
            state = amount(self.received_bytes, "bytes") if self.received_bytes else "waiting"
            self._out.write(f"\r{self._what}: {state}, {seconds:.0f} s\x1b[K")
            self._out.flush()
        self._out.write("\r\x1b[K")
        self._out.flush()
