"""The write path: admit, decode, validate and limit, dedupe, make durable, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from flamewell_collector.admission import (
    BODY_FACTOR,
    JSON_FACTOR,
    SAMPLE_BYTES,
    Admission,
    Reservation,
    TenantRates,
)
from flamewell_collector.batch_builder import Known
from flamewell_collector.errors import ProfileRejected, RateLimited, StaleBatch
from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.model import DecodedBatch
from flamewell_collector.otlp import Decoder
from flamewell_collector.otlp_wire import parse_request
from flamewell_collector.pprof import PprofDecoder, Upload
from flamewell_collector.store.storage import Storage

_TRIES_WITH_KNOWN_STACKS = 2
"""A log file lasts for minutes: the second one does not end before the batch is in it."""


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


@dataclass(slots=True)
class _Outcome:
    """What is counted of one request."""

    batch: DecodedBatch | None
    rejected: Counter[str]
    rejected_samples: Counter[str]
    rejected_bytes: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    truncated_stacks: int = 0
    truncated_symbols: int = 0
    message: str = ""


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
        self._admission = Admission(limits.memory_bytes)
        seconds = limits.burst_seconds
        self._bytes = TenantRates(
            limits.tenant_bytes_per_second, burst_seconds=seconds, what="bytes"
        )
        self._samples = TenantRates(
            limits.tenant_samples_per_second, burst_seconds=seconds, what="samples"
        )

    @property
    def memory_bytes(self) -> int:
        """What the requests under way have reserved."""
        return self._admission.taken_bytes

    @contextmanager
    def admitted(self) -> Iterator[Reservation]:
        """Let a request come in, before its body is read.

        Raises:
            StorageUnavailable: The disk is full, or too much waits for a flush.
        """
        self._storage.check_room()
        with self._admission.reserve() as memory:
            yield memory

    def accept(
        self,
        tenant: str,
        body: bytes,
        *,
        as_json: bool = False,
        memory: Reservation | None = None,
    ) -> IngestResult:
        """Store what a request holds; returns once that is on disk.

        Args:
            tenant: Whose.
            body: An ExportProfilesServiceRequest.
            as_json: In JSON, not protobuf.
            memory: What is taken for the body; it is given back by whoever has made it.

        Raises:
            InvalidRequest: The body is no OTLP profiles request.
            StorageUnavailable: The disk is full or read-only; nothing was stored.
            Overloaded: Too much comes in; or the same batch is being written by another request:
                sent again, it is a duplicate then.
        """
        self._bytes.take(tenant, len(body))
        admit = self._sample_gate(tenant, memory)
        if as_json and memory is not None:
            memory.take(len(body) * JSON_FACTOR)
        request = parse_request(body, as_json=as_json)

        def decode(known: Known | None) -> _Outcome:
            decoder = Decoder(
                self._limits,
                seen=self._storage.seen,
                room_for_series=self._series_quota(),
                known=known,
                admit_samples=admit,
            )
            found = decoder.decode(request, tenant, self._now_ms())
            return _Outcome(
                found.batch,
                found.rejected,
                found.rejected_samples,
                found.rejected_bytes,
                found.duplicates,
                found.truncated_stacks,
                found.truncated_symbols,
                found.message,
            )

        return self._store(tenant, decode, size=len(body))

    def accept_pprof(
        self,
        tenant: str,
        labels: Mapping[str, str],
        body: bytes,
        *,
        time_ms: int = 0,
        duration_ms: int = 0,
        batch_id: str = "",
        memory: Reservation | None = None,
    ) -> IngestResult:
        """Store a pprof profile; returns once it is on disk.

        Args:
            tenant: Whose.
            labels: Of its series; ``__name__`` names the group of its types.
            body: The profile, gzipped or not.
            time_ms: When it began, where it does not say so itself.
            duration_ms: How long it was, likewise.
            batch_id: Names the upload for good, where the sender has such a name.
            memory: As for ``accept``.

        Raises:
            ProfileRejected: It is above a limit or refers to what is not there; it is counted.
            InvalidRequest: It is no profile.
            StorageUnavailable: The disk is full or read-only; nothing was stored.
            Overloaded: Too much comes in.
        """
        self._bytes.take(tenant, len(body))
        if batch_id and self._storage.seen(tenant, batch_id):
            return self._counted(tenant, _Outcome(None, Counter(), Counter(), duplicates=1), 0, 0)
        if memory is not None:
            memory.take(self._limits.profile_bytes * BODY_FACTOR)
        admit = self._sample_gate(tenant, memory)
        upload = Upload(labels, time_ms, duration_ms)

        def decode(known: Known | None) -> _Outcome:
            decoder = PprofDecoder(
                self._limits,
                room_for_series=self._series_quota(),
                known=known,
                admit_samples=admit,
            )
            found = decoder.decode(body, upload, tenant, self._now_ms())
            batch = replace(found.batch, batch_ids=(batch_id,) if batch_id else ())
            return _Outcome(
                batch if batch.profiles.num_rows else None,
                found.rejected,
                found.rejected_samples,
                truncated_stacks=found.truncated_stacks,
                truncated_symbols=found.truncated_symbols,
                message=found.message,
            )

        try:
            return self._store(tenant, decode, size=len(body))
        except ProfileRejected as error:
            self._metrics.discarded_profiles.labels(error.reason, tenant).inc()
            self._metrics.discarded_bytes.labels(error.reason, tenant).inc(len(body))
            raise

    def _store(
        self, tenant: str, decode: Callable[[Known | None], _Outcome], *, size: int
    ) -> IngestResult:
        """Decode, and write what comes out; once more where the log file has changed meanwhile."""
        tries = 0
        while True:
            known = self._storage.known_stacks(tenant) if tries < _TRIES_WITH_KNOWN_STACKS else None
            tries += 1
            outcome = decode(known)
            try:
                stored = outcome.batch is not None and self._storage.append(outcome.batch)
            except StaleBatch:
                continue
            accepted = outcome.batch.profiles.num_rows if stored and outcome.batch else 0
            samples = outcome.batch.samples.num_rows if stored and outcome.batch else 0
            self._metrics.received_bytes.labels(tenant).inc(size)
            return self._counted(tenant, outcome, accepted, samples)

    def _sample_gate(self, tenant: str, memory: Reservation | None) -> Callable[[int, int], None]:
        """Make what admits (profiles, samples) of a request, once."""
        admitted = False

        def admit(profiles: int, samples: int) -> None:
            nonlocal admitted
            if admitted:
                return
            if memory is not None:
                memory.take(samples * SAMPLE_BYTES)
            try:
                self._samples.take(tenant, samples)
            except RateLimited:
                reason = "rate_limited"
                self._metrics.discarded_profiles.labels(reason, tenant).inc(profiles)
                self._metrics.discarded_samples.labels(reason, tenant).inc(samples)
                raise
            admitted = True

        return admit

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

    def _counted(self, tenant: str, outcome: _Outcome, accepted: int, samples: int) -> IngestResult:
        metrics = self._metrics
        metrics.stored_profiles.labels(tenant).inc(accepted)
        metrics.stored_samples.labels(tenant).inc(samples)
        if outcome.duplicates:
            metrics.duplicate_resources.labels(tenant).inc(outcome.duplicates)
        for counter, counts in (
            (metrics.discarded_profiles, outcome.rejected),
            (metrics.discarded_samples, outcome.rejected_samples),
            (metrics.discarded_bytes, outcome.rejected_bytes),
        ):
            for reason, count in counts.items():
                counter.labels(reason, tenant).inc(count)
        for what, count in (
            ("stack", outcome.truncated_stacks),
            ("symbol", outcome.truncated_symbols),
        ):
            if count:
                metrics.truncated.labels(tenant, what).inc(count)
        return IngestResult(accepted, outcome.rejected, outcome.duplicates, outcome.message)
