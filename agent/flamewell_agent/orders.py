"""Fetches on-demand orders for this node, from a thread of its own; the loop never waits for it.

Nothing calls the agent: it asks a collector every few seconds. An order whose target is not here
is left to other agents; of those that are here, Python captures wait for the loop (``take``), and
tracing captures and censuses of heaps each run in a thread of their own, one at a time, while the
polls go on.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from flamewell_agent import __version__
from flamewell_agent.errors import OrderError
from flamewell_agent.model import NOT_LOOKED_AT, Process
from flamewell_agent.order_client import HINTS, POLL_PATH, REPORT_PATH, Answer, OrderClient
from flamewell_agent.order_parse import Order, parse_handout, refusal_of
from flamewell_agent.order_work import (
    Censuses,
    Report,
    Shared,
    TraceOutcome,
    Tracing,
    Work,
)

__all__ = ["Matcher", "Order", "Orders", "Tracing"]

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
MAX_AT_ONCE = 4
"""Orders of a node at work at once; each has a part of one budget."""
_JITTER = (0.8, 1.2)
_BACKOFF_LIMIT_SECONDS = 300.0
_FIRST_COLLECTOR_AGAIN_SECONDS = 300.0
_LET_GO_SECONDS = 3.0
"""For a tracer that is called off; it takes about one."""
_GIVE_UP_SECONDS = 900.0
"""A collector that takes no report for so long has ended the order by itself."""
_FINAL = frozenset({"done", "failed", "refused"})
_OK, _UNSUPPORTED = 200, frozenset({401, 403, 404, 405})
_LASTING = frozenset({400, 403, 404, 409, 413})

Matcher = Callable[[Order], Sequence[Process]]
"""Gives the processes of this node that an order is about; called from the orders' thread."""


class Orders:
    """The polling thread.

    Args:
        client: Asks the collectors.
        match: Finds an order's processes.
        tracing: Runs strace and gdb; None where they are switched off on this agent.
        heap: Takes censuses of heaps.
        node: Label ``node``.
        cluster: Label ``cluster``: two clusters may have nodes of one name.
        agent_id: Names this run of the agent.
        poll_seconds: Between polls until a collector names another time.
        jitter: Uniform in [low, high].
        count: Is told the kind and the result of each order that comes to its end here: ``done``,
            ``failed``, ``refused``, or ``ended`` by the collector (cancelled, given up).
    """

    def __init__(
        self,
        client: OrderClient,
        match: Matcher,
        tracing: Tracing | None,
        heap: Censuses,
        *,
        node: str,
        agent_id: str,
        cluster: str = "",
        poll_seconds: float = POLL_SECONDS,
        jitter: Callable[[float, float], float] = random.uniform,
        count: Callable[[str, str], None] = lambda _kind, _result: None,
    ) -> None:
        self._client = client
        self._match = match
        self._tracing = tracing
        self._heap = heap
        self._cluster = cluster
        self._names = {"node": node, "agent_id": agent_id}
        if cluster:
            self._names["cluster"] = cluster
        self._first_poll_seconds = self._poll_seconds = poll_seconds
        self._jitter = jitter
        self._count = count
        self._shared = Shared()
        self._current = 0
        self._left_first_at = 0.0
        self._failures = 0
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._apart: dict[str, threading.Thread] = {}
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop polling; what runs is reported as failed, once, within ``timeout`` seconds."""
        self._stopping.set()
        with self._shared.lock:
            for work in self._shared.work.values():
                work.called_off.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        else:
            self._client.close()

    def take(self) -> list[Order]:
        """Give the Python orders accepted since the last call, with their processes."""
        with self._shared.lock:
            taken, self._shared.taken = self._shared.taken, []
        return taken

    def report(self, order_id: str, state: str, detail: str = "", samples: int = 0) -> None:
        """Say what became of an order: ``running``, ``done``, ``failed`` or ``refused``.

        Returns at once; ``samples`` is the sum so far. The last word counts, and none after it.
        """
        self._note(order_id, Report(state, detail, samples, "", time.monotonic()))
        self._wake.set()

    def is_over(self, order_id: str) -> bool:
        """Tell whether nobody waits for an order any more: cancelled, or given up."""
        with self._shared.lock:
            return order_id not in self._shared.work

    def service_nodes(self) -> Mapping[str, int]:
        """Give service → on how many nodes it was sampled of late, for services of this node."""
        with self._shared.lock:
            return self._shared.nodes

    def _run(self) -> None:
        pause = self._jitter(0.0, self._first_poll_seconds)
        next_poll = time.monotonic() + pause
        while not self._stopping.is_set():
            self._wake.wait(max(0.0, next_poll - time.monotonic()))
            self._wake.clear()
            try:
                self._send_reports()
                if time.monotonic() >= next_poll and not self._stopping.is_set():
                    next_poll = time.monotonic() + self._step()
            except Exception:
                log.exception("polling for orders failed unexpectedly")
                self._failures += 1
                next_poll = time.monotonic() + self._backoff()
        for thread in self._apart.values():
            thread.join(_LET_GO_SECONDS)
        self._say_goodbye()
        self._client.close()

    def _step(self) -> float:
        """Poll once and do what comes; gives the seconds until the next poll."""
        with self._shared.lock:
            # A collector that does not know an order would say that it has ended.
            running = [
                key for key, work in self._shared.work.items() if work.collector == self._current
            ]
        body = {**self._names, "version": __version__, "running": running}
        try:
            answer = self._client.post(self._current, POLL_PATH, body)
        except OrderError as error:
            return self._failed(error.reason, error.detail)
        if answer.status != _OK:
            return self._failed(f"status_{answer.status}", answer.message)
        if self._failures:
            log.info("polling for orders works again after %d failures", self._failures)
        self._failures = 0
        self._take_in(answer)
        self._return_to_first()
        return self._poll_seconds * self._jitter(*_JITTER)

    def _take_in(self, answer: Answer) -> None:
        handout = parse_handout(answer.content)
        if handout.poll_seconds:
            self._poll_seconds = handout.poll_seconds
        with self._shared.lock:
            self._shared.nodes = handout.service_nodes
            for order_id in handout.ended:
                ended = self._shared.work.pop(order_id, None)
                if ended is not None:
                    ended.called_off.set()
                if ended is not None and not ended.finished:
                    self._count(ended.order.kind, "ended")
            self._shared.taken = [
                each for each in self._shared.taken if each.order_id in self._shared.work
            ]
        for order in handout.orders:
            if not self._stopping.is_set():
                self._consider(order)

    def _consider(self, order: Order) -> None:
        """Accept an order, refuse it, or leave it to the agents of other nodes."""
        found = tuple(self._match(order)) if self._is_for_us(order) else ()
        if not found:
            return
        python = tuple(each for each in found if each.runtime == "cpython")
        processes = found if order.is_tracing else python
        if not processes and any(each.unreadable == NOT_LOOKED_AT for each in found):
            return  # the next poll knows more
        refusal = refusal_of(order, processes, tracing=self._tracing is not None)
        if not refusal and self._is_busy():
            refusal = f"busy: {MAX_AT_ONCE} captures run on this node, ask again later"
        if refusal:
            self._count(order.kind, "refused")
            self._tell(self._current, order.order_id, {"state": "refused", "detail": refusal})
        elif order.is_apart and self._is_at_work(order):
            pass  # one after the other: it waits at the collector meanwhile
        elif self._accept(order):  # or another agent was first, or it has been cancelled
            self._begin(replace(order, processes=processes))

    def _is_for_us(self, order: Order) -> bool:
        """Tell whether an order may be about this node, and is new."""
        target = order.target
        if target.node not in {"", self._names["node"]}:
            return False
        if target.cluster not in {"", self._cluster}:
            return False
        with self._shared.lock:
            return not (
                order.order_id in self._shared.work or order.order_id in self._shared.settled
            )

    def _is_busy(self) -> bool:
        with self._shared.lock:
            at_work = sum(not each.finished for each in self._shared.work.values())
        return at_work >= MAX_AT_ONCE

    def _begin(self, order: Order) -> None:
        """Note an accepted order, and trace if it is about that."""
        work = Work(order, self._current)
        with self._shared.lock:
            self._shared.work[order.order_id] = work
            if self._stopping.is_set():
                work.called_off.set()
            if not order.is_apart:
                self._shared.taken.append(order)
        log.info(
            "an order was accepted: %s of %d processes for %d s",
            order.kind, len(order.processes), order.seconds, extra={"order": order.order_id},
        )  # fmt: skip
        if order.is_tracing:
            warning = f"WARNING: {order.kind} slows its target down heavily"
            self._tell(work.collector, order.order_id, {"state": "running", "detail": warning})
        if order.is_apart:
            name = _thread_name(order)
            self._apart[name] = threading.Thread(
                target=self._carry_out, args=(work,), name=name, daemon=True
            )
            self._apart[name].start()

    def _is_at_work(self, order: Order) -> bool:
        thread = self._apart.get(_thread_name(order))
        return thread is not None and thread.is_alive()

    def _accept(self, order: Order) -> bool:
        accepted = {"state": "accepted"}
        answer = self._tell(self._current, order.order_id, accepted)
        if answer is None:  # perhaps only the answer was lost: to say it twice does no harm
            answer = self._tell(self._current, order.order_id, accepted)
        return answer is not None and answer.status == _OK

    def _carry_out(self, work: Work) -> None:
        """Trace a process, or count its objects: the thread of an order."""
        order = work.order
        try:
            result = self._result(order, work.called_off)
            report = Report(result.state, result.detail, 0, result.text, time.monotonic())
        except Exception as error:  # an order must not stay open on account of a bug
            log.exception("a %s capture failed unexpectedly", order.kind)
            report = Report("failed", f"{type(error).__name__}", 0, "", time.monotonic())
        self._note(order.order_id, report)
        self._wake.set()

    def _result(self, order: Order, called_off: threading.Event) -> TraceOutcome:
        if order.kind == "heap":
            return self._heap.run(order.processes, order.seconds, called_off)
        assert self._tracing is not None  # noqa: S101 - for the type checker; see refusal_of
        return self._tracing.run(order.kind, order.processes[0].key, order.seconds, called_off)

    def _note(self, order_id: str, report: Report) -> None:
        with self._shared.lock:
            work = self._shared.work.get(order_id)
            if work is None or work.finished:
                return
            work.report = report
            work.finished = report.state in _FINAL
            if work.finished:
                self._count(work.order.kind, report.state)

    def _send_reports(self) -> None:
        """Send what there is to say; what can't be sent now waits for the next poll."""
        with self._shared.lock:
            waiting = [(key, each) for key, each in self._shared.work.items() if each.report]
        for order_id, work in waiting:
            report = cast("Report", work.report)
            answer = self._tell(
                work.collector,
                order_id,
                {
                    "state": report.state,
                    "detail": report.detail,
                    "samples": report.samples,
                    "result_text": report.result_text,
                },
            )
            tired = time.monotonic() - report.since > _GIVE_UP_SECONDS
            status = 0 if answer is None else answer.status
            if status == _OK or status in _LASTING or tired:
                self._settle(order_id, report, over=status != _OK)

    def _settle(self, order_id: str, report: Report, *, over: bool) -> None:
        """Forget a report that has arrived, and the order with its last one."""
        with self._shared.lock:
            work = self._shared.work.get(order_id)
            if work is None:
                return
            if work.report is report:
                work.report = None
            if over or (work.finished and work.report is None):
                del self._shared.work[order_id]
                # A collector that did not take the last word may offer it again.
                self._shared.settled.append(order_id)

    def _tell(self, collector: int, order_id: str, said: Mapping[str, Any]) -> Answer | None:
        """Say something of an order; None where nobody has heard it."""
        try:
            answer = self._client.post(collector, REPORT_PATH + order_id, {**self._names, **said})
        except OrderError as error:
            log.warning("the collector did not hear of the order %s: %s", order_id, error)
            return None
        if answer.status != _OK:
            log.info(
                "the collector did not take %s for the order %s: %d %s",
                said["state"], order_id, answer.status, answer.message,
            )  # fmt: skip
        return answer

    def _failed(self, reason: str, detail: str) -> float:
        """Note a failed poll; gives the seconds until the next one."""
        self._failures += 1
        # The first failure of a row is told; sending profiles tells of the collector as well.
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        hint = HINTS.get(reason, detail)
        log.log(level, "no on-demand orders can be fetched: %s %s", reason, hint)
        if self._client.collectors > 1:
            if self._current == 0:
                self._left_first_at = time.monotonic()
            self._current = (self._current + 1) % self._client.collectors
            if self._failures % self._client.collectors:
                return 0.0  # one that has not been tried in this round
        if reason.removeprefix("status_") in map(str, _UNSUPPORTED):
            return _BACKOFF_LIMIT_SECONDS * self._jitter(*_JITTER)
        return self._backoff()

    def _backoff(self) -> float:
        limit = min(_BACKOFF_LIMIT_SECONDS, self._poll_seconds * 2.0 ** min(self._failures, 16))
        return self._jitter(self._first_poll_seconds / 2, max(limit, self._first_poll_seconds))

    def _return_to_first(self) -> None:
        away = time.monotonic() - self._left_first_at
        if self._current and away > _FIRST_COLLECTOR_AGAIN_SECONDS:
            self._current = 0

    def _say_goodbye(self) -> None:
        with self._shared.lock:
            unfinished = [key for key, work in self._shared.work.items() if not work.finished]
        detail = "the agent stops or was reconfigured"
        for order_id in unfinished:
            self._note(order_id, Report("failed", detail, 0, "", time.monotonic()))
        self._send_reports()


def _thread_name(order: Order) -> str:
    """One of a kind is at work at a time."""
    return "heap" if order.kind == "heap" else "tracing"
