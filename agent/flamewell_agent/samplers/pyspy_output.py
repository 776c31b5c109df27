"""Reads what py-spy writes: the raw stacks, its summary line, its words on a failure. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flamewell_agent.model import Frame, Stack

_SUMMARY = re.compile(r"Samples: (\d+) Errors: (\d+)")
_EXITED = "process exited"
_BEGUN = "Sampling process"
_LINE_AT_MOST = 2**31 - 1
_COUNT_AT_MOST = 2**32 - 1
_DIGITS = 12
"""Longer numbers are nonsense, and int() of a very long one is slow."""

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
    they look like a frame, and a line that has no count belongs to the next one. Each byte is
    looked at a bounded number of times, whatever a target calls its functions.
    """
    stacks: dict[Stack, int] = {}
    pending: list[str] = []
    for line in text.split("\n"):
        frames, _, count = line.rpartition(" ")
        if not (frames.endswith(")") and count.isascii() and count.isdecimal()):
            pending.append(line)
            continue
        joined = "\n".join((*pending, frames))
        pending.clear()
        stack = tuple(reversed(list(_frames(joined))))
        stacks[stack] = stacks.get(stack, 0) + min(int(count[:_DIGITS]), _COUNT_AT_MOST)
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
    if _BEGUN in text:
        # It had attached: what failed later was the writing of its file, not the target.
        return "sampler_failed", said
    for searched in (cause.lower(), lowered):
        for words, reason in _REASONS:
            if searched and words in searched:
                return reason, said
    return "sampler_failed", said


def _frames(joined: str) -> Iterator[Frame]:
    pieces: list[str] = []
    named = False
    for part in joined.split(";"):
        pieces.append(part)
        named = named or " (" in part
        if named and part.endswith(")"):
            yield _frame(";".join(pieces))
            pieces, named = [], False
    if pieces:
        yield Frame(";".join(pieces))


def _frame(text: str) -> Frame:
    """Read ``function (file:line)``; the line is absent where py-spy does not know it."""
    function, _, place = text.removesuffix(")").partition(" (")
    file, _, line = place.rpartition(":")
    if file and line.isascii() and line.isdecimal():
        return Frame(function, file, min(int(line[:_DIGITS]), _LINE_AT_MOST))
    return Frame(function, place)
