"""Objects in a folder and in a bucket behave alike."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from flamewell_collector.errors import ConfigError, StorageUnavailable
from flamewell_collector.store.shared.counted import CountedObjects
from flamewell_collector.store.shared.objects import open_objects


def test_what_was_written_is_read(place, tmp_path):
    objects = place.objects()
    assert objects.get("a/b") is None
    objects.put("a/b", b"one")
    objects.put("a/b", b"two")
    assert objects.get("a/b") == b"two"
    objects.delete(["a/b", "a/never"])
    assert objects.get("a/b") is None


def test_only_one_makes_an_object(place):
    objects = place.objects()
    made: list[tuple[int, int]] = []

    def race(mine: int) -> None:
        made.extend(
            (number, mine)
            for number in range(20)
            if objects.put_new(f"race/{number:03d}", str(mine).encode())
        )

    threads = [threading.Thread(target=race, args=(mine,)) for mine in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(number for number, _ in made) == list(range(20))
    for number, mine in made:
        assert objects.get(f"race/{number:03d}") == str(mine).encode()


def test_files_go_there_and_back(place, tmp_path):
    objects = place.objects()
    content = os.urandom(40 << 20)
    (tmp_path / "up").write_bytes(content)
    objects.upload("blocks/large", tmp_path / "up")
    assert objects.download("blocks/large", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    assert not objects.download("blocks/none", tmp_path / "none")


def test_a_listing_has_a_folder_in_order(place):
    objects = place.objects()
    assert list(objects.listed("logs/a")) == []
    for key in ("logs/a/2", "logs/a/1", "logs/ab/1", "other/1"):
        objects.put(key, key.encode())
    found = list(objects.listed("logs/a"))
    assert [(each.key, each.size) for each in found] == [("logs/a/1", 8), ("logs/a/2", 8)]
    objects.put("logs/a/1", b"another")
    again = next(objects.listed("logs/a"))
    assert again.version != found[0].version
    assert again.changed_ms >= found[0].changed_ms


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://bucket/x", "give s3://bucket"),
        ("s3:///x", "names no bucket"),
        ("file://host/x", "file:///its/path"),
        ("bucket", "give s3://bucket"),
    ],
)
def test_a_wrong_url_is_told(url, words):
    with pytest.raises(ConfigError, match=words):
        open_objects(url)


def test_a_store_that_is_away_is_told_and_counted(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    objects = CountedObjects(open_objects("s3://profiles/x", "http://127.0.0.1:9"))
    with pytest.raises(StorageUnavailable, match="s3://profiles/x can't be used"):
        objects.get("a")
    assert (objects.requests["get"], objects.failures["get"]) == (1, 1)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "shared").write_text("a file")
    with pytest.raises(StorageUnavailable, match="can't be used"):
        open_objects(f"file://{tmp_path}/shared").put("a", b"")
