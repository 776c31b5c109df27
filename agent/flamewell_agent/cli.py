"""The command line: ``run``, ``targets``, ``once``, ``heap``, ``check``; exit codes: ``main``."""

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

from flamewell_agent import __version__, checks, heap_command, once, targets
from flamewell_agent.app import problem_of, run_agent, stop_on_signals
from flamewell_agent.arguments import positive
from flamewell_agent.config import ENVIRONMENT_PREFIX, AgentConfig, load_config
from flamewell_agent.errors import AgentError, ConfigError
from flamewell_agent.model import SamplingOptions
from flamewell_agent.preview import preview
from flamewell_agent.reload import Reload, reloaded
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
  flamewell-agent heap 4711 --again 60         objects by type, and which of them grow

Each option can also be set by the environment ({ENVIRONMENT_PREFIX}COLLECTOR_URL) or in a YAML
file (--config). Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand.

    Attributes:
        name: As typed.
        help: One line for the list of commands.
        usage: What may follow, on one line: each command takes some forty options.
        run: Does it; gives the exit code.
        add_arguments: Adds what is its own.
    """

    name: str
    help: str
    usage: str
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
        _set_up_logs(config)
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


def _set_up_logs(config: AgentConfig) -> None:
    fields = {"node": config.node_name, "cluster": config.cluster}
    logs.set_up(
        "flamewell_agent",
        config.log_format,
        config.log_level,
        sys.stderr,
        fields={name: value for name, value in fields.items() if value},
    )


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
        own = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            usage=f"%(prog)s {command.usage}",
        )
        command.add_arguments(own)
        add_flags(own.add_argument_group("configuration"), AgentConfig)  # type: ignore[arg-type]  # a group has the same add_argument
        own.set_defaults(command=command)
    return parser


def _run(config: AgentConfig, flags: argparse.Namespace) -> int:
    def reread(old: AgentConfig) -> Reload:
        reload = reloaded(old, flags, os.environ, problem_of)
        _set_up_logs(reload.config)
        return reload

    run_agent(config, reread)
    return EXIT_DONE


def _targets(config: AgentConfig, flags: argparse.Namespace) -> int:
    with _progress("looking at all processes"):
        coverage = preview(config)
    chosen = targets.Filter(flags.service, flags.runtime, flags.state)
    rows = targets.measure([each for each in coverage if chosen.takes(each)], _CPU_SECONDS)
    if flags.json:
        for row in rows:
            print(json.dumps(row.as_dict()))
        return EXIT_DONE
    if not rows:
        _say("no process matches")
    else:
        print(targets.table(rows, explain=flags.explain))
    print(targets.summary(rows, len(coverage)), file=sys.stderr)
    return EXIT_DONE


def _once(config: AgentConfig, flags: argparse.Namespace) -> int:
    if flags.output is not None and not flags.output.parent.is_dir():
        raise AgentError(f"the output cannot be written: {flags.output.parent} is no directory")
    if flags.service:
        with _progress("looking at all processes"):
            coverage = preview(config)
        title = f"service {flags.service}"
        processes = once.pythons(once.of_service(coverage, flags.service), title)
    else:
        title, processes = once.select(once.scan(config), flags.target)
    if len(processes) > once.PROCESSES_AT_MOST:
        _say(f"{title} has {len(processes)} processes; {once.PROCESSES_AT_MOST} are sampled")
    options = SamplingOptions(flags.rate or 0, flags.wall, flags.native, flags.threads)
    with stop_on_signals() as stop, _progress(title, of_seconds=flags.seconds):
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
def _progress(title: str, *, of_seconds: int = 0) -> Iterator[None]:
    """Count the seconds on a terminal while it runs; say nothing to a file."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()

    def show() -> None:
        for passed in itertools.count():
            shown = f"{min(passed, of_seconds)} of {of_seconds}" if of_seconds else str(passed)
            print(f"\r{title}: {shown} s ", end="", file=sys.stderr, flush=True)
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
    parser.add_argument(
        "--service", default="", metavar="PATTERN", help="only services like this, e.g. 'pay*'"
    )
    parser.add_argument(
        "--runtime", default="", choices=("cpython", "go", "other"), help="only these"
    )
    parser.add_argument(
        "--state", default="", choices=("sampled", "skipped", "failed"), help="only these"
    )
    parser.add_argument("--explain", action="store_true", help="say what each reason means")


def _add_once(parser: argparse.ArgumentParser) -> None:
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument(
        "target",
        nargs="?",
        type=_target,
        metavar="PID|CONTAINER",
        help="a process's number, or at least the first 12 hex digits of a container's id",
    )
    whom.add_argument(
        "--service", default="", metavar="NAME", help="a service, by the name that targets shows"
    )
    parser.add_argument(
        "--seconds", type=positive, default=10, help="how long to sample (default: 10)"
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="HZ",
        help="looks a second at each process (default: max_rate_hz)",
    )
    parser.add_argument(
        "--wall", action="store_true", help="wall-clock time: threads that wait are shown, too"
    )
    parser.add_argument(
        "--native",
        action="store_true",
        help="also frames of C, C++ and Rust; each look stops the target for a moment",
    )
    parser.add_argument(
        "--threads", action="store_true", help="threads apart, by name, at the root of the graph"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there in place of stdout"
    )
    parser.add_argument(
        "--format",
        choices=once.FORMATS,
        default="folded",
        help="folded: `root;...;leaf count` lines, read by flamegraph.pl and others; speedscope: "
        "JSON for speedscope.app; svg: a picture for the browser (default: folded)",
    )


COMMANDS = (
    Command("run", "profile this node until told to stop (SIGTERM, SIGINT)", "[options]", _run),
    Command(
        "targets",
        "list every process with what is decided for it, and why; nobody is sampled",
        "[--service PATTERN] [--runtime R] [--state S] [--explain] [--json] [options]",
        _targets,
        _add_targets,
    ),
    Command(
        "once",
        "sample one process, container or service for some seconds; needs no collector",
        "(PID | CONTAINER | --service NAME) [--seconds S] [--format F] [-o FILE] [options]",
        _once,
        _add_once,
    ),
    Command(
        "heap",
        "count the objects of a Python process by type, from outside, without stopping it",
        "PID [--pools N | --full] [--again SECONDS] [--json] [options]",
        heap_command.run,
        heap_command.add_arguments,
    ),
    Command(
        "check",
        "tell what would work on this node, and how to mend the rest; exit code 1 if something "
        "fails",
        "[--json] [options]",
        _check,
        _add_json,
    ),
)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise AgentError(f"the output cannot be written: {error}") from error


def _rate(text: str) -> int:
    value = positive(text)
    if value > _RATE_AT_MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than {_RATE_AT_MOST}")
    return value


def _target(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,9}|[0-9a-f]{12,64}", text):
        raise argparse.ArgumentTypeError(f"{text} is neither a pid nor a container id")
    return text
