"""The speedscope export follows the published file format."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from collector.profiles_of_stacks import FRAMES, stacks_strategy, tree_of
from hypothesis import given

from flamewell_collector.exports.speedscope import encode
from flamewell_wire.profile_types import CPU, GOROUTINE, INUSE_SPACE

MAIN, WORK, *_ = FRAMES


def test_one_sampled_profile() -> None:
    document = json.loads(encode(tree_of([((MAIN, WORK), 5), ((MAIN,), 2)]), CPU.id, name="pay"))
    assert document == {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": "pay",
        "exporter": "flamewell",
        "activeProfileIndex": 0,
        "shared": {
            "frames": [
                {"name": "main", "file": "app.py", "line": 1},
                {"name": "work", "file": "app.py", "line": 10},
            ]
        },
        "profiles": [
            {
                "type": "sampled",
                "name": "pay",
                "unit": "nanoseconds",
                "startValue": 0,
                "endValue": 7,
                "samples": [[0], [0, 1]],
                "weights": [2, 5],
            }
        ],
    }


@pytest.mark.parametrize(
    ("kind", "unit"), [(CPU, "nanoseconds"), (INUSE_SPACE, "bytes"), (GOROUTINE, "none")]
)
def test_units_are_those_of_the_format(kind, unit) -> None:
    document = json.loads(encode(tree_of([((MAIN,), 2)]), kind.id, name=""))
    assert document["profiles"][0]["unit"] == unit


@given(stacks_strategy)
def test_stacks_read_back(stacks) -> None:
    document = json.loads(encode(tree_of(stacks), CPU.id, name="any"))
    frames = [
        (each["name"], each.get("file", ""), each.get("line", 0))
        for each in document["shared"]["frames"]
    ]
    (profile,) = document["profiles"]
    shown: Counter = Counter()
    for sample, weight in zip(profile["samples"], profile["weights"], strict=True):
        shown[tuple(frames[at] for at in sample)] += weight
    expected: Counter = Counter()
    for stack, value in stacks:
        expected[stack or (("[no stack]", "", 0),)] += value
    assert shown == +expected
    assert profile["endValue"] == sum(value for _, value in stacks)
