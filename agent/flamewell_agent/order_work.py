"""Orders that were accepted: what is known of each, and what is to be told of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flamewell_agent.model import Process, ProcessKey
from flamewell_agent.order_parse import Order

SETTLED_AT_MOST = 1_000
"""Ids of orders that are over: a collector that did not hear of it offers them again."""


class TraceOutcome(Protocol):
    """What a tracer brought."""

    @property
    def state(self) -> str:
        """``done``, ``failed`` or ``refused``."""
        ...

    @property
    def detail(self) -> str:
        """Why."""
        ...

    @property
    def text(self) -> str:
        """What it wrote."""
        ...


class Tracing(Protocol):
    """Runs strace and gdb."""

    def run(self, kind: Any, key: ProcessKey, seconds: int, stop: threading.Event) -> TraceOutcome:
        """Trace one process."""
        ...


class Censuses(Protocol):
    """Takes censuses of heaps."""

    def run(
        self, processes: Sequence[Process], seconds: int, stop: threading.Event
    ) -> TraceOutcome:
        """Take two of one process."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be told of an order.

    Attributes:
        state: As the collector takes it.
        since: ``clock()`` of the first try.
    """

    state: str
    detail: str
    samples: int
    result_text: str
    since: float


@dataclass(slots=True)
class Work:
    """An accepted order.

    Attributes:
        order: With its processes.
        collector: Which one gave it: none of the others knows of it.
        called_off: Ends its tracer.
    """

    order: Order
    collector: int
    report: Report | None = None
    finished: bool = False
    called_off: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Shared:
    """What the loop's thread and the orders' thread both touch, under one lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    work: dict[str, Work] = field(default_factory=dict)
    taken: list[Order] = field(default_factory=list)
    nodes: Mapping[str, int] = field(default_factory=dict)
    settled: deque[str] = field(default_factory=lambda: deque(maxlen=SETTLED_AT_MOST))
