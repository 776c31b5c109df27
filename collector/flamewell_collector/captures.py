"""On-demand captures: what may be asked for, and how one goes from state to state (pure).

::

    waiting ──accept──▶ accepted ──▶ running ──▶ done
       │ │                  └──────────┴───────▶ failed, refused
       │ └─ nobody accepts in time ─▶ expired, or refused where agents said why not
       └─ (from every open state) ──▶ cancelled
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, get_args

from flamewell_collector.errors import Conflict, InvalidRequest

Kind = Literal["cpu", "wall", "native", "heap", "strace", "gdb"]
State = Literal[
    "waiting", "accepted", "running", "done", "failed", "refused", "expired", "cancelled"
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TRACING_KINDS: Final = frozenset({"strace", "gdb"})
TEXT_KINDS: Final = TRACING_KINDS | {"heap"}
"""Those that bring a text and no flame graph; they have no rate."""
OPEN_STATES: Final = frozenset({"waiting", "accepted", "running"})
STATES: Final[tuple[State, ...]] = get_args(State)
AGENT_STATES: Final = frozenset({"accepted", "running", "done", "failed", "refused"})
MAX_SECONDS: Final = 300
MAX_TRACING_SECONDS: Final = 10
MAX_RATE_HZ: Final = 997
DEFAULT_RATE_HZ: Final = 97
UNACCEPTED_MS: Final = 120_000
SILENT_MS: Final = 60_000
"""An agent that is not heard of for as long as its capture, and this, is taken for dead."""
LONGEST_MS: Final = 3_600_000
"""No capture is open for longer: its agent says that it runs, and never that it is done."""
MAX_RESULT_BYTES: Final = 1 << 20
MAX_DETAIL: Final = 1_000
MAX_REFUSALS: Final = 20
_MAX_NAME: Final = 256
_MAX_PID: Final = 1 << 22
"""PID_MAX_LIMIT of the kernel on 64-bit machines."""
TRACING_COST: Final = (
    "strace makes a program that calls the system often 13 to 25 times slower, gdb stops it while "
    "it reads"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What is captured; empty fields were not named.

    Attributes:
        service: Label ``service_name``.
        container_id: Hex digits, 12 at least.
        namespace: Of the pod.
        pod: Its name.
        container: Its name within the pod.
        cluster: Label ``cluster``; with it only agents of that cluster are asked.
        node: Label ``node``; with it only that node's agent is asked.
        pid: On that node, in its agent's PID namespace; 0: not named.
    """

    service: str = ""
    container_id: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    cluster: str = ""
    node: str = ""
    pid: int = 0

    def named(self) -> dict[str, str | int]:
        """Give the fields that were named."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for. ``rate_hz`` is 0 for heap, strace and gdb."""

    target: Target
    kind: Kind
    seconds: int
    rate_hz: int


@dataclass(frozen=True, slots=True)
class Capture:
    """One capture with all that became of it. Times in ms since the epoch, 0: not yet.

    Attributes:
        capture_id: 16 hex digits; the label ``capture_id`` of its profiles.
        tenant: Whose.
        principal: Who asked.
        wish: For what.
        state: Where it is.
        detail: The last word on it.
        refusals: Node, or cluster/node → why its agent does not take it, while others still may.
        node: Of the agent that took it.
        agent_id: That agent.
        samples: What it has brought so far.
        result_text: Of heap, strace and gdb.
        created_ms: When it was asked for.
        accepted_ms: When an agent took it.
        heard_ms: When its agent was last heard of.
        finished_ms: When it came to its end.
    """

    capture_id: str
    tenant: str
    principal: str
    wish: Wish
    created_ms: int
    state: State = "waiting"
    detail: str = ""
    refusals: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    agent_id: str = ""
    samples: int = 0
    result_text: str = ""
    accepted_ms: int = 0
    heard_ms: int = 0
    finished_ms: int = 0

    @property
    def is_open(self) -> bool:
        """Whether something may still become of it."""
        return self.state in OPEN_STATES


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says of a capture.

    Attributes:
        node: Of the agent.
        agent_id: This run of the agent.
        state: ``accepted``, ``running``, ``done``, ``failed`` or ``refused``.
        detail: Why, for people.
        samples: So far.
        result_text: Of heap, strace and gdb.
        cluster: Of the agent.
    """

    node: str
    agent_id: str
    state: State
    detail: str = ""
    samples: int = 0
    result_text: str = ""
    cluster: str = ""


def parse_wish(body: object) -> Wish:
    """Read the body of a request to capture.

    Raises:
        InvalidRequest: It is not as it should be; the message says what to do.
    """
    fields = _object(body, "the body", ("target", "kind", "seconds", "rate_hz"))
    kind = fields.get("kind", "cpu")
    if kind not in KINDS:
        raise InvalidRequest(f"kind is {_shown(kind)}, it must be one of {', '.join(KINDS)}")
    longest = MAX_TRACING_SECONDS if kind in TRACING_KINDS else MAX_SECONDS
    seconds = _whole(fields, "seconds", min(30, longest), low=1, high=longest, of=kind)
    if kind in TEXT_KINDS:
        if fields.get("rate_hz"):
            raise InvalidRequest(f"rate_hz means nothing to {kind}: leave it out")
        rate_hz = 0
    else:
        rate_hz = _whole(fields, "rate_hz", DEFAULT_RATE_HZ, low=1, high=MAX_RATE_HZ, of=kind)
    return Wish(_target(fields.get("target")), kind, seconds, rate_hz)


def parse_report(body: object) -> Report:
    """Read what an agent says of a capture.

    Raises:
        InvalidRequest: It is not as it should be.
    """
    known = ("node", "cluster", "agent_id", "state", "detail", "samples", "result_text")
    fields = _object(body, "the body", known)
    state = fields.get("state")
    if state not in AGENT_STATES:
        raise InvalidRequest(f"state is {_shown(state)}, it must be of {sorted(AGENT_STATES)}")
    text = fields.get("result_text", "")
    if not isinstance(text, str) or len(text.encode("utf-8", "replace")) > MAX_RESULT_BYTES:
        raise InvalidRequest(f"result_text must be text of at most {MAX_RESULT_BYTES} bytes")
    detail = fields.get("detail", "")
    if not isinstance(detail, str):
        raise InvalidRequest("detail must be text")
    return Report(
        node=_name(fields, "node", needed=True),
        agent_id=_name(fields, "agent_id", needed=True),
        state=state,
        detail=_tidy(detail, MAX_DETAIL),
        samples=_whole(fields, "samples", 0, low=0, high=1 << 53),
        result_text=text.encode("utf-8", "replace").decode("utf-8"),
        cluster=_name(fields, "cluster"),
    )


@dataclass(frozen=True, slots=True)
class Poll:
    """An agent that asks for work.

    Attributes:
        node: Its label ``node``.
        agent_id: This run of it.
        running: Ids of what it is at.
        cluster: Its label ``cluster``.
    """

    node: str
    agent_id: str
    running: Collection[str] = ()
    cluster: str = ""


def place(cluster: str, node: str) -> str:
    """Name a node so that it is not taken for its namesake in another cluster."""
    return f"{cluster}/{node}" if cluster else node


def is_offered(capture: Capture, tenant: str, poll: Poll) -> bool:
    """Tell whether an agent is to be asked."""
    if capture.tenant != tenant:
        return False
    if capture.state == "accepted":
        # It has taken it without knowing: our answers to that got lost.
        held = (capture.node, capture.agent_id) == (poll.node, poll.agent_id)
        return held and capture.capture_id not in poll.running
    return (
        capture.state == "waiting"
        and _is_for(capture.wish.target, poll.cluster, poll.node)
        and place(poll.cluster, poll.node) not in capture.refusals
    )


def _is_for(target: Target, cluster: str, node: str) -> bool:
    return target.node in {"", node} and target.cluster in {"", cluster}


def apply(capture: Capture, report: Report, now_ms: int) -> Capture:
    """Give the capture after an agent's report.

    Raises:
        Conflict: Another agent has it, or it has come to its end.
    """
    if not capture.is_open:
        raise Conflict(f"the capture is {capture.state} already")
    if capture.state == "waiting":
        return _first_word(capture, report, now_ms)
    if (report.node, report.agent_id) != (capture.node, capture.agent_id):
        raise Conflict(f"the agent of {capture.node} has this capture")
    if report.state == "accepted":  # said again: the first answer got lost
        return replace(capture, heard_ms=now_ms)
    changed = replace(
        capture,
        state=report.state,
        detail=report.detail or capture.detail,
        samples=max(report.samples, capture.samples),
        result_text=report.result_text or capture.result_text,
        heard_ms=now_ms,
    )
    return changed if changed.is_open else replace(changed, finished_ms=now_ms)


def cancel(capture: Capture, principal: str, now_ms: int) -> Capture:
    """Give the capture after it has been called off.

    Raises:
        Conflict: It has come to its end.
    """
    if not capture.is_open:
        raise Conflict(f"the capture is {capture.state} already")
    return _ended(capture, "cancelled", f"cancelled by {principal}", now_ms)


def expire(capture: Capture, now_ms: int) -> Capture:
    """Give the capture as time has left it: itself where nothing has run out."""
    if capture.state == "waiting" and now_ms - capture.created_ms >= UNACCEPTED_MS:
        if capture.refusals:
            return _ended(capture, "refused", _refusal_text(capture.refusals), now_ms)
        return _ended(capture, "expired", _nobody(capture.wish.target), now_ms)
    if capture.state not in {"accepted", "running"}:
        return capture
    if now_ms - capture.heard_ms >= capture.wish.seconds * 1_000 + SILENT_MS:
        return _ended(capture, "failed", f"the agent of {capture.node} went silent", now_ms)
    if now_ms - capture.accepted_ms >= LONGEST_MS:
        return _ended(capture, "failed", "the agent did not finish it within an hour", now_ms)
    return capture


def _first_word(capture: Capture, report: Report, now_ms: int) -> Capture:
    """Take what an agent says of a capture that nobody has yet."""
    target = capture.wish.target
    wanted, here = target.node, place(report.cluster, report.node)
    if not _is_for(target, report.cluster, report.node):
        raise Conflict(f"the capture is for the agent of {place(target.cluster, wanted)}")
    if report.state == "refused":
        reason = report.detail or "no reason given"
        refusals = {**capture.refusals, here: reason}
        # One that names its node has nobody else to ask.
        if wanted or len(refusals) >= MAX_REFUSALS:
            ended = _ended(capture, "refused", _refusal_text(refusals), now_ms)
            return replace(ended, refusals=refusals, node=report.node if wanted else "")
        return replace(capture, refusals=refusals, detail=f"refused by {here}: {reason}")
    if report.state != "accepted":
        raise Conflict("the capture has not been accepted: accept it first")
    return replace(
        capture,
        state="accepted",
        detail=report.detail,
        node=report.node,
        agent_id=report.agent_id,
        accepted_ms=now_ms,
        heard_ms=now_ms,
    )


def _ended(capture: Capture, state: State, detail: str, now_ms: int) -> Capture:
    return replace(capture, state=state, detail=detail[:MAX_DETAIL], finished_ms=now_ms)


def _refusal_text(refusals: Mapping[str, str]) -> str:
    return "; ".join(f"{node}: {reason}" for node, reason in refusals.items())


def _nobody(target: Target) -> str:
    if target.node:
        return f"no agent has this target: that of {target.node} does not poll, or has no such one"
    return "no agent has this target; `flamewell top` lists the services"


def _target(value: object) -> Target:
    known = tuple(Target.__dataclass_fields__)
    fields = _object(value, "target", known)
    target = Target(
        **{name: _name(fields, name) for name in known if name != "pid"},
        pid=_whole(fields, "pid", 0, low=1, high=_MAX_PID) if fields.get("pid") else 0,
    )
    how = "name one of service, container_id, pod (and container), or node and pid"
    ways = [bool(each) for each in (target.service, target.container_id, target.pod, target.pid)]
    if sum(ways) != 1:
        raise InvalidRequest(f"target names {sum(ways)} things to capture: {how}")
    if target.pid and not target.node:
        raise InvalidRequest(f"target has a pid without its node: {how}")
    if (target.container or target.namespace) and not target.pod:
        raise InvalidRequest(f"target has a container or namespace without a pod: {how}")
    identity = target.container_id.lower()
    if identity and not (len(identity) >= 12 and set(identity) <= set("0123456789abcdef")):  # noqa: PLR2004 - what container tools show
        raise InvalidRequest("container_id must be at least 12 hex digits")
    return replace(target, container_id=identity)


def _object(value: object, what: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} must be an object with {', '.join(known)}")
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise InvalidRequest(f"{what} has {_shown(unknown[0])}; it may have {', '.join(known)}")
    return value


def _name(fields: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > _MAX_NAME or (value and not value.isprintable()):
        raise InvalidRequest(f"{name} must be a printable text of at most {_MAX_NAME} characters")
    if needed and not value:
        raise InvalidRequest(f"{name} is missing")
    return value


def _whole(
    fields: Mapping[str, Any], name: str, default: int, *, low: int, high: int, of: str = ""
) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        kind = f" for {of}" if of else ""
        raise InvalidRequest(
            f"{name} is {_shown(value)}, it must be a whole number from {low} to {high}{kind}"
        )
    return value


def _tidy(text: str, most: int) -> str:
    """Make one harmless line of it."""
    return "".join(each if each.isprintable() else " " for each in text[:most])


def _shown(value: object) -> str:
    return ascii(value)[:60]
