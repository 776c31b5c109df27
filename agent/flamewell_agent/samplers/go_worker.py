"""One endpoint, one thread: a CPU profile, then the instant ones, round after round."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flamewell_agent.errors import EndpointError, ProfileFormatError
from flamewell_agent.model import ProcessKey, Profile, Resource
from flamewell_agent.samplers.go_endpoints import Endpoint
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_pulls import PULLS, Converter, Pull, Span
from flamewell_agent.samplers.pprof_parse import ParsedProfile, parse

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 10.0
_MAX_BYTES = 16 * 1024 * 1024
_BACKOFF_LIMIT_SECONDS = 300.0
_GONE = frozenset({"unreachable", "timeout", "connection_lost", "redirected"})
"""After these the rest of the round is not tried."""


@dataclass(frozen=True, slots=True)
class Status:
    """How an endpoint does.

    Attributes:
        delivered: Profiles it has given so far.
        failure: Why its last CPU profile failed, empty where it did not.
        detail: The failure in words, or which of the other profiles failed.
    """

    delivered: int = 0
    failure: str = ""
    detail: str = ""


class EndpointWorker:
    """Pulls profiles from an endpoint until it is stopped.

    Args:
        endpoint: Where from.
        resource: Whose they are.
        cycle_seconds: Length of a CPU profile.
        emit: Takes the profiles of one answer.
        count: Told what became of samples (``ok``) or of a pull (a reason), and how many.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        resource: Resource,
        *,
        cycle_seconds: int,
        emit: Callable[[Sequence[Profile]], None],
        count: Callable[[str, int], None],
    ) -> None:
        self._subject = (endpoint, resource)
        self._cycle_seconds = cycle_seconds
        self._window_seconds = cycle_seconds
        self._emit = emit
        self._count = count
        self._client = PprofClient(endpoint.url)
        self._converter = Converter()
        self._converted_for: ProcessKey | None = None
        self._stopping = threading.Event()
        self._failed_rounds = 0
        self._status = Status()
        self._thread = threading.Thread(target=self._run, name="go-pprof", daemon=True)

    @property
    def endpoint(self) -> Endpoint:
        """Where it pulls from."""
        return self._subject[0]

    @property
    def status(self) -> Status:
        """How it goes."""
        return self._status

    def start(self) -> None:
        """Begin to pull."""
        self._thread.start()

    def update(self, endpoint: Endpoint, resource: Resource) -> None:
        """Say whose the endpoint's profiles are from now on."""
        self._subject = (endpoint, resource)

    def stop(self) -> None:
        """End the present request and the thread, without waiting for it."""
        self._stopping.set()
        self._client.abort()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._round()
            except Exception:  # noqa: BLE001 - the stage's boundary: other endpoints go on
                if self._stopping.is_set():
                    return
                _log.exception("pulling from %s failed unexpectedly", self.endpoint.url)
                self._count("internal_error", 1)
                self._failed_rounds += 1
            self._stopping.wait(self._pause(time.monotonic() - began))

    def _pause(self, round_seconds: float) -> float:
        """Go on at once after a full CPU window; wait longer after each failed round."""
        rest = max(0.0, self._window_seconds - round_seconds)
        if not self._failed_rounds:
            return rest
        limit = min(
            _BACKOFF_LIMIT_SECONDS, self._cycle_seconds * 2.0 ** min(self._failed_rounds, 9)
        )
        return max(rest, random.uniform(limit / 2, limit))  # noqa: S311 - jitter, no secret

    def _round(self) -> None:
        errors: dict[str, EndpointError | ProfileFormatError] = {}
        delivered = 0
        for pull in PULLS:
            try:
                delivered += self._pull(pull)
            except (EndpointError, ProfileFormatError) as error:
                if self._stopping.is_set():
                    return
                errors[pull.path] = error
                self._count(error.reason, 1)
                if error.reason in _GONE:
                    break
        self._note(delivered, errors)

    def _note(self, delivered: int, errors: dict[str, EndpointError | ProfileFormatError]) -> None:
        windowed = next((errors[each.path] for each in PULLS if _failed_window(each, errors)), None)
        if windowed is not None and windowed.reason == "window_too_long":
            self._window_seconds = max(1, self._window_seconds // 2)
        gone = any(error.reason in _GONE for error in errors.values())
        self._failed_rounds = self._failed_rounds + 1 if gone else 0
        failure = windowed.reason if windowed is not None else ""
        detail = "; ".join(f"{path}: {error}" for path, error in errors.items())
        if failure and failure != self._status.failure:
            # A found process that ends is no news; what people configured is.
            level = logging.WARNING if self.endpoint.process is None else logging.INFO
            _log.log(level, "%s cannot be profiled: %s", self.endpoint.url, detail)
        self._status = Status(self._status.delivered + delivered, failure, detail)

    def _pull(self, pull: Pull) -> int:
        endpoint, resource = self._subject
        self._forget_former(endpoint)
        seconds = self._window_seconds if pull.windowed else 0
        began, start = time.monotonic_ns(), time.time_ns()
        data = self._client.get(
            f"{pull.path}?seconds={seconds}" if pull.windowed else pull.path,
            timeout_seconds=seconds + _ANSWER_SECONDS,
            max_bytes=_MAX_BYTES,
        )
        span = Span(start, time.monotonic_ns() - began)
        parsed = parse(data)
        profiles = self._converter.convert(parsed, pull, resource=resource, span=span)
        if pull.windowed:
            self._count("ok", _sample_count(parsed))
        self._emit(profiles)
        return len(profiles)

    def _forget_former(self, endpoint: Endpoint) -> None:
        """Start counters anew where another process answers now."""
        key = endpoint.process.key if endpoint.process is not None else None
        if key != self._converted_for:
            self._converter.forget()
            self._converted_for = key


def _failed_window(pull: Pull, errors: Mapping[str, object]) -> bool:
    return pull.windowed and pull.path in errors


def _sample_count(parsed: ParsedProfile) -> int:
    """Give how often the CPU profiler of the target fired."""
    kinds = [kind for kind, _unit in parsed.sample_types]
    column = kinds.index("samples") if "samples" in kinds else 0
    return max(0, sum(each.values[column] for each in parsed.samples))
