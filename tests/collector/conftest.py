"""Fixtures of the collector's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flamewell_collector.store.storage import Storage, StorageOptions


@pytest.fixture
def open_storage(tmp_path: Path) -> Iterator[Callable[..., Storage]]:
    """Open a storage in a folder (tmp_path/data by default); closed at the end of the test."""
    with ExitStack() as stack:

        def opened(folder: Path | None = None, **options: Any) -> Storage:
            storage = Storage.open(folder or tmp_path / "data", StorageOptions(**options))
            stack.callback(_close_once, storage)
            return storage

        yield opened


def _close_once(storage: Storage) -> None:
    # Tests that close by themselves, or let go as kill -9 does, have marked it.
    if storage._lock_fd >= 0:
        storage.close()
        storage._lock_fd = -1
