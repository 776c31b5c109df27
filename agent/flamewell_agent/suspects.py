"""Tells a batch that breaks the collector from a collector that is ill.

Both look alike from one attempt: 500, a timeout, a lost connection. The difference is whether other
batches get through meanwhile. One that failed often is therefore passed over, and given up only
when it goes on failing while others arrive; where nothing arrives, nothing is given up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

UNREADABLE = "spool_unreadable"
"""The disk does not give the batch: it is passed over, and never given up on that account."""
_REASONS = frozenset(
    {"status_500", "status_502", "status_504", "timeout", "connection_lost", UNREADABLE}
)
"""Failures that a batch can be to blame for."""
_FAILURES = 5
"""About 15 s of pauses: from then on the others go first."""
_PROOFS = 3
"""So often another one has to arrive, and this one to fail after it: one may be chance."""


@dataclass(slots=True)
class _Record:
    failures: int = 0
    proofs: int = 0


class Suspects:
    """What is held against batches, by their sequence; one record for each that failed."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._other_arrived = False

    def passed_over(self) -> tuple[int, ...]:
        """Give those that have to wait; none right after another batch has arrived."""
        return () if self._other_arrived else tuple(self._suspected())

    def note_failure(self, sequence: int, reason: str) -> bool:
        """Note a failed attempt; tell whether the batch is to be given up."""
        if reason not in _REASONS:
            return False
        record = self._records.setdefault(sequence, _Record())
        record.failures += 1
        if self._other_arrived and record.failures > _FAILURES and reason != UNREADABLE:
            record.proofs += 1
        self._other_arrived = False
        if record.proofs < _PROOFS:
            return False
        del self._records[sequence]
        return True

    def note_arrival(self, sequence: int) -> None:
        """Note that a batch arrived: one that was suspected clears all the others, too."""
        record = self._records.pop(sequence, None)
        if record is not None and record.failures >= _FAILURES:
            self._records.clear()
        self._other_arrived = next(self._suspected(), None) is not None

    def forget_before(self, sequence: int) -> None:
        """Forget batches older than the oldest that waits."""
        for each in [known for known in self._records if known < sequence]:
            del self._records[each]

    def _suspected(self) -> Iterator[int]:
        return (key for key, each in self._records.items() if each.failures >= _FAILURES)
