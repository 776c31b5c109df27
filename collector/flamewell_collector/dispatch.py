"""Takes requests for captures and hands them to the agents that ask. Nothing here calls an agent.

The captures that may still change are kept in memory as well: every agent of a fleet asks every
few seconds, and a question costs no look at the disk.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from flamewell_collector import captures
from flamewell_collector.captures import (
    TRACING_COST,
    TRACING_KINDS,
    Capture,
    Poll,
    Report,
    Wish,
)
from flamewell_collector.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    StorageUnavailable,
)
from flamewell_collector.store.captures import AuditLine, CaptureStore

log = logging.getLogger(__name__)
audit_log = logging.getLogger("flamewell.audit")

MAX_OPEN: Final = 100
_WAIT_SECONDS: Final = 60
_CLUSTER_KNOWN_MS: Final = 3_600_000
_NODES_KNOWN: Final = 20_000


@dataclass(frozen=True, slots=True)
class Handout:
    """What an agent gets.

    Attributes:
        orders: Captures that it may accept.
        ended: Ids of those it says it works on that have come to their end, e.g. by a cancel.
    """

    orders: tuple[Capture, ...]
    ended: tuple[str, ...]


class Dispatch:
    """All captures; safe to use from several threads.

    Args:
        store: Where they are kept.
        allow_tracing: Whether strace and gdb may be asked for at all.
        clock: Gives ms since the epoch.
        count: Is told the kind and the last state of each capture that comes to its end, and
            ``forbidden`` for one that may not be asked for.
    """

    def __init__(
        self,
        store: CaptureStore,
        *,
        allow_tracing: bool,
        clock: Callable[[], int],
        count: Callable[[str, str], None] = lambda _kind, _result: None,
    ) -> None:
        self._store = store
        self._allow_tracing = allow_tracing
        self._clock = clock
        self._count = count
        self._lock = threading.Lock()
        now = clock()
        self._clusters: dict[tuple[str, str], dict[str, int]] = {}
        # Agents could not be heard while the collector was away.
        self._open = {
            each.capture_id: replace(each, heard_ms=now) if each.accepted_ms else each
            for each in store.open_captures()
        }

    def create(self, tenant: str, principal: str, wish: Wish) -> Capture:
        """Take a request.

        Raises:
            Forbidden: It is of a kind that is switched off.
            InvalidRequest: Several clusters have a node of that name.
            Overloaded: Too many are open.
            StorageUnavailable: It can't be written.
        """
        now = self._clock()
        capture = Capture(secrets.token_hex(8), tenant, principal, wish, created_ms=now)
        if wish.kind in TRACING_KINDS and not self._allow_tracing:
            refusal = (
                f"{wish.kind} captures are switched off here: {TRACING_COST}. Allow them by "
                "allow_tracing_captures of the collector and tracing_captures of the agent"
            )
            self._count(wish.kind, "forbidden")
            self._audit_alone(_line(capture, now, principal, "create", "forbidden"))
            raise Forbidden(refusal)
        with self._lock:
            self._expire(now)
            self._refuse_namesakes(tenant, wish.target, now)
            if len(self._open) >= MAX_OPEN:
                raise Overloaded(
                    f"{MAX_OPEN} captures are open: cancel one, or wait",
                    retry_after_seconds=_WAIT_SECONDS,
                )
            self._keep(capture, _line(capture, now, principal, "create", "waiting"))
        return capture

    def cancel(self, tenant: str, principal: str, capture_id: str) -> Capture:
        """Call one off.

        Raises:
            NotFound: There is none of that id.
            Conflict: It has come to its end.
        """
        now = self._clock()
        with self._lock:
            self._expire(now)
            cancelled = captures.cancel(self._found(tenant, capture_id), principal, now)
            self._keep(cancelled, _line(cancelled, now, principal, "cancel", "cancelled"))
        return cancelled

    def get(self, tenant: str, capture_id: str) -> Capture:
        """Give one as it is now.

        Raises:
            NotFound: There is none of that id.
        """
        with self._lock:
            self._expire(self._clock())
            return self._found(tenant, capture_id)

    def newest(self, tenant: str, *, state: str, service: str, limit: int) -> list[Capture]:
        """Give the newest ones first, without results."""
        with self._lock:
            self._expire(self._clock())
        return self._store.newest(tenant, state=state, service=service, limit=limit)

    def audit(self, capture_id: str) -> list[AuditLine]:
        """Give what happened to one, oldest first."""
        return self._store.audit(capture_id)

    def poll(self, tenant: str, poll: Poll) -> Handout:
        """Answer an agent that asks for work and says what it is at."""
        now = self._clock()
        with self._lock:
            self._expire(now)
            self._note_cluster(tenant, poll, now)
            ended = []
            for capture_id in poll.running:
                found = self._open.get(capture_id)
                if found is None or (found.node, found.agent_id) != (poll.node, poll.agent_id):
                    ended.append(capture_id)
                else:
                    # In memory alone: what is lost with it is at most a minute of patience.
                    self._open[capture_id] = replace(found, heard_ms=now)
            orders = tuple(
                each for each in self._open.values() if captures.is_offered(each, tenant, poll)
            )
        return Handout(orders, tuple(ended))

    def report(self, tenant: str, capture_id: str, report: Report) -> Capture:
        """Take what an agent says of a capture.

        Raises:
            NotFound: There is none of that id.
            Conflict: Another agent has it, or it has come to its end.
        """
        now = self._clock()
        with self._lock:
            self._expire(now)
            before = self._found(tenant, capture_id)
            after = captures.apply(before, report, now)
            self._keep(after, _line_of_report(before, after, report, now))
        return after

    def expire(self) -> None:
        """End what has run out of time; a job calls this now and then."""
        with self._lock:
            self._expire(self._clock())

    def _note_cluster(self, tenant: str, poll: Poll, now: int) -> None:
        """Remember in which clusters there is a node of a name."""
        if (tenant, poll.node) not in self._clusters and len(self._clusters) >= _NODES_KNOWN:
            self._clusters.pop(next(iter(self._clusters)))
        seen = self._clusters.setdefault((tenant, poll.node), {})
        seen[poll.cluster] = now
        for cluster in [each for each, at in seen.items() if now - at > _CLUSTER_KNOWN_MS]:
            del seen[cluster]

    def _refuse_namesakes(self, tenant: str, target: captures.Target, now: int) -> None:
        """Take no order for a node of which there are several: it would be anybody's."""
        seen = self._clusters.get((tenant, target.node), {})
        known = sorted(each for each, at in seen.items() if now - at <= _CLUSTER_KNOWN_MS)
        if target.node and not target.cluster and len(known) > 1:
            named = ", ".join(each or "(none)" for each in known)
            raise InvalidRequest(
                f"several clusters have a node {target.node}: {named}; name the target's cluster"
            )

    def _expire(self, now: int) -> None:
        for each in list(self._open.values()):
            after = captures.expire(each, now)
            if after is not each:
                try:
                    self._keep(after, _line(after, now, "collector", "finish", _result(after)))
                except StorageUnavailable as error:  # it stays open, and ends the next time
                    log.warning("a capture that has run out of time is still open: %s", error)
                    return

    def _found(self, tenant: str, capture_id: str) -> Capture:
        found = self._open.get(capture_id) or self._store.get(tenant, capture_id)
        if found is None or found.tenant != tenant:
            raise NotFound(f"there is no capture {capture_id[:40]!r}")
        return found

    def _keep(self, capture: Capture, line: AuditLine | None) -> None:
        self._store.put(capture, line)
        if capture.is_open:
            self._open[capture.capture_id] = capture
        else:
            self._open.pop(capture.capture_id, None)
            self._count(capture.wish.kind, capture.state)
        if line is not None:
            _tell(line)

    def _audit_alone(self, line: AuditLine) -> None:
        _tell(line)
        try:
            self._store.add_line(line)
        except StorageUnavailable as error:
            log.warning("an audit line is in the log alone: %s", error)


def _line_of_report(before: Capture, after: Capture, report: Report, now: int) -> AuditLine | None:
    who = f"agent {captures.place(report.cluster, report.node)}"
    if report.state == "refused":
        return _line(after, now, who, "refuse", report.detail)
    if before.state == "waiting":
        return _line(after, now, who, "hand_out", after.state)
    if before.is_open and not after.is_open:
        return _line(after, now, who, "finish", _result(after))
    return None


def _result(capture: Capture) -> str:
    return f"{capture.state}: {capture.detail}" if capture.detail else capture.state


def _line(capture: Capture, now: int, who: str, what: str, result: str) -> AuditLine:
    wish = capture.wish
    target = wish.target.named()
    return AuditLine(capture.capture_id, now, who, what, wish.kind, target, wish.seconds, result)


def _tell(line: AuditLine) -> None:
    # None of the fields' names is one that a log record has itself.
    audit_log.info("capture %s", line.what.replace("_", " "), extra=asdict(line))


def offered(orders: Sequence[Capture]) -> list[dict[str, object]]:
    """Give orders as agents read them (pure)."""
    return [
        {
            "id": each.capture_id,
            "kind": each.wish.kind,
            "seconds": each.wish.seconds,
            "rate_hz": each.wish.rate_hz,
            "target": each.wish.target.named(),
        }
        for each in orders
    ]
