"""Runs looks that may never end, at files of a server that is gone, in a thread that is given up.

A read from such a file system can't be interrupted, and the kernel tells nobody beforehand. The
thread that waits in it is left alone, and another one goes on; how many may wait is bounded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flamewell_agent.errors import LookHungError

PATIENCE_SECONDS = 2.0
"""A file of 160 MiB is read from a slow disk in about that time; what takes longer is known when
its thread has come back, and is looked at again then."""
HANGS_AT_MOST = 4
"""Threads that wait for ever, and so many times the patience that a scan may take longer."""
_T = TypeVar("_T")


class LookThread:
    """Makes one look after the other.

    Args:
        patience_seconds: How long a look may take.

    Attributes:
        cpu_seconds: What all looks that have ended took.
    """

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.cpu_seconds = 0.0
        self._patience = patience_seconds
        self._worker: _Worker | None = None
        self._hung: dict[str, threading.Thread] = {}

    @property
    def hung(self) -> int:
        """How many looks hang."""
        return sum(each.is_alive() for each in self._hung.values())

    def would_try(self, name: str) -> bool:
        """Tell whether a look would be made now."""
        self._hung = {each: thread for each, thread in self._hung.items() if thread.is_alive()}
        return name not in self._hung and len(self._hung) < HANGS_AT_MOST

    def run(self, name: str, look: Callable[[], _T]) -> _T:
        """Make a look and give what it gives; its errors come out as they are.

        Args:
            name: What is looked at: it is not tried again as long as a look at it hangs.
            look: Makes it.

        Raises:
            LookHungError: It takes too long, or is not tried.
        """
        if not self.would_try(name):
            raise LookHungError(f"{name}: {self.hung} looks at executables hang")
        worker = self._worker = self._worker or _Worker()
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        worker.orders.put((look, answers))
        try:
            answer = answers.get(timeout=self._patience)
        except queue.Empty:
            self._hung[name] = worker.thread
            self.rest()
            raise LookHungError(f"{name}: no answer in {self._patience:.0f} s") from None
        self.cpu_seconds += answer.cpu_seconds
        if answer.error is not None:
            raise answer.error
        return cast("_T", answer.found)

    def rest(self) -> None:
        """Let the thread end when its look has ended."""
        if self._worker is not None:
            self._worker.orders.put(None)
            self._worker = None


class _Answer:
    """What came of a look."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.found: Any = None
        self.error: Exception | None = None
        began = time.thread_time()
        try:
            self.found = look()
        except Exception as error:  # noqa: BLE001 - raised where the look was asked for
            self.error = error
        self.cpu_seconds = time.thread_time() - began


class _Worker:
    """A thread that makes looks. A daemon: one that hangs can't keep the agent from ending."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[
            tuple[Callable[[], Any], queue.SimpleQueue[_Answer]] | None
        ] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="looks", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (order := self.orders.get()) is not None:
            look, answers = order
            answers.put(_Answer(look))
