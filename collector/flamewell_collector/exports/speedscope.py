"""Writes a merged profile in speedscope's file format (https://www.speedscope.app).

Source of the field names: the published schema that ``$schema`` names.
"""

from __future__ import annotations

from typing import Any

import orjson

from flamewell_collector.exports.stacks import NO_STACK, samples
from flamewell_collector.model import StackTree
from flamewell_wire.profile_types import parse_id

SCHEMA_URL = "https://www.speedscope.app/file-format-schema.json"
_KNOWN_UNITS = frozenset({"nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"})


def encode(tree: StackTree, type_id: str, *, name: str) -> bytes:
    """Encode a merged profile as one sampled profile.

    Args:
        tree: The merged profile.
        type_id: A profile type id; it names the unit.
        name: What the viewer shows as title, e.g. service and time range.

    Returns:
        JSON.

    Raises:
        ValueError: The id has not five parts.
    """
    unit = parse_id(type_id).sample_unit
    frames: list[dict[str, Any]] = []
    number_of: dict[int, int] = {}
    stacks: list[list[int]] = []
    weights: list[int] = []
    for stack, value in samples(tree):
        for frame in stack or [-1]:
            if frame not in number_of:
                number_of[frame] = len(frames)
                frames.append(_frame(tree, frame))
        stacks.append([number_of[frame] for frame in reversed(stack or [-1])])
        weights.append(value)
    profile = {
        "type": "sampled",
        "name": name,
        "unit": unit if unit in _KNOWN_UNITS else "none",
        "startValue": 0,
        "endValue": sum(weights),
        "samples": stacks,
        "weights": weights,
    }
    return orjson.dumps(
        {
            "$schema": SCHEMA_URL,
            "name": name,
            "exporter": "flamewell",
            "activeProfileIndex": 0,
            "shared": {"frames": frames},
            "profiles": [profile],
        }
    )


def _frame(tree: StackTree, frame: int) -> dict[str, Any]:
    if frame < 0:
        return {"name": NO_STACK}
    shown: dict[str, Any] = {"name": tree.frames.function[frame]}
    if tree.frames.file[frame]:
        shown["file"] = tree.frames.file[frame]
    if tree.frames.line[frame]:
        shown["line"] = int(tree.frames.line[frame])
    return shown
