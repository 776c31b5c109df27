"""What verify finds: nothing in a sound folder, and every kind of harm by its name."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collector.batches import P, batch
from collector.stored import HOUR_MS, NOON_MS, block_folders, let_go

from flamewell_collector import cli
from flamewell_collector.store.folder_lock import FolderInUse
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS
from flamewell_collector.store.verify import Report, verify
from flamewell_wire.profile_types import INUSE_SPACE

Open = Callable[..., Storage]
API = {"service_name": "api", "pod": "a"}
MIDNIGHT_MS = NOON_MS // DAY_MS * DAY_MS


@pytest.fixture
def data(open_storage: Open, tmp_path: Path) -> Path:
    """A day of merged sums, an hour of compacted rows, a block that came late, and a log."""
    storage = open_storage()
    for hour in (1, 2, 30):
        at = MIDNIGHT_MS + hour * HOUR_MS
        storage.append(
            batch(
                [
                    P(API, at, {"main f": 3, "main": 4, "": 1}),
                    P({**API, "pod": "b"}, at + 1, {"main g": 5}),
                    P(API, at + 60_000, {"main f": 50}, INUSE_SPACE.id),
                    P({"service_name": "web"}, at + 2, {"w": 7}),
                ],
                batch_id=f"b{hour}",
            )
        )
        storage.flush()
    storage.maintain(MIDNIGHT_MS + 3 * DAY_MS)
    late = MIDNIGHT_MS + HOUR_MS
    storage.append(batch([P(API, late, {"late": 2})], batch_id="late"))
    storage.flush()
    storage.append(batch([P(API, late, {"later": 2})], batch_id="later"))
    let_go(storage)
    return tmp_path / "data"


def check(data: Path) -> Report:
    return verify(data, progress=lambda _done, _total: None)


def compacted(data: Path) -> Path:
    return next(each for each in block_folders(data) if "hour=06" in str(each))


def sums(data: Path, tier: str) -> Path:
    return min(data.glob(f"rollups/tenant=*/tier={tier}/date=*/block=*"))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table behind the store's back, in a file that is whole in itself."""
    size = path.stat().st_size
    table = change(pq.ParquetFile(path).read())
    pq.write_table(table, path, write_page_checksum=True)
    catalog = next(each for each in path.parents if (each / "catalog.sqlite").exists())
    with sqlite3.connect(catalog / "catalog.sqlite") as db:
        block = str(path.parent.relative_to(catalog))
        grown = path.stat().st_size - size
        db.execute("UPDATE blocks SET bytes = bytes + ? WHERE path = ?", (grown, block))
    db.close()


def with_column(table: pa.Table, name: str, change: Callable[[list], list]) -> pa.Table:
    at = table.column_names.index(name)
    field = table.schema.field(at)
    values = pa.array(change(table.column(name).to_pylist()), field.type)
    return table.set_column(at, field, values)


def test_a_sound_folder(data: Path) -> None:
    before = {each: each.stat().st_mtime_ns for each in data.rglob("*")}
    report = check(data)
    assert report.problems == []
    assert report.notes == []
    assert report.blocks == len(block_folders(data)) + 4
    assert (report.rows > 20, report.log_batches) == (True, 1)
    assert {each: each.stat().st_mtime_ns for each in data.rglob("*")} == before


def test_every_flipped_bit_in_a_page_is_found(data: Path) -> None:
    folders = [compacted(data), sums(data, "10m"), sums(data, "1h")]
    for path in [file for folder in folders for file in sorted(folder.glob("*.parquet"))]:
        whole = path.read_bytes()
        column = pq.read_metadata(path).row_group(0).column(0)
        first = column.dictionary_page_offset or column.data_page_offset
        harmed = bytearray(whole)
        harmed[first + column.total_compressed_size - 2] ^= 0x10
        path.write_bytes(bytes(harmed))
        found = {each.where for each in check(data).problems}
        assert str(path.relative_to(data)) in found
        path.write_bytes(whole)
    assert check(data).sound


@pytest.mark.parametrize(
    ("table", "column", "change", "words"),
    [
        ("profiles", "total", lambda old: [*old[:-1], old[-1] + 1], "another total"),
        ("samples", "stack", lambda old: [*old[:-1], 4711], "stack that is not there"),
        ("samples", "time", lambda old: [each + 7 for each in old], "profile that is not there"),
        ("samples", "value", lambda old: old[::-1], "another total"),
        ("profiles", "time", lambda old: old[::-1], "not sorted"),
        ("series", "series_id", lambda old: [each - 1 for each in old], "series that is not"),
        ("stacks", "frame", lambda old: [old[0], *[each + 99 for each in old[1:]]], "not there"),
        ("frames", "frame_id", lambda old: [each ^ 5 for each in old], "id is not that of"),
    ],
)  # fmt: skip
def test_tables_that_do_not_agree(
    data: Path, table: str, column: str, change: Callable[[list], list], words: str
) -> None:
    path = compacted(data) / f"{table}.parquet"
    rewrite(path, lambda rows: with_column(rows, column, change))
    assert words in "\n".join(each.what for each in check(data).problems)


@pytest.mark.parametrize("tier", ["10m", "1h"])
@pytest.mark.parametrize("table", ["rollups", "profiles", "slots"])
def test_sums_that_are_not_those_of_the_rows(data: Path, tier: str, table: str) -> None:
    column = {"rollups": "value", "profiles": "total", "slots": "minutes"}[table]
    path = sums(data, tier) / f"{table}.parquet"
    rewrite(path, lambda rows: with_column(rows, column, lambda old: [old[0] + 1, *old[1:]]))
    (problem,) = check(data).problems
    assert "are not those of its rows" in problem.what
    assert problem.where == str(path.parent.relative_to(data))


def test_another_schema_and_another_rows_count(data: Path) -> None:
    path = compacted(data) / "samples.parquet"
    rewrite(path, lambda rows: rows.rename_columns([*rows.column_names[:-1], "amount"]))
    assert "its schema is" in check(data).problems[0].what
    with sqlite3.connect(data / "catalog.sqlite") as db:
        db.execute("UPDATE blocks SET rows = rows + 1 WHERE tier = '1h'")
    db.close()
    assert "rows, " in "\n".join(each.what for each in check(data).problems)


def test_catalog_against_folders(data: Path) -> None:
    gone, copied = compacted(data), next(iter(block_folders(data)))
    shutil.copytree(copied, copied.with_name("block=0123"))
    (data / "temporary/half").mkdir(parents=True)
    shutil.rmtree(gone)
    report = check(data)
    assert report.problems[0].where == str(gone.relative_to(data))
    assert {Path(each.where).name for each in report.notes} == {"block=0123", "temporary"}


def test_a_lost_and_a_damaged_catalog(data: Path) -> None:
    path = data / "catalog.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    (data / "catalog.sqlite-wal").unlink(missing_ok=True)
    assert [each.where for each in check(data).problems] == ["catalog.sqlite"]
    path.unlink()
    assert "made anew" in check(data).problems[0].what or "makes it anew" in (
        check(data).problems[0].what
    )


def test_the_log(data: Path) -> None:
    (log,) = (data / "wal").glob("*.wal")
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:40])
    report = check(data)
    assert report.sound
    assert "never acknowledged" in report.notes[0].what
    log.write_bytes(whole[:30] + b"x" + whole[31:] + whole)
    assert "damaged bytes" in check(data).problems[0].what


def test_a_folder_in_use(open_storage: Open, tmp_path: Path) -> None:
    open_storage()
    with pytest.raises(FolderInUse, match="stop it"):
        check(tmp_path / "data")


def test_the_command(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", "--data-dir", str(data)]
    assert cli.main(arguments) == 0
    assert "sound" in capsys.readouterr().out
    (compacted(data) / "frames.parquet").unlink()
    assert cli.main(arguments) == 1
    assert "frames.parquet is missing" in capsys.readouterr().out
    assert cli.main([*arguments, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["sound"] is False
    assert "frames.parquet is missing" in {each["what"] for each in shown["problems"]}
    assert cli.main(["verify", "--data-dir", str(data / "no")]) == 1
    assert "there is no data folder" in capsys.readouterr().err
