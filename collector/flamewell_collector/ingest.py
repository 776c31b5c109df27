"""The write path: decode, validate and limit, dedupe, make durable, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.otlp import Decoded, Decoder, parse_request
from flamewell_collector.store.storage import Storage


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of a request; it is durable.

    Attributes:
        accepted_profiles: Stored now.
        rejected: Reason → number of profiles.
        duplicates: Resources that were stored already.
        message: The first rejection in words.
    """

    accepted_profiles: int
    rejected: Counter[str]
    duplicates: int
    message: str

    @property
    def rejected_profiles(self) -> int:
        """How many profiles were not taken."""
        return sum(self.rejected.values())


class Ingest:
    """Takes decompressed requests in."""

    def __init__(
        self,
        storage: Storage,
        metrics: CollectorMetrics,
        *,
        limits: Limits,
        now_ms: Callable[[], int],
    ) -> None:
        self._storage = storage
        self._metrics = metrics
        self._limits = limits
        self._now_ms = now_ms

    def accept(self, tenant: str, body: bytes, *, as_json: bool = False) -> IngestResult:
        """Store what a request holds; returns once that is on disk.

        Raises:
            InvalidRequest: The body is no OTLP profiles request.
            StorageUnavailable: The disk is full or read-only; nothing was stored.
            Overloaded: The same batch is being written by another request; sent again, it is a
                duplicate then.
        """
        request = parse_request(body, as_json=as_json)
        decoder = Decoder(
            self._limits, seen=self._storage.seen, room_for_series=self._series_quota()
        )
        decoded = decoder.decode(request, tenant, self._now_ms())
        stored = decoded.batch is not None and self._storage.append(decoded.batch)
        accepted = decoded.batch.profiles.num_rows if stored and decoded.batch else 0
        self._count(tenant, decoded, stored=stored, size=len(body))
        return IngestResult(accepted, decoded.rejected, decoded.duplicates, decoded.message)

    def _series_quota(self) -> Callable[[str, int], bool]:
        """Make a test for one request: known series may pass, new ones up to the limit."""
        new: set[int] = set()

        def room(tenant: str, series_id: int) -> bool:
            known = self._storage.series(tenant)
            if series_id in known or series_id in new:
                return True
            if len(known) + len(new) >= self._limits.series:
                return False
            new.add(series_id)
            return True

        return room

    def _count(self, tenant: str, decoded: Decoded, *, stored: bool, size: int) -> None:
        metrics = self._metrics
        metrics.received_bytes.labels(tenant).inc(size)
        if stored and decoded.batch is not None:
            metrics.stored_profiles.labels(tenant).inc(decoded.batch.profiles.num_rows)
            metrics.stored_samples.labels(tenant).inc(decoded.batch.samples.num_rows)
        if decoded.duplicates:
            metrics.duplicate_resources.labels(tenant).inc(decoded.duplicates)
        for reason, count in decoded.rejected.items():
            metrics.discarded_profiles.labels(reason, tenant).inc(count)
        for reason, count in decoded.rejected_samples.items():
            metrics.discarded_samples.labels(reason, tenant).inc(count)
        for reason, count in decoded.rejected_bytes.items():
            metrics.discarded_bytes.labels(reason, tenant).inc(count)
        for what, count in (
            ("stack", decoded.truncated_stacks),
            ("symbol", decoded.truncated_symbols),
        ):
            if count:
                metrics.truncated.labels(tenant, what).inc(count)
