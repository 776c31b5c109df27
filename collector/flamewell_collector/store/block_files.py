"""Where the files of blocks are: on this disk, or elsewhere and here only while they are needed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from flamewell_collector.store import recovery
from flamewell_collector.store.changes import Block

log = logging.getLogger(__name__)

PROFILES_ONLY: Final = ("profiles",)
RAW_FILES: Final = ("profiles", "samples", "stacks", "frames")
SUMS_FILES: Final = ("profiles", "rollups", "slots", "stacks", "frames")
SERIES_FILE: Final = ("series",)

Wanted = Iterable[tuple[str, tuple[str, ...]]]
"""Paths of blocks, and which of their tables are to be read."""


class BlockFiles(Protocol):
    """The files of blocks."""

    def fetch(self, wanted: Wanted) -> None:
        """Make sure that files are in the data folder; those that can't be had are missing there.

        Raises:
            StorageUnavailable: Where they are can't be reached.
        """
        ...

    def publish(self, blocks: Iterable[Block]) -> None:
        """Bring blocks that were just written to where all who count them find them, durably.

        Raises:
            StorageUnavailable: That can't be reached.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove a block that does not count (any more) from the data folder."""
        ...

    def is_copy(self, path: str) -> bool:
        """Tell whether a damaged block is a mere copy; it is gone then, and fetched again."""
        ...

    def set_aside(self, path: str) -> None:
        """Move a damaged block out of the way."""
        ...


class LocalFiles:
    """Blocks that are nowhere but in the data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def fetch(self, wanted: Wanted) -> None:
        """Do nothing: they are there."""

    def publish(self, blocks: Iterable[Block]) -> None:
        """Do nothing: they are where they are looked for."""

    def remove(self, path: str) -> None:
        """Delete a block."""
        shutil.rmtree(self._data_dir / path, ignore_errors=True)

    def is_copy(self, path: str) -> bool:  # noqa: ARG002 - of none
        """Say no."""
        return False

    def set_aside(self, path: str) -> None:
        """Move a damaged block to the damaged folder."""
        if (self._data_dir / path).exists():
            recovery.set_aside(self._data_dir / path, self._data_dir)
