"""Whether the store may take more: room on the disk, in memory, and writes that work."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from flamewell_collector.errors import StorageUnavailable

log = logging.getLogger(__name__)


class Room:
    """Refuses before the disk is really full: reads, the catalog and a flush need some room.

    Attributes:
        failure: Why the last write failed, empty once one has succeeded.
    """

    def __init__(
        self, data_dir: Path, *, min_free_bytes: int, max_rows: int, rows: Callable[[], int]
    ) -> None:
        """Take the bounds.

        Args:
            data_dir: The data folder.
            min_free_bytes: What is kept free.
            max_rows: How many rows may wait for a flush.
            rows: How many do.
        """
        self._data_dir = data_dir
        self._min_free_bytes = min_free_bytes
        self._max_rows = max_rows
        self._rows = rows
        self.failure = ""

    def check(self) -> None:
        """Refuse, where there is no room.

        Raises:
            StorageUnavailable: Too little disk is left, or too much waits for a flush.
        """
        free = shutil.disk_usage(self._data_dir).free
        if free < self._min_free_bytes:
            raise StorageUnavailable(
                f"the disk of {self._data_dir} has {free >> 20} MiB left, "
                f"{self._min_free_bytes >> 20} MiB are kept free: make room or shorten "
                "the retention",
                retry_after_seconds=random.randint(10, 30),  # noqa: S311 - spreads senders, no secret
            )
        if self._rows() >= self._max_rows:
            raise StorageUnavailable(
                f"{self._rows()} rows wait for a flush, which fails or is behind: see the log",
                retry_after_seconds=random.randint(5, 15),  # noqa: S311 - as above
            )

    def reason(self) -> str:
        """Say why nothing is taken, empty where it is."""
        try:
            self.check()
        except StorageUnavailable as error:
            return str(error)
        return self.failure

    def probe(self, try_write: Callable[[], None]) -> None:
        """After a failed write find out whether writes work again, so that readiness returns."""
        if not self.failure:
            return
        try:
            try_write()
        except (OSError, StorageUnavailable) as error:
            log.debug("still nothing can be written: %s", error)
        else:
            self.failure = ""
