"""One endpoint, one thread: a CPU profile, then the instant ones, round after round."""

from __future__ import annotations

import logging
import math
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flamewell_agent.errors import EndpointError, ProfileFormatError
from flamewell_agent.model import Profile, Resource
from flamewell_agent.samplers.go_budget import PullBudget, Turn
from flamewell_agent.samplers.go_counters import CounterRoom
from flamewell_agent.samplers.go_endpoints import Endpoint
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_pulls import WHOLE_FROM, Converter, Pull, Span, pulls_of
from flamewell_agent.samplers.pprof_parse import ParsedProfile, parse

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 10.0
_TURN_SECONDS = 60.0
_MAX_BYTES = 8 * 1024 * 1024
_BACKOFF_LIMIT_SECONDS = 300.0
_GONE = frozenset(
    {"unreachable", "timeout", "connection_lost", "redirected", "certificate_not_trusted"}
)
"""After these the rest of the round is not tried."""
_ABOUT_A_CYCLE = 0.9
"""Rounds differ a little in length: a pull that is this far into its cycle is due."""


@dataclass(frozen=True, slots=True)
class Status:
    """How an endpoint does.

    Attributes:
        delivered: Profiles it has given so far.
        failure: Why its last CPU profile failed (without CPU profiles: the last round), empty
            where it did not.
        detail: The failure in words, or which of the other profiles failed.
        waiting: Which pulls did not fit in the budget in the last round.
        all_waiting: No pull fitted.
        lost: Nobody listened there in the last round.
    """

    delivered: int = 0
    failure: str = ""
    detail: str = ""
    waiting: tuple[str, ...] = ()
    all_waiting: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Pulling:
    """How all endpoints of an agent are pulled from.

    Attributes:
        cycle_seconds: How long a round takes: a CPU profile and then the others.
        cpu_share: For how much of the time a target's CPU profiler may run, above 0 to 1.
        emit: Takes the profiles of one answer.
        count: Told what became of samples (``ok``) or of a pull (a reason), and how many.
        tls: Whom to believe on https.
        budget: What pulling may cost.
        room: Memory for counters.
        reading: Held while a large answer is read and while any is parsed, so that the memory for
            it is needed once, not once an endpoint.
        clock: Seconds that grow steadily.
    """

    cycle_seconds: int
    emit: Callable[[Sequence[Profile]], None]
    count: Callable[[str, int], None]
    cpu_share: float = 1.0
    tls: ssl.SSLContext | None = None
    budget: PullBudget = field(default_factory=PullBudget)
    room: CounterRoom = field(default_factory=CounterRoom)
    reading: threading.Lock = field(default_factory=threading.Lock)
    clock: Callable[[], float] = time.monotonic


class EndpointWorker:
    """Pulls profiles from an endpoint until it is stopped.

    Args:
        endpoint: Where from.
        resource: Whose they are.
        pulling: What it has in common with the others.
    """

    def __init__(self, endpoint: Endpoint, resource: Resource, pulling: Pulling) -> None:
        self._subject = (endpoint, resource)
        self._pulling = pulling
        self._cycle_seconds = pulling.cycle_seconds
        self._window_seconds = max(1, round(pulling.cycle_seconds * pulling.cpu_share))
        self._client = PprofClient(endpoint.url, pulling.tls)
        # Where windows cover a part by intention, all of them stand for their gaps: else a share
        # of 0.9 would leave out a tenth.
        whole_from = WHOLE_FROM if pulling.cpu_share >= 1.0 else 1.0
        self._converter = Converter(pulling.room, pulling.count, whole_from)
        self._pulled_at: dict[str, float] = {}
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
        """Say what its process's profiles are named, and what may be pulled, from now on."""
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
        # At a random time of the first round: endpoints found together do not stay in step.
        self._stopping.wait(random.uniform(0, self._cycle_seconds / 4))  # noqa: S311 - no secret
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._round()
            except Exception:  # noqa: BLE001 - the stage's boundary: other endpoints go on
                if self._stopping.is_set():
                    break
                _log.exception("pulling from %s failed unexpectedly", self.endpoint.url)
                self._pulling.count("internal_error", 1)
                self._failed_rounds += 1
            self._stopping.wait(self._pause(time.monotonic() - began))
        self._converter.forget()
        self._pulling.budget.forget(self.endpoint.url)

    def _round_seconds(self) -> float:
        """Give how long a round is: shorter where the server lets no whole window through."""
        return min(float(self._cycle_seconds), self._window_seconds / self._pulling.cpu_share)

    def _pause(self, round_seconds: float) -> float:
        """Go on at once after a full CPU window; wait longer after each failed round."""
        rest = max(0.0, self._round_seconds() - round_seconds)
        if not self._failed_rounds:
            return rest
        limit = min(
            _BACKOFF_LIMIT_SECONDS, self._cycle_seconds * 2.0 ** min(self._failed_rounds, 9)
        )
        return max(rest, random.uniform(limit / 2, limit))  # noqa: S311 - jitter, no secret

    def _round(self) -> None:
        errors: dict[str, EndpointError | ProfileFormatError] = {}
        delivered = 0
        waiting = []
        asked = 0
        for pull in pulls_of(self.endpoint.kinds):
            if not self._is_due(pull):
                continue
            asked += 1
            if not self._pulling.budget.admit(self.endpoint.url, pull.path, pull.weight):
                waiting.append(pull.path)
                continue
            self._pulled_at[pull.path] = self._pulling.clock()
            try:
                delivered += self._pull(pull)
            except (EndpointError, ProfileFormatError) as error:
                if self._stopping.is_set():
                    return
                errors[pull.path] = error
                self._pulling.count(error.reason, 1)
                if error.reason in _GONE:
                    # Who answers next may be another program: its counters are not these.
                    self._converter.forget()
                    break
        self._note(delivered, errors, tuple(waiting), asked)

    def _is_due(self, pull: Pull) -> bool:
        """Tell whether a pull belongs to this round; wait for the CPU window's random place.

        Where not even the shortest window (1 s) fits the share of each round, rounds are drawn.
        Other pulls keep to the cycle where a server's WriteTimeout makes windows, and so rounds,
        shorter: the target pays for them.
        """
        if not pull.windowed:
            cycle = _ABOUT_A_CYCLE * self._cycle_seconds
            last = self._pulled_at.get(pull.path, -math.inf)
            return self._round_seconds() >= cycle or self._pulling.clock() - last >= cycle
        if self._pulling.cpu_share >= 1.0:
            return True
        covered = self._window_seconds / self._round_seconds()
        if random.random() * covered > self._pulling.cpu_share:  # noqa: S311 - no secret
            return False
        left = self._round_seconds() - self._window_seconds
        self._stopping.wait(random.uniform(0, max(0.0, left)))  # noqa: S311 - no secret
        return not self._stopping.is_set()

    def _note(
        self,
        delivered: int,
        errors: dict[str, EndpointError | ProfileFormatError],
        waiting: tuple[str, ...],
        asked: int,
    ) -> None:
        windowed = next((errors[each.path] for each in _windowed(self.endpoint, errors)), None)
        if windowed is not None and windowed.reason == "window_too_long":
            self._window_seconds = max(1, self._window_seconds // 2)
        gone = any(error.reason in _GONE for error in errors.values())
        self._failed_rounds = self._failed_rounds + 1 if gone else 0
        worst = windowed
        if worst is None and errors and len(errors) + len(waiting) == asked:
            worst = next(iter(errors.values()))
        failure = worst.reason if worst is not None else ""
        words = [f"{path}: {error}" for path, error in errors.items()]
        words += [f"{path}: waits for budget" for path in waiting]
        detail = "; ".join(words)
        if failure and failure != self._status.failure:
            # A found process that ends is no news; what people configured is.
            level = logging.WARNING if self.endpoint.process is None else logging.INFO
            _log.log(level, "%s cannot be profiled: %s", self.endpoint.url, detail)
        all_waiting = bool(waiting) and len(waiting) == asked
        total = self._status.delivered + delivered
        lost = any(error.reason == "unreachable" for error in errors.values())
        self._status = Status(total, failure, detail, waiting, all_waiting, lost)

    def _pull(self, pull: Pull) -> int:
        """Fetch, read and emit one profile, and book what it cost, failed or not."""
        began = time.thread_time()
        try:
            return self._fetch(pull)
        finally:
            used = time.thread_time() - began
            self._pulling.budget.settle(self.endpoint.url, pull.path, used)

    def _fetch(self, pull: Pull) -> int:
        resource = self._subject[1]
        seconds = self._window_seconds if pull.windowed else 0
        began, start = time.monotonic_ns(), time.time_ns()
        with Turn(self._pulling.reading) as turn:
            data = self._client.get(
                f"{pull.path}?seconds={seconds}" if pull.windowed else pull.path,
                timeout_seconds=seconds + _ANSWER_SECONDS,
                max_bytes=_MAX_BYTES,
                before_large=turn.take,
            )
            span = Span(start, time.monotonic_ns() - began, began)
            try:
                turn.take(_TURN_SECONDS)
            except TimeoutError as error:
                raise EndpointError("no_turn", str(error)) from error
            parsed = parse(data)
            profiles = self._converter.convert(parsed, pull, resource=resource, span=span)
        if pull.windowed:
            self._pulling.count("ok", _sample_count(parsed))
        self._pulling.emit(profiles)
        return len(profiles)


def _windowed(
    endpoint: Endpoint, errors: dict[str, EndpointError | ProfileFormatError]
) -> list[Pull]:
    return [each for each in pulls_of(endpoint.kinds) if each.windowed and each.path in errors]


def _sample_count(parsed: ParsedProfile) -> int:
    """Give how often the CPU profiler of the target fired."""
    kinds = [kind for kind, _unit in parsed.sample_types]
    column = kinds.index("samples") if "samples" in kinds else 0
    return max(0, sum(each.values[column] for each in parsed.samples))
