"""A suspicion is looked into: the agent of a suspect's node is asked for a census of its heap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flamewell_collector.analysis.top import top
from flamewell_collector.captures import Capture, Target, Wish
from flamewell_collector.errors import CollectorError
from flamewell_collector.leaks import Leaks, Suspect
from flamewell_collector.model import Matcher, Selection
from flamewell_collector.query import Query
from flamewell_wire.attributes import OTHER_BLOCKS_FRAME
from flamewell_wire.profile_types import GROWTH

log = logging.getLogger(__name__)

PRINCIPAL: Final = "leak watch"
CENSUS_SECONDS: Final = 60
"""Between the two censuses: long enough for a leak of some MB an hour to be more than chance."""
AT_ONCE: Final = 4
"""A bad release makes a hundred suspects at once; what one has shows what the others have."""
_MINUTE_MS: Final = 60_000
AGAIN_SECONDS: Final = 6 * 3_600
"""A verdict that stands is looked into anew after so long."""

_TYPES_AT_MOST: Final = 5
_ARRIVED_MS: Final = 600_000
"""The batch with a census' profiles follows the word that it is done within this time."""

Ask = Callable[[str, Wish], Capture]
"""Asks for a capture in somebody's name."""

Look = Callable[[str], Capture]
"""Gives a capture by its id."""


@dataclass(frozen=True, slots=True)
class Growing:
    """A type of objects that has grown.

    Attributes:
        name: Of the type, with its module.
        bytes_per_hour: Of small objects, as far as the census saw.
    """

    name: str
    bytes_per_hour: int


Grown = Callable[[Suspect, int], Sequence[Growing]]
"""Gives what has grown in a suspect since a time in ms, most first."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A census that was asked for.

    Attributes:
        capture_id: Of the capture.
        since: Minute from which on the verdict stands.
        minute: When it was asked for.
        looked: Whether its result was looked at.
        growing: What it has found to grow, most first.
    """

    capture_id: str
    since: int
    minute: int
    looked: bool = False
    growing: tuple[Growing, ...] = ()


class Investigations:
    """Asks for a census of each suspect's heap, once for a verdict.

    Args:
        ask: Asks for a capture.
        look: Gives it later on.
        grown: Gives what it has brought.
    """

    def __init__(self, ask: Ask, look: Look, grown: Grown) -> None:
        self._ask = ask
        self._look = look
        self._grown = grown
        self._asked: dict[Labels, Asked] = {}

    def look(self, found: Leaks) -> None:
        """Take what was found; see what has come, ask for what is new, the most urgent first."""
        suspects = {_key(each): each for each in found.suspects}
        self._asked = {
            key: self._seen(suspects[key], each, found.minute * _MINUTE_MS)
            for key, each in self._asked.items()
            if key in suspects
        }
        begun = 0
        for key, suspect in suspects.items():
            if begun >= AT_ONCE:
                return
            if not _can_be_counted(suspect) or not self._is_due(key, suspect, found.minute):
                continue
            begun += 1
            self._begin(key, suspect, found.minute)

    def capture_of(self, suspect: Suspect) -> str:
        """Give the id of a suspect's census; empty without one."""
        asked = self._asked.get(_key(suspect))
        return "" if asked is None else asked.capture_id

    def growing_of(self, suspect: Suspect) -> tuple[Growing, ...]:
        """Give the types that a suspect's census has found to grow, most first."""
        asked = self._asked.get(_key(suspect))
        return () if asked is None else asked.growing

    def _seen(self, suspect: Suspect, asked: Asked, now_ms: int) -> Asked:
        """Look at a census that has come to its end, until its profiles had time to arrive."""
        if asked.looked:
            return asked
        try:
            capture = self._look(asked.capture_id)
            if capture.is_open or not capture.finished_ms:
                return asked
            growing = tuple(self._grown(suspect, capture.created_ms)) if _is_done(capture) else ()
        except CollectorError as error:
            log.warning("what a census has brought can't be read: %s", error)
            return asked
        arrives = _is_done(capture) and now_ms < capture.finished_ms + _ARRIVED_MS
        return replace(asked, looked=bool(growing) or not arrives, growing=growing)

    def _is_due(self, key: Labels, suspect: Suspect, minute: int) -> bool:
        asked = self._asked.get(key)
        if asked is None or asked.since != suspect.verdict.since:
            return True
        return (minute - asked.minute) * 60 >= AGAIN_SECONDS

    def _begin(self, key: Labels, suspect: Suspect, minute: int) -> None:
        wish = Wish(target_of(suspect), "heap", CENSUS_SECONDS, 0)
        try:
            capture = self._ask(PRINCIPAL, wish)
        except CollectorError as error:
            log.warning("no census could be asked for: %s", error)
            return
        before = self._asked.get(key)
        growing = () if before is None else before.growing
        self._asked[key] = Asked(capture.capture_id, suspect.verdict.since, minute, growing=growing)


def growing_types(query: Query, tenant: str, suspect: Suspect, since_ms: int) -> list[Growing]:
    """Give the types of objects that the profiles of a suspect's census have told to grow."""
    matchers = tuple(Matcher(name, "=", value) for name, value in suspect.labels.items())
    selection = Selection(tenant, GROWTH.id, matchers, since_ms, query.now_ms())
    rows = top(query.merge_services(selection), limit=_TYPES_AT_MOST).rows
    return [
        Growing(row.function, round(row.self * 3_600 / CENSUS_SECONDS))
        for row in rows
        if row.self > 0 and row.function != OTHER_BLOCKS_FRAME
    ]


def target_of(suspect: Suspect) -> Target:
    """Name a suspect as agents know it: by pod, or by service and node."""
    labels = suspect.labels
    node, cluster = labels.get("node", ""), labels.get("cluster", "")
    if not labels.get("pod"):
        return Target(service=labels.get("service_name", ""), node=node, cluster=cluster)
    return Target(
        pod=labels["pod"],
        namespace=labels.get("namespace", ""),
        container=labels.get("container", ""),
        node=node,
        cluster=cluster,
    )


def _is_done(capture: Capture) -> bool:
    return capture.state == "done"


def _can_be_counted(suspect: Suspect) -> bool:
    return suspect.labels.get("runtime") == "cpython"


def _key(suspect: Suspect) -> Labels:
    return tuple(sorted(suspect.labels.items()))
