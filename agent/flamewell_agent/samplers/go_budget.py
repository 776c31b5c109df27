"""What pulling may cost: a CPU allowance that endpoints share, and one large profile at a time.

Nothing here waits for CPU to become free: a pull that does not fit is put off to its endpoint's
next round, and what has been put off for longest goes first then.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

_SAVED_SECONDS = 60.0
_SMOOTHING = 0.3
_FIRST_COST_SECONDS: Mapping[str, float] = MappingProxyType(
    {"profile": 0.01, "heap": 0.02, "goroutine": 0.01, "mutex": 0.01, "block": 0.01}
)
"""CPU of a pull that nobody has measured yet: a guess, replaced by the first measurement."""


class PullBudget:
    """A bucket of CPU seconds that fills at the allowed rate; safe to use from all threads.

    Args:
        save_seconds: For how long unused allowance is kept. At least a few rounds of an endpoint,
            so that a costly pull fits in the end.
        clock: Seconds that grow steadily.
    """

    def __init__(
        self,
        save_seconds: float = _SAVED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._save_seconds = max(save_seconds, _SAVED_SECONDS)
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = math.inf
        self._saved = 0.0
        self._filled_at = clock()
        self._costs: dict[tuple[str, str], float] = {}
        self._waiting: dict[tuple[str, str], tuple[float, float]] = {}  # since when, weight
        self._used = 0.0

    def allow(self, cpu_seconds_per_second: float) -> None:
        """Set what all pulls together may use from now on."""
        with self._lock:
            self._fill()
            if math.isinf(self._rate):
                self._saved = 0.0
            self._rate = max(0.0, cpu_seconds_per_second)

    def cpu_seconds(self) -> float:
        """Give the CPU that pulling has used so far."""
        with self._lock:
            return self._used

    def predicted(self, url: str, path: str) -> float:
        """Give the CPU seconds that a pull is expected to use on the agent's side."""
        with self._lock:
            return self._predict((url, path))

    def admit(self, url: str, path: str, weight: float) -> bool:
        """Ask whether a pull may run now; what is refused is remembered as waiting.

        What others that wait for longer (time by weight) need is kept for them. A pull that costs
        more than can ever be saved runs on a full bucket, and leaves a debt.
        """
        key = (url, path)
        with self._lock:
            self._fill()
            if math.isinf(self._rate):
                self._waiting.pop(key, None)
                return True
            now = self._clock()
            since, _ = self._waiting.setdefault(key, (now, weight))
            own_age = (now - since) * weight
            kept = sum(
                self._predict(other)
                for other, (began, worth) in self._waiting.items()
                if other != key and (now - began) * worth > own_age
            )
            full = self._rate * self._save_seconds
            if not full or self._saved < min(self._predict(key) + kept, full):
                return False
            del self._waiting[key]
            self._saved -= self._predict(key)
            return True

    def settle(self, url: str, path: str, cpu_seconds: float) -> None:
        """Book what an admitted pull really used."""
        key = (url, path)
        with self._lock:
            expected = self._predict(key)
            self._saved -= cpu_seconds - expected
            self._used += cpu_seconds
            known = key in self._costs
            weight = _SMOOTHING if known else 1.0
            self._costs[key] = expected + weight * (cpu_seconds - expected)

    def book(self, cpu_seconds: float) -> None:
        """Book CPU that is not a pull's: looking for endpoints."""
        with self._lock:
            self._used += cpu_seconds
            self._saved -= cpu_seconds

    def forget(self, url: str) -> None:
        """Drop what is known of an endpoint that is pulled from no longer."""
        with self._lock:
            for book in (self._costs, self._waiting):
                for key in [each for each in book if each[0] == url]:
                    del book[key]

    def _fill(self) -> None:
        now = self._clock()
        passed, self._filled_at = now - self._filled_at, now
        if math.isinf(self._rate):
            self._saved = 0.0
        else:
            self._saved = min(self._saved + passed * self._rate, self._rate * self._save_seconds)

    def _predict(self, key: tuple[str, str]) -> float:
        known = self._costs.get(key)
        return known if known is not None else _FIRST_COST_SECONDS.get(key[1], 0.01)


class Turn:
    """One thread's hold on what only one may do at a time; given back at the end of ``with``."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._held:
            self._held = False
            self._lock.release()

    def take(self, timeout_seconds: float) -> None:
        """Wait for the turn, unless it is held already.

        Raises:
            TimeoutError: It did not come in time.
        """
        if not self._held:
            self._held = self._lock.acquire(timeout=max(0.0, timeout_seconds))
        if not self._held:
            raise TimeoutError("other profiles are being read")
