"""Send spooled batches to a collector, one at a time, from a thread of its own.

A batch leaves the spool when a collector has it (2xx) or refuses it for good; everything else is
tried again, with full jitter, for as long as the spool keeps it. What is wrong with the way (a
refused token, a wrong path) and not with the batch costs no batch: it waits until that is mended.
One that breaks the collector is passed over, and given up when others arrive all the same.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from flamewell_agent.collector_client import (
    Client,
    Destination,
    Outcome,
    judge,
    parse_retry_after,
)
from flamewell_agent.errors import UnreadableBatchError
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.spool import Segment, Spool
from flamewell_agent.suspects import UNREADABLE, Suspects

__all__ = ["Destination", "Outcome", "Shipper", "judge", "parse_retry_after"]

_log = logging.getLogger(__name__)
_READ_TIMEOUT_SECONDS = 30.0
_BACKOFF_FIRST_SECONDS, _BACKOFF_LIMIT_SECONDS = 1.0, 60.0
_RETRY_AFTER_LIMIT_SECONDS = 300.0
_FIRST_COLLECTOR_AGAIN_SECONDS = 300.0
_IDLE_SECONDS, _LAST_LOOK_SECONDS = 5.0, 0.1


class Shipper:
    """The sending thread.

    Args:
        spool: What to send.
        destination: To whom.
        metrics: Counts what became of it.
        jitter: Uniform in [low, high].
        backoff_first_seconds: Upper end of the first pause; it doubles up to a minute.
    """

    def __init__(
        self,
        spool: Spool,
        destination: Destination,
        metrics: AgentMetrics,
        *,
        jitter: Callable[[float, float], float] = random.uniform,
        backoff_first_seconds: float = _BACKOFF_FIRST_SECONDS,
        read_timeout_seconds: float = _READ_TIMEOUT_SECONDS,
    ) -> None:
        self._spool = spool
        self._metrics = metrics
        self._jitter = jitter
        self._backoff_first = backoff_first_seconds
        self._client = Client(destination, read_timeout_seconds)
        self._collectors = len(destination.urls)
        self._current = 0
        self._left_first_at = 0.0
        self._failures = 0
        self._told: set[tuple[int, str]] = set()  # collector, reason: of this outage
        self._suspects = Suspects()
        self._failed_at_stop = 0
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        metrics.watch_spool(size_bytes=lambda: spool.size_bytes, batches=lambda: len(spool))

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send what waits for at most ``timeout`` seconds, until no collector takes it.

        An attempt that takes longer goes on by itself: nobody else can claim its batch meanwhile.
        """
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._spool.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._client.close()

    def _run(self) -> None:
        while not self._finished():
            try:
                self._step()
            except Exception:  # noqa: BLE001 - the stage's boundary: sending goes on, it is counted
                _log.exception("sending failed unexpectedly")
                self._metrics.add_stage_failure("shipper")
                self._failures += 1
                self._failed_at_stop += self._stopping.is_set()
                self._pause(None)

    def _step(self) -> None:
        try:
            segment = self._choose()
        except UnreadableBatchError as error:
            self._failed_at_stop += self._stopping.is_set()
            self._note_failure(error.sequence, Outcome("retry", UNREADABLE, detail=str(error)))
            return
        if segment is None:
            # At the end, what the spool still writes is waited for, up to the deadline.
            self._spool.wait(_LAST_LOOK_SECONDS if self._stopping.is_set() else _IDLE_SECONDS)
            return
        try:
            self._send(segment)
        finally:
            self._spool.release(segment.sequence)

    def _choose(self) -> Segment | None:
        """Claim the oldest batch, or the oldest of those that nothing is held against."""
        passed_over = self._suspects.passed_over()
        segment = self._spool.claim(passed_over) if passed_over else None
        if segment is None:
            segment = self._spool.claim()
            if segment is not None:
                self._suspects.forget_before(segment.sequence)
        return segment

    def _send(self, segment: Segment) -> None:
        stopping = self._stopping.is_set()
        outcome = self._client.send(segment, self._current)
        if outcome.kind == "retry":
            self._failed_at_stop += stopping
            self._note_failure(segment.sequence, outcome)
            return
        self._spool.remove(segment.sequence)
        if outcome.kind == "delivered":
            self._note_delivery(segment, outcome)
        else:
            _log.warning(
                "the collector refused a batch of %d bytes, it is dropped: %s %s",
                len(segment.payload),
                outcome.reason,
                outcome.detail,
            )
            self._metrics.add_dropped(outcome.reason)
        self._failures = self._failed_at_stop = 0
        self._told.clear()

    def _finished(self) -> bool:
        """Tell whether to end: at the stop each collector is tried once more."""
        if not self._stopping.is_set():
            return False
        tried_all = self._failed_at_stop >= max(self._collectors, 1)
        return tried_all or len(self._spool) == 0 or time.monotonic() > self._deadline

    def _note_failure(self, sequence: int, outcome: Outcome) -> None:
        if self._suspects.note_failure(sequence, outcome.reason):
            _log.warning(
                "a batch fails again and again while others arrive, it is dropped: %s %s",
                outcome.reason,
                outcome.detail,
            )
            self._spool.remove(sequence)
            self._metrics.add_dropped("poisonous")
        self._retry_later(outcome)

    def _retry_later(self, outcome: Outcome) -> None:
        self._metrics.add_send_failure(outcome.reason)
        self._failures += 1
        # Each reason is told once until something arrives; the rest is in the metrics, and the end
        # is told again.
        state = (self._current, outcome.reason)
        level = logging.DEBUG if state in self._told else logging.WARNING
        self._told.add(state)
        _log.log(
            level,
            "a batch could not be sent, it stays in the spool: %s %s",
            outcome.reason,
            outcome.detail,
        )
        if self._collectors > 1 and outcome.reason != UNREADABLE:
            if self._current == 0:
                self._left_first_at = time.monotonic()
            self._current = (self._current + 1) % self._collectors
            if self._failures % self._collectors:
                return  # one that has not been tried in this round
        self._pause(outcome.wait_seconds)

    def _pause(self, asked_seconds: float | None) -> None:
        """Wait: full jitter on a doubling limit, never shorter than the collector asked for."""
        rounds = (self._failures - 1) // max(self._collectors, 1)
        limit = min(_BACKOFF_LIMIT_SECONDS, self._backoff_first * 2 ** min(rounds, 16))
        pause = self._jitter(0.0, limit)
        if asked_seconds is not None:
            asked = min(asked_seconds, _RETRY_AFTER_LIMIT_SECONDS)
            pause = asked + self._jitter(0.0, self._backoff_first)
        self._stopping.wait(pause)

    def _return_to_first(self) -> None:
        away = time.monotonic() - self._left_first_at
        if self._current and away > _FIRST_COLLECTOR_AGAIN_SECONDS:
            self._current = 0

    def _note_delivery(self, segment: Segment, outcome: Outcome) -> None:
        self._suspects.note_arrival(segment.sequence)
        self._metrics.add_sent(len(segment.payload))
        if self._failures:
            _log.info("sending works again after %d failures", self._failures)
        if outcome.rejected_profiles or outcome.detail:
            _log.warning(
                "the collector refused %d profiles of a batch: %s",
                outcome.rejected_profiles,
                outcome.detail,
            )
            self._metrics.add_rejected_profiles(outcome.rejected_profiles)
        self._return_to_first()
