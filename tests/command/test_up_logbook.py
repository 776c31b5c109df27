"""Children's lines are kept; their errors are shown, once."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from flamewell.errors import CommandError
from flamewell.logbook import Line, LogBook, parse_line


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("plain text", Line("", "plain text")),
        ("{not json", Line("", "{not json")),
        ('{"a": 1}', Line("", '{"a": 1}')),
        ("[1]", Line("", "[1]")),
        (
            '{"ts": "t", "level": "WARNING", "msg": "late", "logger": "x", "seconds": 3}',
            Line("warning", "late seconds=3"),
        ),
        (
            '{"level": "error", "msg": "failed", "error": "Traceback\\n  line"}',
            Line("error", "failed\nTraceback\n  line"),
        ),
    ],
)
def test_level_and_text(raw: str, line: Line) -> None:
    assert parse_line(raw) == line


def test_all_is_kept_and_errors_are_shown_once(tmp_path: Path) -> None:
    terminal = io.StringIO()
    with LogBook(tmp_path / "log", terminal) as log:
        log.write("agent", json.dumps({"level": "info", "msg": "started"}))
        for _ in range(3):
            log.write("agent", json.dumps({"level": "error", "msg": "no py-spy", "error": "a\nb"}))
        log.write("payments", "serving 100% on http://x")
    kept = (tmp_path / "log").read_text()
    assert kept.count("no py-spy") == 3
    assert "agent         info: started\n" in kept
    assert "payments      serving 100% on http://x\n" in kept
    assert "error: no py-spy\n    a\n    b\n" in kept
    assert terminal.getvalue() == "agent: error: no py-spy\n"


def test_a_flood_of_different_errors_is_cut(tmp_path: Path) -> None:
    terminal = io.StringIO()
    with LogBook(tmp_path / "log", terminal) as log:
        for number in range(200):
            log.write("agent", json.dumps({"level": "error", "msg": f"failed {number}"}))
    shown = terminal.getvalue().splitlines()
    assert len(shown) == 21
    assert shown[-1] == f"more errors are in {tmp_path / 'log'}"


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot write the log file"):
        LogBook(tmp_path / "missing" / "log", io.StringIO())
