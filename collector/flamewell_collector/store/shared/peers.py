"""Which collectors write to the store: each says now and then that it is alive.

Clocks are not compared: a collector is silent when its sign has not changed for so long by the
clock of whoever watches it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flamewell_collector.store.shared.objects import Objects

ALIVE: Final = "alive"


@dataclass(frozen=True, slots=True)
class _Sign:
    version: str
    since: float


class Peers:
    """The signs of all collectors that write; safe to use from several threads."""

    def __init__(
        self,
        objects: Objects,
        *,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the store.

        Args:
            objects: The store.
            lease_seconds: Whose sign is older than this has fallen silent.
            clock: Seconds, monotonic.
        """
        self._objects = objects
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._signs: dict[str, _Sign] = {}
        self._beats = 0

    def beat(self, writer: str) -> None:
        """Say that a collector is alive."""
        self._beats += 1
        self._objects.put(f"{ALIVE}/{writer}", f"{self._beats}\n".encode())

    def leave(self, writer: str) -> None:
        """Take a collector's sign away: its log is empty."""
        self._objects.delete([f"{ALIVE}/{writer}"])
        with self._lock:
            self._signs.pop(writer, None)

    def look(self) -> None:
        """Read all signs."""
        found = {
            each.key.removeprefix(f"{ALIVE}/"): each.version for each in self._objects.listed(ALIVE)
        }
        now = self._clock()
        with self._lock:
            known = self._signs
            self._signs = {
                name: known[name]
                if name in known and known[name].version == version
                else _Sign(version, now)
                for name, version in found.items()
            }

    def all(self) -> list[str]:
        """Give the names of all, sorted."""
        with self._lock:
            return sorted(self._signs)

    def silent(self) -> list[str]:
        """Give the names of those that have fallen silent, sorted."""
        limit = self._clock() - self._lease_seconds
        with self._lock:
            return sorted(name for name, sign in self._signs.items() if sign.since <= limit)

    def leads(self, writer: str) -> bool:
        """Tell whether a collector is the one that merges and removes blocks: the first alive."""
        silent = set(self.silent())
        return next((name for name in self.all() if name not in silent), "") == writer
