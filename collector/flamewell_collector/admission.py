"""Who may come in now: memory of all requests under way, and each tenant's rates.

A collector that takes what it can't hold is killed by the kernel, with everything that others had
sent. One that refuses early costs its senders a pause: agents keep their batches on disk.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flamewell_collector.errors import Overloaded, RateLimited, TooLarge

BODY_FACTOR = 4
"""Memory for each byte of a decompressed body, its parsed message and the columns of its stacks."""
JSON_FACTOR = 12
"""Besides: JSON becomes Python objects first."""
SAMPLE_BYTES = 400
"""Memory for each sample of a request until it is in the log: columns, Arrow tables, log frame."""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 2, 10
_LONGEST_RATE_SECONDS = 60


class Admission:
    """A budget of bytes, shared by all requests under way; safe to use from several threads."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._lock = threading.Lock()
        self._taken = 0

    @property
    def taken_bytes(self) -> int:
        """What the requests under way hold."""
        return self._taken

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Begin a request; what it has taken is given back at the end."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            with self._lock:
                self._taken -= reservation.taken

    def take(self, size: int, *, held: int) -> None:
        """Take bytes for a request that holds some already.

        Raises:
            TooLarge: It would not fit alone.
            Overloaded: It does not fit now.
        """
        if held + size > self._budget:
            raise TooLarge(
                f"the request needs more than the {self._budget >> 20} MiB that all requests "
                "together may take: send smaller batches"
            )
        with self._lock:
            if self._taken + size > self._budget:
                raise Overloaded(
                    "too much is coming in at once",
                    retry_after_seconds=random.randint(_SHORTEST_SECONDS, _LONGEST_SECONDS),  # noqa: S311 - spreads senders, no secret
                )
            self._taken += size


class Reservation:
    """What one request holds.

    Attributes:
        taken: Bytes.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.taken = 0

    def take(self, size: int) -> None:
        """Take more bytes.

        Raises:
            TooLarge: The request would not fit alone.
            Overloaded: It does not fit now.
        """
        self._admission.take(size, held=self.taken)
        self.taken += size

    def take_body(self, size: int) -> None:
        """Take what a part of a body needs; raises as ``take`` does."""
        self.take(size * BODY_FACTOR)


class TenantRates:
    """A leaky bucket a tenant; safe to use from several threads.

    Whoever is not in debt may send; a request is never larger than what may come in at once.
    """

    def __init__(
        self,
        per_second: float,
        *,
        burst_seconds: float,
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it.

        Args:
            per_second: How much each tenant may send; 0 is no limit.
            burst_seconds: So much of it may come at once.
            what: Word for the message: ``bytes``, ``samples``.
            clock: Monotonic seconds.
        """
        self._per_second = per_second
        self._burst = per_second * burst_seconds
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}  # tenant → left, as of when

    def take(self, tenant: str, amount: float) -> None:
        """Count what a tenant sends.

        Raises:
            RateLimited: It has sent too much lately.
        """
        if not self._per_second:
            return
        now = self._clock()
        with self._lock:
            left, since = self._buckets.get(tenant, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_second)
            if left <= 0:
                self._buckets[tenant] = (left, now)
                wait = min(1 - left / self._per_second, _LONGEST_RATE_SECONDS)
                raise RateLimited(
                    f"more than {self._per_second:g} {self._what} a second",
                    retry_after_seconds=max(1, round(wait * random.uniform(1, 1.5))),  # noqa: S311 - spreads senders, no secret
                )
            self._buckets[tenant] = (left - amount, now)
