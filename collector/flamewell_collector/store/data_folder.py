"""What is in a data folder: a store of its own, or copies of a shared one; never both."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flamewell_collector.errors import StorageError

WAL_FOLDER: Final = "wal"
CATALOG_FILE: Final = "catalog.sqlite"
SHARED_MARK: Final = "shared-store"
"""A data folder with this file holds copies of a shared store, whose URL stands in it."""


def check_own(data_dir: Path) -> None:
    """Refuse a folder of copies.

    Raises:
        StorageError: It is one.
    """
    if (data_dir / SHARED_MARK).exists():
        raise StorageError(
            f"the data folder {data_dir} holds copies of a shared store: give its store_url, or "
            "another folder"
        )


def mark_shared(data_dir: Path, url: str) -> None:
    """Mark a folder as one of copies.

    Raises:
        StorageError: It holds a store of its own.
    """
    mark = data_dir / SHARED_MARK
    if (data_dir / CATALOG_FILE).exists() and not mark.exists():
        raise StorageError(
            f"the data folder {data_dir} holds a store of its own, which copies of a shared one "
            "would replace: name another folder (--data-dir)"
        )
    mark.write_text(f"{url}\n")
