"""Full and read-only disks: nothing acknowledged is lost, reads go on, the state is clear."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from collector.batches import P, batch
from collector.faults.checks import MIDNIGHT_MS, assert_sound, merged, merged_raw, metric, stacks_of
from collector.stored import HOUR_MS, NOON_MS, cpu_batch, expected, let_go, totals

from flamewell_collector.app import now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS

Open = Callable[..., Storage]


def fill(storage: Storage, numbers: range, **options: int) -> None:
    for number in numbers:
        assert storage.append(cpu_batch(number, **options))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    path = folder / "something-else"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            # What is left of the last block goes too: not a byte is free afterwards.
            return path


def test_a_full_disk(open_storage: Open, small_disk: Path) -> None:
    storage = open_storage(small_disk / "data", min_free_bytes=0)
    fill(storage, range(5))
    storage.flush()
    fill(storage, range(5, 10))
    filler = fill_disk(small_disk)
    refused = 0
    for number in range(10, 400):
        try:
            storage.append(cpu_batch(number))
        except StorageUnavailable:
            refused = number
            break
    assert refused, "the disk was never full"
    assert not storage.state.writable
    assert "No space left" in storage.state.reason
    with pytest.raises(StorageUnavailable):
        storage.flush()
    assert totals(storage) == expected(refused)
    let_go(storage)
    again = open_storage(small_disk / "data", min_free_bytes=0)
    assert totals(again) == expected(refused), "a start on a full disk reads on"
    with pytest.raises(StorageUnavailable):
        again.append(cpu_batch(refused))
    filler.unlink()
    again.maintain(NOON_MS)
    assert again.state.writable, "recovers without a request"
    fill(again, range(refused, refused + 3))
    again.flush()
    assert totals(again) == expected(refused + 3)


def test_a_disk_that_becomes_read_only(open_storage: Open, small_disk: Path) -> None:
    storage = open_storage(small_disk / "data", min_free_bytes=0)
    fill(storage, range(5))
    storage.flush()
    # Files that are open for writing forbid a plain remount; a read-only bind mount over it looks
    # the same to what is opened afterwards, which is the log here.
    subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
        with pytest.raises(StorageUnavailable, match="Read-only"):
            storage.append(cpu_batch(5))
        assert totals(storage) == expected(5)
        assert not storage.state.writable
    finally:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)
    storage.maintain(NOON_MS)
    fill(storage, range(5, 6))
    assert totals(storage) == expected(6)


@pytest.mark.parametrize("left_kib", [0, 4, 16, 40, 64, 100])
def test_a_disk_that_fills_up_while_blocks_are_written(
    open_storage: Open, small_disk: Path, left_kib: int
) -> None:
    """So little is left that flush, compaction and merges of days stop somewhere else each time."""
    data = small_disk / "data"
    storage = open_storage(data, min_free_bytes=0)
    for hour in (1, 2, 1):
        fill(storage, range(hour * 3, hour * 3 + 3), time_ms=MIDNIGHT_MS + hour * HOUR_MS)
        if hour == 2:
            storage.flush()
            storage.maintain(MIDNIGHT_MS + 4 * HOUR_MS)
        storage._seen = type(storage._seen)()  # the last ones come once more, as others' would
    wanted = stacks_of([*range(3, 9), *range(3, 6)])
    filler = fill_disk(small_disk)
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - (left_kib << 10)))
    for _ in range(2):
        with (
            pytest.raises(StorageUnavailable)
            if left_kib < 40
            else contextlib.suppress(StorageUnavailable)
        ):
            storage.flush()
            storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
        assert merged(storage) == merged_raw(storage) == wanted
    let_go(storage)
    storage = open_storage(data, min_free_bytes=0)
    assert merged(storage) == merged_raw(storage) == wanted
    filler.unlink()
    storage.flush()
    storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
    assert merged(storage) == merged_raw(storage) == wanted
    assert storage.state.writable
    assert storage.state.damaged_blocks == 0
    let_go(storage)
    assert_sound(data)


def test_ready_and_metrics_tell_of_a_full_disk(small_disk: Path) -> None:
    config = CollectorConfig(data_dir=str(small_disk / "data"), min_free_bytes=1 << 20)
    with running_collector(config) as collector:
        client = collector.app.test_client()
        sent = batch([P({"service_name": "api"}, now_ms(), {"main f": 5})], batch_id="1")
        collector.storage.append(sent)
        assert client.get("/ready").status_code == 200
        filler = fill_disk(small_disk)
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert "MiB left" in answer.text
        assert metric(collector, "store_disk_free_bytes") < 1 << 20
        asked = "/api/v1/top?from=now-10m&until=now%2B1m"
        assert {each["function"] for each in client.get(asked).json["rows"]} == {"main", "f"}
        filler.unlink()
        assert client.get("/ready").status_code == 200
        assert client.get("/api/v1/status").json["reason"] == ""
