"""From stored totals to the list of services (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flamewell_collector.engine import Columns
from flamewell_collector.model import Series
from flamewell_wire import profile_types

LAST_READINGS_MS: Final = 120_000
"""A series whose newest reading is older than its service's newest by this much is gone."""


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service that sent anything in a range.

    Attributes:
        service_name: Its name.
        labels: Those that all its series have in common.
        types: Ids of the profile types it sent, sorted.
        series: How many series it has.
        cpu_cores: CPU seconds a second, over the time in which it was profiled; None without.
        memory_bytes: Newest resident set sizes, summed over its series; None without.
        memory_limit_bytes: The same of their limits.
        last_seen_ms: When its newest profile began.
    """

    service_name: str
    labels: Mapping[str, str]
    types: tuple[str, ...]
    series: int
    cpu_cores: float | None
    memory_bytes: float | None
    memory_limit_bytes: float | None
    last_seen_ms: int


@dataclass(frozen=True, slots=True)
class LastReading:
    """The newest value of a gauge of one series."""

    series: Series
    type_id: str
    time_ms: int
    value: int


def service_rows(
    totals: Columns, active: Iterable[Series], readings: Iterable[LastReading]
) -> list[ServiceRow]:
    """Make one row a service: most CPU time first, then those without any, by name.

    Args:
        totals: service_name, profile_type, total, first_ms, end_ms, last_ms; sorted by service.
        active: The series that sent anything.
        readings: The newest memory readings of each.
    """
    series_of: dict[str, list[Series]] = defaultdict(list)
    for each in active:
        series_of[service_of(each)].append(each)
    readings_of: dict[str, list[LastReading]] = defaultdict(list)
    for reading in readings:
        readings_of[service_of(reading.series)].append(reading)
    by_service: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in dict_rows(totals):
        by_service[row["service_name"]].append(row)
    found = [
        ServiceRow(
            service_name=name,
            labels=_in_common(series_of[name]),
            types=tuple(row["profile_type"] for row in rows),
            series=len(series_of[name]),
            cpu_cores=_cores(rows),
            memory_bytes=_sum_of_newest(readings_of[name], profile_types.PROCESS_RSS.id),
            memory_limit_bytes=_sum_of_newest(readings_of[name], profile_types.PROCESS_LIMIT.id),
            last_seen_ms=max(row["last_ms"] for row in rows),
        )
        for name, rows in by_service.items()
    ]
    return sorted(found, key=lambda row: (-(row.cpu_cores or -1.0), row.service_name))


def service_of(series: Series) -> str:
    """Give the name of a series' service."""
    return series.labels.get("service_name", "")


def dict_rows(columns: Columns) -> Iterator[dict[str, Any]]:
    """Walk a small result row by row, values as Python's own."""
    names = list(columns)
    for values in zip(*(columns[name].tolist() for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def _cores(rows: Iterable[Mapping[str, Any]]) -> float | None:
    for row in rows:
        if row["profile_type"] == profile_types.CPU.id:
            seconds = max(row["end_ms"] - row["first_ms"], 1_000) / 1_000
            return float(round(row["total"] / 1e9 / seconds, 6))
    return None


def _sum_of_newest(readings: Iterable[LastReading], type_id: str) -> float | None:
    chosen = [each for each in readings if each.type_id == type_id]
    if not chosen:
        return None
    newest = max(each.time_ms for each in chosen)
    return float(sum(each.value for each in chosen if newest - each.time_ms < LAST_READINGS_MS))


def _in_common(series: list[Series]) -> dict[str, str]:
    if not series:
        return {}
    first, *others = series
    return {
        name: value
        for name, value in sorted(first.labels.items())
        if name != "service_name" and all(each.labels.get(name) == value for each in others)
    }
