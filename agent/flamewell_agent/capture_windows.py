"""On-demand captures of Python processes as windows of the loop: what is wanted, what came of it.

An order is served by windows of the following cycles, before all other windows and inside the same
budget, until its seconds are covered; where they do not fit, the order is told why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flamewell_agent.governor import Decision
from flamewell_agent.model import (
    Process,
    ProcessKey,
    SamplingOptions,
    Subject,
    Wanted,
    WindowResult,
)
from flamewell_agent.order_parse import Order, fits

PROCESSES_AT_MOST = 8
"""Of one order: the processes of a service have their stacks in common."""
TRIES = 3
"""Cycles for which an order waits for room before it is refused."""
_OPTIONS = {
    "cpu": SamplingOptions(),
    "wall": SamplingOptions(wall=True),
    "native": SamplingOptions(native=True),
}


class Source(Protocol):
    """Gives orders and takes what became of them."""

    def take(self) -> list[Order]:
        """Give those accepted since the last call."""
        ...

    def report(self, order_id: str, state: str, detail: str = "", samples: int = 0) -> None:
        """Tell how one stands."""
        ...

    def is_over(self, order_id: str) -> bool:
        """Tell whether nobody waits for it any more."""
        ...

    def service_nodes(self) -> Mapping[str, int]:
        """Give on how many nodes services of this node are sampled."""
        ...


class Roster:
    """The processes that may be captured, for the orders' thread; replaced as a whole each cycle.

    Args:
        subject_of: Names a process; called from the loop's thread only.
    """

    def __init__(self, subject_of: Callable[[Process], Subject]) -> None:
        self._subject_of = subject_of
        self._known: tuple[tuple[Process, Mapping[str, str]], ...] = ()

    def rename(self, subject_of: Callable[[Process], Subject]) -> None:
        """Name processes in another way from the next cycle on."""
        self._subject_of = subject_of

    def update(self, processes: Sequence[Process]) -> None:
        """Take the processes of a cycle: those that nobody wants left alone."""
        self._known = tuple(
            (each, dict(self._subject_of(each).resource.attributes)) for each in processes
        )

    def match(self, order: Order) -> list[Process]:
        """Find an order's processes."""
        return [each for each, names in self._known if fits(order.target, each, names)]


class NoOrders:
    """Where on-demand captures are switched off."""

    def wanted(self, processes: Sequence[Process]) -> Mapping[ProcessKey, Wanted]:  # noqa: ARG002 - as in the other
        """Want nothing."""
        return {}

    def ran(self, decision: Decision, results: Sequence[WindowResult]) -> None:
        """Ignore it."""

    def service_nodes(self) -> Mapping[str, int]:
        """Know nothing of other nodes."""
        return {}


@dataclass(slots=True)
class _Running:
    """An order at work.

    Attributes:
        keys: Its processes that are still there and have windows.
        seconds_left: Not yet covered.
        samples: So far.
        tries: Cycles in which none of its processes had a window.
    """

    order: Order
    keys: tuple[ProcessKey, ...]
    seconds_left: int
    samples: int = 0
    tries: int = 0


class CaptureWindows:
    """Serves orders cycle by cycle.

    Args:
        source: Of orders.
        roster: Is told of the processes there are.
    """

    def __init__(self, source: Source, roster: Roster) -> None:
        self._source = source
        self._roster = roster
        self._running: dict[str, _Running] = {}
        self._serving: Mapping[ProcessKey, Wanted] = {}

    def wanted(self, processes: Sequence[Process]) -> Mapping[ProcessKey, Wanted]:
        """Say which processes are to be captured in this cycle, and how."""
        self._roster.update(processes)
        for order in self._source.take():
            keys = tuple(each.key for each in order.processes[:PROCESSES_AT_MOST])
            self._running[order.order_id] = _Running(order, keys, order.seconds)
        alive = {each.key for each in processes}
        wanted: dict[ProcessKey, Wanted] = {}
        for order_id, running in list(self._running.items()):
            running.keys = tuple(key for key in running.keys if key in alive)
            if self._source.is_over(order_id):
                del self._running[order_id]
            elif not running.keys:
                self._finish(running, "failed", "the process has ended")
            else:
                order = running.order
                mine = Wanted(order_id, order.rate_hz, running.seconds_left, _OPTIONS[order.kind])
                for key in running.keys:
                    # Two orders for one process: the later one waits for the earlier.
                    wanted.setdefault(key, mine)
        self._serving = wanted
        return wanted

    def ran(self, decision: Decision, results: Sequence[WindowResult]) -> None:
        """Take what became of the cycle's windows."""
        reasons = {process.key: reason for process, reason in decision.skipped}
        reasons |= {process.key: reason for process, reason in decision.wall_skipped}
        for order_id, running in list(self._running.items()):
            served = {
                key
                for key in running.keys
                if key in self._serving and self._serving[key].capture_id == order_id
            }
            if not served:
                continue
            kind = "wall" if running.order.kind == "wall" else "cpu"
            own = [
                each
                for each in results
                if each.window.process.key in served and each.window.kind == kind
            ]
            good = [each for each in own if not each.failure]
            if good:
                self._note_progress(running, good)
            else:
                failed = {each.window.process.key: _failure(each) for each in own}
                self._note_vain_try(running, {**reasons, **failed})

    def service_nodes(self) -> Mapping[str, int]:
        """Give on how many nodes services of this node are sampled, as the collector says."""
        return self._source.service_nodes()

    def _note_progress(self, running: _Running, results: Sequence[WindowResult]) -> None:
        running.samples += sum(count for each in results for _, count in each.samples)
        running.seconds_left -= max(each.window.seconds for each in results)
        running.tries = 0
        if running.seconds_left <= 0:
            detail = "" if running.samples else "no Python code was on a CPU meanwhile"
            self._finish(running, "done", detail)
        else:
            self._source.report(running.order.order_id, "running", samples=running.samples)

    def _note_vain_try(self, running: _Running, reasons: Mapping[ProcessKey, str]) -> None:
        running.tries += 1
        if running.tries >= TRIES:
            said = {reasons.get(key, "not decided") for key in running.keys}
            state = "failed" if running.samples else "refused"
            self._finish(running, state, "; ".join(sorted(said)))

    def _finish(self, running: _Running, state: str, detail: str) -> None:
        order_id = running.order.order_id
        self._source.report(order_id, state, detail, running.samples)
        self._running.pop(order_id, None)


def _failure(result: WindowResult) -> str:
    return f"{result.failure}: {result.detail}" if result.detail else result.failure
