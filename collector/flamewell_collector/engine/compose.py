"""Puts the relations that a statement reads in front of it, for any engine (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa

from flamewell_collector.engine.scan import Scan, Statement
from flamewell_collector.store.schema import TABLES

_MAX_SERVICES_PUSHED: Final = 200
"""Beyond that many names the list costs more to compare than the row groups it saves."""

_MAX_SERIES_PUSHED: Final = 200
"""The same of series."""


class Places(Protocol):
    """Says how an engine calls what is read."""

    def files(self, table: str, blocks: Sequence[Path]) -> str:
        """Give what stands behind FROM for a table's files of some blocks."""
        ...

    def head_profiles(self) -> str:
        """Give what stands behind FROM for the scan's unflushed profiles."""
        ...

    def wanted_series(self) -> str:
        """Give what stands behind FROM for the ids of the scan's series."""
        ...


@dataclass(slots=True)
class Text:
    """A question in SQL.

    Attributes:
        sql: ``$name`` stands for a value.
        values: By name.
    """

    sql: str
    values: dict[str, int | str] = field(default_factory=dict)


def compose(statement: Statement, scan: Scan, places: Places) -> Text:
    """Put the relations that a statement reads in front of it."""
    values: dict[str, int | str] = {
        "scan_start_ms": scan.start_ms,
        "scan_end_ms": scan.end_ms,
    }
    condition = _condition(scan, values, places)
    relations = []
    for relation in statement.reads:
        if relation == "stacks":
            relations.append(f"stacks AS (\n{_stacks(scan, places, values)}\n)")
            continue
        # Tables and conditions are our own text, all that comes from outside is a value.
        parts = [
            f"SELECT {columns} FROM {source} WHERE {condition}{times}"  # noqa: S608 - see above
            for columns, source, times in _sources(relation, scan, places)
        ] or [nothing(relation)]
        relations.append(f"{relation} AS (\n{' UNION ALL '.join(parts)}\n)")
    text = f"WITH {', '.join(relations)}\nSELECT * FROM (\n{statement.sql}\n) AS answer"
    return Text(text, values)


def _sources(relation: str, scan: Scan, places: Places) -> Iterator[tuple[str, str, str]]:
    """Give (columns, table or files, further condition) of what makes up a relation."""
    table = "profiles" if relation == "totals" else relation
    columns = ", ".join(TABLES[table].names)
    if table == "profiles":
        yield columns, places.head_profiles(), ""
    if table in ("profiles", "samples") and scan.blocks:
        yield columns, places.files(table, scan.blocks), ""
    if relation in ("profiles", "samples"):
        return
    alike: dict[tuple[tuple[int, int], ...], list[Path]] = defaultdict(list)
    for each in scan.totals if relation == "totals" else scan.sums:
        alike[each.ranges].append(each.block)
    for ranges, blocks in alike.items():
        # Whole numbers of our own: nothing in them comes from outside.
        times = " OR ".join(f"(time >= {first:d} AND time < {last:d})" for first, last in ranges)
        yield columns, places.files(table, blocks), f" AND ({times})"


def _stacks(scan: Scan, places: Places, values: dict[str, int | str]) -> str:
    """Give the ids of the stacks that samples and sums point to."""
    blocks = scan.sample_folders()
    if not blocks:
        return nothing("stacks")
    names = ", ".join(f"${name}" for name in values if name.startswith("service_name_"))
    wanted = f" AND service_name IN ({names})" if names else ""
    return (
        "SELECT block_id, service_name, stack, stack_id "  # noqa: S608 - see compose
        f"FROM {places.files('stacks', blocks)} WHERE stack IS NOT NULL{wanted}"
    )


def nothing(relation: str) -> str:
    """Give a relation without rows."""
    columns = ", ".join(
        f"CAST(NULL AS {'VARCHAR' if pa.types.is_string(field.type) else 'BIGINT'}) AS {field.name}"
        for field in TABLES[relation]
    )
    return f"SELECT {columns} WHERE false"


def _condition(scan: Scan, values: dict[str, int | str], places: Places) -> str:
    """Say in SQL which rows count; names of services and types let row groups be skipped."""
    parts = ["time >= $scan_start_ms AND time < $scan_end_ms"]
    services = scan.services
    if services is not None and (scan.every_service or scan.series_ids is not None):
        few = len(services) <= _MAX_SERVICES_PUSHED and not scan.every_service
        services = services if few else None
    for column, chosen in (("profile_type", scan.type_ids or None), ("service_name", services)):
        if chosen is not None:
            names = [f"{column}_{number}" for number in range(len(chosen))]
            values.update(zip(names, chosen, strict=True))
            allowed = ", ".join(f"${name}" for name in names)
            parts.append(f"{column} IN ({allowed})" if allowed else "false")
    if scan.series_ids is not None and len(scan.series_ids) <= _MAX_SERIES_PUSHED:
        # Whole numbers of our own, compared while the files are decoded: one pod of ten in 24 h
        # takes 69 ms, by a join 106.
        wanted = ", ".join(f"{each:d}" for each in scan.series_ids.tolist())
        parts.append(f"series_id IN ({wanted})" if wanted else "false")
    elif scan.series_ids is not None:
        source = places.wanted_series()
        parts.append(f"series_id IN (SELECT series_id FROM {source})")  # noqa: S608 - see compose
    return " AND ".join(parts)
