"""Deletes objects that nobody needs any more. One collector does it, at most every few seconds."""

from __future__ import annotations

import logging
from typing import Final

from flamewell_collector.store.changes import Change
from flamewell_collector.store.shared.log_objects import LOGS
from flamewell_collector.store.shared.objects import Objects
from flamewell_collector.store.shared.shared_catalog import SharedCatalog
from flamewell_collector.store.tiers import DAY_MS, HOUR_MS
from flamewell_collector.store.writer import BLOCKS_FOLDER, ROLLUPS_FOLDER

log = logging.getLogger(__name__)

_SWEEP_MS: Final = 6 * HOUR_MS
_ORPHAN_MS: Final = DAY_MS
"""An upload that is older than this and not registered belongs to a collector that was killed."""

_END_MS: Final = 30 * DAY_MS
"""A collector that sleeps longer than this is not awaited any more."""


class Cleaning:
    """Removed blocks after a while, what was never registered after a day, old changes likewise."""

    def __init__(self, objects: Objects, *, keep_removed_ms: int) -> None:
        self._objects = objects
        self._keep_removed_ms = keep_removed_ms
        self._swept_ms: int | None = None

    def clean(self, catalog: SharedCatalog, now_ms: int) -> None:
        """Do what is due.

        Raises:
            StorageUnavailable: The store can't be reached.
        """
        removed = catalog.removed_before(now_ms - self._keep_removed_ms)
        if removed:
            for path in removed:
                self._objects.delete([each.key for each in self._objects.listed(path)])
            catalog.commit(Change(deleted=tuple(removed)))
        if self._swept_ms is None or now_ms - self._swept_ms >= _SWEEP_MS:
            self._swept_ms = now_ms
            self._sweep(catalog, now_ms)

    def _sweep(self, catalog: SharedCatalog, now_ms: int) -> None:
        known = catalog.known_paths()
        orphans = [
            each.key
            for folder in (BLOCKS_FOLDER, ROLLUPS_FOLDER)
            for each in self._objects.listed(folder)
            if each.key.rpartition("/")[0] not in known and each.changed_ms < now_ms - _ORPHAN_MS
        ]
        if orphans:
            log.warning("%d objects of blocks that were never registered are deleted", len(orphans))
            self._objects.delete(orphans)
        catalog.delete_old_changes(now_ms - DAY_MS)
        ends = [each for each in self._objects.listed(LOGS) if each.changed_ms < now_ms - _END_MS]
        self._objects.delete([each.key for each in ends if catalog.owner(_writer_of(each.key))[1]])


def _writer_of(key: str) -> str:
    return key.split("/")[1]
