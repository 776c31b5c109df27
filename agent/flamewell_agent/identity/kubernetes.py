"""The pods of this node, kept up to date by a thread that lists and watches them.

An API server that is away costs nothing but fresh names: what is known stays, and a snapshot on
disk bridges a restart. Only pods get, list and watch are asked for.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity import kubernetes_snapshot
from flamewell_agent.identity.kubernetes_cache import Found, PodCache
from flamewell_agent.identity.kubernetes_lines import WatchEvent, error_of_status
from flamewell_agent.identity.kubernetes_objects import PodRecord, read_pod
from flamewell_agent.identity.pods import problems

if TYPE_CHECKING:
    from flamewell_agent.identity.kubernetes_api import PodApi

_log = logging.getLogger(__name__)
GRANT = "grant pods get,list,watch"
_RELIST = frozenset({"gone", "malformed", "too_large", "client_error"})
"""After these a watch cannot go on from where it was."""
_REFUSED = frozenset({"forbidden", "unauthorized", "not_configured"})
"""Only a person can mend these: they are tried seldom."""
_FROM_CACHE, _MOST_RECENT = "0", ""
_STOP_SECONDS = 2.0
_RETRY_AFTER_AT_MOST_SECONDS = 300.0
_SHORT_WATCH_SECONDS = 1.0
_REPORTED_AT_MOST = 2048
_SNAPSHOT_REFRESH_SECONDS = 3600.0
"""An unchanged snapshot is written again, so that its age tells when it was last true."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the directory is; all in seconds.

    Attributes:
        first_retry: Wait after a first failure, doubled with each further one, with full jitter.
        longest_retry: Upper limit of that.
        refused_retry: Wait after a refusal that only a person can mend.
        watch: After which the server ends a watch, give or take a fifth.
        stale: A watch without event and bookmark for so long is given up. Servers send a bookmark
            about every minute.
        request: How long a single answer may take.
        keep: For how long a deleted pod is still found.
        snapshot: At most one snapshot in so long.
    """

    first_retry: float = 1.0
    longest_retry: float = 60.0
    refused_retry: float = 60.0
    watch: float = 300.0
    stale: float = 600.0
    request: float = 30.0
    keep: float = 300.0
    snapshot: float = 60.0


@dataclass(frozen=True, slots=True)
class Status:
    """How it stands with the API.

    Attributes:
        up: Whether the list is complete and a watch runs, or runs again at once.
        text: For people.
    """

    up: bool
    text: str


class PodDirectory:
    """Finds pods by container id or uid; implements ``Pods``.

    Args:
        connect: Makes a client with the credentials as they are now.
        node_name: For the snapshot.
        snapshot: File of the snapshot, None for none.
        count_error: Called with a reason out of a bounded set.
        pace: How patient it is.
    """

    def __init__(
        self,
        connect: Callable[[], PodApi],
        *,
        node_name: str,
        snapshot: Path | None = None,
        count_error: Callable[[str], None] = lambda _: None,
        pace: Pace = Pace(),
    ) -> None:
        self._connect = connect
        self._node_name = node_name
        self._snapshot = snapshot
        self._count_error = count_error
        self._pace = pace
        self._cache = PodCache(keep_seconds=pace.keep)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # around _api, which stop() aborts
        self._api: PodApi | None = None
        self._resource_version = ""
        self._list_from = _FROM_CACHE
        self._failures = 0
        self._seen_unix = 0.0  # when the API last told of the pods
        self._saved = (0, float("-inf"))  # revision and time of the last snapshot
        self._reported: set[tuple[str, str]] = set()
        self._thread = threading.Thread(target=self._run, name="kubernetes", daemon=True)
        self.status = Status(up=False, text="not asked yet")

    @property
    def revision(self) -> int:
        """Grows with every change of what ``find`` may answer."""
        return self._cache.revision

    @property
    def pod_count(self) -> int:
        """How many pods are known and not deleted."""
        return len(self._cache)

    def find(self, container_id: str, pod_uid: str) -> Found | None:
        """Give the pod and container of a container id, else the pod of a uid."""
        return self._cache.find(container_id, pod_uid)

    def start(self) -> None:
        """Read the snapshot, then list and watch in a thread of its own."""
        self._load_snapshot()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a connection that is being made may outlive this by seconds."""
        self._stop.set()
        with self._lock:
            if self._api is not None:
                self._api.abort()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = 0.0
            try:
                self._follow()
            except KubernetesError as error:
                pause = self._note_failure(error)
            except Exception:  # noqa: BLE001 - this stage's boundary: sampling goes on without it
                _log.exception("the pods of this node cannot be followed; trying again")
                pause = self._note_failure(KubernetesError("unexpected"), quiet=True)
            self._save_snapshot()
            self._stop.wait(pause)
        self._save_snapshot(now=True)
        self._disconnect()

    def _follow(self) -> None:
        """Connect and list where that is due, then watch until the watch ends."""
        api = self._connected()
        if api is None:
            return
        if not self._resource_version:
            self._list(api)
        began, heard = time.monotonic(), False
        seconds = self._pace.watch * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
        watch = api.watch(self._resource_version, seconds=seconds, stale_seconds=self._pace.stale)
        with contextlib.closing(watch):
            for events in watch:
                if self._stop.is_set():
                    return
                if events:
                    self._apply(events)
                    heard, self._failures = True, 0
                self._say(up=True, text=self._describe())
                self._save_snapshot()
        if not heard and time.monotonic() - began < _SHORT_WATCH_SECONDS:
            raise KubernetesError("short_watch", "the watch ended as soon as it began")
        self._failures = 0

    def _list(self, api: PodApi) -> None:
        records: list[PodRecord] = []
        version = ""
        for items, listed_at in api.pages(self._list_from):
            records += self._read_all(items)
            version = listed_at
        self._count(self._cache.replace(records), "too_many_pods")
        self._list_from = _FROM_CACHE
        self._resource_version = version
        self._seen_unix = time.time()

    def _apply(self, events: Sequence[WatchEvent]) -> None:
        """Take events in their order; of several on one pod the last one counts."""
        changed: dict[str, PodRecord] = {}
        deleted: dict[str, None] = {}
        failure: KubernetesError | None = None
        for event in events:
            if event.kind == "ERROR":
                code = event.body.get("code")
                failure = error_of_status(code if isinstance(code, int) else 0, event.body)
                break
            if event.kind in {"ADDED", "MODIFIED", "DELETED"}:
                for record in self._read_all([event.body]):
                    changed.pop(record.pod.uid, None)
                    deleted.pop(record.pod.uid, None)
                    if event.kind == "DELETED":
                        deleted[record.pod.uid] = None
                    else:
                        changed[record.pod.uid] = record
            elif event.kind != "BOOKMARK":
                self._count(1, "unknown_event")
            self._resource_version = event.resource_version or self._resource_version
        self._count(self._cache.apply(changed.values(), deleted), "too_many_pods")
        self._seen_unix = time.time()
        if failure is not None:
            raise failure

    def _read_all(self, bodies: Sequence[object]) -> list[PodRecord]:
        records = [read_pod(each) for each in bodies]
        self._count(records.count(None), "malformed_pod")
        found = [each for each in records if each is not None]
        for record in found:
            self._report_problems(record)
        return found

    def _report_problems(self, record: PodRecord) -> None:
        """Log and count an annotation that means nothing, once for each pod."""
        for problem in problems(record.pod.annotations):
            key = (record.pod.uid, problem)
            if key not in self._reported:
                if len(self._reported) >= _REPORTED_AT_MOST:
                    self._reported.clear()
                self._reported.add(key)
                self._count(1, "invalid_annotation")
                _log.warning("pod %s/%s: %s", record.pod.namespace, record.pod.name, problem)

    def _note_failure(self, error: KubernetesError, *, quiet: bool = False) -> float:
        """Count and tell a failure; give how long to wait."""
        if self._stop.is_set():
            return 0.0  # stop() cut the connection
        self._failures += 1
        self._count(1, error.reason)
        if error.reason in _RELIST:
            self._resource_version = ""
            self._list_from = _MOST_RECENT
        if error.reason in _REFUSED | {"tls"}:
            self._disconnect()  # the credentials may have been rotated
        text = explain(error)
        if text != self.status.text and not quiet and error.reason != "gone":
            _log.warning("Kubernetes API: %s; %d pods are known", text, self.pod_count)
        if error.reason != "gone" or self._failures > 1:
            self._say(up=False, text=text)
        return self._pause_after(error)

    def _pause_after(self, error: KubernetesError) -> float:
        pace = self._pace
        longest = min(pace.longest_retry, pace.first_retry * 2.0 ** min(self._failures - 1, 20))
        # A first refusal is tried again soon: a rotated token is read by then.
        if error.reason in _REFUSED and self._failures > 1:
            longest = pace.refused_retry
        hinted = min(error.retry_after_seconds, _RETRY_AFTER_AT_MOST_SECONDS)
        return hinted + random.uniform(0.1, 1.0) * longest  # noqa: S311 - spreads load

    def _connected(self) -> PodApi | None:
        """Give the client, made where there is none; None where it is time to stop."""
        if self._api is None:
            api = self._connect()
            with self._lock:
                self._api = api
                if self._stop.is_set():
                    return None
        return self._api

    def _disconnect(self) -> None:
        with self._lock:
            api, self._api = self._api, None
        if api is not None:
            api.close()

    def _describe(self) -> str:
        if not self.pod_count:
            return f"no pod has spec.nodeName={self._node_name}; is node_name right?"
        return f"{self.pod_count} pods, watching"

    def _say(self, *, up: bool, text: str) -> None:
        if up and not self.status.up:
            _log.info("Kubernetes API: %s", text)
        self.status = Status(up, text)

    def _count(self, count: int, reason: str) -> None:
        for _ in range(count):
            self._count_error(reason)

    def _load_snapshot(self) -> None:
        if self._snapshot is None:
            return
        try:
            records = kubernetes_snapshot.load(self._snapshot, self._node_name, time.time())
        except KubernetesError as error:
            self._count(1, error.reason)
            _log.warning("pods of an earlier run: %s", error)
            return
        if records:
            self._cache.replace(records)
            text = f"{self.pod_count} pods of an earlier run, not confirmed yet"
            self.status = Status(up=False, text=text)

    def _save_snapshot(self, *, now: bool = False) -> None:
        """Write the snapshot where something changed, not too often."""
        if self._snapshot is None or not self._seen_unix:
            return  # nothing was listed: the file of an earlier run is as good
        revision, saved = self._saved
        changed = revision != self.revision
        waited = time.monotonic() - saved
        if not now and waited < (self._pace.snapshot if changed else _SNAPSHOT_REFRESH_SECONDS):
            return
        self._saved = (self.revision, time.monotonic())
        try:
            kubernetes_snapshot.save(
                self._snapshot, self._node_name, self._cache.records, self._seen_unix
            )
        except KubernetesError as error:
            self._count(1, error.reason)
            _log.warning("pods are not remembered: %s", error)


def explain(error: KubernetesError) -> str:
    """Say what went wrong, with what to grant where a right is missing."""
    return f"forbidden: {GRANT} ({error.detail})" if error.reason == "forbidden" else str(error)
