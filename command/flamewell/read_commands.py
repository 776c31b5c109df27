"""The commands that ask a collector: ``top``, ``flame``, ``diff``, ``export``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from flamewell.amounts import amount, cores, per_second, percent
from flamewell.answers import Service, parse_graph, parse_top
from flamewell.diff_command import run_diff
from flamewell.errors import CommandError, UsageError
from flamewell.output import number_column, open_terminal, place, print_json, print_lines
from flamewell.read_arguments import add_diff, add_export, add_flame, add_top
from flamewell.reader import Reader, open_reader_now, range_text, require_selection
from flamewell.selection import Selection
from flamewell.tables import NAME, PLACE, Column, render_table
from flamewell.terminal import Terminal, harmless, paint
from flamewell.terminal_flame import Limits, render_icicle, render_tree
from flamewell_wire.profile_types import CPU


def add_read_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; each sets ``run`` to a function of the options."""
    add_top(commands, run_top)
    add_flame(commands, run_flame)
    add_diff(commands, run_diff)
    add_export(commands, run_export)


def run_top(args: argparse.Namespace) -> int:
    """List the services, or one's functions."""
    reader = open_reader_now(args)
    if reader.selection.query == "{}":
        return _list_services(reader, args)
    selection = reader.selection
    answer = reader.client.get_json(
        "/api/v1/top", {**selection.parameters, "limit": str(args.limit)}
    )
    rows, total = parse_top(answer)
    if not rows and not total:
        raise reader.nothing_found()
    if args.json:
        print_json(selection, total=total, rows=[asdict(row) for row in rows])
        return 0
    terminal = open_terminal(args)
    unit = selection.kind.sample_unit
    table = [
        (
            percent(row.self, total),
            amount(row.self, unit),
            percent(row.total, total),
            amount(row.total, unit),
            harmless(row.function),
            place(row.file, row.line),
        )
        for row in rows[: args.limit]
    ]
    columns = [number_column(head) for head in ("SELF %", "SELF", "TOTAL %", "TOTAL")]
    print_lines(_headline(selection, total, terminal))
    print_lines(render_table([*columns, NAME, PLACE], table, terminal))
    return 0


def run_flame(args: argparse.Namespace) -> int:
    """Draw a flame graph."""
    reader = open_reader_now(args)
    require_selection(reader.selection)
    graph = parse_graph(reader.client.get_json("/api/v1/flamegraph", reader.selection.parameters))
    total = sum(graph.own)
    if not total:
        raise reader.nothing_found()
    terminal = open_terminal(args)
    limits = Limits(args.min_percent / 100, args.depth)
    print_lines(_headline(reader.selection, total, terminal))
    draw = render_icicle if args.icicle else render_tree
    print_lines(draw(graph, limits, terminal))
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a profile to a file or to standard output."""
    reader = open_reader_now(args)
    require_selection(reader.selection)
    if args.output == "-" and args.format == "pprof" and sys.stdout.isatty():
        raise UsageError("pprof is binary: give -o FILE, or another --format")
    service = reader.selection.service
    known = {each.service_name: each.types for each in reader.services()} if service else {}
    if service and reader.selection.kind.id not in known.get(service, ()):
        raise reader.nothing_found()
    content = reader.client.get(
        "/api/v1/export", {**reader.selection.parameters, "format": args.format}
    )
    if args.output == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return 0
    _write_file(Path(args.output), content)
    print(f"wrote {args.output} ({amount(len(content), 'bytes')})", file=sys.stderr)
    return 0


def _list_services(reader: Reader, args: argparse.Namespace) -> int:
    services = reader.services()
    if args.json:
        print(json.dumps({"services": [asdict(each) for each in services]}, indent=2))
        return 0
    if not services:
        raise reader.nothing_found()
    columns = [
        Column("SERVICE"),
        Column("RUNTIME"),
        number_column("CPU"),
        number_column("MEMORY"),
        number_column("LIMIT"),
        Column("LAST SEEN"),
    ]
    shown = services[: args.limit]
    print_lines(render_table(columns, [_service_row(each) for each in shown], open_terminal(args)))
    if len(shown) < len(services):
        print(f"and {len(services) - len(shown)} more: --limit {len(services)} shows all")
    return 0


def _service_row(service: Service) -> tuple[str, ...]:
    seen = service.last_seen_ms
    return (
        harmless(service.service_name),
        harmless(service.runtime) or "-",
        "-" if service.cpu_cores is None else cores(service.cpu_cores),
        "-" if service.memory_bytes is None else amount(service.memory_bytes, "bytes"),
        "-" if service.memory_limit_bytes is None else amount(service.memory_limit_bytes, "bytes"),
        f"{datetime.fromtimestamp(seen / 1000).astimezone():%Y-%m-%d %H:%M:%S}" if seen else "-",
    )


def _headline(selection: Selection, total: int, terminal: Terminal) -> list[str]:
    """Say what is shown, and how much it is."""
    kind = selection.kind
    title = harmless(selection.service or selection.query)
    whole = amount(total, kind.sample_unit)
    if kind.id == CPU.id:
        average = cores(per_second(total, kind, selection.range.length_ms) / 1e9)
        whole = f"{whole} of CPU, {average} on average"
    elif kind.kind == "gauge":
        whole = f"{whole} on average"
    what = f"{kind.name}:{kind.sample_type}  {range_text(selection.range)}"
    return [f"{paint(title, '1', terminal)}  {what}", f"total: {whole}", ""]


def _write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a device or a pipe is written to as it is.

    Raises:
        CommandError: It can't be written.
    """
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        try:
            partial.write_bytes(content)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
