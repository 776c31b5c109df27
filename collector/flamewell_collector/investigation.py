"""A suspicion is looked into: the agent of a suspect's node is asked for a census of its heap."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flamewell_collector.captures import Capture, Target, Wish
from flamewell_collector.errors import CollectorError
from flamewell_collector.leaks import Leaks, Suspect

log = logging.getLogger(__name__)

PRINCIPAL: Final = "leak watch"
CENSUS_SECONDS: Final = 60
"""Between the two censuses: long enough for a leak of some MB an hour to be more than chance."""
AT_ONCE: Final = 4
"""A bad release makes a hundred suspects at once; what one has shows what the others have."""
AGAIN_SECONDS: Final = 6 * 3_600
"""A verdict that stands is looked into anew after so long."""

Ask = Callable[[str, Wish], Capture]
"""Asks for a capture in somebody's name."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A census that was asked for.

    Attributes:
        capture_id: Of the capture.
        since: Minute from which on the verdict stands.
        minute: When it was asked for.
    """

    capture_id: str
    since: int
    minute: int


class Investigations:
    """Asks for a census of each suspect's heap, once for a verdict.

    Args:
        ask: Asks for a capture.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._asked: dict[Labels, Asked] = {}

    def look(self, found: Leaks) -> None:
        """Take what was found; ask for what is new, the most urgent first."""
        suspects = {_key(each): each for each in found.suspects}
        self._asked = {key: each for key, each in self._asked.items() if key in suspects}
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
        self._asked[key] = Asked(capture.capture_id, suspect.verdict.since, minute)


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


def _can_be_counted(suspect: Suspect) -> bool:
    return suspect.labels.get("runtime") == "cpython"


def _key(suspect: Suspect) -> Labels:
    return tuple(sorted(suspect.labels.items()))
