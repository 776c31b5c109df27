from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flamewell_collector.errors import StorageError, StorageUnavailable
from flamewell_collector.model import Series
from flamewell_collector.store.catalog import Catalog, CatalogDamaged
from flamewell_collector.store.changes import Block

SERIES = Series(-(2**63), {"service_name": "paymänts", "pod": "p"})
BLOCK = Block("blocks/a", "default", 100, 200, 7, 4096, compacted=False)

BATCHES = ("b1", "b2", "b9")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


def flush(catalog: Catalog, *blocks: Block, wal_number: int = 1, last_ms: int = 150) -> None:
    catalog.register_flush(
        blocks,
        series=[("default", SERIES)],
        active={("default", SERIES.series_id): last_ms},
        batch_ids=[("default", "b1", 10), ("default", "b2", 20)],
        wal_number=wal_number,
    )


def test_what_is_registered_is_there_after_a_reopening(catalog: Catalog, tmp_path: Path) -> None:
    assert catalog.created
    flush(catalog, BLOCK, wal_number=3)
    catalog.close()
    again = Catalog(tmp_path / "catalog.sqlite")
    assert not again.created
    assert again.blocks() == [BLOCK]
    assert again.series() == [("default", SERIES)]
    assert [again.seen_batches().seen("default", each) for each in BATCHES] == [True, True, False]
    assert again.flushed_wal() == 3
    again.close()


def test_a_flush_is_registered_wholly_or_not_at_all(catalog: Catalog) -> None:
    flush(catalog, BLOCK, wal_number=3)
    other = Block("blocks/b", "default", 1, 2, 3, 4, compacted=False)
    with pytest.raises(StorageUnavailable):
        # The second block is there already: the transaction fails after the first insert.
        catalog.register_flush(
            [other, BLOCK],
            series=[("new", SERIES)],
            active={},
            batch_ids=[("default", "b9", 1)],
            wal_number=9,
        )
    assert catalog.blocks() == [BLOCK]
    assert catalog.flushed_wal() == 3
    assert len(catalog.series()) == 1
    assert [catalog.seen_batches().seen("default", each) for each in BATCHES] == [True, True, False]
    flush(catalog, other, wal_number=4)
    assert len(catalog.blocks()) == 2


def test_blocks_are_exchanged_in_one_step(catalog: Catalog) -> None:
    flush(catalog, BLOCK)
    merged = Block("blocks/c", "default", 100, 200, 7, 2048, compacted=True)
    catalog.replace([BLOCK], [merged])
    assert catalog.blocks() == [merged]
    with pytest.raises(StorageUnavailable):
        catalog.replace([merged], [BLOCK, BLOCK])
    assert catalog.blocks() == [merged]


def test_damaged_blocks_are_remembered(catalog: Catalog) -> None:
    flush(catalog, BLOCK)
    catalog.set_aside(BLOCK.path, "bit rot")
    assert catalog.blocks() == []
    assert catalog.damaged() == [(BLOCK.path, "bit rot")]


def test_series_are_dropped_by_their_last_row(catalog: Catalog) -> None:
    flush(catalog, last_ms=150)
    flush(catalog, last_ms=120)
    assert catalog.series_before(150) == []
    assert catalog.series_before(151) == [("default", SERIES.series_id)]
    assert catalog.series_before(None) == [("default", SERIES.series_id)]
    catalog.drop_series(catalog.series_before(151))
    assert catalog.series() == []


def test_batches_are_forgotten_by_age(catalog: Catalog) -> None:
    flush(catalog)
    catalog.forget_batches(20)
    assert [catalog.seen_batches().seen("default", each) for each in BATCHES] == [
        False,
        True,
        False,
    ]


def test_every_commit_is_synced(catalog: Catalog) -> None:
    settings = {
        name: catalog._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2}


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 4080]
)
def test_a_file_that_is_no_database_is_told_apart(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.sqlite"
    path.write_bytes(content)
    with pytest.raises(CatalogDamaged):
        Catalog(path)


def test_a_page_that_is_damaged_is_found_at_the_start(catalog: Catalog, tmp_path: Path) -> None:
    for at in range(300):
        flush(catalog, Block(f"blocks/{at}", "default", 1, 2, 3, 4, compacted=False))
    catalog.close()
    path = tmp_path / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    assert len(data) > 4 * 4096
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\x77" * 64
    path.write_bytes(data)
    with pytest.raises(CatalogDamaged):
        Catalog(path)


def test_a_folder_in_its_place_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    with pytest.raises(StorageError) as error:
        Catalog(tmp_path / "catalog")
    assert not isinstance(error.value, CatalogDamaged)


def test_one_that_somebody_else_uses_is_no_damage(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush(catalog)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **given: connect(path, timeout=0, **given))
    with pytest.raises(StorageError, match="locked") as error:
        Catalog(tmp_path / "catalog.sqlite")
    assert not isinstance(error.value, CatalogDamaged)
