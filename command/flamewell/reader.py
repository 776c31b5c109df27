"""What the read commands share: whom to ask, what for, and words for an empty answer."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flamewell.amounts import duration
from flamewell.answers import Service, parse_services
from flamewell.client import DEFAULT_URL, Client, Server, is_loopback, parse_url
from flamewell.errors import CommandError, UsageError
from flamewell.selection import Selection, TimeRange, build_query, parse_range, parse_type
from flamewell.terminal import harmless
from flamewell.transfer import Progress

_MAX_NAMES = 30


@dataclass(frozen=True, slots=True)
class Reader:
    """Asks one collector for one selection; ``now_ms`` is what "now" means in its times."""

    client: Client
    selection: Selection
    now_ms: int

    def services(self) -> list[Service]:
        """List the services of the time range."""
        time_range = self.selection.range
        return parse_services(
            self.client.get_json(
                "/api/v1/services",
                {"from": str(time_range.from_ms), "until": str(time_range.until_ms)},
            )
        )

    def nothing_found(self) -> CommandError:
        """Say why the selection is empty, and what there is instead."""
        return CommandError(explain_nothing(self.selection, self.services()))


def open_reader(args: argparse.Namespace, *, environ: Mapping[str, str], now_ms: int) -> Reader:
    """Make a reader from the command line and the environment.

    Args:
        args: With what ``read_arguments`` declares.
        environ: FLAMEWELL_URL and FLAMEWELL_TOKEN are read.
        now_ms: What "now" is.

    Raises:
        UsageError: Something of it is wrong.
    """
    selection = Selection(
        kind=parse_type(args.type),
        query=build_query(args.service, args.selector),
        range=parse_range(since=args.since, start=args.start, until=args.until, now_ms=now_ms),
        service=args.service,
    )
    _, client = open_client(args, environ=environ)
    return Reader(client, selection, now_ms)


def open_client(args: argparse.Namespace, *, environ: Mapping[str, str]) -> tuple[str, Client]:
    """Make a client from the command line and the environment.

    Args:
        args: With what ``add_where`` declares.
        environ: FLAMEWELL_URL and FLAMEWELL_TOKEN are read.

    Returns:
        The collector's URL, and the client.

    Raises:
        UsageError: Something of it is wrong.
    """
    url = parse_url(args.url or environ.get("FLAMEWELL_URL") or DEFAULT_URL)
    token = _read_token(args.token_file, environ)
    if token and url.startswith("http:") and not is_loopback(url):
        print(f"flamewell: warning: the token goes unencrypted to {url}", file=sys.stderr)
    server = Server(url, token, args.timeout)
    return url, Client(server, progress=lambda what: Progress(what, sys.stderr))


def open_reader_now(args: argparse.Namespace) -> Reader:
    """Make a reader from the command line, this process's environment and the clock."""
    return open_reader(args, environ=os.environ, now_ms=time.time_ns() // 1_000_000)


def require_selection(selection: Selection) -> None:
    """Refuse to merge everything there is.

    Raises:
        UsageError: Neither a service nor a selector was given.
    """
    if selection.query == "{}":
        raise UsageError("name a service, or give a --selector; `flamewell top` lists the services")


def explain_nothing(selection: Selection, services: list[Service]) -> str:
    """Say why a selection holds nothing, from the services that there are in its range. Pure."""
    when = range_text(selection.range)
    wanted = f"{selection.kind.name}:{selection.kind.sample_type}"
    if not services:
        return f"nothing was profiled {when}; is an agent running? `flamewell-agent check` tells"
    known = {each.service_name: each for each in services}
    if selection.service is None:
        return f"no {wanted} profile matches {harmless(selection.query)} {when}"
    found = known.get(selection.service)
    if found is None:
        near = difflib.get_close_matches(selection.service, known, n=1)
        hint = f" Did you mean {harmless(near[0])}?" if near else ""
        return (
            f"there is no service {harmless(selection.service)} {when}.{hint} "
            f"There are: {_listed(list(known))}"
        )
    if selection.kind.id in found.types:
        return f"no {wanted} profile matches {harmless(selection.query)} {when}"
    types = [":".join(each.split(":")[:2]) for each in found.types]
    return (
        f"{harmless(selection.service)} has no {wanted} profiles {when}; "
        f"choose by --type of: {_listed(types)}"
    )


def range_text(time_range: TimeRange) -> str:
    """Show a range in local time."""
    start, end = (
        datetime.fromtimestamp(each / 1000).astimezone()
        for each in (time_range.from_ms, time_range.until_ms)
    )
    until = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"from {start:%Y-%m-%d %H:%M:%S} to {until} ({duration(time_range.length_ms)})"


def _listed(names: list[str]) -> str:
    shown = ", ".join(harmless(each) for each in names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _read_token(path: str | None, environ: Mapping[str, str]) -> str | None:
    if path is None:
        token, source = environ.get("FLAMEWELL_TOKEN", ""), "FLAMEWELL_TOKEN"
        if not token.strip():
            return None
    else:
        try:
            token, source = Path(path).read_text(encoding="ascii"), path
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the token file: {error}") from error
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{source} holds no token: one line of printable characters is expected")
    return token
