"""kill -9 at named points of flush, compaction, day merge and retention, in a child process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from collector.faults.checks import MIDNIGHT_MS, assert_sound, merged, merged_raw, stacks_of
from collector.stored import let_go

from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import DAY_MS

Open = Callable[..., Storage]
PROGRAM = Path(__file__).parent.parent.parent / "targets" / "store_victim.py"
TESTS = Path(__file__).parent.parent.parent
KEEP_RAW_MS = 5 * DAY_MS

POINTS = [
    ("ingest", "log_commit", "before", "4"),
    ("ingest", "log_commit", "after", "4"),
    ("flush", "log_rotate", "after", "1"),
    ("flush", "block_samples", "after", "1"),
    ("flush", "block_finish", "before", "2"),
    ("flush", "block_finish", "after", "1"),
    ("flush", "register_flush", "before", "1"),
    ("flush", "register_flush", "after", "1"),
    ("flush", "remove_logs", "after", "1"),
    ("compaction", "block_samples", "after", "1"),
    ("compaction", "block_sums", "before", "2"),
    ("compaction", "block_finish", "after", "1"),
    ("compaction", "block_finish", "after", "3"),
    ("compaction", "replace", "before", "1"),
    ("compaction", "replace", "after", "1"),
    ("compaction", "replace", "after", "2"),
    ("compaction", "delete_unread", "after", "1"),
    ("late", "register_flush", "after", "1"),
    ("late", "block_finish", "after", "3"),
    ("late", "replace", "before", "1"),
    ("late", "replace", "after", "1"),
    ("late", "delete_unread", "before", "1"),
    ("day", "block_sums", "after", "1"),
    ("day", "block_finish", "after", "1"),
    ("day", "replace", "before", "1"),
    ("day", "replace", "after", "1"),
    ("day", "replace", "after", "2"),
    ("day", "delete_unread", "after", "1"),
    ("retention", "replace", "before", "1"),
    ("retention", "replace", "after", "1"),
    ("retention", "delete_unread", "before", "1"),
]


def live_until(folder: Path, *where: str) -> list[int]:
    """Run a store until it is killed; gives the batches that were acknowledged."""
    words = [sys.executable, str(PROGRAM), str(folder), *where]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60,
        env={"PYTHONPATH": ":".join([str(TESTS), *sys.path])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, f"the point was not reached: {done.stderr}"
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("where", POINTS, ids="-".join)
def test_killed(open_storage: Open, tmp_path: Path, where: tuple[str, str, str, str]) -> None:
    data = tmp_path / "data"
    stage, point, _, _ = where
    acknowledged = live_until(data, *where)
    assert_sound(data)
    storage = open_storage(keep_raw_ms=KEEP_RAW_MS)
    found = merged(storage)
    # One batch may be durable though nobody was told: its sender has to send it again.
    one_more = [*acknowledged, len(acknowledged)]
    assert found in (stacks_of(acknowledged), stacks_of(one_more))
    if point != "log_commit":
        assert found == stacks_of(acknowledged)
    if stage != "retention":
        assert merged_raw(storage) == found, "sums and rows say the same"
    assert storage.state.damaged_blocks == 0
    assert storage.state.writable
    for now_ms in (MIDNIGHT_MS + DAY_MS // 2, MIDNIGHT_MS + 2 * DAY_MS):
        storage.flush()
        storage.maintain(now_ms)
        assert merged(storage) == found
        if stage != "retention":
            assert merged_raw(storage) == found
    assert not list((data / "temporary").glob("*"))
    let_go(storage)
    assert_sound(data)


@pytest.mark.parametrize(
    ("stage", "point", "side"),
    [
        ("flush", "block_finish", "after"),
        ("flush", "register_flush", "after"),
        ("compaction", "replace", "before"),
        ("compaction", "replace", "after"),
        ("day", "replace", "before"),
        ("day", "replace", "after"),
        ("retention", "replace", "after"),
    ],
)
def test_killed_and_the_catalog_is_lost_too(
    open_storage: Open, tmp_path: Path, stage: str, point: str, side: str
) -> None:
    """Then blocks tell for themselves which of them count; what was deleted late may come back."""
    data = tmp_path / "data"
    acknowledged = live_until(data, stage, point, side, "1")
    for path in data.glob("catalog.sqlite*"):
        path.unlink()
    storage = open_storage()
    assert merged(storage) == stacks_of(acknowledged)
    if stage != "retention":
        assert merged_raw(storage) == stacks_of(acknowledged)
    storage.flush()
    storage.maintain(MIDNIGHT_MS + 2 * DAY_MS)
    assert merged(storage) == stacks_of(acknowledged)
    let_go(storage)
    assert_sound(data)
