"""The `flamewell-collector` command. Errors become exit codes here, and nowhere else."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from flamewell_collector import __version__
from flamewell_collector.app import now_ms, running_collector, serving_options, storage_options
from flamewell_collector.config import CollectorConfig, load_config
from flamewell_collector.errors import CollectorError, ConfigError
from flamewell_collector.serving import StopSignals, bind, serve_until, url_of
from flamewell_collector.store.storage import Storage
from flamewell_settings import add_flags, logs, render

log = logging.getLogger(__name__)

DONE, FAILED, WRONG_USAGE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Command:
    """A word of the command line and what it does."""

    name: str
    help: str
    run: Callable[[CollectorConfig], None]


def serve(config: CollectorConfig) -> None:
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


def compact(config: CollectorConfig) -> None:
    """Flush, compact closed hours and apply retention, once, while no collector runs."""
    storage = Storage.open(config.data_path, storage_options(config))
    try:
        storage.flush()
        storage.maintain(now_ms())
        log.info("compacted", extra={"blocks": storage.state.blocks})
    finally:
        storage.close()


COMMANDS: Final = (
    Command("serve", "take profiles in, answer questions, show the page", serve),
    Command("compact", "compact the store of a collector that does not run", compact),
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
        command.run(loaded.settings)
    except ConfigError as error:
        print(f"flamewell-collector: {error}", file=sys.stderr)
        return WRONG_USAGE
    except CollectorError as error:
        print(f"flamewell-collector: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flamewell-collector",
        description="Takes profiles in, keeps them as Parquet, answers questions.",
        epilog="Each option can also be set as FLAMEWELL_COLLECTOR_<OPTION>, or in a YAML file.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        add_flags(commands.add_parser(command.name, help=command.help), CollectorConfig)
    return parser
