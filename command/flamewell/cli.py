"""The ``flamewell`` command line: subcommands, and where errors become exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flamewell import __version__
from flamewell.capture_command import add_capture
from flamewell.data_dir import default_data_dir
from flamewell.errors import CommandError, UsageError
from flamewell.leaks_command import add_leaks
from flamewell.read_commands import add_read_commands
from flamewell.up import UpOptions, up

_MAX_PORT = 65535
_DESCRIPTION = """\
Continuous profiling of this machine, and a reader for what a collector has stored.

start here:
  flamewell up                      profile this machine, show it at http://127.0.0.1:4040
  flamewell demo                    the same with three demo services to look at

ask a running collector:
  flamewell top payments            which functions of a service use the CPU
  flamewell flame payments          its flame graph, in the terminal
  flamewell diff payments ...       what changed between two times
  flamewell leaks                   which containers leak memory, and when they will be full
  flamewell export payments ...     as pprof, folded stacks, speedscope or SVG
  flamewell capture --service payments --wait
                                    a closer look, now: more samples, wall clock, native frames
"""
_EPILOG = """\
`flamewell COMMAND --help` explains a command with examples.
exit status: 0 done, 1 failed, 2 wrong usage or installation.
"""
_UP_DESCRIPTION = """\
Start a collector and an agent for this machine, with a store of their own, and show the URL.
Everything listens on 127.0.0.1 alone. Ctrl-C stops all of it; the data is kept for the next start.
"""
_UP_EPILOG = """\
examples:
  flamewell up                               profile what runs here
  flamewell up --demo                        with demo services: a leak in Python, a lock in Go
  flamewell up --port 4050 --data-dir /tmp/try
                                             beside one that runs already
  sudo flamewell up                          other users' processes as well

Options of agent and collector can be given by the environment, for example
  FLAMEWELL_AGENT_OVERHEAD_BUDGET=0.02 FLAMEWELL_COLLECTOR_RETENTION_DAYS=3 flamewell up
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all subcommands; each sets ``run`` to a function of the options."""
    parser = argparse.ArgumentParser(
        prog="flamewell",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flamewell {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    _add_up(commands, "up", "profile this machine until Ctrl-C", demo=False)
    _add_up(commands, "demo", "`up` with the demo services", demo=True)
    add_read_commands(commands)
    add_leaks(commands)
    add_capture(commands)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_run_version)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None for this process's own.

    Returns:
        0 done, 1 failed, 2 wrong usage or installation.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return UsageError.exit_status
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except CommandError as error:
        print(f"flamewell: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # `flamewell top | head`: the reader has what it wanted. The null device keeps the
        # interpreter's own flush at exit from failing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _add_up(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    demo: bool,
) -> None:
    parser = commands.add_parser(
        name,
        help=text,
        description=_UP_DESCRIPTION,
        epilog=_UP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not demo:
        parser.add_argument(
            "--demo",
            action="store_true",
            help="start the demo services and a load on them as well (Go needed for one of them)",
        )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=None,
        help="where profiles and the log are kept [default: ~/.local/share/flamewell]",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=4040,
        help="of the page and the API on 127.0.0.1; 0 takes a free one [default: 4040]",
    )
    parser.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        help="do not open the page, even when this runs in a terminal on a desktop",
    )
    parser.set_defaults(run=_run_up)
    if demo:
        parser.set_defaults(demo=True)


def _run_up(options: argparse.Namespace) -> int:
    data_dir = options.data_dir or default_data_dir(os.environ)
    wanted = UpOptions(data_dir.expanduser().resolve(), options.port, options.demo, options.browser)
    return up(wanted, environ=os.environ, out=sys.stdout)


def _run_version(_options: argparse.Namespace) -> int:
    print(f"flamewell {__version__}")
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to {_MAX_PORT}")
    return int(text)
