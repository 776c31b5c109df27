"""The command line: ``run``, ``targets``, ``once``, ``check``; exit codes are made in ``main``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flamewell_agent import __version__, checks, logs
from flamewell_agent.app import preview, run_agent, stop_on_signals
from flamewell_agent.config import ENVIRONMENT_PREFIX, AgentConfig, load_config
from flamewell_agent.errors import AgentError, ConfigError
from flamewell_agent.model import Coverage
from flamewell_agent.once import fold, sample_once
from flamewell_agent.status_server import coverage_row
from flamewell_settings import add_flags, render

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_EXAMPLES = f"""\
Examples:
  flamewell-agent run --collector-url http://collector:4040
  flamewell-agent check                        what works on this node, how to mend the rest
  flamewell-agent targets                      each process, what is decided for it, and why
  flamewell-agent once 4711 --seconds 10       folded stacks of one Python process

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
        logs.set_up(config.log_format, config.log_level, sys.stderr)
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


def _run(config: AgentConfig, _flags: argparse.Namespace) -> int:
    run_agent(config)
    return EXIT_DONE


def _targets(config: AgentConfig, flags: argparse.Namespace) -> int:
    coverage = sorted(preview(config), key=_interest)
    if flags.json:
        for each in coverage:
            print(json.dumps(coverage_row(each)))
        return EXIT_DONE
    print(f"{'PID':>8} {'RUNTIME':<14} {'DECISION':<8} {'REASON':<24} SERVICE")
    for each in coverage:
        runtime = f"{each.process.runtime} {each.process.runtime_version}".strip()
        detail = f"  ({each.detail})" if each.detail else ""
        print(
            f"{each.process.key.pid:>8} {runtime:<14} {each.state:<8} {each.reason:<24} "
            f"{each.service_name}{detail}"
        )
    return EXIT_DONE


def _once(config: AgentConfig, flags: argparse.Namespace) -> int:
    with stop_on_signals() as stop:
        result = sample_once(config, flags.pid, flags.seconds, stop=stop)
    text = fold(result.samples)
    if flags.output is None:
        print(text, end="")
    else:
        _write(flags.output, text)
    count = sum(value for _, value in result.samples)
    cpu_seconds = result.target_cpu_nanos / 1e9
    print(
        f"{count} samples in {result.wall_seconds:.1f} s; the process used {cpu_seconds:.2f} s of "
        f"CPU, py-spy {result.cpu_seconds:.2f} s",
        file=sys.stderr,
    )
    return EXIT_DONE


def _check(config: AgentConfig, flags: argparse.Namespace) -> int:
    failed = False
    for check in checks.run_checks(config):
        failed = failed or check.status == "fail"
        print(json.dumps(asdict(check)) if flags.json else checks.render(check), flush=True)
    return EXIT_FAILED if failed else EXIT_DONE


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_once(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=_positive, metavar="PID", help="a Python process")
    parser.add_argument(
        "--seconds", type=_positive, default=10, help="how long to sample (default: 10)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="in place of stdout")
    parser.add_argument(
        "--format",
        choices=("folded",),
        default="folded",
        help="folded: `root;...;leaf count` lines, read by flamegraph.pl, speedscope and others",
    )


COMMANDS = (
    Command("run", "profile this node until told to stop (SIGTERM, SIGINT)", _run),
    Command("targets", "list every process with its decision and the reason", _targets, _add_json),
    Command("once", "sample one Python process, print folded stacks", _once, _add_once),
    Command("check", "tell what would work on this node, and mend the rest", _check, _add_json),
)


def _interest(coverage: Coverage) -> tuple[int, str, int]:
    """Sort what is sampled first, then what could be, then the rest."""
    order = {"sampled": 0, "failed": 1, "skipped": 2 if coverage.reason != "memory_only" else 3}
    return order[coverage.state], coverage.service_name, coverage.process.key.pid


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
