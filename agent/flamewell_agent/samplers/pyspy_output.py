"""Reads what py-spy writes: the raw stacks, its summary line, its words on a failure. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flamewell_agent.model import Frame, Stack

_SUMMARY = re.compile(r"Samples: (\d+) Errors: (\d+)")
_EXITED = "process exited"
_FRAME = re.compile(r"(.+?) \((.*?)(?::(\d+))?\)", re.DOTALL)
_COUNTED = re.compile(r"(.*) (\d+)", re.DOTALL)
_LINE_AT_MOST = 2**31 - 1

_REASONS: tuple[tuple[str, str], ...] = (
    ("permission denied", "not_permitted"),
    ("operation not permitted", "not_permitted"),
    ("no such process", "process_ended"),
    ("no such file or directory", "process_ended"),
    ("failed to find python version", "not_python"),
    ("unsupported version", "unsupported_version"),
    ("free-threaded", "free_threaded"),
    ("failed to find a python interpreter", "interpreter_not_found"),
    ("failed to get process executable", "process_ended"),
)
"""What py-spy says (lower case) → coverage reason; the first that fits."""


def parse_raw(text: str) -> dict[Stack, int]:
    """Read ``frame;frame;… count`` lines (root first) into stacks (leaf first) and counts.

    Names are not escaped by py-spy: the count is split from the right, pieces are joined until
    they look like a frame, and a line that has no count belongs to the next one.
    """
    stacks: dict[Stack, int] = {}
    pending = ""
    for line in text.split("\n"):
        counted = _COUNTED.fullmatch(pending + line)
        if counted is None or not counted.group(1).endswith(")"):
            pending = f"{pending}{line}\n" if pending or line else ""
            continue
        pending = ""
        stack = tuple(reversed(list(_frames(counted.group(1)))))
        stacks[stack] = stacks.get(stack, 0) + int(counted.group(2))
    return stacks


def parse_summary(text: str) -> tuple[int, int] | None:
    """Give (samples, errors) out of the closing line; None where there is none."""
    found = _SUMMARY.search(text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def target_ended(text: str) -> bool:
    """Tell whether py-spy stopped because its target did."""
    return _EXITED in text


def failure_reason(text: str) -> tuple[str, str]:
    """Give (coverage reason, py-spy's own words) of a failed run."""
    lowered = text.lower()
    # The first line says what failed, the cause below it says why: that is more exact.
    cause = text.partition("Caused by:")[2].partition("Stack backtrace")[0]
    said = " ".join((text.partition("Stack backtrace")[0]).split())[:300]
    for searched in (cause.lower(), lowered):
        for words, reason in _REASONS:
            if searched and words in searched:
                return reason, said
    return "sampler_failed", said


def _frames(joined: str) -> Iterator[Frame]:
    piece = ""
    for part in joined.split(";"):
        piece = f"{piece};{part}" if piece else part
        found = _FRAME.fullmatch(piece)
        if found:
            yield Frame(
                found.group(1), found.group(2), min(int(found.group(3) or 0), _LINE_AT_MOST)
            )
            piece = ""
    if piece:
        yield Frame(piece)
