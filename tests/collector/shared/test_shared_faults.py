"""A store that fails at any moment: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from collector.shared.conftest import killed
from collector.stored import HOUR_MS, NOON_MS, cpu_batch, expected, totals

from flamewell_collector.errors import Overloaded, StorageError, StorageUnavailable
from flamewell_collector.store.shared.object_info import ObjectInfo
from flamewell_collector.store.shared.objects import Objects


class Failing:
    """Requests whose key has a word in it fail, before or after they have done their work."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.word = ""
        self.after = False
        self.chance = 1.0
        self.random = random.Random(7)
        self.failed = 0

    def put_new(self, key: str, data: bytes) -> bool:
        return self._do(key, lambda: self._objects.put_new(key, data))

    def put(self, key: str, data: bytes) -> None:
        self._do(key, lambda: self._objects.put(key, data))

    def upload(self, key: str, path: Path) -> None:
        self._do(key, lambda: self._objects.upload(key, path))

    def get(self, key: str) -> bytes | None:
        return self._do(key, lambda: self._objects.get(key))

    def download(self, key: str, path: Path) -> bool:
        return self._do(key, lambda: self._objects.download(key, path))

    def listed(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from self._do(prefix, lambda: self._objects.listed(prefix))

    def delete(self, keys: Sequence[str]) -> None:
        self._do(keys[0], lambda: self._objects.delete(keys))

    def _do(self, key, work):
        fails = self.word and self.word in key and self.random.random() < self.chance
        if fails and not self.after:
            self.failed += 1
            raise StorageUnavailable(f"{key}: out of reach")
        result = work()
        if fails:
            self.failed += 1
            raise StorageUnavailable(f"{key}: no answer")
        return result


@pytest.fixture
def failing():
    """Put a layer that fails on demand below a store."""

    def put(storage) -> Failing:
        layer = Failing(storage._objects._objects)
        storage._objects._objects = layer
        return layer

    return put


@pytest.mark.parametrize("after", [False, True], ids=["not-written", "written"])
def test_a_batch_whose_write_failed_may_come_again(collector, folder_place, failing, after):
    one, two = collector(folder_place, "one"), collector(folder_place, "two")
    two.watch_peers()
    layer = failing(one)
    layer.word, layer.after = "logs/", after
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            one.append(cpu_batch(0))
    assert not one.state.writable
    layer.word = ""
    one.flush_if_due()
    assert one.state.writable
    assert one.append(cpu_batch(0)) != after
    for number in range(1, 3):
        assert one.append(cpu_batch(number))
    two.follow()
    assert totals(one) == totals(two) == expected(3)
    one.flush()
    two.follow()
    assert totals(one) == totals(two) == expected(3)


@pytest.mark.parametrize("after", [False, True], ids=["not-written", "written"])
def test_a_flush_in_doubt_is_settled(collector, folder_place, failing, after):
    one, two = collector(folder_place, "one"), collector(folder_place, "two")
    two.watch_peers()
    for number in range(3):
        one.append(cpu_batch(number))
    layer = failing(one)
    layer.word, layer.after = "commits/", after
    # Reading the next change works, writing it does not.
    real, layer.get = layer.get, layer._objects.get
    with pytest.raises(StorageUnavailable):
        one.flush()
    assert totals(one) == expected(3)
    one.append(cpu_batch(3))
    assert totals(one) == expected(4)
    layer.get = real
    with pytest.raises(StorageUnavailable):
        one.flush()
    assert totals(one) == expected(4)
    layer.word = ""
    one.flush_if_due()
    assert totals(one) == expected(4)
    assert one.state.blocks == 1
    one.flush()
    two.follow()
    assert totals(one) == totals(two) == expected(4)
    assert two.state.shared.other_rows == 0


def test_a_flush_whose_upload_fails_keeps_everything(collector, folder_place, failing):
    one = collector(folder_place, "one")
    for number in range(3):
        one.append(cpu_batch(number))
    layer = failing(one)
    layer.word = "blocks/"
    with pytest.raises(StorageUnavailable):
        one.flush()
    assert totals(one) == expected(3)
    layer.word = ""
    one.flush()
    assert totals(one) == expected(3)
    assert one.state.blocks == 1


@pytest.mark.parametrize("after", [False, True], ids=["not-written", "written"])
def test_a_merge_in_doubt_counts_once(collector, folder_place, failing, after):
    one = collector(folder_place, "one")
    for number in range(3):
        one.append(cpu_batch(number))
        one.flush()
    layer = failing(one)
    layer.word, layer.after, real = "commits/", after, layer.get
    layer.get = layer._objects.get
    later = NOON_MS + 3 * HOUR_MS
    with pytest.raises(StorageUnavailable):
        one.maintain(later)
    layer.word, layer.get = "", real
    one.follow()
    assert totals(one) == expected(3)
    one.maintain(later)
    assert totals(one) == expected(3)
    assert one.state.blocks == 1
    assert totals(collector(folder_place, "two")) == expected(3)


@pytest.mark.parametrize("word", ["commits/", "blocks/", "logs/", "alive/"])
@pytest.mark.parametrize("after", [False, True], ids=["not-done", "done"])
def test_taking_over_is_tried_again(collector, folder_place, failing, word, after):
    one = collector(folder_place, "one")
    for number in range(3):
        one.append(cpu_batch(number))
    killed(one)
    two = collector(folder_place, "two", lease_seconds=0)
    layer = failing(two)
    layer.word, layer.after = word, after
    for _ in range(2):
        with pytest.raises(StorageError):
            two.maintain(NOON_MS)
        layer.word = ""
        assert totals(two) == expected(3)
        layer.word = word
    layer.word = ""
    two.follow()
    two.maintain(NOON_MS)
    assert totals(two) == expected(3)
    assert two.state.blocks == 1
    assert totals(collector(folder_place, "three")) == expected(3)


def test_who_takes_over_and_dies_is_taken_over(collector, folder_place, failing):
    one = collector(folder_place, "one")
    for number in range(3):
        one.append(cpu_batch(number))
    killed(one)
    two = collector(folder_place, "two", lease_seconds=0)
    two.append(cpu_batch(3))
    layer = failing(two)
    layer.word = "blocks/"
    with pytest.raises(StorageUnavailable):
        two.maintain(NOON_MS)
    killed(two)
    three = collector(folder_place, "three", lease_seconds=0)
    three.maintain(NOON_MS)
    assert totals(three) == expected(4)
    assert three.state.shared.other_rows == 0


def test_a_store_that_is_away_is_told(collector, folder_place, failing):
    one = collector(folder_place, "one")
    layer = failing(one)
    layer.word = "/"
    with pytest.raises(StorageUnavailable):
        one.follow()
    assert "out of reach" in one.state.reason
    assert one.state.shared.failures["get"] > 0
    layer.word = ""
    one.follow()
    assert one.state.reason == ""


@pytest.mark.parametrize("seed", range(12))
def test_a_store_that_fails_at_random(collector, folder_place, failing, seed):
    """Three collectors, one of which is killed; each request fails by a chance of one in five.

    Each takes the others for dead all the time, so that they take over from each other, too.
    """
    fate = random.Random(seed)
    storages = [collector(folder_place, name, lease_seconds=0) for name in ("one", "two", "three")]
    layers = [failing(each) for each in storages]
    for layer in layers:
        layer.word, layer.chance, layer.random = "/", 0.2, fate
    sent = 0
    for step in range(60):
        at = fate.randrange(len(storages))
        layers[at].after = fate.random() < 0.5
        if fate.random() < 0.5:
            _append(storages, at, sent)
            sent += 1
        else:
            with suppress(StorageError):
                fate.choice((_flush, _follow, _maintain))(storages[at])
        if step == 40:
            killed(storages.pop(2))
    assert sum(each.failed for each in layers) > 20
    want = Counter(10 + number for number in range(sent))
    _settled(storages, layers)
    for each in storages:
        assert totals(each) == want
    assert totals(collector(folder_place, "late")) == want


def _append(storages, first: int, number: int) -> None:
    """Send as an agent does: until it is acknowledged, by whomever.

    Another collector is asked once that one has looked what the others took: sooner it could not
    know that the batch is there already.
    """
    for attempt in range(200):
        storage = storages[(first + attempt // 5) % len(storages)]
        try:
            if attempt and attempt % 5 == 0:
                _until_done(storage.follow)
            storage.append(cpu_batch(number))
        except (StorageUnavailable, Overloaded):
            continue
        return
    raise AssertionError("never acknowledged")


def _until_done(work) -> None:
    while True:
        with suppress(StorageUnavailable):
            work()
            return


def _settled(storages, layers) -> None:
    """Let all requests succeed, and let everybody do what is left to do."""
    for layer in layers:
        layer.word = ""
    for _ in range(3):
        for each in storages:
            for work in (_follow, _maintain):
                with suppress(StorageError):
                    work(each)
    for each in storages:
        _follow(each)
        _follow(each)


def _flush(storage) -> None:
    storage.flush()


def _follow(storage) -> None:
    storage.watch_peers()
    storage.follow()


def _maintain(storage) -> None:
    storage.maintain(NOON_MS)
