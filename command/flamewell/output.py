"""Prints what the read commands have found: lines, tables' cells, JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from flamewell.selection import Selection
from flamewell.tables import Column
from flamewell.terminal import Terminal, harmless, inspect_terminal


def open_terminal(args: argparse.Namespace) -> Terminal:
    """Find out what standard output can show."""
    return inspect_terminal(sys.stdout, colour=args.colour, environ=os.environ)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines in one piece."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_json(selection: Selection, **rest: Any) -> None:
    """Print raw values, headed by what was asked."""
    head = {
        "service": selection.service,
        "query": selection.query,
        "type": selection.kind.id,
        "unit": selection.kind.sample_unit,
        "from_ms": selection.range.from_ms,
        "until_ms": selection.range.until_ms,
    }
    print(json.dumps({**head, **rest}, indent=2))


def number_column(head: str) -> Column:
    """Make a column of numbers."""
    return Column(head, right=True)


def place(file: str, line: int) -> str:
    """Show where a function is, harmless."""
    return harmless(f"{file}:{line}" if file and line else file)
