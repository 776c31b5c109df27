"""The series of one tenant in memory: selection by labels without reading samples."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa

from flamewell_collector.model import Matcher, Series
from flamewell_collector.selectors import matches
from flamewell_collector.store.schema import SERIES


class SeriesIndex:
    """Series by id; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[int, Series] = {}
        self._by_service: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._series)

    def __contains__(self, series_id: int) -> bool:
        return series_id in self._series

    def add(self, series: pa.Table) -> list[Series]:
        """Add the rows of a SERIES table; gives those that were new."""
        ids = series.column("series_id").to_pylist()
        new: list[Series] = []
        with self._lock:
            for at, series_id in enumerate(ids):
                if series_id not in self._series:
                    labels = dict(series.column("labels")[at].as_py())
                    each = Series(series_id, labels)
                    self._keep(each)
                    new.append(each)
        return new

    def add_one(self, series: Series) -> None:
        """Add a series that is already taken apart."""
        with self._lock:
            if series.series_id not in self._series:
                self._keep(series)

    def discard(self, series_id: int) -> None:
        """Forget a series of which no row is left."""
        with self._lock:
            gone = self._series.pop(series_id, None)
            if gone is not None:
                self._by_service[gone.labels.get("service_name", "")] -= 1

    def count(self, services: Iterable[str]) -> int:
        """Tell how many series some services have."""
        with self._lock:
            return sum(self._by_service[each] for each in services)

    def all(self) -> list[Series]:
        """Give every series."""
        with self._lock:
            return list(self._series.values())

    def get(self, series_id: int) -> Series | None:
        """Give one series."""
        return self._series.get(series_id)

    def select(self, matchers: Iterable[Matcher]) -> list[Series]:
        """Give the series that satisfy every matcher."""
        wanted = tuple(matchers)
        return [
            each
            for each in self.all()
            if all(matches(matcher, each.labels.get(matcher.name, "")) for matcher in wanted)
        ]

    def _keep(self, series: Series) -> None:
        self._series[series.series_id] = series
        self._by_service[series.labels.get("service_name", "")] += 1


def series_table(series: Iterable[Series]) -> pa.Table:
    """Make a SERIES table, sorted by service and id."""
    ordered = sorted(series, key=lambda each: (each.labels.get("service_name", ""), each.series_id))
    return pa.table(
        {
            "series_id": pa.array([each.series_id for each in ordered], pa.int64()),
            "service_name": pa.array(
                [each.labels.get("service_name", "") for each in ordered], pa.string()
            ),
            "labels": pa.array(
                [sorted(each.labels.items()) for each in ordered],
                pa.map_(pa.string(), pa.string()),
            ),
        },
        schema=SERIES,
    )
