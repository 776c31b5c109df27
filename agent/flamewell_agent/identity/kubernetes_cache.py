"""The pods of this node in memory, found by container id or pod uid without a lock.

One thread changes it; any thread reads. A change makes new maps and puts them in place as one
assignment, so that a reader sees the state before or after, never half of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flamewell_agent.identity.kubernetes_objects import PodRecord
from flamewell_agent.identity.pods import Pod, PodContainer

Found = tuple[Pod, PodContainer | None]

PODS_AT_MOST = 4096
"""The kubelet's own limit is 110 unless configured; what is above is left out."""
_LEAVING_AT_MOST = 16 * 1024


@dataclass(frozen=True, slots=True)
class _Maps:
    by_id: dict[str, Found] = field(default_factory=dict)
    by_uid: dict[str, Found] = field(default_factory=dict)


@dataclass(slots=True)
class _Leaving:
    """What a deleted pod or a former run of a container is still found by, and until when."""

    by_id: dict[str, tuple[Found, float]] = field(default_factory=dict)
    by_uid: dict[str, tuple[Found, float]] = field(default_factory=dict)


class PodCache:
    """Pods by uid, with the maps to find them.

    Args:
        keep_seconds: For how long a deleted pod is still found: its last samples need a name.
        clock: Seconds, monotonic.

    Attributes:
        revision: Grows with every change of what ``find`` may answer.
    """

    def __init__(
        self, *, keep_seconds: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._records: dict[str, PodRecord] = {}
        self._leaving = _Leaving()
        self._present = _Maps()  # of the records alone
        self._maps = _Maps()  # with what is leaving: the one that is read
        self.revision = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def records(self) -> tuple[PodRecord, ...]:
        """What is known and not deleted."""
        return tuple(self._records.values())

    def find(self, container_id: str, pod_uid: str) -> Found | None:
        """Give the pod and container of a container id, else the pod of a uid."""
        maps = self._maps
        found = maps.by_id.get(container_id) if container_id else None
        return found or (maps.by_uid.get(pod_uid) if pod_uid else None)

    def replace(self, records: Iterable[PodRecord]) -> int:
        """Take a whole list; what is not in it has been deleted.

        Returns:
            How many pods were left out for being too many.
        """
        listed = {each.pod.uid: each for each in records}
        kept = dict(list(listed.items())[:PODS_AT_MOST])
        self._settle(kept)
        return len(listed) - len(kept)

    def apply(self, changed: Iterable[PodRecord], deleted: Iterable[str]) -> int:
        """Take changes: new or changed pods, then uids of deleted ones.

        Returns:
            How many pods were left out for being too many.
        """
        records, left_out = dict(self._records), 0
        for each in changed:
            if each.pod.uid in records or len(records) < PODS_AT_MOST:
                records[each.pod.uid] = each
            else:
                left_out += 1
        for uid in deleted:
            records.pop(uid, None)
        self._settle(records)
        return left_out

    def _settle(self, records: dict[str, PodRecord]) -> None:
        """Put new maps in place where anything changed."""
        expired = self._drop_expired()
        if records == self._records and not expired:
            return
        present = _Maps()
        for record in records.values():
            by_name = {each.name: each for each in record.pod.containers}
            for container_id, name in record.ids:
                present.by_id[container_id] = (record.pod, by_name.get(name))
            for uid in record.uids:
                present.by_uid[uid] = (record.pod, None)
        until = self._clock() + self._keep_seconds
        before, leaving = self._present, self._leaving
        self._maps = _Maps(
            _with_leaving(leaving.by_id, before.by_id, present.by_id, until),
            _with_leaving(leaving.by_uid, before.by_uid, present.by_uid, until),
        )
        self._records, self._present = records, present
        self.revision += 1

    def _drop_expired(self) -> bool:
        now, dropped = self._clock(), False
        for leaving in (self._leaving.by_id, self._leaving.by_uid):
            for key in [key for key, (_, until) in leaving.items() if until <= now]:
                del leaving[key]
                dropped = True
        return dropped


def _with_leaving(
    leaving: dict[str, tuple[Found, float]],
    before: dict[str, Found],
    now: dict[str, Found],
    until: float,
) -> dict[str, Found]:
    """Note what leaves with this change; give what is, and what left a short while ago."""
    for key in before.keys() - now.keys():
        leaving[key] = (before[key], until)
    for key in leaving.keys() & now.keys():
        del leaving[key]
    for key in list(leaving)[: max(0, len(leaving) - _LEAVING_AT_MOST)]:
        del leaving[key]
    return {key: found for key, (found, _) in leaving.items()} | now
