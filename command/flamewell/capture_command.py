"""``flamewell capture``: asks agents, by way of a collector, for a closer look at something now."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flamewell.client import Client
from flamewell.errors import CommandError, UsageError
from flamewell.output import open_terminal, print_lines
from flamewell.read_arguments import add_where
from flamewell.reader import open_client
from flamewell.tables import Column, render_table
from flamewell.terminal import cut, harmless

KINDS = ("cpu", "wall", "native", "heap", "strace", "gdb")
OPEN_STATES = frozenset({"waiting", "accepted", "running"})
_PATH = "/api/v1/captures"
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 30.0
"""A collector that restarts is back within it."""
_DESCRIPTION = """\
Asks for a closer look at one service, container, pod or process, now: an agent fetches the order
within some 10 s, carries it out inside its overhead budget or says why not, and the samples carry
the label capture_id. Without a word: asks for a capture.

words:
  (none)       ask for one; needs --service, --container-id, --pod, or --node and --pid
  list         the newest captures
  show ID      one of them, with who did what to it, and the text of heap, strace and gdb
  wait ID      the same, once it has come to its end
  cancel ID    call one off

examples:
  flamewell capture --service payments --seconds 30 --wait
  flamewell capture --service payments --kind wall --rate 49 --wait
  flamewell capture --service payments --kind heap --seconds 60 --wait
  flamewell capture --node worker-3 --pid 4711 --kind strace --seconds 5 --wait

kinds:
  cpu       who holds the GIL, at a higher rate than by default
  wall      all threads, those that wait included
  native    cpu with the frames of C, C++ and Rust code; stops the target for a moment each time
  heap      what lies in the heap of a Python process by type, and what has grown within SECONDS;
            counted from outside, the target is not stopped
  strace    system calls, counted, 10 s at most: A TARGET THAT CALLS THE SYSTEM OFTEN RUNS 13 TO 25
            TIMES SLOWER MEANWHILE; off unless collector and agent allow it
  gdb       backtraces of all threads: THE TARGET STANDS STILL MEANWHILE, 10 s at most; off as well
"""
_EPILOG = """\
exit status: 0 done (without --wait: taken), 1 failed, refused, expired or cancelled, 2 wrong usage.
"""
_TARGET_OPTIONS = (
    "service",
    "container_id",
    "namespace",
    "pod",
    "container",
    "cluster",
    "node",
    "pid",
)


def add_capture(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; it sets ``run`` to a function of the options."""
    parser = commands.add_parser(
        "capture",
        help="a closer look at a service, container or process, now",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run_capture)
    parser.add_argument(
        "word", nargs="?", choices=tuple(each.word for each in _WORDS), default="create",
        metavar="WORD", help="list, show, wait or cancel",
    )  # fmt: skip
    parser.add_argument("capture_id", nargs="?", metavar="ID", help="of the capture")
    target = parser.add_argument_group("what to capture")
    target.add_argument("--service", metavar="NAME", help="its service_name")
    target.add_argument("--container-id", metavar="ID", help="12 hex digits at least")
    target.add_argument("--pod", metavar="NAME", help="with --container and --namespace if needed")
    target.add_argument("--container", metavar="NAME", help="of the pod")
    target.add_argument("--namespace", metavar="NAME", help="of the pod")
    target.add_argument("--cluster", metavar="NAME", help="only there")
    target.add_argument("--node", metavar="NAME", help="only there")
    target.add_argument("--pid", type=int, metavar="PID", help="on --node")
    how = parser.add_argument_group("how")
    how.add_argument("--kind", choices=KINDS, default="cpu", help="[default: cpu]")
    how.add_argument(
        "--seconds", type=int, metavar="N", help="1 to 300, for strace and gdb to 10 [default: 30]"
    )
    how.add_argument("--rate", type=int, metavar="HZ", help="samples a second, 1 to 997")
    how.add_argument("--wait", action="store_true", help="until it has come to its end")
    parser.add_argument("--json", action="store_true", help="the collector's answer as it is")
    parser.add_argument("--limit", type=int, default=20, metavar="ROWS", help="of list")
    add_where(parser)


def run_capture(args: argparse.Namespace) -> int:
    """Do what the word says."""
    url, client = open_client(args, environ=os.environ)
    word = next(each for each in _WORDS if each.word == args.word)
    if word.needs_id and not args.capture_id:
        raise UsageError(f"`flamewell capture {args.word}` needs the id of a capture")
    if not word.needs_id and args.capture_id:
        raise UsageError(f"{harmless(args.capture_id)!r} is one word too many")
    return word.run(args, url, client)


def _create(args: argparse.Namespace, url: str, client: Client) -> int:
    target = {name: getattr(args, name) for name in _TARGET_OPTIONS if getattr(args, name)}
    if not target:
        raise UsageError(
            "say what to capture: --service, --container-id, --pod, or --node and --pid"
        )
    wish: dict[str, Any] = {"target": target, "kind": args.kind}
    if args.seconds is not None:
        wish["seconds"] = args.seconds
    if args.rate is not None:
        wish["rate_hz"] = args.rate
    capture = client.send_json("POST", _PATH, wish)
    if capture.get("warning"):
        print(f"flamewell: WARNING: {harmless(capture['warning'])}", file=sys.stderr)
    if args.wait:
        return _follow(args, url, client, capture)
    _tell(args, url, capture)
    return 0


def _list(args: argparse.Namespace, _url: str, client: Client) -> int:
    answer = client.get_json(_PATH, {"limit": str(args.limit), "service": args.service or ""})
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    rows = [
        (
            harmless(each["id"]),
            f"{datetime.fromtimestamp(each['created_ms'] / 1000).astimezone():%Y-%m-%d %H:%M:%S}",
            harmless(each["state"]),
            harmless(each["kind"]),
            f"{each['seconds']} s",
            _target_text(each),
        )
        for each in answer["captures"]
    ]
    args.colour = "auto"
    columns = [Column(head) for head in ("ID", "ASKED FOR", "STATE", "KIND", "FOR")]
    print_lines(render_table([*columns, Column("TARGET", shrink=cut)], rows, open_terminal(args)))
    return 0


def _show(args: argparse.Namespace, url: str, client: Client) -> int:
    return _tell(args, url, _read(client, args.capture_id))


def _wait(args: argparse.Namespace, url: str, client: Client) -> int:
    return _follow(args, url, client, _read(client, args.capture_id))


def _cancel(args: argparse.Namespace, url: str, client: Client) -> int:
    _tell(args, url, client.send_json("DELETE", _path_of(args.capture_id)))
    return 0


def _follow(args: argparse.Namespace, url: str, client: Client, capture: dict[str, Any]) -> int:
    """Tell each change on standard error until the capture has come to its end."""
    told = ""
    while True:
        news = f"{capture['state']} {harmless(capture['detail'])}".strip()
        if capture["samples"]:
            news += f", {capture['samples']} samples"
        if news != told:
            print(f"flamewell: capture {harmless(capture['id'])}: {news}", file=sys.stderr)
            told = news
        if capture["state"] not in OPEN_STATES:
            return _tell(args, url, _read_patiently(client, capture["id"]))
        time.sleep(_LOOK_SECONDS)
        capture = _read_patiently(client, capture["id"])


def _tell(args: argparse.Namespace, url: str, capture: dict[str, Any]) -> int:
    """Print a capture; gives 0 where it is on its way or done."""
    if args.json:
        print(json.dumps(capture, indent=2))
    else:
        print_lines(_lines(capture, url))
    return 0 if capture["state"] in {*OPEN_STATES, "done"} else CommandError.exit_status


def _lines(capture: dict[str, Any], url: str) -> list[str]:
    rate = f" at {capture['rate_hz']} Hz" if capture["rate_hz"] else ""
    lines = [
        f"capture {harmless(capture['id'])}: {harmless(capture['state'])}",
        f"  {harmless(capture['kind'])} of {_target_text(capture)}, {capture['seconds']} s{rate}",
    ]
    if capture["detail"]:
        lines.append(f"  {harmless(capture['detail'])}")
    lines += [
        f"  refused by {harmless(each['node'])}: {harmless(each['reason'])}"
        for each in capture["refusals"]
    ]
    lines += [
        f"  {datetime.fromtimestamp(each['when_ms'] / 1000).astimezone():%H:%M:%S} "
        f"{harmless(each['who'])}: {harmless(each['what'])} {harmless(each['result'])}"
        for each in capture.get("audit", [])
    ]
    if capture["page"] and capture["state"] == "done":
        lines += [
            f"  flame graph   {url}{harmless(capture['page'])}",
            f"  folded stacks curl '{url}{harmless(capture['folded'])}'",
        ]
    elif capture["state"] in OPEN_STATES:
        lines.append(f"  flamewell capture wait {harmless(capture['id'])}")
    text = capture.get("result_text", "")
    return lines + [harmless(line.replace("\t", "    ")) for line in text.splitlines()]


def _target_text(capture: dict[str, Any]) -> str:
    return " ".join(f"{name}={harmless(str(value))}" for name, value in capture["target"].items())


def _read(client: Client, capture_id: str) -> dict[str, Any]:
    found = client.get_json(_path_of(capture_id), {})
    if not isinstance(found, dict):
        raise CommandError("the collector did not answer with a capture")
    return found


def _read_patiently(client: Client, capture_id: str) -> dict[str, Any]:
    """Read a capture; a collector that is away for a while does not end it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _read(client, capture_id)
        except CommandError as error:
            if time.monotonic() >= deadline:
                raise CommandError(
                    f"{error} (the capture may still run: flamewell capture wait {capture_id})"
                ) from error
        time.sleep(_LOOK_SECONDS)


def _path_of(capture_id: str) -> str:
    if not (capture_id.isascii() and capture_id.isalnum()):
        raise UsageError(f"{harmless(capture_id)!r} is not the id of a capture")
    return f"{_PATH}/{capture_id}"


@dataclass(frozen=True, slots=True)
class _Word:
    word: str
    run: Callable[[argparse.Namespace, str, Client], int]
    needs_id: bool = False


_WORDS = (
    _Word("create", _create),
    _Word("list", _list),
    _Word("show", _show, needs_id=True),
    _Word("wait", _wait, needs_id=True),
    _Word("cancel", _cancel, needs_id=True),
)
