"""Which endpoints to pull from: configured, annotated and detected ones, each with its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from flamewell_agent.errors import EndpointError, ProcessGoneError, ProcessUnreadableError
from flamewell_agent.model import Process, ProcessKey, Subject
from flamewell_agent.samplers.go_endpoints import (
    Endpoint,
    Listener,
    ask_cmdline,
    find_endpoint,
    is_loopback,
    listening,
    same_cmdline,
)
from flamewell_agent.samplers.go_fetch import PprofClient

_LOOK_AGAIN_SECONDS, _LOOK_AGAIN_LIMIT_SECONDS = 10.0, 600.0


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a process without an endpoint brought, and when to look again."""

    listeners: tuple[Listener, ...]
    reason: str
    detail: str
    looks: int
    next_at: float
    refused: str = ""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A process whose pod's annotations name an endpoint, and the kinds they allow."""

    process: Process
    kinds: frozenset[str]


class EndpointFinder:
    """Finds endpoints; for one thread, but for ``look_of``.

    Args:
        configured: Endpoints that the agent's own configuration names.
        detect: Ask the open ports of Go processes for pprof.
        proc_root: The node's /proc.
        connect: Makes clients.
    """

    def __init__(
        self,
        configured: Sequence[Endpoint],
        *,
        detect: bool,
        proc_root: Path,
        connect: Callable[[str], PprofClient],
    ) -> None:
        self._configured = tuple(configured)
        self._detect = detect
        self._proc_root = proc_root
        self._connect = connect
        self._configured_owners: dict[str, ProcessKey] = {}
        self._annotated_owners: dict[str, ProcessKey] = {}
        self._detected: dict[ProcessKey, Endpoint] = {}
        self._looks: dict[ProcessKey, Look] = {}  # replaced as a whole: readers need no lock

    def look_of(self, process: Process) -> Look | None:
        """Tell why a process has no endpoint; None where nobody has looked yet."""
        return self._looks.get(process.key)

    def lose(self, endpoint: Endpoint) -> bool:
        """Look anew for a detected endpoint where nobody listens now; tell whether it was one.

        Its program may have moved to another port, and another program may get this one.
        """
        key = endpoint.process.key if endpoint.process is not None else None
        detected = self._detected.get(key) if key is not None else None
        if key is None or detected is None or detected.url != endpoint.url:
            return False
        del self._detected[key]
        return True

    def find(
        self, processes: Sequence[Process], subjects: Mapping[ProcessKey, Subject]
    ) -> tuple[Endpoint, ...]:
        """Give the endpoints of these processes, each URL once.

        Those that the configuration names come first, then annotated, then detected ones. A
        process that must not be sampled has none, whoever names it.
        """
        allowed = [each for each in processes if not subjects[each.key].refused]
        keys = {each.key for each in allowed}
        self._detected = {key: each for key, each in self._detected.items() if key in keys}
        endpoints = {each.url: each for each in self._annotated(allowed, subjects)}
        owners = {each.process.key for each in endpoints.values() if each.process is not None}
        looks = {}
        for process in processes:
            if process.key not in owners and process.key not in self._detected:
                looks[process.key] = self._look(process, subjects[process.key])
        self._looks = looks
        found: dict[str, Endpoint] = {}
        for configured in self._configured:
            if (owned := self._own(configured, processes, endpoints, keys)) is not None:
                found[configured.url] = owned
        for endpoint in (*endpoints.values(), *self._detected.values()):
            found.setdefault(endpoint.url, endpoint)
        return tuple(found.values())

    def _annotated(
        self, processes: Sequence[Process], subjects: Mapping[ProcessKey, Subject]
    ) -> list[Endpoint]:
        claims: dict[str, list[_Claim]] = {}
        for process in processes:
            for scrape in subjects[process.key].scrapes:
                claim = _Claim(process, frozenset(scrape.kinds))
                claims.setdefault(scrape.url, []).append(claim)
        endpoints = []
        owners = {}
        for url, claimants in claims.items():
            claim = self._decide(url, claimants)
            owners[url] = claim.process.key
            endpoints.append(Endpoint(url, process=claim.process, kinds=claim.kinds))
        self._annotated_owners = owners
        return endpoints

    def _decide(self, url: str, claims: Sequence[_Claim]) -> _Claim:
        """Choose between the Go processes of a container: whose arguments the endpoint tells.

        The oldest gets it where that tells nothing: the others are mostly its helpers.
        """
        known = self._annotated_owners.get(url)
        for claim in claims:
            if claim.process.key == known:
                return claim
        if len(claims) > 1:
            try:
                answer = ask_cmdline(url, self._connect)
            except EndpointError:
                answer = b""
            matching = [each for each in claims if same_cmdline(answer, each.process.cmdline)]
            if len(matching) == 1:
                return matching[0]
        return min(claims, key=lambda each: (each.process.key.start_ticks, each.process.key.pid))

    def _look(self, process: Process, subject: Subject) -> Look:
        """Look at a process's ports, and ask them where that is wanted; seldom if in vain."""
        now = time.monotonic()
        last = self._looks.get(process.key)
        if last is not None and now < last.next_at and last.refused == subject.refused:
            return last
        looks = last.looks + 1 if last is not None else 0
        wait = min(_LOOK_AGAIN_LIMIT_SECONDS, _LOOK_AGAIN_SECONDS * 2.0 ** min(looks, 10))
        listeners: tuple[Listener, ...] = ()
        reason, detail = "go_detection_off", "set go_detect, annotate its pod, or set go_endpoints"
        try:
            listeners = listening(process, self._proc_root)
            if subject.scrapes:
                reason, detail = "endpoint_of_another_process", subject.scrapes[0].url
            elif self._detect and not subject.refused and not self._is_configured(listeners):
                self._detected[process.key] = find_endpoint(process, listeners, self._connect)
                reason, detail = "pprof_started", ""
        except EndpointError as error:
            reason, detail = error.reason, error.detail
        except ProcessGoneError as error:
            reason, detail = "process_ended", str(error)
        except ProcessUnreadableError as error:
            reason, detail = "not_permitted", str(error)
        if subject.refused:
            reason, detail = subject.refused, ""
        return Look(listeners, reason, detail, looks, now + wait, subject.refused)

    def _is_configured(self, listeners: Sequence[Listener]) -> bool:
        ports = {port_of(each.url) for each in self._configured if is_loopback(each.url)}
        return any(each.port in ports for each in listeners)

    def _own(
        self,
        configured: Endpoint,
        processes: Sequence[Process],
        annotated: Mapping[str, Endpoint],
        allowed: set[ProcessKey],
    ) -> Endpoint | None:
        """Give a configured endpoint its local process; None where that must not be sampled."""
        if configured.url in annotated:
            return replace(configured, process=annotated[configured.url].process)
        owner = self._owner(configured.url, processes)
        if owner is None:
            self._configured_owners.pop(configured.url, None)
            return configured
        self._configured_owners[configured.url] = owner.key
        return replace(configured, process=owner) if owner.key in allowed else None

    def _owner(self, url: str, processes: Sequence[Process]) -> Process | None:
        known = self._configured_owners.get(url)
        for process in processes:
            if process.key == known:
                return process
        if not is_loopback(url):
            return None
        port = port_of(url)
        for process in processes:
            look = self._looks.get(process.key)
            if look is not None and any(each.port == port for each in look.listeners):
                return process
        return None


def port_of(url: str) -> int:
    """Give a URL's port, the scheme's own where it names none. Pure."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
