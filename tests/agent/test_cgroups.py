"""Each cgroup shape that is known, from the whole of /proc/PID/cgroup to what it means."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.identity.container import Placement, parse_placement
from flamewell_agent.procfs import parse_cgroup

CORPUS = json.loads((Path(__file__).parent / "cgroups" / "corpus.json").read_text())
FIELDS = {each.name for each in fields(Placement)}
SEGMENTS = st.sampled_from(
    sorted({part for each in CORPUS for part in each["cgroup"].replace("\n", "/").split("/")})
)


@pytest.mark.parametrize("sample", CORPUS, ids=[each["source"] for each in CORPUS])
def test_where_a_process_runs(sample):
    path = parse_cgroup(sample["cgroup"].encode())
    expected = {name: sample.get(name, "") for name in FIELDS}
    assert asdict(parse_placement(path)) == expected


def test_the_corpus_is_whole():
    assert len({each["cgroup"] for each in CORPUS}) >= 60
    assert {key for each in CORPUS for key in each} == FIELDS | {"source", "cgroup"}


@given(st.binary(max_size=500))
def test_any_bytes_are_survived(content):
    parse_placement(parse_cgroup(content))


@given(st.lists(SEGMENTS | st.text(max_size=20), max_size=12))
def test_any_mixture_of_segments_tells_only_what_it_holds(segments):
    path = "/".join(segments)
    placement = parse_placement(path)
    for name, value in asdict(placement).items():
        if name != "runtime":
            assert value in path or value.replace("-", "_") in path
    assert not (placement.container_id and placement.unit)


@given(st.permutations(range(4)))
def test_the_order_of_the_lines_does_not_matter(order):
    lines = [
        "5:memory:/user.slice",
        "2:pids:/",
        "1:name=systemd:/system.slice/docker-" + "a" * 64 + ".scope",
        "0::/",
    ]
    content = "\n".join(lines[at] for at in order).encode()
    assert parse_placement(parse_cgroup(content)).container_id == "a" * 64
