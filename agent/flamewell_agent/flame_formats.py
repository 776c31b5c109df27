"""Samples as text for other tools: folded stacks and speedscope. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from flamewell_agent.model import Frame, Stack

# Controls (line ends among them), the Unicode line separators, and what turns the direction of
# the text around it: readers split or show wrongly at those.
BREAKING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SPEEDSCOPE_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def fold(samples: Iterable[tuple[Stack, int]]) -> str:
    """Write folded stacks: root first, ``;`` between frames, a blank and the count."""
    lines: Counter[str] = Counter()
    for stack, count in samples:
        lines[";".join(_folded_frame(frame) for frame in reversed(stack))] += count
    return "".join(f"{stack} {count}\n" for stack, count in sorted(lines.items()))


def speedscope(samples: Sequence[tuple[Stack, int]], *, title: str) -> str:
    """Write a speedscope file: one profile of type ``sampled``, weights are sample counts."""
    frames: dict[Frame, int] = {}
    stacks: list[list[int]] = []
    weights: list[int] = []
    for stack, count in samples:
        stacks.append([frames.setdefault(frame, len(frames)) for frame in reversed(stack)])
        weights.append(count)
    document = {
        "$schema": _SPEEDSCOPE_SCHEMA,
        "exporter": "flamewell-agent",
        "name": title,
        "activeProfileIndex": 0,
        "shared": {"frames": [_speedscope_frame(frame) for frame in frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": title,
                "unit": "none",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": stacks,
                "weights": weights,
            }
        ],
    }
    return json.dumps(document) + "\n"


def frame_text(frame: Frame) -> str:
    """Show a frame on one line."""
    place = f"{frame.file}:{frame.line}" if frame.file and frame.line else frame.file
    text = f"{frame.function} ({place})" if place else frame.function
    return BREAKING.sub(" ", text).strip() or "[unknown]"


def _folded_frame(frame: Frame) -> str:
    return frame_text(frame).replace(";", ":")


def _speedscope_frame(frame: Frame) -> dict[str, str | int]:
    shown: dict[str, str | int] = {"name": frame.function or "[unknown]"}
    if frame.file:
        shown["file"] = frame.file
    if frame.line:
        shown["line"] = frame.line
    return shown
