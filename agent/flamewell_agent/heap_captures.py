"""On-demand censuses of Python heaps, inside the overhead budget.

A census takes some tenths of a second of CPU at once. The loop is asked for it beforehand: it saves
up, giving fewer windows, until the budget has room, and the census is made in that cycle.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flamewell_agent import procfs
from flamewell_agent.errors import AgentError, HeapRefusedError, ProcessGoneError
from flamewell_agent.heap import report
from flamewell_agent.heap.census import (
    HEADERS_AT_MOST,
    POOLS_AT_ONCE,
    Census,
    parse_version,
    take_census,
)
from flamewell_agent.heap.pools import pool_bytes
from flamewell_agent.heap.remote_memory import RemoteMemory
from flamewell_agent.model import Process
from flamewell_agent.samplers.memory import parse_statm

PATIENCE_SECONDS = 300.0
"""For room in the budget: a census of 1.2 GB fits into a minute of 1 % of one core."""
_HEADER_SECONDS, _POOL_SECONDS, _BASE_SECONDS = 5e-6, 4e-4, 0.05
"""Of CPU: a header read, a pool looked into, and the rest; 1.3 times what bench/heap_census.py
shows."""
_POOLS_AT_LEAST, _HEADERS_AT_LEAST = 100, 5_000
_MOST_SECONDS = 10.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class HeapResult:
    """What came of an order.

    Attributes:
        state: As orders are reported.
        detail: Why, or whom it is about.
        text: Tables: what grows, and what there is.
    """

    state: Literal["done", "failed", "refused"]
    detail: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """Two censuses of a process.

    Attributes:
        process: Whose.
        census: The second.
        grown: What is more than chance and has grown since the first, most bytes first.
        seconds: Between the two.
    """

    process: Process
    census: Census
    grown: tuple[report.Growth, ...]
    seconds: float


class Purse:
    """CPU that is asked for by one thread, and given by the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0.0
        self._given = threading.Event()

    def ask(self, cpu_seconds: float, stop: threading.Event, patience_seconds: float) -> bool:
        """Wait until so much may be used at once; False if that does not come, or it is called off.

        Args:
            cpu_seconds: What is needed.
            stop: Calls it off.
            patience_seconds: How long to wait.
        """
        with self._lock:
            self._given.clear()
            self._wanted = cpu_seconds
        deadline = time.monotonic() + patience_seconds
        while not self._given.wait(_LOOK_SECONDS):
            if stop.is_set() or time.monotonic() > deadline:
                break
        with self._lock:
            self._wanted = 0.0
            return self._given.is_set()

    def grant(self, allowance_seconds: float) -> float:
        """Give what is asked for, if there is room; called by the loop, once a cycle.

        Args:
            allowance_seconds: What may be used in this cycle.

        Returns:
            What is spoken for: what was asked for, or all of it while it is being saved up.
        """
        with self._lock:
            if not self._wanted:
                return 0.0
            if self._wanted > allowance_seconds:
                return max(0.0, allowance_seconds)
            self._given.set()
            spoken_for, self._wanted = self._wanted, 0.0
            return spoken_for


class HeapCaptures:
    """Takes censuses for orders, one at a time.

    Args:
        proc_root: The node's /proc.
        patience_seconds: For room in the budget.
        redact: Gives names of types that are not told, as shell patterns.
    """

    def __init__(
        self,
        proc_root: Path = Path("/proc"),
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        redact: Sequence[str] = (),
    ) -> None:
        self.redact = tuple(redact)
        self._proc_root = proc_root
        self._patience_seconds = patience_seconds
        self._purse = Purse()
        self._lock = threading.Lock()
        self._cpu_seconds = 0.0
        self._at_once_seconds = math.inf
        self._taken: list[Taken] = []

    def grant(self, allowance_seconds: float, *, at_once_seconds: float = math.inf) -> float:
        """Give CPU for a census, if one waits; see ``Purse.grant``.

        Args:
            allowance_seconds: What may be used in this cycle.
            at_once_seconds: What can be saved up at most: censuses are made small enough.
        """
        self._at_once_seconds = at_once_seconds
        return self._purse.grant(allowance_seconds)

    def cpu_seconds(self) -> float:
        """Give what all censuses have used so far."""
        with self._lock:
            return self._cpu_seconds

    def drain(self) -> list[Taken]:
        """Give the censuses taken since the last call."""
        with self._lock:
            taken, self._taken = self._taken, []
        return taken

    def run(self, processes: Sequence[Process], seconds: int, stop: threading.Event) -> HeapResult:
        """Take two censuses of the process that has most memory.

        Args:
            processes: Of CPython.
            seconds: Between the two.
            stop: Calls it off.
        """
        process = max(processes, key=self._resident_pages)
        name = f"{process.executable} (pid {process.key.pid}), CPython {process.runtime_version}"
        try:
            version = parse_version(process.runtime_version)
            first = self._take(process, version, None, stop)
            began = time.monotonic()
            if stop.wait(seconds):
                return HeapResult("failed", "it was called off")
            second = self._take(process, version, first, stop)
            passed = time.monotonic() - began
        except HeapRefusedError as error:
            return HeapResult("refused", f"{name}: {error}")
        except AgentError as error:
            return HeapResult("failed", f"{name}: {error}")
        grown = tuple(
            each for each in report.growth(first, second) if each.is_sure and each.size_bytes > 0
        )
        with self._lock:
            self._taken.append(Taken(process, second, grown, passed))
        text = f"{name}\n\n{report.growth_table(first, second, passed)}\n{report.table(second)}"
        return HeapResult("done", name, text)

    def _take(
        self,
        process: Process,
        version: tuple[int, int],
        before: Census | None,
        stop: threading.Event,
    ) -> Census:
        pages = self._resident_pages(process)
        places = pages * procfs.PAGE_BYTES // pool_bytes(version)
        chosen = plan(places, self._at_once_seconds, twice=before is not None)
        cost = chosen.cpu_seconds
        if not self._purse.ask(cost, stop, self._patience_seconds):
            raise HeapRefusedError(
                f"a census takes about {cost:.1f} s of CPU, for which the overhead budget has had "
                f"no room in {self._patience_seconds:.0f} s"
            )
        began = time.thread_time()
        try:
            self._check(process)
            census = take_census(
                RemoteMemory(process.key.pid),
                version,
                pools=chosen.pools,
                headers=chosen.headers,
                before=before,
                redact=self.redact,
            )
            self._check(process)
            return census
        finally:
            with self._lock:
                self._cpu_seconds += time.thread_time() - began

    def _check(self, process: Process) -> None:
        """Make sure that the pid is still that of the process.

        Raises:
            ProcessGoneError: It is another one's, or nobody's.
        """
        now = procfs.read_stat(self._proc_root, process.key.pid)
        if now.start_ticks != process.key.start_ticks:
            raise ProcessGoneError("the process has ended")

    def _resident_pages(self, process: Process) -> int:
        try:
            content = procfs.read_bytes(self._proc_root, process.key.pid, "statm")
        except AgentError:
            return 0
        found = parse_statm(content)
        return 0 if found is None else found[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a census may be.

    Attributes:
        headers: Places of pools to look at, at most.
        pools: To look into.
        cpu_seconds: What it costs.
    """

    headers: int
    pools: int
    cpu_seconds: float


def plan(places: int, at_once_seconds: float, *, twice: bool = False) -> Plan:
    """Choose how much to look at, so that it fits; and reckon what it costs. Pure.

    Args:
        places: At which there may be a pool.
        at_once_seconds: CPU that can be saved up.
        twice: New pools are looked into besides those of an earlier census.
    """
    a_pool = _POOL_SECONDS * (2 if twice else 1)
    room = min(at_once_seconds, _MOST_SECONDS) - _BASE_SECONDS
    affordable = (room - a_pool * _POOLS_AT_LEAST) / _HEADER_SECONDS
    headers = max(_HEADERS_AT_LEAST, min(places, HEADERS_AT_MOST, int(affordable)))
    left = room - _HEADER_SECONDS * headers
    pools = max(_POOLS_AT_LEAST, min(POOLS_AT_ONCE, int(left / a_pool)))
    return Plan(headers, pools, _BASE_SECONDS + _HEADER_SECONDS * headers + a_pool * pools)


class NoHeap:
    """Where on-demand captures are switched off."""

    def grant(self, allowance_seconds: float, *, at_once_seconds: float = math.inf) -> float:  # noqa: ARG002 - as in the other
        """Ask for nothing."""
        return 0.0

    def cpu_seconds(self) -> float:
        """Have used nothing."""
        return 0.0

    def drain(self) -> list[Taken]:
        """Have taken nothing."""
        return []
