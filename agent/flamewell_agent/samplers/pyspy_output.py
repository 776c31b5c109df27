"""Reads what py-spy writes: the raw stacks, its summary line, its words on a failure. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flamewell_agent.model import Frame, Stack

_SUMMARY = re.compile(r"Samples: ([0-9]{1,18}) Errors: ([0-9]{1,18})")
_EXITED = "process exited"
_BEGUN = "Sampling process"
_LINE_AT_MOST = 2**31 - 1
_COUNT_AT_MOST = 2**32 - 1
_DIGITS = 12
"""Longer numbers are nonsense, and int() of a very long one is slow."""

_THREAD = re.compile(r"thread \((?:\d{1,20}|0[xX][0-9a-fA-F]{1,16})\)(?:: |$|(?=;))")
_ADDRESS = re.compile(r"0x[0-9a-f]{1,16}")
_NUMBERED = re.compile(r"\b((?:Thread|Dummy|ThreadPoolExecutor|asyncio|Timer)[-_])\d+(?:_\d+)?")
_NAME_AT_MOST = 64
_NAMES_AT_MOST = 100
_SCANNED = 1024
"""Characters of a thread's name that are looked at."""
_OTHER = "(other)"
_FRAMES_AT_MOST = 100_000
"""Different ones of a window; a large program has some 10,000 functions at work. A program that
makes up names for its functions could have more than memory holds."""
_OTHER_FRAME = Frame(_OTHER)

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


def parse_raw(
    text: str, *, samples: int = _COUNT_AT_MOST, threads: bool = False, native: bool = False
) -> dict[tuple[str, Stack], int]:
    """Read ``frame;frame;… count`` lines (root first) into stacks (leaf first) and counts.

    Names are not escaped by py-spy: the count is split from the right, pieces are joined until
    they look like a frame, and a line that has no count belongs to the next one. Each byte is
    looked at a bounded number of times, whatever a target calls its functions.

    Args:
        text: What py-spy wrote.
        samples: How many it took in all: no number beyond that is a count, whatever a name says.
        threads: It was called with ``--threads``: each line begins with the thread.
        native: It was called with ``--native``: addresses without a symbol become the name of
            their file, since they differ from process to process.

    Returns:
        Counts by thread name (empty without ``threads``) and stack.
    """
    stacks: dict[tuple[str, Stack], int] = {}
    pending: list[str] = []
    names: dict[str, str] = {}
    frames_of = _Frames(native=native)
    left = samples
    for line in _lines(text):
        frames, _, count = line.rpartition(" ")
        if not (frames.endswith(")") and count.isascii() and count.isdecimal()):
            pending.append(line)
            continue
        joined = "\n".join((*pending, frames))
        pending.clear()
        shown, name = joined, ""
        if threads:
            thread, shown = split_thread(joined)
            name = _bounded(thread, names)
        found = [frames_of[piece] for piece in _pieces(shown)] if shown else []
        key = (name, tuple(reversed(found)))
        counted = min(int(count[:_DIGITS]), _COUNT_AT_MOST, left)
        left -= counted
        if counted:
            stacks[key] = stacks.get(key, 0) + counted
    return stacks


def split_thread(joined: str) -> tuple[str, str]:
    """Split ``thread (ID): name;frames`` into the name and the frames. Pure.

    The name may hold anything: it goes on to the first piece that is a frame on its own. Text that
    does not begin with a thread has no name, and is frames as a whole.
    """
    begin = _THREAD.match(joined)
    if begin is None:
        return "", joined
    at = joined.find(";", begin.end())
    while at >= 0:
        after = joined.find(";", at + 1)
        piece = joined[at + 1 : after if after >= 0 else len(joined)]
        if piece.endswith(")") and " (" in piece:
            return joined[begin.end() : at], joined[at + 1 :]
        at = after
    return joined[begin.end() :], ""


def thread_name(text: str) -> str:
    """Make a thread's name fit for a label: one line, not long, without running numbers.

    The standard library numbers threads for as long as a process lives; named after their
    numbers, the threads of a server would be ever new series.
    """
    clean = " ".join("".join(c if c.isprintable() else " " for c in text[:_SCANNED]).split())
    return _NUMBERED.sub(r"\1N", clean)[:_NAME_AT_MOST].strip()


def _bounded(thread: str, names: dict[str, str]) -> str:
    """Give the tidy name, ``(other)`` for those beyond what a window may bring."""
    # The text as far as it is looked at: no key is longer, and equal beginnings are one name.
    key = thread[:_SCANNED]
    if key not in names:
        name = thread_name(key)
        full = len(set(names.values())) >= _NAMES_AT_MOST and name not in names.values()
        if full:
            return _OTHER
        if len(names) >= _NAMES_AT_MOST**2:  # many spellings of few names
            return name
        names[key] = name
    return names[key]


def _tidied(frame: Frame) -> Frame:
    if frame.file and _ADDRESS.fullmatch(frame.function):
        return Frame(f"[{frame.file.rpartition('/')[2]}]", frame.file)
    return frame


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


def _lines(text: str) -> Iterator[str]:
    """Give one line after the other: all at once they would be as much again as the text.

    py-spy ends each line: what comes after the last end was cut off, and its count with it.
    """
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end]
        at = end + 1


def _pieces(joined: str) -> Iterator[str]:
    """Split into the texts of frames, those whose names hold a separator included."""
    pieces: list[str] = []
    named = False
    for part in joined.split(";"):
        pieces.append(part)
        named = named or " (" in part
        if named and part.endswith(")"):
            yield ";".join(pieces)
            pieces, named = [], False
    if pieces:
        yield ";".join(pieces)


class _Frames(dict[str, Frame]):
    """Frames by their text: a frame is made once, however deep a recursion is and often it is seen.

    One of 4,000 calls, at 7 Hz for 15 s, is half a million pieces: 100 MB, made one by one.
    """

    def __init__(self, *, native: bool) -> None:
        super().__init__()
        self._native = native

    def __missing__(self, piece: str) -> Frame:
        if len(self) >= _FRAMES_AT_MOST:
            return _OTHER_FRAME
        frame = _frame(piece) if " (" in piece and piece.endswith(")") else Frame(piece)
        frame = self[piece] = _tidied(frame) if self._native else frame
        return frame


def _frame(text: str) -> Frame:
    """Read ``function (file:line)``; the line is absent where py-spy does not know it."""
    function, _, place = text.removesuffix(")").partition(" (")
    file, _, line = place.rpartition(":")
    if file and line.isascii() and line.isdecimal():
        return Frame(function, file, min(int(line[:_DIGITS]), _LINE_AT_MOST))
    return Frame(function, place)
