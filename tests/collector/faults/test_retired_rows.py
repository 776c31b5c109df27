"""Sums whose rows are gone: what comes later of their hour must not take their place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from collector.faults.checks import MIDNIGHT_MS, assert_sound, merged, stacks_of
from collector.stored import HOUR_MS, block_folders, cpu_batch, let_go

from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS

Open = Callable[..., Storage]


@pytest.mark.parametrize("why", ["retention", "damage"])
def test_late_rows_of_an_hour_whose_rows_are_gone(
    open_storage: Open, tmp_path: Path, why: str
) -> None:
    storage = open_storage()
    data = tmp_path / "data"
    storage.append(cpu_batch(3, time_ms=MIDNIGHT_MS))
    storage.flush()
    storage.maintain(MIDNIGHT_MS + 3 * HOUR_MS)
    let_go(storage)
    if why == "damage":
        shutil.rmtree(block_folders(data)[0])
        storage = open_storage()
    else:
        storage = open_storage(keep_raw_ms=HOUR_MS)
        storage.maintain(MIDNIGHT_MS + 3 * HOUR_MS)
        let_go(storage)
        storage = open_storage()
    assert block_folders(data) == []
    for number in (4, 5):
        storage.append(cpu_batch(number, time_ms=MIDNIGHT_MS + 1))
        storage.flush()
    assert merged(storage) == stacks_of([3, 4, 5])
    for now_ms in (MIDNIGHT_MS + 4 * HOUR_MS, MIDNIGHT_MS + 2 * DAY_MS):
        storage.maintain(now_ms)
        assert merged(storage) == stacks_of([3, 4, 5])
    let_go(storage)
    assert_sound(data)
    for path in data.glob("catalog.sqlite*"):
        path.unlink()
    assert merged(open_storage()) == stacks_of([3, 4, 5])
