"""Send spooled batches to a collector, one at a time, from a thread of its own.

A batch leaves the spool when a collector has it (2xx) or refuses it for good (4xx other than 408
and 429); everything else is tried again, with full jitter, for as long as the spool keeps it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import urllib3

from flamewell_agent import __version__
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.otlp import decode_partial_success
from flamewell_agent.spool import Segment, Spool

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_SECONDS, _READ_TIMEOUT_SECONDS = 5.0, 30.0
_BACKOFF_FIRST_SECONDS, _BACKOFF_LIMIT_SECONDS = 1.0, 60.0
_RETRY_AFTER_LIMIT_SECONDS = 300.0
_ANSWER_LIMIT_BYTES = 64 * 1024
_FIRST_COLLECTOR_AGAIN_SECONDS = 300.0
_IDLE_SECONDS = 5.0
# A batch that makes the collector answer 500 this often (some minutes) is given up, so that one
# poisonous batch does not hold back all the later ones until the spool is full.
_SERVER_ERROR_ATTEMPTS = 10
_RETRIED_4XX = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class Destination:
    """Where and how to send.

    Attributes:
        urls: Full URLs of the profiles endpoint; the first is preferred.
        token_file: Holds a bearer token; None for none. Read again when it changes.
        ca_file: PEM file of authorities; None for the system's. Read again when it changes.
        verify: False accepts any certificate.
    """

    urls: tuple[str, ...]
    token_file: Path | None = None
    ca_file: Path | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt.

    Attributes:
        kind: ``delivered``, ``refused`` for good, or ``retry``.
        reason: For metrics; empty when delivered.
        wait_seconds: How long the collector asked to wait, None where it did not say.
        rejected_profiles: How many profiles of a delivered batch were refused.
        detail: For the log.
    """

    kind: Literal["delivered", "refused", "retry"]
    reason: str = ""
    wait_seconds: float | None = None
    rejected_profiles: int = 0
    detail: str = ""


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
        self._client = _Client(destination, read_timeout_seconds)
        self._collectors = len(destination.urls)
        self._current = 0
        self._left_first_at = 0.0
        self._failures = 0
        self._server_errors: tuple[int, int] = (0, 0)  # sequence, how often
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        metrics.watch_spool(size_bytes=lambda: spool.size_bytes, batches=lambda: len(spool))

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send what waits for at most ``timeout`` seconds, giving up at the first failure."""
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
                self._pause(None)

    def _step(self) -> None:
        segment = self._spool.oldest()
        if segment is None:
            if not self._stopping.is_set():
                self._spool.wait(_IDLE_SECONDS)
            return
        outcome = self._give_up_poison(segment, self._client.send(segment, self._current))
        if outcome.kind == "retry":
            self._retry_later(outcome)
            return
        self._spool.remove(segment.sequence)
        if outcome.kind == "delivered":
            self._note_delivery(segment, outcome)
        else:
            _log.warning(
                "the collector refused a batch, it is dropped: %s %s",
                outcome.reason,
                outcome.detail,
            )
            self._metrics.add_dropped(outcome.reason)
        self._failures = 0

    def _finished(self) -> bool:
        if not self._stopping.is_set():
            return False
        return self._failures > 0 or len(self._spool) == 0 or time.monotonic() > self._deadline

    def _give_up_poison(self, segment: Segment, outcome: Outcome) -> Outcome:
        if outcome.reason != "status_500":
            return outcome
        sequence, count = self._server_errors
        count = count + 1 if sequence == segment.sequence else 1
        self._server_errors = (segment.sequence, count)
        if count < _SERVER_ERROR_ATTEMPTS:
            return outcome
        return Outcome("refused", "server_error", detail=outcome.detail)

    def _retry_later(self, outcome: Outcome) -> None:
        self._metrics.add_send_failure(outcome.reason)
        self._failures += 1
        # The first failure of a row is told; the rest is in the metrics, the end is told again.
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        _log.log(
            level,
            "a batch could not be sent, it stays in the spool: %s %s",
            outcome.reason,
            outcome.detail,
        )
        if self._collectors > 1:
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


def judge(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
    """Decide what an answer means, as the OTLP specification has it. Pure."""
    if 200 <= status < 300:  # noqa: PLR2004 - the class of a status is read best as numbers
        try:
            rejected, message = decode_partial_success(body)
        except ValueError as error:
            return Outcome("delivered", detail=str(error))
        return Outcome("delivered", rejected_profiles=rejected, detail=message)
    reason = f"status_{status}"
    detail = body[:200].decode("utf-8", "replace")
    if 400 <= status < 500 and status not in _RETRIED_4XX:  # noqa: PLR2004 - as above
        return Outcome("refused", reason, detail=detail)
    if 300 <= status < 400:  # noqa: PLR2004 - as above
        detail = f"redirects are not followed; set collector_url to {headers.get('Location')!r}"
    wait_seconds = parse_retry_after(headers.get("Retry-After", ""), now)
    return Outcome("retry", reason, wait_seconds, detail=detail)


def parse_retry_after(text: str, now: datetime) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date; None where it is neither. Pure."""
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


class _Client:
    """The HTTP side: one kept connection to each collector, one attempt a call."""

    def __init__(self, destination: Destination, read_timeout_seconds: float) -> None:
        self._destination = destination
        self._read_timeout = read_timeout_seconds
        self._pool: urllib3.PoolManager | None = None
        self._ca_stamp: tuple[int, int] | None = None

    def send(self, segment: Segment, index: int) -> Outcome:
        """Post a batch to the collector at ``index``."""
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": segment.encoding,
            "User-Agent": f"flamewell-agent/{__version__}",
        }
        url = self._destination.urls[index]
        try:
            if self._destination.token_file is not None:
                headers["Authorization"] = f"Bearer {_read_token(self._destination.token_file)}"
            status, answer_headers, body = self._post(url, segment.payload, headers)
        except OSError as error:  # the token or CA file cannot be read just now
            return Outcome("retry", "credentials_unreadable", detail=str(error))
        except urllib3.exceptions.HTTPError as error:
            return Outcome("retry", _failure_reason(error), detail=f"{url}: {error}")
        return judge(status, answer_headers, body, datetime.now(UTC))

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.clear()

    def _post(
        self, url: str, payload: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        response = self._connections().request(
            "POST",
            url,
            body=payload,
            headers=headers,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_SECONDS, read=self._read_timeout),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            body = _read_answer(response, time.monotonic() + self._read_timeout)
        finally:
            # Gives the connection back where the answer was read to its end, closes it otherwise.
            response.close()
        return response.status, response.headers, body

    def _connections(self) -> urllib3.PoolManager:
        ca_file = self._destination.ca_file
        stamp = None
        if ca_file is not None:
            seen = ca_file.stat()
            stamp = (seen.st_mtime_ns, seen.st_ino)
        if self._pool is None or stamp != self._ca_stamp:
            self.close()
            self._pool = urllib3.PoolManager(
                num_pools=len(self._destination.urls),
                maxsize=1,
                cert_reqs="CERT_REQUIRED" if self._destination.verify else "CERT_NONE",
                ca_certs=str(ca_file) if ca_file is not None else None,
            )
            self._ca_stamp = stamp
        return self._pool


def _read_answer(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read an answer, bounded in size and in time: what comes later is not worth waiting for."""
    body = b""
    while len(body) < _ANSWER_LIMIT_BYTES and time.monotonic() < deadline:
        chunk = response.read1(_ANSWER_LIMIT_BYTES - len(body))
        if not chunk:
            break
        body += chunk
    return body


def _read_token(path: Path) -> str:
    """Read the token anew each time: a small file, once a batch, and rotation just works.

    Raises:
        OSError: It cannot be read, or what it holds cannot stand in a header.
    """
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise OSError(f"{path} does not hold a token")
    return token


def _failure_reason(error: urllib3.exceptions.HTTPError) -> str:
    # Narrow classes first: NewConnectionError is a ConnectTimeoutError is a TimeoutError.
    for kind, reason in (
        (urllib3.exceptions.NewConnectionError, "unreachable"),
        (urllib3.exceptions.ConnectTimeoutError, "connect_timeout"),
        (urllib3.exceptions.TimeoutError, "timeout"),
        (urllib3.exceptions.SSLError, "tls"),
    ):
        if isinstance(error, kind):
            return reason
    return "connection_lost"
