"""The command lines of the commands that ask a collector: options, units, examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from flamewell.client import DEFAULT_URL

EXPORT_FORMATS = ("pprof", "folded", "speedscope", "svg", "parquet")
Run = Callable[[argparse.Namespace], int]

_UNITS = """\
units:
  times are CPU (or waiting) time: ns, us, ms, s, min, h; "0.25 cores" is a quarter of one CPU on
  average. Sizes are powers of 1024: KiB, MiB, GiB. Percentages are shares of the whole selection.
  self: in the function itself; total: with all that it calls, recursion counted once.
"""
_TOP = f"""\
Which functions of a service take the most. Without SERVICE: the services there are.

examples:
  flamewell top                                  services: CPU, memory
  flamewell top payments                         CPU by function in the last hour
  flamewell top orders --type inuse_space        Go heap in use, averaged
  flamewell top payments --since 15m --selector '{{namespace="prod", pod=~"payments-.*"}}'
  flamewell top payments --from 2026-03-01T10:00 --until 2026-03-01T10:30
  flamewell top payments --json | jq '.rows[0]'  raw values: nanoseconds, bytes, counts

{_UNITS}"""
_FLAME = f"""\
A service's flame graph in the terminal: a line for each function with share, amount and bar,
indented where calls part; or, by --icicle, bars side by side.

examples:
  flamewell flame payments
  flamewell flame payments --since 10m --min-percent 5
  flamewell flame payments --icicle --depth 12
  flamewell flame orders --type mutex:delay --colour always | less -R

{_UNITS}"""
_DIFF = f"""\
What changed in a service between an earlier time and a later one, largest change first. Amounts are
per second (CPU: cores), so that the two ranges may differ in length.

examples:
  flamewell diff payments                        the last hour against the hour before it
  flamewell diff payments --since 10m --base 40m..30m
  flamewell diff payments --since 1h --base-from now-1d --base-until now-23h
  flamewell diff orders --type inuse_space --by total --limit 10

{_UNITS}"""
_EXPORT = """\
Writes a service's merged profile as a file.

formats:
  pprof        for `go tool pprof`, gzipped
  folded       one line a stack, for flamegraph.pl and others
  speedscope   for https://www.speedscope.app
  svg          a picture without scripts, to mail or put into a ticket

examples:
  flamewell export payments --format pprof -o payments.pb.gz
  flamewell export payments --format folded | grep handle_request
  flamewell export payments --format svg --since 15m -o payments.svg
"""
_EPILOG = """\
exit status: 0 done, 1 failed (no collector, no such service, nothing in the range), 2 wrong usage.
"""


def add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser], run: Run) -> None:
    """Add ``top``."""
    parser = _command(commands, "top", "services, or the functions of one by CPU or memory", _TOP)
    _add_selection(parser, run)
    _add_limit(parser)
    parser.add_argument("--json", action="store_true", help="raw values as JSON")
    _add_colour(parser)


def add_flame(commands: argparse._SubParsersAction[argparse.ArgumentParser], run: Run) -> None:
    """Add ``flame``."""
    parser = _command(commands, "flame", "a service's flame graph in the terminal", _FLAME)
    _add_selection(parser, run)
    parser.add_argument(
        "--min-percent",
        type=_percent,
        default=1.0,
        metavar="PERCENT",
        help="leave out what has a smaller share of the whole, 0 to 100 [default: 1]",
    )
    parser.add_argument(
        "--depth", type=_positive, metavar="LEVELS", help="draw so many levels [default: all]"
    )
    parser.add_argument("--icicle", action="store_true", help="bars side by side, callees below")
    _add_colour(parser)


def add_diff(commands: argparse._SubParsersAction[argparse.ArgumentParser], run: Run) -> None:
    """Add ``diff``."""
    parser = _command(commands, "diff", "what changed in a service between two times", _DIFF)
    _add_selection(parser, run)
    base = parser.add_argument_group("the earlier time")
    base.add_argument(
        "--base",
        metavar="FROM..UNTIL",
        help="e.g. 2h..1h: from 2 h ago until 1 h ago [default: as long, right before]",
    )
    base.add_argument("--base-from", metavar="TIME", help="its start, instead of --base")
    base.add_argument(
        "--base-until", metavar="TIME", help="its end [default: where the later time starts]"
    )
    parser.add_argument(
        "--by",
        choices=("self", "total"),
        default="self",
        help="rank by the change of self or of total [default: self]",
    )
    _add_limit(parser)
    parser.add_argument("--json", action="store_true", help="raw values as JSON")
    _add_colour(parser)


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser], run: Run) -> None:
    """Add ``export``."""
    parser = _command(commands, "export", "a service's profile as a file", _EXPORT)
    _add_selection(parser, run)
    parser.add_argument(
        "--format", choices=EXPORT_FORMATS, default="pprof", help="[default: pprof]"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="- is standard output [default: -]"
    )


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    description: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_selection(parser: argparse.ArgumentParser, run: Run) -> None:
    """Add what says where to ask, and for what."""
    parser.set_defaults(run=run)
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="its service_name")
    what = parser.add_argument_group("what to read")
    what.add_argument(
        "--type",
        default="cpu",
        metavar="TYPE",
        help="cpu, wall, inuse_space, alloc_space, goroutine, mutex:delay, ... or a full id "
        "[default: cpu]",
    )
    what.add_argument(
        "--selector", metavar="'{...}'", help="labels as in PromQL: =, !=, =~, !~; comma is and"
    )
    what.add_argument(
        "--since", metavar="TIME", help="so long ago: 30s, 15m, 1h30m, 2d [default: 1h]"
    )
    what.add_argument(
        "--from",
        dest="start",
        metavar="TIME",
        help="instead of --since: 2026-03-01T10:00 (local time), now-2h, 2h, epoch s or ms",
    )
    what.add_argument("--until", metavar="TIME", help="the end, as --from [default: now]")
    add_where(parser)


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add what says where to ask."""
    where = parser.add_argument_group("where to ask")
    where.add_argument("--url", help=f"the collector [default: FLAMEWELL_URL, or {DEFAULT_URL}]")
    where.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds a bearer token [default: the one in FLAMEWELL_TOKEN]",
    )
    where.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="to wait for an answer [default: 60]",
    )


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_positive, default=20, metavar="ROWS", help="[default: 20]")


def _add_colour(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--colour",
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set [default: auto]",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _percent(text: str) -> float:
    return _number_in(text, 0, 100, "a percentage, 0 to 100")


def _seconds(text: str) -> float:
    return _number_in(text, 0.1, 86_400, "a number of seconds, 0.1 to 86400")


def _number_in(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
