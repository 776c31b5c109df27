"""Orders as a collector gives them, and which processes they are about. Pure.

What comes from a collector is checked here: nothing but these fields, within these bounds, goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from flamewell_agent.model import Process

OrderKind = Literal["cpu", "wall", "native", "heap", "strace", "gdb"]
_KINDS: tuple[OrderKind, ...] = get_args(OrderKind)
_TRACING = frozenset({"strace", "gdb"})
_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")
_MAX_ORDERS = 100
_MAX_SECONDS, _MAX_TRACING_SECONDS, _MAX_RATE_HZ = 300, 10, 997
_MAX_SERVICES = 1_000
_MAX_POLL_SECONDS = 300
_CONTAINER_ID_DIGITS = 12
_PIDS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be captured; empty fields do not matter. Fields as in the collector's API."""

    service: str = ""
    container_id: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    cluster: str = ""
    node: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """One on-demand capture.

    Attributes:
        order_id: Label ``capture_id`` of the profiles that it brings.
        kind: ``cpu``, ``wall``, ``native`` (CPU with native frames), ``heap`` (what there is and
            what grows), ``strace`` or ``gdb``.
        seconds: For how long, in whole seconds.
        rate_hz: Samples a second and process; 0 for heap, strace and gdb.
        target: Of what.
        processes: Those of this node that fit, set when the order is accepted.
    """

    order_id: str
    kind: OrderKind
    seconds: int
    rate_hz: int
    target: Target
    processes: tuple[Process, ...] = ()

    @property
    def is_apart(self) -> bool:
        """Whether it is carried out beside the loop, in a thread of its own."""
        return self.is_tracing or self.kind == "heap"

    @property
    def is_tracing(self) -> bool:
        """Whether it is one of strace or gdb."""
        return self.kind in _TRACING


@dataclass(frozen=True, slots=True)
class Handout:
    """An answer to a poll.

    Attributes:
        orders: What could be done.
        ended: Ids of orders nobody waits for any more.
        poll_seconds: Until the next poll; 0 where the collector does not say.
        service_nodes: Service → number of nodes.
    """

    orders: tuple[Order, ...] = ()
    ended: tuple[str, ...] = ()
    poll_seconds: float = 0.0
    service_nodes: Mapping[str, int] = field(default_factory=dict)


def parse_handout(content: Mapping[str, Any]) -> Handout:
    """Read an answer; what is not as it should be is left out."""
    orders = _list(content.get("orders"))[:_MAX_ORDERS]
    seconds: Any = content.get("poll_seconds")
    nodes = content.get("service_nodes")
    found = (parse_order(each) for each in orders)
    return Handout(
        orders=tuple(each for each in found if each is not None),
        ended=tuple(each for each in _list(content.get("ended")) if isinstance(each, str)),
        poll_seconds=float(seconds) if _is_within(seconds, 1, _MAX_POLL_SECONDS) else 0.0,
        service_nodes={
            str(service): count
            for service, count in list(nodes.items())[:_MAX_SERVICES]
            if _is_number(count) and count >= 1
        }
        if isinstance(nodes, dict)
        else {},
    )


def parse_order(content: object) -> Order | None:
    """Read one order; None where it is none that this agent would do."""
    if not isinstance(content, dict):
        return None
    order_id, kind, target = content.get("id"), content.get("kind"), content.get("target")
    if not isinstance(order_id, str) or not _ID.fullmatch(order_id) or kind not in _KINDS:
        return None
    longest = _MAX_TRACING_SECONDS if kind in _TRACING else _MAX_SECONDS
    seconds: Any = content.get("seconds")
    rate_hz: Any = content.get("rate_hz", 0)
    if not _is_within(seconds, 1, longest) or not _is_within(rate_hz, 0, _MAX_RATE_HZ):
        return None
    if not isinstance(target, dict):
        return None
    names = {name: target.get(name, "") for name in Target.__dataclass_fields__ if name != "pid"}
    pid = target.get("pid", 0)
    if not all(isinstance(each, str) for each in names.values()) or not _is_number(pid):
        return None
    return Order(order_id, kind, seconds, rate_hz, Target(**names, pid=pid))


def refusal_of(order: Order, processes: Sequence[Process], *, tracing: bool) -> str:
    """Say why an order whose target is here is not done, empty where it is. Pure.

    Args:
        order: What is wanted.
        processes: Those that it is about; of Python alone unless it traces.
        tracing: Whether strace and gdb may run here.
    """
    if not processes:
        return f"no_python: {order.kind} captures are of Python, and none runs there"
    if not order.is_tracing:
        return ""
    if not tracing:
        return "tracing_off: tracing_captures is off on this agent"
    if len(processes) > 1:
        pids = ", ".join(str(each.key.pid) for each in processes[:_PIDS_SHOWN])
        return f"ambiguous: one process is traced, these fit: {pids}; name node and pid"
    return ""


def fits(target: Target, process: Process, attributes: Mapping[str, str]) -> bool:
    """Tell whether a process is what an order is about.

    Args:
        target: Of the order.
        process: One of this node.
        attributes: Its resource's attributes, with their OpenTelemetry names.
    """
    wanted = {
        "service.name": target.service,
        "k8s.namespace.name": target.namespace,
        "k8s.pod.name": target.pod,
        "k8s.container.name": target.container,
    }
    if any(value and attributes.get(name) != value for name, value in wanted.items()):
        return False
    if target.pid and process.key.pid != target.pid:
        return False
    identity = attributes.get("container.id", "")
    if target.container_id and not (
        len(target.container_id) >= _CONTAINER_ID_DIGITS
        and identity.startswith(target.container_id)
    ):
        return False
    return any((target.service, target.pod, target.pid, target.container_id))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_within(value: Any, low: int, high: int) -> bool:
    return _is_number(value) and low <= value <= high


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
