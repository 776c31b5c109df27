"""What a killed collector had in its log: others write it as blocks, and end the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from flamewell_collector.errors import LogTaken, Superseded
from flamewell_collector.model import Series
from flamewell_collector.store.changes import Change, LogMark
from flamewell_collector.store.flushing import Flush, Flushing
from flamewell_collector.store.head import Head, each_once
from flamewell_collector.store.series import SeriesIndex
from flamewell_collector.store.shared.followed_logs import decoded
from flamewell_collector.store.shared.log_objects import (
    LogObject,
    delete_log_objects,
    end_log,
)
from flamewell_collector.store.shared.objects import Objects
from flamewell_collector.store.shared.peers import Peers
from flamewell_collector.store.shared.shared_catalog import SharedCatalog

log = logging.getLogger(__name__)

WHOLE_LOG: Final = 1 << 62
"""Number of a log file that is after all others."""


@dataclass(frozen=True, slots=True)
class LogRows:
    """What a log held beyond what is in blocks.

    Attributes:
        head: The rows.
        series: All of them, with their tenants.
        skipped_bytes: What could not be read.
    """

    head: Head
    series: tuple[tuple[str, Series], ...]
    skipped_bytes: int


def rows_of_log(objects: Iterable[LogObject]) -> LogRows:
    """Put the batches of log objects together, each once."""
    batches, skipped = decoded(objects)
    head = Head()
    indexes: dict[str, SeriesIndex] = {}
    now_ms = time.time_ns() // 1_000_000
    for batch in each_once(batches):
        indexes.setdefault(batch.tenant, SeriesIndex()).add(batch.series)
        head.add(batch, received_ms=now_ms)
    series = tuple((tenant, each) for tenant, index in indexes.items() for each in index.all())
    return LogRows(head, series, skipped)


class Adoption:
    """Takes over logs whose collectors are gone. Every step may fail and be tried again."""

    def __init__(
        self,
        objects: Objects,
        catalog: SharedCatalog,
        peers: Peers,
        flushing: Flushing,
        *,
        former: Collection[str],
        series_of: Callable[[str], SeriesIndex],
        count: Callable[[Flush, str], None],
    ) -> None:
        """Take the parts.

        Args:
            objects: The store.
            catalog: Its catalog.
            peers: Who is alive.
            flushing: Writes blocks.
            former: Logs of earlier runs of this collector.
            series_of: A tenant's series.
            count: Lets questions see the blocks of a log (its name) instead of the log.
        """
        self._objects = objects
        self._catalog = catalog
        self._peers = peers
        self._flushing = flushing
        self._former = set(former)
        self._series_of = series_of
        self._count = count
        self._written: dict[str, Flush] = {}

    def begin(self, mine: str) -> None:
        """Take over the logs of earlier runs, or see to it that nothing can come after their ends.

        What was on its way when a run was killed must not arrive once this one takes batches:
        they are sent again to this one, which has to know what the former one had.

        Args:
            mine: Name of this collector's log.

        Raises:
            StorageUnavailable: The store can't be reached.
        """
        for writer in sorted(self._former):
            self._adopt(writer, mine)
            if not self._catalog.owner(writer)[1]:
                end_log(self._objects, writer, self._catalog.flushed(writer)[1] + 1)

    def adopt_all(self, mine: str) -> None:
        """Take over all logs that are left.

        Args:
            mine: Name of this collector's log.

        Raises:
            StorageUnavailable: The store can't be reached; a later call goes on.
        """
        for writer in self._left():
            if writer != mine:
                self._adopt(writer, mine)

    def _left(self) -> list[str]:
        alive = set(self._peers.all())
        return sorted({*(self._former & alive), *self._peers.silent(), *self._written})

    def _adopt(self, writer: str, mine: str) -> None:
        catalog = self._catalog
        owner, ended = catalog.owner(writer)
        if ended:
            self._written.pop(writer, None)
            self._clear(writer)
            return
        gone = {writer, mine, *self._left()}
        if owner not in gone and owner in self._peers.all():
            return
        try:
            if owner != mine:
                catalog.commit(Change(adopted=(writer, owner, mine)))
                log.warning("the log of %s, which is gone, is taken over", writer)
            if writer not in self._written:
                self._written[writer] = self._write(writer)
            catalog.commit(self._written[writer].change)
        except (Superseded, LogTaken) as error:
            log.info("the log of %s is left to another collector: %s", writer, error)
            self._written.pop(writer, None)
            return
        self._count(self._written.pop(writer), writer)
        self._clear(writer)

    def _write(self, writer: str) -> Flush:
        number, sequence = self._catalog.flushed(writer)
        found = end_log(self._objects, writer, sequence + 1)
        rows = rows_of_log([each for each in found if each.number > number])
        for tenant, each in rows.series:
            self._series_of(tenant).add_one(each)
        mark = LogMark(writer, WHOLE_LOG, sequence + len(found), ended=True)
        return self._flushing.blocks_of(rows.head, mark, series=rows.series)

    def _clear(self, writer: str) -> None:
        delete_log_objects(self._objects, writer, self._catalog.flushed(writer)[1])
        self._peers.leave(writer)
