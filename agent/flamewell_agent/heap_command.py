"""``flamewell-agent heap``: what lies in the heap of a Python process, by type, and what grows."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from flamewell_agent import once
from flamewell_agent.arguments import positive
from flamewell_agent.config import AgentConfig
from flamewell_agent.heap import report
from flamewell_agent.heap.census import POOLS_AT_ONCE, Census, parse_version, take_census
from flamewell_agent.heap.remote_memory import RemoteMemory
from flamewell_agent.model import Process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("pid", type=positive, metavar="PID", help="of a CPython process")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--pools", type=positive, default=POOLS_AT_ONCE, metavar="N",
        help=f"pools to look into, drawn at random; errors are stated (default: {POOLS_AT_ONCE})",
    )  # fmt: skip
    how.add_argument(
        "--full", action="store_true", help="look into all: some 6 s of CPU a GiB instead of 0.4"
    )
    parser.add_argument(
        "--again", type=positive, metavar="SECONDS",
        help="count once more after so long, and show what has grown",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="all types as one JSON object")


def run(config: AgentConfig, flags: argparse.Namespace) -> int:
    """Count, and print."""
    process = once.find_python(once.scan(config), flags.pid)
    pools = 0 if flags.full else flags.pools
    redact = config.heap_redact
    first = census_of(process, pools, redact=redact)
    if not flags.again:
        _print(first, None, flags)
        return 0
    began = time.monotonic()
    time.sleep(flags.again)
    second = census_of(process, pools, before=first, redact=redact)
    _print(second, (first, time.monotonic() - began), flags)
    return 0


def census_of(
    process: Process, pools: int, *, before: Census | None = None, redact: Sequence[str] = ()
) -> Census:
    """Count the objects of a process.

    Raises:
        HeapRefusedError: It would not be right.
        ProcessGoneError: It has ended.
        ProcessUnreadableError: It may not be read.
    """
    return take_census(
        RemoteMemory(process.key.pid),
        parse_version(process.runtime_version),
        pools=pools,
        before=before,
        redact=redact,
    )


def _print(census: Census, before: tuple[Census, float] | None, flags: argparse.Namespace) -> None:
    if flags.json:
        told = report.as_dict(census)
        if before is not None:
            told["seconds"] = round(before[1], 3)
            told["growth"] = [asdict(each) for each in report.growth(before[0], census)]
        sys.stdout.write(json.dumps(told) + "\n")
    elif before is None:
        sys.stdout.write(report.table(census))
    else:
        sys.stdout.write(report.growth_table(before[0], census, before[1]))
