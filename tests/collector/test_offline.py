"""Questions by the command line without a server: the answers are those of the HTTP API."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from urllib.parse import urlencode

import duckdb
import pyarrow.parquet as pq
import pytest
from collector.batches import P, batch

from flamewell_collector import cli
from flamewell_collector.app import now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_collector.offline import QUESTIONS
from flamewell_wire.pprof import Profile
from flamewell_wire.profile_types import CPU, INUSE_SPACE

API = {"service_name": "api", "pod": "a"}
HOUR_MS = 3_600_000
FORMATS = ("pprof", "folded", "speedscope", "parquet", "svg")


class Folder:
    """A stopped collector's folder, and what its HTTP API answered before."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.base_ms = now_ms() // HOUR_MS * HOUR_MS
        self.span = {"from": str(self.base_ms - 4 * HOUR_MS), "until": str(self.base_ms + HOUR_MS)}
        self.http: dict[str, bytes] = {}

    def asked(self, question: str) -> dict[str, str]:
        asked = {**self.span, "query": '{service_name=~"api|web"}'}
        if question == "label-values":
            asked["label"] = "pod"
        if question == "timeline":
            asked["step"] = "600"
        return asked

    def run(self, *words: str, **asked: str) -> int:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
        return cli.main([*words, "--data-dir", str(self.data), *flags])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("offline") / "data")
    with running_collector(CollectorConfig(data_dir=str(made.data))) as running:
        for at in range(3):
            time_ms = made.base_ms - (3 - at) * HOUR_MS
            profiles = [
                P(API, time_ms, {"main f": 3_000 + at, "main": 4}, duration_ms=10_000),
                P({**API, "pod": "b"}, time_ms, {"main g h": 50_000, "": 5}, duration_ms=10_000),
                P(API, time_ms, {"main f": 640}, INUSE_SPACE.id),
                P({"service_name": "web"}, time_ms, {"a\x1b[31mred": 7}),
            ]
            running.storage.append(batch(profiles, batch_id=f"b{at}"))
            if at < 2:
                running.storage.flush()
            if at == 0:
                running.storage.maintain(made.base_ms)
        client = running.app.test_client()
        for question in QUESTIONS:
            path = f"/api/v1/{question}?{urlencode(made.asked(question))}"
            made.http[question] = client.get(path).data
        for form in FORMATS:
            path = f"/api/v1/export?{urlencode({**made.asked('export'), 'format': form})}"
            made.http[form] = client.get(path).data
    return made


@pytest.mark.parametrize("question", QUESTIONS)
def test_same_answers_as_over_http(
    folder: Folder, question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder.run("query", question, "--json", **folder.asked(question)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(folder.http[question])
    assert folder.run("query", question, **folder.asked(question)) == 0
    text = capsys.readouterr().out
    assert text
    assert "\x1b" not in text


@pytest.mark.parametrize("form", FORMATS)
def test_same_files_as_over_http(folder: Folder, form: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    asked = {**folder.asked("export"), "format": form, "output": str(path)}
    assert folder.run("export", **asked) == 0
    assert path.read_bytes() == folder.http[form]


def test_top_and_flame_as_text(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.run("top", **folder.span, query='{service_name="api"}', limit="1") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["self", "total", "function"]
    assert row.split()[-2:] == ["h", "h.py:1"]
    assert folder.run("query", "flamegraph", **folder.span, query='{pod="b"}') == 0
    lines = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["total", "main", "g", "h"]


def test_parquet_opens_anywhere(folder: Folder, tmp_path: Path) -> None:
    table = pq.read_table(io.BytesIO(folder.http["parquet"]))
    assert table.column("functions")[0].as_py() == ["main", "g", "h"]
    assert table.column("function")[0].as_py() == "h"
    assert table.column("files")[0].as_py() == ["main.py", "g.py", "h.py"]
    path = tmp_path / "merged.parquet"
    path.write_bytes(folder.http["parquet"])
    with duckdb.connect() as db:
        (total,) = db.sql(
            f"SELECT sum(value) FROM '{path}' WHERE list_contains(functions, 'main')"
        ).fetchall()[0]
    profile = Profile.FromString(gzip.decompress(folder.http["pprof"]))
    assert total == sum(each.value[0] for each in profile.sample) - 3 * (5 + 7)
    assert table.column("profile_type").unique().to_pylist() == [CPU.id]
    assert table.column("unit").unique().to_pylist() == ["nanoseconds"]


def test_reading_leaves_the_log_as_it_is(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {each: each.read_bytes() for each in folder.data.rglob("*.wal")}
    blocks = sorted(folder.data.rglob("*.parquet"))
    assert folder.run("top", **folder.span) == 0
    assert {each: each.read_bytes() for each in folder.data.rglob("*.wal")} == stored
    assert sorted(folder.data.rglob("*.parquet")) == blocks
    capsys.readouterr()


def test_what_is_wrong_is_told(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder.run("top", query="{broken") == 2
    assert folder.run("query", "label-values") == 2
    assert folder.run("export", format="exe") == 2
    assert folder.run("export", output=str(tmp_path / "no" / "such")) == 1
    assert cli.main(["top", "--data-dir", str(tmp_path / "nothing")]) == 1
    assert not (tmp_path / "nothing").exists()
    with running_collector(CollectorConfig(data_dir=str(folder.data))):
        assert folder.run("top") == 1
        assert folder.run("verify") == 1
    assert "another collector uses" in capsys.readouterr().err
