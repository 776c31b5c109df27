"""The read commands against a real collector: stored profiles in, tables and files out."""

from __future__ import annotations

import gzip
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
import pytest
from end_to_end.otlp_batches import cpu_request
from end_to_end.system import System, system

from flamewell.cli import main
from flamewell_wire.pprof import Profile

SECOND = 10**9
EARLIER = {"burn": 6 * SECOND, "gone": SECOND}
LATER = {"burn": 9 * SECOND, "fresh": 3 * SECOND}


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Serve two profiles of one service, half an hour apart."""
    with system(tmp_path_factory.mktemp("collector")) as running:
        running.start_collector()
        now_ms = int(time.time() * 1000)
        for number, (ago_ms, functions) in enumerate(((1_800_000, EARLIER), (60_000, LATER))):
            request = cpu_request(
                service="payments",
                batch_id=f"test-{number}",
                functions=functions,
                time_ms=now_ms - ago_ms,
            )
            post(running, request)
        yield running


def post(running: System, body: bytes) -> None:
    request = urllib.request.Request(
        f"{running.url}/v1development/profiles",
        data=body,
        headers={"Content-Type": "application/x-protobuf"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def run(collector: System, capsys, *arguments: str) -> str:
    status = main([*arguments, "--url", collector.url])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def test_the_service_is_listed(collector, capsys) -> None:
    shown = json.loads(run(collector, capsys, "top", "--json"))
    assert [each["service_name"] for each in shown["services"]] == ["payments"]
    assert "payments" in run(collector, capsys, "top")


def test_top_shows_what_was_stored(collector, capsys) -> None:
    shown = json.loads(run(collector, capsys, "top", "payments", "--json"))
    rows = {row["function"]: (row["self"], row["total"]) for row in shown["rows"]}
    assert rows == {
        "burn": (15 * SECOND, 15 * SECOND),
        "fresh": (3 * SECOND, 3 * SECOND),
        "gone": (SECOND, SECOND),
        "main": (0, 19 * SECOND),
    }
    assert "19.0 s of CPU" in run(collector, capsys, "top", "payments")


def test_flame_shows_what_was_stored(collector, capsys) -> None:
    lines = run(collector, capsys, "flame", "payments", "--since", "10m").splitlines()
    assert [" ".join(line.split()) for line in lines[3:]] == [
        "100.0 % 12.0 s ██████████ total",
        "100.0 % 12.0 s ██████████ main app.py:1",
        "75.0 % 9.00 s ███████▌ ├─ burn app.py:2 self 75.0 %",
        "25.0 % 3.00 s ██▌ └─ fresh app.py:3 self 25.0 %",
    ]


def test_diff_shows_what_changed(collector, capsys) -> None:
    arguments = ("--since", "10m", "--base", "40m..20m", "--json")
    shown = json.loads(run(collector, capsys, "diff", "payments", *arguments))
    rows = {row["function"]: (row["base_self"], row["self"]) for row in shown["rows"]}
    assert rows == {
        "burn": (6 * SECOND, 9 * SECOND),
        "fresh": (0, 3 * SECOND),
        "gone": (SECOND, 0),
        "main": (0, 0),
    }
    text = run(collector, capsys, "diff", "payments", *arguments[:-1])
    assert "gone" in text
    assert "new" in text


def test_every_format_is_written(collector, capsys, tmp_path: Path) -> None:
    for name in ("pprof", "folded", "speedscope", "svg", "parquet"):
        run(collector, capsys, "export", "payments", "--format", name, "-o", str(tmp_path / name))
    profile = Profile.FromString(gzip.decompress((tmp_path / "pprof").read_bytes()))
    assert sum(sample.value[0] for sample in profile.sample) == 19 * SECOND
    assert f"main (app.py:1);burn (app.py:2) {15 * SECOND}\n" in (tmp_path / "folded").read_text()
    (sampled,) = json.loads((tmp_path / "speedscope").read_bytes())["profiles"]
    assert sampled["endValue"] == 19 * SECOND
    assert ET.fromstring((tmp_path / "svg").read_text()).tag.endswith("svg")
    rows = pq.read_table(tmp_path / "parquet")
    assert sum(rows.column("value").to_pylist()) == 19 * SECOND


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["top", "payment"], 1, "Did you mean payments?"),
        (["flame", "payments", "--type", "goroutine"], 1, "process_cpu:cpu"),
        (["top", "payments", "--selector", '{pod=~"("}'], 2, "character 7"),
        (["export", "nobody"], 1, "There are: payments"),
    ],
)
def test_errors_say_what_to_do(collector, capsys, arguments, status, words) -> None:
    assert main([*arguments, "--url", collector.url]) == status
    assert words in capsys.readouterr().err
