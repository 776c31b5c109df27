"""The stored files open in DuckDB and pyarrow, by the very queries that the guide prints."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import duckdb
import pytest
from end_to_end.otlp_batches import cpu_request
from end_to_end.system import System, system, wait_until

GUIDE = Path(__file__).parent.parent.parent / "docs" / "guides" / "query-parquet.md"


def example(heading: str) -> str:
    text = GUIDE.read_text().partition(f"## {heading}")[2]
    found = re.search(r"```(?:sql|python)\n(.*?)```", text, re.DOTALL)
    assert found, heading
    return found.group(1)


def post(running: System, body: bytes) -> None:
    request = urllib.request.Request(
        f"{running.url}/v1development/profiles",
        data=body,
        headers={"Content-Type": "application/x-protobuf"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A collector that has stopped, its data folder, and what its API said before."""
    with system(tmp_path_factory.mktemp("parquet")) as running:
        running.start_collector("--flush-seconds", "1")
        now = int(time.time() * 1000)
        for at in range(6):
            functions = {f"f{k}": 100 * k + at for k in range(1, 9)}
            post(
                running,
                cpu_request(
                    service="payments",
                    batch_id=f"b{at}",
                    functions=functions,
                    time_ms=now - at * 600_000 // 6,
                ),
            )
            time.sleep(0.4)  # several flushes, so that joins have to keep blocks apart
        post(running, cpu_request(service="other", batch_id="o", functions={"f1": 7}))
        wait_until(lambda: running.get("/api/v1/status")["head_rows"] == 0, what="the last flush")
        shown = running.top("payments")
    blocks = list(running.data_dir.glob("blocks/*/*/*/*"))
    assert len(blocks) > 1, "one block only: the joins are not tried"
    return running.data_dir, shown


def test_duckdb_self(filled: Any) -> None:
    data_dir, shown = filled
    rows = duckdb.sql(
        example("DuckDB: functions by self").replace("DATA", str(data_dir))
    ).fetchall()
    assert {name: value for name, _, value in rows} == {n: s for n, (s, _) in shown.items() if s}


def test_duckdb_total(filled: Any) -> None:
    data_dir, shown = filled
    rows = duckdb.sql(
        example("DuckDB: functions by total").replace("DATA", str(data_dir))
    ).fetchall()
    assert {name: value for name, _, value in rows} == {n: t for n, (_, t) in shown.items()}


def test_pyarrow_self(filled: Any) -> None:
    data_dir, shown = filled
    names: dict[str, Any] = {"data_dir": data_dir}
    exec(example("pyarrow: functions by self"), names)
    found = {row["function"]: row["value_sum"] for row in names["top"].to_pylist()}
    assert found == {name: self_value for name, (self_value, _) in shown.items() if self_value}
