"""Writes a merged profile as folded stacks: one line a stack, for flamegraph.pl and many others.

A line is the frames from the root to the leaf with ``;`` between them, a blank, and the value. A
frame is ``function (file:line)``, without the line or the parentheses where those are not known.
Readers split at ``;``, at line ends and at the last blank. So in names ``;`` is written as ``:``
(as stackcollapse-perf.pl does), control characters and line separators as blanks, and an empty
name as ``[unknown]``. What has become equal by that is one line.
"""

from __future__ import annotations

import re
from collections import Counter

from flamewell_collector.exports.stacks import NO_STACK, samples
from flamewell_collector.model import Frames, StackTree

# C0 and C1 controls (those that str.splitlines splits at are among them), U+2028 and U+2029.
_BREAKING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]")
_UNKNOWN = "[unknown]"


def encode(tree: StackTree) -> str:
    """Encode a merged profile; values are whole numbers in its unit (nanoseconds, bytes, count)."""
    texts: dict[int, str] = {}
    lines: Counter[str] = Counter()
    for stack, value in samples(tree):
        for frame in stack:
            if frame not in texts:
                texts[frame] = _frame_text(tree.frames, frame)
        lines[";".join(texts[frame] for frame in reversed(stack)) or NO_STACK] += value
    return "".join(f"{stack} {value}\n" for stack, value in sorted(lines.items()))


def _frame_text(frames: Frames, frame: int) -> str:
    function, file, line = frames.function[frame], frames.file[frame], int(frames.line[frame])
    place = f"{file}:{line}" if file and line else file
    return _harmless(f"{function or _UNKNOWN} ({place})" if place else function or _UNKNOWN)


def _harmless(text: str) -> str:
    return _BREAKING.sub(" ", text).replace(";", ":").strip() or _UNKNOWN
