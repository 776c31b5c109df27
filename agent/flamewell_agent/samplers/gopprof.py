"""Go programs by their own pprof endpoints, configured or found.

A thread an endpoint pulls (go_worker.py), one more looks for endpoints. The sampling loop only
hands processes in (``observe``) and takes profiles out (``drain``); neither ever waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from flamewell_agent.errors import EndpointError, ProcessGoneError, ProcessUnreadableError
from flamewell_agent.model import Coverage, Process, ProcessKey, Profile, Resource
from flamewell_agent.samplers.go_endpoints import (
    Endpoint,
    Listener,
    find_endpoint,
    is_loopback,
    listening,
)
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_worker import EndpointWorker

_log = logging.getLogger(__name__)
_ENDPOINTS_AT_MOST = 64
_WAITING_SAMPLES_AT_MOST = 500_000
_LOOK_AGAIN_SECONDS, _LOOK_AGAIN_LIMIT_SECONDS = 10.0, 600.0
_SERVICE_NAME = "service.name"


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at a process without an endpoint brought, and when to look again."""

    listeners: tuple[Listener, ...]
    reason: str
    detail: str
    looks: int
    next_at: float


class GoSampler:
    """Profiles of Go programs.

    Args:
        endpoints: Configured ones, as (service name or empty, base URL).
        detect: Ask the open ports of Go processes for pprof.
        cycle_seconds: Length of a CPU profile.
        resource_of: Tells a process's resource.
        base_attributes: Resource attributes for endpoints that no local process belongs to.
        proc_root: The node's /proc.
        pull: False only finds out what would be pulled.
        count: Told what became of CPU samples (``ok``) or of pulls (a reason), and how many.
    """

    def __init__(
        self,
        *,
        endpoints: Sequence[tuple[str, str]],
        detect: bool,
        cycle_seconds: int,
        resource_of: Callable[[Process], Resource],
        base_attributes: Mapping[str, str],
        proc_root: Path = Path("/proc"),
        pull: bool = True,
        count: Callable[[str, int], None] = lambda _result, _count: None,
    ) -> None:
        self._configured = tuple(Endpoint(url, name) for name, url in endpoints)
        self._detect = detect
        self._cycle_seconds = cycle_seconds
        self._resource_of = resource_of
        self._base_attributes = dict(base_attributes)
        self._proc_root = proc_root
        self._pull = pull
        self._count = count
        self._lock = threading.Lock()
        self._waiting: deque[Profile] = deque()
        self._waiting_samples = 0
        self._observed: tuple[Process, ...] = ()
        self._news = threading.Event()
        self._stopping = threading.Event()
        # Below: changed by the looking thread only; replaced as a whole, so that readers need no
        # lock.
        self._workers: dict[str, EndpointWorker] = {}
        self._looks: dict[ProcessKey, _Look] = {}
        self._asking: PprofClient | None = None
        self._thread = threading.Thread(target=self._run, name="go-endpoints", daemon=True)

    def start(self) -> None:
        """Begin to look for endpoints; pulling begins with the first ``observe``."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End all threads; what is still waiting can be drained after it."""
        deadline = time.monotonic() + timeout
        self._stopping.set()
        self._news.set()
        asking = self._asking
        if asking is not None:
            asking.abort()
        if self._thread.is_alive():
            self._thread.join(timeout)
        workers = self._workers.values()
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def observe(self, processes: Sequence[Process]) -> None:
        """Take the processes of this cycle; those that do not run Go are ignored."""
        self._observed = _of_go(processes)
        self._news.set()

    def look(self, processes: Sequence[Process]) -> None:
        """Look for the endpoints of these processes at once, in place of ``start``, ``observe``."""
        self._observed = _of_go(processes)
        self._reconcile(self._observed)

    def drain(self) -> list[Profile]:
        """Give the profiles that have come in since the last call."""
        with self._lock:
            profiles = list(self._waiting)
            self._waiting.clear()
            self._waiting_samples = 0
        return profiles

    def coverage(self) -> list[Coverage]:
        """Account for each Go process that was observed last."""
        workers = {
            worker.endpoint.process.key: worker
            for worker in self._workers.values()
            if worker.endpoint.process is not None
        }
        return [self._cover(each, workers.get(each.key)) for each in self._observed]

    def _cover(self, process: Process, worker: EndpointWorker | None) -> Coverage:
        name = dict(self._resource_of(process).attributes).get(_SERVICE_NAME, process.executable)
        if worker is None:
            look = self._looks.get(process.key)
            if look is None:
                return Coverage(process, name, "skipped", "not_looked_at_yet")
            return Coverage(process, name, "skipped", look.reason, look.detail)
        name = worker.endpoint.service_name or name
        status = worker.status
        if status.failure:
            return Coverage(process, name, "failed", status.failure, status.detail)
        reason = "pprof" if status.delivered else "pprof_started"
        return Coverage(process, name, "sampled", reason, status.detail)

    def _emit(self, profiles: Sequence[Profile]) -> None:
        """Queue profiles; where nobody drains, the oldest make room."""
        with self._lock:
            self._waiting.extend(profiles)
            self._waiting_samples += sum(len(each.samples) for each in profiles)
            while self._waiting_samples > _WAITING_SAMPLES_AT_MOST:
                dropped = self._waiting.popleft()
                self._waiting_samples -= len(dropped.samples)
                self._count("not_drained", 1)

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._stopping.is_set():
                return
            try:
                self._reconcile(self._observed)
            except Exception:  # noqa: BLE001 - the stage's boundary: what is pulled goes on
                _log.exception("looking for Go endpoints failed unexpectedly")
                self._count("internal_error", 1)

    def _reconcile(self, processes: Sequence[Process]) -> None:
        """Bring workers in line with the processes that are there now."""
        alive = {each.key for each in processes}
        attached = self._drop_ended(alive)
        looks = {key: look for key, look in self._looks.items() if key in alive}
        for process in processes:
            if process.key not in attached and not self._stopping.is_set():
                looks[process.key] = self._look(process, looks.get(process.key))
        for configured in self._configured:
            owner = self._owner(configured, processes, looks)
            self._work_on(replace(configured, process=owner))
        self._looks = looks

    def _drop_ended(self, alive: set[ProcessKey]) -> set[ProcessKey]:
        """Stop workers of found endpoints whose process ended; give the keys of the others."""
        configured = {each.url for each in self._configured}
        kept: dict[str, EndpointWorker] = {}
        for url, worker in self._workers.items():
            process = worker.endpoint.process
            if url in configured or (process is not None and process.key in alive):
                kept[url] = worker
            else:
                worker.stop()
        self._workers = kept
        return {each.endpoint.process.key for each in kept.values() if each.endpoint.process}

    def _look(self, process: Process, last: _Look | None) -> _Look:
        """Look at a process's ports, and ask them where that is wanted; seldom if in vain."""
        now = time.monotonic()
        if last is not None and now < last.next_at:
            return last
        looks = last.looks + 1 if last is not None else 0
        wait = min(_LOOK_AGAIN_LIMIT_SECONDS, _LOOK_AGAIN_SECONDS * 2.0 ** min(looks, 10))
        listeners: tuple[Listener, ...] = ()
        try:
            listeners = listening(process, self._proc_root)
            reason, detail = "go_detection_off", "set go_detect, or name it in go_endpoints"
            if self._detect and not self._is_configured(listeners):
                endpoint = find_endpoint(process, listeners, self._connect)
                reason, detail = self._work_on(endpoint)
        except EndpointError as error:
            reason, detail = error.reason, error.detail
        except ProcessGoneError as error:
            reason, detail = "process_ended", str(error)
        except ProcessUnreadableError as error:
            reason, detail = "not_permitted", str(error)
        return _Look(listeners, reason, detail, looks, now + wait)

    def _connect(self, url: str) -> PprofClient:
        """Make a client that ``stop`` can abort."""
        client = self._asking = PprofClient(url)
        if self._stopping.is_set():
            client.abort()
        return client

    def _is_configured(self, listeners: Sequence[Listener]) -> bool:
        ports = {_port(each.url) for each in self._configured if is_loopback(each.url)}
        return any(each.port in ports for each in listeners)

    def _owner(
        self,
        configured: Endpoint,
        processes: Sequence[Process],
        looks: Mapping[ProcessKey, _Look],
    ) -> Process | None:
        """Find the local process behind a configured endpoint."""
        worker = self._workers.get(configured.url)
        known = worker.endpoint.process if worker is not None else None
        if known is not None and any(each.key == known.key for each in processes):
            return known
        if not is_loopback(configured.url):
            return None
        port = _port(configured.url)
        for process in processes:
            look = looks.get(process.key)
            if look is not None and any(each.port == port for each in look.listeners):
                return process
        return None

    def _work_on(self, endpoint: Endpoint) -> tuple[str, str]:
        """Start a worker for an endpoint, or tell the one there is whose it is now."""
        resource = self._resource(endpoint)
        worker = self._workers.get(endpoint.url)
        if worker is not None:
            worker.update(endpoint, resource)
        elif len(self._workers) >= _ENDPOINTS_AT_MOST:
            return "too_many_endpoints", f"{_ENDPOINTS_AT_MOST} are pulled from already"
        elif not self._stopping.is_set():
            worker = EndpointWorker(
                endpoint,
                resource,
                cycle_seconds=self._cycle_seconds,
                emit=self._emit,
                count=self._count,
            )
            self._workers = {**self._workers, endpoint.url: worker}
            if self._pull:
                worker.start()
        return "pprof_started", ""

    def _resource(self, endpoint: Endpoint) -> Resource:
        if endpoint.process is not None:
            attributes = dict(self._resource_of(endpoint.process).attributes)
        else:
            attributes = {
                **self._base_attributes,
                _SERVICE_NAME: urlsplit(endpoint.url).netloc,
                "process.runtime.name": "go",
            }
        if endpoint.service_name:
            attributes[_SERVICE_NAME] = endpoint.service_name
        return Resource.of(attributes)


def _of_go(processes: Sequence[Process]) -> tuple[Process, ...]:
    return tuple(each for each in processes if each.runtime == "go")


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
