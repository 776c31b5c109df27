"""The `flamewell-collector` command. Errors become exit codes here, and nowhere else."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from flamewell_collector import __version__, offline
from flamewell_collector.app import now_ms, running_collector, serving_options, storage_options
from flamewell_collector.config import CollectorConfig, load_config
from flamewell_collector.errors import CollectorError, ConfigError, QueryError, StorageError
from flamewell_collector.exports.amounts import amount_text
from flamewell_collector.serving import StopSignals, bind, serve_until, url_of
from flamewell_collector.store import backup as backups
from flamewell_collector.store.opening import open_storage
from flamewell_collector.store.verify import Report
from flamewell_collector.store.verify import verify as verify_folder
from flamewell_collector.web.parameters import Parameters
from flamewell_settings import add_flags, logs, render

log = logging.getLogger(__name__)

DONE, FAILED, WRONG_USAGE = 0, 1, 2
_PROGRESS_SECONDS: Final = 2.0

Flags = argparse.Namespace
ANY_STORE, FOLDER = "any store", "a data folder"


@dataclass(frozen=True, slots=True)
class Command:
    """A word of the command line and what it does.

    Attributes:
        name: The word.
        help: What it is for.
        run: Does it; gives the exit code.
        add_own: Adds the flags that it has besides the options.
        of: Which stores it is about.
    """

    name: str
    help: str
    run: Callable[[CollectorConfig, Flags], int]
    add_own: Callable[[argparse.ArgumentParser], None] = lambda _parser: None
    of: str = ANY_STORE


def serve(config: CollectorConfig, _flags: Flags) -> int:
    """Serve until SIGTERM or SIGINT, then flush and stop."""
    with (
        StopSignals().handled() as stop,
        bind(*config.address) as listener,
        running_collector(config) as collector,
    ):
        log.info(
            "flamewell collector %s is ready", __version__,
            extra={"url": url_of(listener), "data_dir": str(config.data_path)},
        )  # fmt: skip
        serve_until(stop, collector.app, listener, serving_options(config))
        log.info("stopping: what has arrived is written out")
    return DONE


def compact(config: CollectorConfig, _flags: Flags) -> int:
    """Flush, compact closed hours and apply retention, once; see the help for when."""
    options = storage_options(config)
    if options.shared is not None:
        # Its own name: collectors of this host go on. Merging twice at once does no harm.
        own = replace(options.shared, instance=f"{options.shared.instance}.compact", leads=True)
        options = replace(options, shared=own)
    storage = open_storage(config.data_path, options)
    try:
        storage.flush()
        storage.maintain(now_ms())
        log.info("compacted", extra={"blocks": storage.state.blocks})
    finally:
        storage.close()
    return DONE


def verify(config: CollectorConfig, flags: Flags) -> int:
    """Read all that is stored; tell what is wrong."""
    report = verify_folder(config.data_path, progress=_Progress())
    if flags.json:
        print(json.dumps({"sound": report.sound, **asdict(report)}))
    else:
        _print_report(report)
    return DONE if report.sound else FAILED


def back_up(config: CollectorConfig, flags: Flags) -> int:
    """Copy the store, also while a collector runs."""
    target = Path(flags.dest).expanduser().absolute()
    done = backups.back_up(config.data_path, target, link=flags.link, now_ms=now_ms())
    print(
        f"{target}: {done.blocks} blocks, {done.copied_blocks} of them new, "
        f"{done.log_batches} batches of the log, {amount_text(done.bytes, 'bytes')}"
    )
    return DONE


def restore(config: CollectorConfig, flags: Flags) -> int:
    """Copy a backup into an empty data folder."""
    done = backups.restore(Path(flags.source).expanduser().absolute(), config.data_path)
    print(
        f"{config.data_path}: {done.blocks} blocks, {done.log_batches} batches of the log, "
        f"{amount_text(done.bytes, 'bytes')}, every checksum is right"
    )
    return DONE


def query(config: CollectorConfig, flags: Flags) -> int:
    """Answer a question as /api/v1 would."""
    _answer(config, flags, flags.question)
    return DONE


def top(config: CollectorConfig, flags: Flags) -> int:
    """Show the functions with most self value."""
    _answer(config, flags, "top")
    return DONE


def leaks(config: CollectorConfig, flags: Flags) -> int:
    """Say which containers are suspected to leak memory."""
    with offline.offline_query(config) as store:
        answer = offline.leaks(config, store, _asked(flags))
    if flags.json:
        print(offline.as_json(answer))
        return DONE
    for line in offline.as_text("leaks", answer):
        print(line)
    return DONE


def export(config: CollectorConfig, flags: Flags) -> int:
    """Save a merged profile."""
    with offline.offline_query(config) as store:
        content = offline.export(store, _asked(flags))
    if flags.output == "-":
        sys.stdout.buffer.write(content)
        return DONE
    try:
        Path(flags.output).write_bytes(content)
    except OSError as error:
        raise StorageError(f"{flags.output} can't be written: {error}") from error
    return DONE


def _check_store(command: Command, config: CollectorConfig) -> None:
    if command.of == FOLDER and config.store_url:
        raise ConfigError(
            f"{command.name} is about a data folder; of a shared store (store_url) use the "
            "bucket's own versioning and copies, see docs/guides/object-storage.md"
        )


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_backup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dest", metavar="DEST", help="folder: empty, or that of an earlier backup")
    parser.add_argument(
        "--link", action="store_true",
        help="hard links of blocks instead of copies, where DEST is on the same file system: "
        "quick, but lost with the same disk",
    )  # fmt: skip


def _add_restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder of a backup")


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", choices=tuple(offline.QUESTIONS), help="what is asked for")
    _add_asked(parser)
    parser.add_argument("--label", default="", help="whose values label-values gives")
    parser.add_argument("--step", default="", help="seconds between the points of a time line")
    parser.add_argument("--max-nodes", default="", help="of a flame graph")
    _add_shown(parser)


def _add_top(parser: argparse.ArgumentParser) -> None:
    _add_asked(parser)
    _add_shown(parser)


def _add_leaks(parser: argparse.ArgumentParser) -> None:
    # All that is stored may be looked at: only the end of the span is asked for.
    parser.set_defaults(**{"from": "1"})
    parser.add_argument("--until", default="", help="judge as at this time; default: now")
    parser.add_argument("--tier", default="", help="only suspected, or only confirmed ones")
    parser.add_argument("--service", default="", help="only those of this service")
    parser.add_argument("--json", action="store_true", help="print what the HTTP API answers")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_asked(parser)
    parser.add_argument(
        "--format", default="pprof", help="pprof (default), folded, speedscope, parquet or svg"
    )
    parser.add_argument("--output", "-o", default="-", metavar="FILE", help="- is standard output")


def _add_asked(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--query", default="", help='selector, such as {service_name="api"}')
    parser.add_argument("--type", default="", help="profile type id; CPU where none is given")
    parser.add_argument("--from", default="", help="now-1h where none is given")
    parser.add_argument("--until", default="", help="now where none is given")


def _add_shown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", default="", help="rows of a top list")
    parser.add_argument("--json", action="store_true", help="print what the HTTP API answers")


COMMANDS: Final = (
    Command("serve", "take profiles in, answer questions, show the page", serve),
    Command("compact", "compact the store of a collector that does not run", compact),
    Command(
        "verify", "check the store of a collector that does not run", verify, _add_verify, FOLDER
    ),
    Command("backup", "copy the store, also while a collector runs", back_up, _add_backup, FOLDER),
    Command("restore", "copy a backup into an empty data folder", restore, _add_restore, FOLDER),
    Command("query", "answer a question while no collector runs", query, _add_query),
    Command("top", "functions with most self value, while no collector runs", top, _add_top),
    Command("leaks", "containers that may leak memory, while no collector runs", leaks, _add_leaks),
    Command("export", "save a merged profile, while no collector runs", export, _add_export),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 done, 1 failed, 2 wrong usage or configuration.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        loaded = load_config(flags, os.environ)
        if flags.print_config:
            print(render(loaded))
            return DONE
        logs.set_up(
            "flamewell_collector", loaded.settings.log_format, loaded.settings.log_level, sys.stderr
        )
        command = next(each for each in COMMANDS if each.name == flags.command)
        _check_store(command, loaded.settings)
        return command.run(loaded.settings, flags)
    except (ConfigError, QueryError) as error:
        print(f"flamewell-collector: {error}", file=sys.stderr)
        return WRONG_USAGE
    except CollectorError as error:
        print(f"flamewell-collector: {error}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, BrokenPipeError):
        return FAILED


class _Progress:
    """Tells on standard error how far a long check is, every few seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if time.monotonic() - self._told < _PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        shown, total = (amount_text(each, "bytes") for each in (done_bytes, total_bytes))
        print(f"{shown} of {total} are checked", file=sys.stderr)


def _print_report(report: Report) -> None:
    for problem in report.problems:
        print(f"PROBLEM  {problem.where}: {problem.what}")
    for note in report.notes:
        print(f"note     {note.where}: {note.what}")
    verdict = "the store is sound" if report.sound else f"{len(report.problems)} problems"
    print(
        f"{verdict}: {report.blocks} blocks, {report.rows} rows, "
        f"{amount_text(report.bytes, 'bytes')}, {report.log_batches} batches in the log"
    )


def _answer(config: CollectorConfig, flags: Flags, question: str) -> None:
    with offline.offline_query(config) as store:
        answer = offline.QUESTIONS[question](store, _asked(flags))
    if flags.json:
        print(offline.as_json(answer))
        return
    for line in offline.as_text(question, answer):
        print(line)


def _asked(flags: Flags) -> Parameters:
    names = (
        "query", "type", "from", "until", "label", "step", "max_nodes", "limit", "format", "tier",
        "service",
    )  # fmt: skip
    values = vars(flags)
    return offline.parameters({name: values[name] for name in names if values.get(name)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flamewell-collector",
        description="Takes profiles in, keeps them as Parquet, answers questions.",
        epilog="Each option can also be set as FLAMEWELL_COLLECTOR_<OPTION>, or in a YAML file.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        mine = commands.add_parser(command.name, help=command.help)
        command.add_own(mine)
        add_flags(mine, CollectorConfig)
    return parser
