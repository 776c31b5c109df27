"""Checks of the way to the collectors: reachability, the token, the clock, the files needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import urllib3

from flamewell_agent.check_result import Check
from flamewell_agent.collector_client import judge, make_destination, make_pool, read_token
from flamewell_agent.config import AgentConfig

_TIMEOUT_SECONDS = 10.0
_SKEW_WARN_SECONDS, _SKEW_FAIL_SECONDS = 30.0, 600.0
"""A collector refuses what is newer than 10 minutes by its own clock."""
_UNAUTHORIZED, _FORBIDDEN, _OK, _BAD_REQUEST = 401, 403, 200, 400
_PASSING = frozenset({408, 425, 429})
"""What the collector may answer when it has much to do."""


def check_collector(
    url: str, config: AgentConfig, *, clock: Callable[[], float] = time.time
) -> Iterator[Check]:
    """Ask a collector whether it is ready, takes the token, and has the same time."""
    destination = make_destination(config, config.ingest_path)
    mend = "start the collector there, or set collector_url (and tls_ca_file, proxy_url)"
    try:
        headers = {}
        if destination.token_file is not None:
            headers["Authorization"] = f"Bearer {read_token(destination.token_file)}"
        with make_pool(destination) as connections:
            ready = _ask(connections, "GET", f"{url.rstrip('/')}/ready", headers)
            # An empty request: whoever may not write is told so, and nothing is stored.
            took = _ask(connections, "POST", url.rstrip("/") + config.ingest_path, headers)
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        yield Check("collector", "fail", f"{url}: {error}", mend)
        return
    if ready.status != _OK:
        yield Check(
            "collector",
            "warn",
            f"{url} answers {ready.status} on /ready",
            "look at the collector's log; batches wait in the spool meanwhile",
        )
    else:
        yield Check("collector", "ok", f"{url} is ready")
    yield judge_write(url, took.status, took.headers, with_token=bool(headers))
    yield check_clock(url, ready.headers.get("Date", ""), clock())


def judge_write(url: str, status: int, headers: Mapping[str, str], *, with_token: bool) -> Check:
    """Say what an answer to an empty batch means, by the rules of sending. Pure."""
    name = "right to write"
    shown = "with the token" if with_token else "without a token"
    outcome = judge(status, headers, b"", datetime.now(UTC))
    if outcome.kind == "delivered" or status == _BAD_REQUEST:  # it was empty, that is all
        return Check(name, "ok", f"{url} takes batches {shown}")
    detail = f"{url} answers {status} to an empty batch {shown}"
    if status in _PASSING or status >= 500:  # noqa: PLR2004 - the class of a status is read best as numbers
        return Check(name, "warn", detail, "look at the collector's log and load")
    if status == _UNAUTHORIZED:
        return Check(name, "fail", detail, "set token_file to a token with scope ingest")
    if status == _FORBIDDEN:
        return Check(name, "fail", detail, "give the token the scope ingest, look at its tenant")
    mend = outcome.detail or "look at collector_url, ingest_path and the proxy"
    return Check(name, "fail", detail, mend)


def check_clock(url: str, date: str, now_unix: float) -> Check:
    """Compare the collector's Date header, of whole seconds, with our clock. Pure."""
    try:
        skew = now_unix - parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return Check("clock", "ok", f"{url} tells no time")
    detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {url}"
    if abs(skew) >= _SKEW_FAIL_SECONDS:
        return Check("clock", "fail", f"{detail}: batches are refused", "set the clocks by NTP")
    if abs(skew) >= _SKEW_WARN_SECONDS:
        return Check("clock", "warn", detail, "set the clocks by NTP")
    return Check("clock", "ok", f"like that of {url}")


def check_credentials(config: AgentConfig) -> Check:
    """Read the files that sending needs, and tell when a token would travel in the open."""
    for option in ("token_file", "tls_ca_file", "tls_cert_file", "tls_key_file"):
        path = getattr(config, option)
        if path:
            try:
                Path(path).read_bytes()
            except OSError as error:
                return Check("credentials", "fail", str(error), f"set {option} to a readable file")
    plain = [url for url in config.collector_url if url.startswith("http://")]
    if config.token_file and plain:
        return Check(
            "credentials", "warn", f"the token goes unencrypted to {plain[0]}", "use https"
        )
    if config.tls_insecure:
        return Check("credentials", "warn", "certificates are not verified", "unset tls_insecure")
    return Check("credentials", "ok", "none needed" if not config.token_file else "readable")


def _ask(
    connections: urllib3.PoolManager, method: str, url: str, headers: dict[str, str]
) -> urllib3.BaseHTTPResponse:
    content = {"Content-Type": "application/x-protobuf"} if method == "POST" else {}
    return connections.request(
        method,
        url,
        headers={**headers, **content},
        body=b"" if method == "POST" else None,
        redirect=False,
        retries=False,
        timeout=_TIMEOUT_SECONDS,
    )
