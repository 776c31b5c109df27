"""``flamewell leaks``: which containers leak memory, why that is said, and when they are full."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flamewell.amounts import amount, duration
from flamewell.errors import CommandError
from flamewell.output import number_column, open_terminal, print_lines
from flamewell.read_arguments import add_where
from flamewell.reader import open_client
from flamewell.tables import Column, render_table
from flamewell.terminal import harmless, paint

_DESCRIPTION = """\
Which containers may leak memory, the surest and soonest full first, and why that is said. A
suspected one grows like a leak, and the agent may look closer; a confirmed one has done so for long
enough that an alert is raised. Without SERVICE: those of all services.

examples:
  flamewell leaks
  flamewell leaks payments
  flamewell leaks --tier confirmed --json | jq '.leaks[0].seconds_to_limit'
  flamewell leaks --fail                     exit status 1 while anything is confirmed, for scripts

columns:
  AN HOUR   what memory gains, by a robust line (Theil-Sen) through the window that was judged
  FULL IN   until the limit is met; "-" where the container has none
"""
_EPILOG = """\
exit status: 0 done, 1 failed (no collector), or --fail and a leak is confirmed, 2 wrong usage.
"""


@dataclass(frozen=True, slots=True)
class Leak:
    """A container that may leak; amounts in bytes, None where not known."""

    service_name: str
    place: str
    tier: str
    since_ms: int
    memory_bytes: int
    limit_bytes: int | None
    growth_bytes_per_hour: int
    seconds_to_limit: int | None
    explanation: str
    heap_capture: str
    growing: tuple[tuple[str, int], ...]


def add_leaks(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; it sets ``run`` to a function of the options."""
    parser = commands.add_parser(
        "leaks",
        help="containers that leak memory, and when they will be full",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run_leaks)
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="its service_name")
    parser.add_argument(
        "--tier", choices=("suspected", "confirmed"), help="only those [default: both]"
    )
    parser.add_argument("--fail", action="store_true", help="exit status 1 if a leak is confirmed")
    parser.add_argument("--json", action="store_true", help="the collector's answer as it is")
    parser.add_argument(
        "--colour", "--color", choices=("auto", "always", "never"), default="auto",
        help="auto: on a terminal, unless NO_COLOR is set [default: auto]",
    )  # fmt: skip
    add_where(parser)


def run_leaks(args: argparse.Namespace) -> int:
    """List them."""
    _, client = open_client(args, environ=os.environ)
    asked = {"service": args.service or "", "tier": args.tier or ""}
    answer = client.get_json("/api/v1/leaks", {name: each for name, each in asked.items() if each})
    leaks = parse_leaks(answer)
    if args.json:
        print(json.dumps(answer, indent=2))
    else:
        _print_leaks(leaks, answer, args)
    return int(args.fail and any(each.tier == "confirmed" for each in leaks))


def parse_leaks(answer: Any) -> list[Leak]:
    """Read the collector's answer.

    Raises:
        CommandError: It has another shape.
    """
    try:
        return [
            Leak(
                service_name=str(row["service_name"]),
                place=_place(row["labels"]),
                tier=str(row["tier"]),
                since_ms=int(row["since_ms"]),
                memory_bytes=int(row["memory_bytes"]),
                limit_bytes=row["limit_bytes"],
                growth_bytes_per_hour=int(row["growth_bytes_per_hour"]),
                seconds_to_limit=row["seconds_to_limit"],
                explanation=str(row["explanation"]),
                heap_capture=str(row.get("heap_capture", "")),
                growing=tuple(
                    (str(each["type"]), int(each["bytes_per_hour"]))
                    for each in row.get("growing", ())
                ),
            )
            for row in answer["leaks"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"the collector's answer is not understood: {error!r}") from error


def _place(labels: dict[str, str]) -> str:
    """Name the container as people know it."""
    for parts in (("namespace", "pod", "container"), ("nomad_alloc_id", "nomad_task"), ("node",)):
        found = [labels[name] for name in parts if labels.get(name)]
        if found:
            return "/".join(found)
    return ""


def _print_leaks(leaks: list[Leak], answer: Any, args: argparse.Namespace) -> None:
    terminal = open_terminal(args)
    if not leaks:
        where = f" of {harmless(args.service)}" if args.service else ""
        print(f"no leak is suspected{where}; {answer['containers']} containers are watched")
        return
    columns = [
        Column("SERVICE"),
        Column("CONTAINER"),
        Column("TIER"),
        Column("SINCE"),
        *map(number_column, ("MEMORY", "LIMIT", "AN HOUR", "FULL IN")),
    ]
    print_lines(render_table(columns, [_row(each) for each in leaks], terminal))
    print()
    for each in leaks:
        print(f"{paint(harmless(each.service_name), '1', terminal)}: {harmless(each.explanation)}")
        if each.growing:
            told = (f"{harmless(name)} +{amount(size, 'bytes')}/h" for name, size in each.growing)
            print(f"  objects that grow: {', '.join(told)}")
        if each.heap_capture:
            print(f"  its heap: flamewell capture show {harmless(each.heap_capture)}")


def _row(leak: Leak) -> tuple[str, ...]:
    limit, left = leak.limit_bytes, leak.seconds_to_limit
    return (
        harmless(leak.service_name),
        harmless(leak.place) or "-",
        leak.tier,
        datetime.fromtimestamp(leak.since_ms / 1_000).astimezone().strftime("%m-%d %H:%M"),
        amount(leak.memory_bytes, "bytes"),
        "-" if limit is None else amount(limit, "bytes"),
        f"+{amount(leak.growth_bytes_per_hour, 'bytes')}",
        "-" if left is None else duration(left * 1_000),
    )
