"""The command line: ``run``, ``targets``, ``once``, ``check``; exit codes are made in ``main``."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flamewell_agent import __version__, checks, once, targets
from flamewell_agent.app import run_agent, stop_on_signals
from flamewell_agent.config import ENVIRONMENT_PREFIX, AgentConfig, load_config
from flamewell_agent.errors import AgentError, ConfigError
from flamewell_agent.model import SamplingOptions
from flamewell_agent.preview import preview
from flamewell_agent.reload import reloaded
from flamewell_settings import add_flags, logs, render

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_CPU_SECONDS = 0.5
_RATE_AT_MOST = 1_000
_EXAMPLES = f"""\
Examples:
  flamewell-agent run --collector-url http://collector:4040
  flamewell-agent check                        what works on this node, how to mend the rest
  flamewell-agent targets                      each process, what is decided for it, and why
  flamewell-agent once 4711 --seconds 10       folded stacks of one Python process
  flamewell-agent once --service payments --format svg -o payments.svg

Each option can also be set by the environment ({ENVIRONMENT_PREFIX}COLLECTOR_URL) or in a YAML
file (--config). Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand.

    Attributes:
        name: As typed.
        help: One line for the list of commands.
        run: Does it; gives the exit code.
        add_arguments: Adds what is its own.
    """

    name: str
    help: str
    run: Callable[[AgentConfig, argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _parser: None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: the only place that turns errors into exit codes."""
    flags = _parser().parse_args(arguments)
    try:
        loaded = load_config(flags, os.environ)
        if flags.print_config:
            print(render(loaded))
            return EXIT_DONE
        config = loaded.settings
        fields = {"node": config.node_name, "cluster": config.cluster}
        logs.set_up(
            "flamewell_agent",
            config.log_format,
            config.log_level,
            sys.stderr,
            fields={name: value for name, value in fields.items() if value},
        )
        command: Command = flags.command
        return command.run(config, flags)
    except AgentError as error:
        print(f"flamewell-agent: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:
        # `flamewell-agent targets | head`: the reader has seen enough. Python would complain
        # about the pipe once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flamewell-agent",
        description="Profiles the Python and Go programs of this node inside a CPU budget.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flamewell-agent {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(own)
        add_flags(own.add_argument_group("configuration"), AgentConfig)  # type: ignore[arg-type]  # a group has the same add_argument
        own.set_defaults(command=command)
    return parser


def _run(config: AgentConfig, flags: argparse.Namespace) -> int:
    run_agent(config, lambda old: reloaded(old, flags, os.environ))
    return EXIT_DONE


def _targets(config: AgentConfig, flags: argparse.Namespace) -> int:
    coverage = preview(config)
    chosen = targets.Filter(flags.service, flags.runtime, flags.state)
    rows = targets.measure([each for each in coverage if chosen.takes(each)], _CPU_SECONDS)
    if flags.json:
        for row in rows:
            print(json.dumps(row.as_dict()))
        return EXIT_DONE
    print(targets.table(rows, explain=flags.explain))
    print(targets.summary(rows, len(coverage)), file=sys.stderr)
    return EXIT_DONE


def _once(config: AgentConfig, flags: argparse.Namespace) -> int:
    if flags.service:
        of_service = [
            each.process for each in preview(config) if each.service_name == flags.service
        ]
        if not of_service:
            raise AgentError(f"there is no service {flags.service!r} (see flamewell-agent targets)")
        title = f"service {flags.service}"
        processes = once.pythons(of_service, title)
    else:
        title, processes = once.select(once.scan(config), flags.target)
    if len(processes) > once.PROCESSES_AT_MOST:
        _say(f"{title} has {len(processes)} processes; {once.PROCESSES_AT_MOST} are sampled")
    options = SamplingOptions(flags.rate or 0, flags.wall, flags.native, flags.threads)
    with stop_on_signals() as stop, _progress(title, flags.seconds):
        found = once.sample_once(
            config, title, processes, flags.seconds, options=options, stop=stop
        )
    text = once.render(found, flags.format)
    if flags.output is None:
        print(text, end="")
    else:
        _write(flags.output, text)
    _say(found.summary)
    return EXIT_DONE


@contextlib.contextmanager
def _progress(title: str, seconds: int) -> Iterator[None]:
    """Count the seconds on a terminal while it runs; say nothing to a file."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()

    def show() -> None:
        for passed in itertools.count():
            shown = min(passed, seconds)
            print(f"\r{title}: {shown} of {seconds} s ", end="", file=sys.stderr, flush=True)
            if done.wait(1.0):
                print("\r\033[K", end="", file=sys.stderr, flush=True)
                return

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _check(config: AgentConfig, flags: argparse.Namespace) -> int:
    failed = False
    for check in checks.run_checks(config):
        failed = failed or check.status == "fail"
        print(json.dumps(asdict(check)) if flags.json else checks.render(check), flush=True)
    return EXIT_FAILED if failed else EXIT_DONE


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_targets(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument("--service", default="", metavar="PATTERN", help="only these, * for any")
    parser.add_argument("--runtime", default="", choices=("cpython", "go", "other"))
    parser.add_argument("--state", default="", choices=("sampled", "skipped", "failed"))
    parser.add_argument("--explain", action="store_true", help="say what each reason means")


def _add_once(parser: argparse.ArgumentParser) -> None:
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument(
        "target", nargs="?", type=_target, metavar="PID|CONTAINER", help="or 12 hex digits of an id"
    )
    whom.add_argument("--service", default="", metavar="NAME", help="all processes of a service")
    parser.add_argument(
        "--seconds", type=_positive, default=10, help="how long to sample (default: 10)"
    )
    parser.add_argument("--rate", type=_rate, metavar="HZ", help="default: max_rate_hz")
    parser.add_argument("--wall", action="store_true", help="threads that wait, too")
    parser.add_argument(
        "--native", action="store_true", help="native frames, too; each look stops the target"
    )
    parser.add_argument("--threads", action="store_true", help="one tower for each thread")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="in place of stdout")
    parser.add_argument(
        "--format",
        choices=once.FORMATS,
        default="folded",
        help="folded: `root;...;leaf count` lines, read by flamegraph.pl and others; speedscope: "
        "JSON for speedscope.app; svg: a picture for the browser (default: folded)",
    )


COMMANDS = (
    Command("run", "profile this node until told to stop (SIGTERM, SIGINT)", _run),
    Command(
        "targets", "list every process with its decision and the reason", _targets, _add_targets
    ),
    Command("once", "a flame graph of one process, container or service", _once, _add_once),
    Command("check", "tell what would work on this node, and mend the rest", _check, _add_json),
)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise AgentError(f"the output cannot be written: {error}") from error


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _rate(text: str) -> int:
    value = _positive(text)
    if value > _RATE_AT_MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than {_RATE_AT_MOST}")
    return value


def _target(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,9}|[0-9a-f]{12,64}", text):
        raise argparse.ArgumentTypeError(f"{text} is neither a pid nor a container id")
    return text
