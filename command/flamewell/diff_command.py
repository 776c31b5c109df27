"""``flamewell diff``: the functions of a service ranked by what changed between two times."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from flamewell.amounts import per_second, rate, rate_unit
from flamewell.answers import DiffRow, diff_rows, parse_graph
from flamewell.errors import UsageError
from flamewell.output import number_column, open_terminal, place, print_json, print_lines
from flamewell.reader import open_reader_now, range_text, require_selection
from flamewell.selection import Selection, TimeRange, parse_span
from flamewell.tables import NAME, PLACE, render_table
from flamewell.terminal import Terminal, harmless, paint


def run_diff(args: argparse.Namespace) -> int:
    """Rank the functions by what changed."""
    reader = open_reader_now(args)
    selection = reader.selection
    require_selection(selection)
    base = _base_range(args, selection.range, reader.now_ms)
    graph = parse_graph(
        reader.client.get_json(
            "/api/v1/diff",
            {
                **selection.parameters,
                "base_query": selection.query,
                "base_from": str(base.from_ms),
                "base_until": str(base.until_ms),
            },
        )
    )
    total, base_total = sum(graph.own), sum(graph.base_own)
    if not total and not base_total:
        raise reader.nothing_found()
    rows = diff_rows(graph) if graph.base_own else []
    rows.sort(key=lambda row: -abs(_change(row, args.by, selection, base)))
    if args.json:
        print_json(
            selection,
            base_from_ms=base.from_ms,
            base_until_ms=base.until_ms,
            total=total,
            base_total=base_total,
            rows=[asdict(row) for row in rows[: args.limit]],
        )
        return 0
    _print_diff(selection, base, rows[: args.limit], (base_total, total), open_terminal(args))
    if graph.pruned:
        print(
            "flamewell: there are more stacks than were sent; the smallest are left out",
            file=sys.stderr,
        )
    return 0


def _base_range(args: argparse.Namespace, later: TimeRange, now_ms: int) -> TimeRange:
    """Find the earlier range: given in one of two ways, or the one right before.

    Raises:
        UsageError: It is given in both ways, or can't be read.
    """
    if args.base is not None:
        if args.base_from is not None or args.base_until is not None:
            raise UsageError("give --base FROM..UNTIL, or --base-from and --base-until, not both")
        return parse_span(args.base, now_ms)
    if args.base_from is None and args.base_until is None:
        return later.before
    if args.base_from is None:
        raise UsageError("--base-until needs --base-from")
    until = args.base_until or str(later.from_ms)
    return parse_span(f"{args.base_from}..{until}", now_ms)


def _change(row: DiffRow, by: str, selection: Selection, base: TimeRange) -> float:
    """Give a row's change per second (of a gauge: of the average)."""
    now, before = (row.self, row.base_self) if by == "self" else (row.total, row.base_total)
    kind = selection.kind
    return per_second(now, kind, selection.range.length_ms) - per_second(
        before, kind, base.length_ms
    )


def _print_diff(
    selection: Selection,
    base: TimeRange,
    rows: list[DiffRow],
    totals: tuple[int, int],
    terminal: Terminal,
) -> None:
    kind = selection.kind
    lengths = (base.length_ms, selection.range.length_ms)
    whole = [per_second(each, kind, length) for each, length in zip(totals, lengths, strict=True)]
    title = harmless(selection.service or selection.query)
    print_lines(
        [
            f"{paint(title, '1', terminal)}  {kind.name}:{kind.sample_type}, {rate_unit(kind)}",
            f"base: {range_text(base)}: {rate(whole[0], kind)}",
            f"now:  {range_text(selection.range)}: {rate(whole[1], kind)}",
            "",
        ]
    )
    table = []
    for row in rows:
        own = _change(row, "self", selection, base)
        total = _change(row, "total", selection, base)
        before = per_second(row.base_self, kind, base.length_ms)
        table.append(
            (
                _signed(own, rate(own, kind)),
                _relative(row, own, before),
                rate(before, kind),
                rate(before + own, kind),
                _signed(total, rate(total, kind)),
                harmless(row.function),
                place(row.file, row.line),
            )
        )
    heads = ("SELF CHANGE", "%", "BASE", "NOW", "TOTAL CHANGE")
    print_lines(render_table([*map(number_column, heads), NAME, PLACE], table, terminal))


def _relative(row: DiffRow, change: float, before: float) -> str:
    """Show a change's share of what was, or that the function came or went."""
    if not row.base_total:
        return "new"
    if not row.total:
        return "gone"
    if not before:
        return "-"
    return _signed(change, f"{100 * change / before:.1f} %")


def _signed(value: float, text: str) -> str:
    return f"+{text}" if value > 0 else text
