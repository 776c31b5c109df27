"""Several collectors on one store: all see the same, nothing is lost, nothing is there twice."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from collector.shared.conftest import killed
from collector.stored import HOUR_MS, NOON_MS, cpu_batch, expected, totals

from flamewell_collector.errors import LogTaken, StorageError, StorageUnavailable
from flamewell_collector.store import batch_codec
from flamewell_collector.store.shared import cleaning
from flamewell_collector.store.shared.folder_objects import FolderObjects
from flamewell_collector.store.state import StorageOptions
from flamewell_collector.store.storage import Storage


def test_each_sees_what_others_took_at_once_and_once(collector, place):
    one, two = collector(place, "one"), collector(place, "two")
    two.watch_peers()
    one.watch_peers()
    for number in range(6):
        (one if number % 2 else two).append(cpu_batch(number))
    for each in (one, two):
        each.follow()
        assert totals(each) == expected(6)
    one.flush()
    for each in (one, two):
        each.follow()
        assert totals(each) == expected(6)
    two.flush()
    for each in (one, two):
        each.follow()
        assert totals(each) == expected(6)
        assert each.state.shared.other_rows == 0
        assert each.state.blocks == 2


def test_a_batch_that_comes_to_another_collector_is_known(collector, place):
    one, two = collector(place, "one"), collector(place, "two")
    two.watch_peers()
    assert one.append(cpu_batch(1))
    two.follow()
    assert two.seen("default", "b1")
    assert not two.append(cpu_batch(1))
    one.flush()
    two.follow()
    assert not two.append(cpu_batch(1))
    assert totals(two) == {11: 1}


def test_a_collector_without_a_disk_begins_with_all(collector, place):
    one = collector(place, "one")
    for number in range(3):
        one.append(cpu_batch(number))
    one.flush()
    one.append(cpu_batch(3))
    new = collector(place, "new")
    assert totals(new) == expected(4)
    assert new.seen("default", "b0")
    assert new.seen("default", "b3")
    assert len(new.series("default")) == 3


def test_what_a_killed_collector_took_is_taken_over(collector, place):
    one = collector(place, "one")
    for number in range(4):
        one.append(cpu_batch(number))
    one.flush()
    for number in range(4, 7):
        one.append(cpu_batch(number))
    killed(one)
    two = collector(place, "two", lease_seconds=0)
    assert totals(two) == expected(7)
    two.maintain(NOON_MS)
    assert totals(two) == expected(7)
    assert two.state.shared.other_rows == 0
    objects = place.objects()
    (end,) = objects.listed(f"logs/{one._name}")
    assert objects.get(end.key).startswith(b"FEND")
    assert totals(collector(place, "three")) == expected(7)


def test_a_restarted_collector_goes_on_with_its_own_log_at_once(collector, place):
    one = collector(place, "one")
    one.append(cpu_batch(0))
    killed(one)
    again = collector(place, "one")
    again.append(cpu_batch(1))
    again.maintain(NOON_MS)
    assert totals(again) == expected(2)
    assert again.state.blocks == 1


def test_what_was_on_its_way_at_a_kill_cannot_come_after_the_restart(collector, place):
    one = collector(place, "one")
    one.append(cpu_batch(0))
    killed(one)
    again = collector(place, "one")
    with pytest.raises(LogTaken):
        one._sink.write(1, batch_codec.encode(cpu_batch(1)))
    assert again.append(cpu_batch(1))
    assert totals(again) == totals(collector(place, "two")) == expected(2)


@pytest.mark.parametrize("moment", ["_read_log", "_peers.look"])
def test_what_another_flushes_while_it_is_followed_is_known(
    collector, folder_place, monkeypatch, moment
):
    """Its sign and its log are gone then, so that only the change tells of the batch."""
    one = collector(folder_place, "one")
    two = collector(folder_place, "two")
    one.append(cpu_batch(0))
    owner, name = (two._peers, "look") if "." in moment else (two, moment)
    do = getattr(owner, name)

    def after_the_other_left(*arguments: object) -> None:
        if one._lock_fd >= 0:
            one.close()
            one._lock_fd = -1
        do(*arguments)

    monkeypatch.setattr(owner, name, after_the_other_left)
    two.follow()
    assert not two.append(cpu_batch(0))
    assert totals(two) == expected(1)


def test_who_takes_over_a_log_knows_its_batches(collector, folder_place):
    two = collector(folder_place, "two", lease_seconds=0)
    one = collector(folder_place, "one")
    two.follow()
    one.append(cpu_batch(0))
    killed(one)
    two.maintain(NOON_MS)
    assert not two.append(cpu_batch(0))
    assert totals(two) == expected(1)


def test_who_was_only_slow_goes_on_under_another_name(collector, place):
    slow = collector(place, "slow")
    slow.append(cpu_batch(0))
    two = collector(place, "two", lease_seconds=0)
    two.maintain(NOON_MS)
    assert totals(two) == expected(1)
    with pytest.raises(StorageUnavailable, match="ended the log"):
        slow.append(cpu_batch(1))
    assert slow.append(cpu_batch(1))
    slow.follow()
    assert totals(slow) == expected(2)
    two.watch_peers()
    two.follow()
    assert totals(two) == expected(2)
    slow.flush()
    two.follow()
    assert totals(slow) == totals(two) == expected(2)


def test_who_was_only_slow_cannot_flush_what_others_took_over(collector, place):
    slow = collector(place, "slow")
    for number in range(3):
        slow.append(cpu_batch(number))
    two = collector(place, "two", lease_seconds=0)
    two.maintain(NOON_MS)
    with pytest.raises(StorageUnavailable, match="taken over"):
        slow.flush()
    slow.follow()
    assert totals(slow) == expected(3)
    slow.append(cpu_batch(3))
    slow.flush()
    two.follow()
    assert totals(slow) == totals(two) == expected(4)


def test_one_merges_and_all_see_it(collector, place):
    one, two = collector(place, "one"), collector(place, "two")
    for storage, first in ((one, 0), (two, 10)):
        for number in range(first, first + 3):
            storage.append(cpu_batch(number, time_ms=NOON_MS + number))
        storage.flush()
    before = Counter(10 + each for each in (0, 1, 2, 10, 11, 12))
    for each in (one, two):
        each.watch_peers()
        each.watch_peers()
        each.follow()
        assert totals(each) == before
    later = NOON_MS + 3 * HOUR_MS
    for each in (two, one):
        each.maintain(later)
    two.follow()
    assert [each.state.shared.leads for each in (one, two)] == [True, False]
    for each in (one, two):
        assert (each.state.blocks, each.state.rollup_blocks) == (1, 2)
        assert totals(each) == before


def test_replaced_blocks_are_deleted_later(collector, place):
    one = collector(place, "one", keep_removed_seconds=0)
    for number in range(2):
        one.append(cpu_batch(number))
        one.flush()
    objects = place.objects()
    assert len(_blocks(objects)) == 2
    one.maintain(NOON_MS + 3 * HOUR_MS)
    one.maintain(one._catalog._clock() + 1)
    assert len(_blocks(objects)) == 1
    assert totals(collector(place, "two")) == expected(2)


def test_two_that_merge_at_once_do_no_harm(collector, folder_place, monkeypatch):
    # By the clock of this test what the other one is just uploading is months old.
    monkeypatch.setattr(cleaning, "_ORPHAN_MS", 1 << 60)
    one = collector(folder_place, "one", leads=True)
    for number in range(4):
        one.append(cpu_batch(number))
        one.flush()
    two = collector(folder_place, "two", leads=True)
    later = NOON_MS + 3 * HOUR_MS
    threads = [threading.Thread(target=each.maintain, args=(later,)) for each in (one, two)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for each in (one, two):
        each.follow()
        assert each.state.blocks == 1
        assert totals(each) == expected(4)


def test_a_read_replica_answers_and_changes_nothing(collector, place):
    one = collector(place, "one")
    one.append(cpu_batch(0))
    replica = collector(place, "replica", read_only=True, lease_seconds=0)
    assert totals(replica) == expected(1)
    with pytest.raises(StorageUnavailable, match="only answers questions"):
        replica.append(cpu_batch(1))
    objects = place.objects()
    before = _keys(objects)
    replica.maintain(NOON_MS + 90 * 24 * HOUR_MS)
    replica.flush_if_due()
    replica.follow()
    assert _keys(objects) == before
    state = replica.state
    assert (state.read_only, state.writable, state.reason) == (True, False, "")
    one.append(cpu_batch(1))
    one.flush()
    replica.follow()
    assert totals(replica) == expected(2)


def test_copies_go_when_there_are_too_many(collector, place):
    one = collector(place, "one", cache_bytes=1)
    for number in range(3):
        one.append(cpu_batch(number, time_ms=NOON_MS + number * HOUR_MS))
        one.flush()
    assert one.state.shared.cache_bytes == 0
    assert totals(one) == expected(3)
    assert one.state.shared.fetched_bytes > 0


def test_a_damaged_copy_is_fetched_again(collector, place):
    one = collector(place, "one")
    one.append(cpu_batch(0))
    one.flush()
    (path,) = (each.path for each in one._blocks.all())
    (one._data_dir / path / "profiles.parquet").write_bytes(b"rot")
    one.set_aside(one._data_dir / path, "bit rot")
    assert one.state.damaged_blocks == 0
    assert totals(one) == expected(1)
    one.set_aside(one._data_dir / path, "still")
    assert one.state.damaged_blocks == 1
    assert totals(collector(place, "two")) == {}


def test_tenants_stay_apart(collector, place):
    one, two = collector(place, "one"), collector(place, "two")
    one.append(cpu_batch(1, tenant="a"))
    two.append(cpu_batch(2, tenant="b"))
    for each in (one, two):
        each.watch_peers()
        each.follow()
        assert totals(each, tenant="a") == {11: 1}
        assert totals(each, tenant="b") == {12: 1}


def test_a_start_reads_a_checkpoint_and_what_came_after(collector, folder_place, monkeypatch):
    monkeypatch.setattr("flamewell_collector.store.shared.shared_catalog.CHECKPOINT_EVERY", 5)
    one = collector(folder_place, "one")
    for number in range(12):
        one.append(cpu_batch(number))
        one.flush()
    objects = folder_place.objects()
    assert len(list(objects.listed("checkpoints"))) == 2
    old = [each.key for each in objects.listed("commits")][:10]
    objects.delete(old)
    two = collector(folder_place, "two")
    assert totals(two) == expected(12)
    assert two.seen("default", "b0")


def test_who_slept_through_deleted_changes_is_told(collector, folder_place, monkeypatch):
    monkeypatch.setattr("flamewell_collector.store.shared.shared_catalog.CHECKPOINT_EVERY", 5)
    two = collector(folder_place, "two")
    one = collector(folder_place, "one")
    for number in range(5):
        one.append(cpu_batch(number))
        one.flush()
    objects = folder_place.objects()
    objects.delete([each.key for each in objects.listed("commits")])
    with pytest.raises(StorageError, match="restart it"):
        two.watch_peers()


def test_a_folder_of_its_own_store_is_not_used_for_copies(tmp_path, folder_place, collector):
    Storage.open(tmp_path / "data-one-0", StorageOptions()).close()
    with pytest.raises(StorageError, match="holds a store of its own"):
        collector(folder_place, "one")


def test_copies_are_not_opened_as_a_store(tmp_path, folder_place, collector):
    copies = collector(folder_place, "one")
    copies.close()
    copies._lock_fd = -1
    with pytest.raises(StorageError, match="copies of a shared store"):
        Storage.open(tmp_path / "data-one-0", StorageOptions())


def test_a_store_of_another_format_is_refused(folder_place, collector):
    folder_place.objects().put("format", b"flamewell store 99\n")
    with pytest.raises(StorageError, match="has the format"):
        collector(folder_place, "one")


def test_a_store_without_conditional_writes_is_refused(folder_place, collector, monkeypatch):
    def overwrite(objects: FolderObjects, key: str, data: bytes) -> bool:
        objects.put(key, data)
        return True

    monkeypatch.setattr(FolderObjects, "put_new", overwrite)
    with pytest.raises(StorageError, match="ignores conditional writes"):
        collector(folder_place, "one")


def test_a_replica_needs_no_right_to_write(folder_place, collector, monkeypatch):
    writer = collector(folder_place, "one")
    assert writer.append(cpu_batch(1))
    writer.close()
    writer._lock_fd = -1

    def refused(*_arguments: object) -> None:
        raise StorageUnavailable("access denied")

    for name in ("put_new", "put", "upload", "delete"):
        monkeypatch.setattr(FolderObjects, name, refused)
    replica = collector(folder_place, "replica", read_only=True)
    replica.follow()
    replica.watch_peers()
    replica.maintain(NOON_MS + 3 * HOUR_MS)
    assert totals(replica)
    assert replica.state.reason == ""


def _blocks(objects) -> set[str]:
    return {each.key.rpartition("/")[0] for each in objects.listed("blocks")}


def _keys(objects) -> dict[str, str]:
    folders = ("commits", "logs", "alive", "blocks", "rollups", "checkpoints")
    return {each.key: each.version for folder in folders for each in objects.listed(folder)}
