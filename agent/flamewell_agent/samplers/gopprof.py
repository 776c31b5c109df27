"""Go programs by their own pprof endpoints: configured, annotated or detected.

A thread an endpoint pulls (go_worker.py), one more looks for endpoints (go_finding.py). The
sampling loop only hands processes in (``observe``) and takes profiles out (``drain``); neither
ever waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flamewell_agent.model import Coverage, Process, ProcessKey, Profile, Resource, Subject
from flamewell_agent.samplers.go_budget import PullBudget
from flamewell_agent.samplers.go_endpoints import Endpoint
from flamewell_agent.samplers.go_fetch import PprofClient, make_tls
from flamewell_agent.samplers.go_finding import EndpointFinder
from flamewell_agent.samplers.go_worker import EndpointWorker, Pulling

_log = logging.getLogger(__name__)
_ENDPOINTS_AT_MOST = 64
_WAITING_SAMPLES_AT_MOST = 500_000
_ROUNDS_SAVED = 4
_SERVICE_NAME = "service.name"


@dataclass(frozen=True, slots=True)
class GoOptions:
    """How Go programs are found and pulled from.

    Attributes:
        endpoints: Configured ones, as (service name or empty, base URL).
        detect: Ask the open ports of Go processes for pprof.
        cycle_seconds: How long a round is: CPU profile, then the others.
        cpu_share: For how much of the time a target's CPU profiler may run, above 0 to 1.
        tls_ca_file: Authorities for https endpoints, besides the system's.
        tls_insecure: Do not verify the certificates of https endpoints.
    """

    endpoints: tuple[tuple[str, str], ...] = ()
    detect: bool = False
    cycle_seconds: int = 15
    cpu_share: float = 1.0
    tls_ca_file: Path | None = None
    tls_insecure: bool = False


class GoSampler:
    """Profiles of Go programs.

    Args:
        options: How.
        subject_of: Tells who a process is, what may be done with it, and its pod's endpoints.
            Called from two threads.
        base_attributes: Resource attributes for endpoints that no local process belongs to.
        proc_root: The node's /proc.
        pull: False only finds out what would be pulled.
        count: Told what became of CPU samples (``ok``) or of pulls (a reason), and how many.

    Raises:
        OSError: The file with authorities cannot be read.
    """

    def __init__(
        self,
        options: GoOptions,
        *,
        subject_of: Callable[[Process], Subject],
        base_attributes: Mapping[str, str],
        proc_root: Path = Path("/proc"),
        pull: bool = True,
        count: Callable[[str, int], None] = lambda _result, _count: None,
    ) -> None:
        self._subject_of = subject_of
        self._base_attributes = dict(base_attributes)
        self._pull = pull
        self._count = count
        self._tls = make_tls(options.tls_ca_file, insecure=options.tls_insecure)
        self._budget = PullBudget(_ROUNDS_SAVED * options.cycle_seconds)
        self._pulling = Pulling(
            options.cycle_seconds,
            self._emit,
            count,
            cpu_share=options.cpu_share,
            tls=self._tls,
            budget=self._budget,
        )
        self._finder = EndpointFinder(
            [Endpoint(url, name) for name, url in options.endpoints],
            detect=options.detect,
            proc_root=proc_root,
            connect=self._connect,
        )
        self._lock = threading.Lock()
        self._waiting: deque[Profile] = deque()
        self._waiting_samples = 0
        self._observed: tuple[Process, ...] = ()
        self._news = threading.Event()
        self._stopping = threading.Event()
        # Below: changed by the looking thread only; replaced as a whole, so that readers need no
        # lock.
        self._workers: dict[str, EndpointWorker] = {}
        self._left_out: frozenset[str] = frozenset()
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

    def allow(self, cpu_seconds_per_second: float) -> None:
        """Set what all pulls together may use of a CPU; without it there is no limit."""
        self._budget.allow(cpu_seconds_per_second)

    def cpu_seconds(self) -> float:
        """Give the CPU that the threads here have used so far."""
        return self._budget.cpu_seconds()

    def coverage(self) -> list[Coverage]:
        """Account for each Go process that was observed last."""
        workers: dict[object, EndpointWorker] = {}
        for worker in self._workers.values():
            if worker.endpoint.process is not None:
                workers.setdefault(worker.endpoint.process.key, worker)
        return [self._cover(each, workers.get(each.key)) for each in self._observed]

    def _cover(self, process: Process, worker: EndpointWorker | None) -> Coverage:
        subject = self._subject_of(process)
        name = subject.service_name or process.executable
        if subject.refused:
            return Coverage(process, name, "skipped", subject.refused)
        if worker is None:
            look = self._finder.look_of(process)
            if look is None or look.reason == "pprof_started":
                too_many = bool(self._left_out)
                reason = "too_many_endpoints" if too_many else "not_looked_at_yet"
                return Coverage(process, name, "skipped", reason)
            return Coverage(process, name, "skipped", look.reason, look.detail)
        name = worker.endpoint.service_name or name
        status = worker.status
        if status.all_waiting:
            return Coverage(process, name, "skipped", "waits_for_budget", status.detail)
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
            began = time.thread_time()
            try:
                self._reconcile(self._observed)
            except Exception:  # noqa: BLE001 - the stage's boundary: what is pulled goes on
                _log.exception("looking for Go endpoints failed unexpectedly")
                self._count("internal_error", 1)
            self._budget.book(time.thread_time() - began)

    def _reconcile(self, processes: Sequence[Process]) -> None:
        """Bring workers in line with the endpoints of the processes that are there now."""
        subjects = {each.key: self._subject_of(each) for each in processes}
        lost = {
            url
            for url, worker in self._workers.items()
            if worker.status.lost and self._finder.lose(worker.endpoint)
        }
        endpoints = self._finder.find(processes, subjects)
        owners = {each.url: _owner(each) for each in endpoints if each.url not in lost}
        kept = {}
        for url, worker in self._workers.items():
            # Another process there has other counters, and need not wait for what failed before.
            if url in owners and owners[url] == _owner(worker.endpoint):
                kept[url] = worker
            else:
                worker.stop()
        self._workers = kept
        left_out = set()
        for endpoint in endpoints:
            if not self._work_on(endpoint):
                left_out.add(endpoint.url)
        if left_out - self._left_out:
            _log.warning(
                "%d Go endpoints are not pulled from: more than %d",
                len(left_out),
                _ENDPOINTS_AT_MOST,
            )
        self._left_out = frozenset(left_out)

    def _connect(self, url: str) -> PprofClient:
        """Make a client that ``stop`` can abort."""
        client = self._asking = PprofClient(url, self._tls)
        if self._stopping.is_set():
            client.abort()
        return client

    def _work_on(self, endpoint: Endpoint) -> bool:
        """Start a worker for an endpoint, or tell the one there is whose it is now."""
        resource = self._resource(endpoint)
        worker = self._workers.get(endpoint.url)
        if worker is not None:
            worker.update(endpoint, resource)
        elif len(self._workers) >= _ENDPOINTS_AT_MOST:
            return False
        elif not self._stopping.is_set():
            worker = EndpointWorker(endpoint, resource, self._pulling)
            self._workers = {**self._workers, endpoint.url: worker}
            if self._pull:
                worker.start()
        return True

    def _resource(self, endpoint: Endpoint) -> Resource:
        if endpoint.process is not None:
            attributes = dict(self._subject_of(endpoint.process).resource.attributes)
        else:
            attributes = {
                **self._base_attributes,
                _SERVICE_NAME: urlsplit(endpoint.url).netloc,
                "process.runtime.name": "go",
            }
        if endpoint.service_name:
            attributes[_SERVICE_NAME] = endpoint.service_name
        return Resource.of(attributes)


def _owner(endpoint: Endpoint) -> ProcessKey | None:
    return endpoint.process.key if endpoint.process is not None else None


def _of_go(processes: Sequence[Process]) -> tuple[Process, ...]:
    return tuple(each for each in processes if each.runtime == "go")
