"""The shapes of the native API's answers (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flamewell_collector.analysis.diff import DiffTable
from flamewell_collector.analysis.flamegraph import DiffColumns, FlameColumns
from flamewell_collector.analysis.top import TopTable
from flamewell_collector.model import Selection, Series, Timeline
from flamewell_collector.services import ServiceRow
from flamewell_wire import profile_types

_DECIMALS = 3
"""Of nanoseconds, bytes or counts (a second): enough for any chart, and half the size."""


def services(rows: Iterable[ServiceRow]) -> dict[str, Any]:
    """Give the list of services."""
    return {
        "services": [
            {
                "service_name": row.service_name,
                "runtime": row.labels.get("runtime", ""),
                "labels": row.labels,
                "types": row.types,
                "series": row.series,
                "cpu_cores": row.cpu_cores,
                "memory_bytes": row.memory_bytes,
                "memory_limit_bytes": row.memory_limit_bytes,
                "last_seen_ms": row.last_seen_ms,
            }
            for row in rows
        ]
    }


def types(type_ids: Iterable[str]) -> dict[str, Any]:
    """Give the profile types; one that has no id's form is left out."""
    found = []
    for type_id in type_ids:
        try:
            each = profile_types.parse_id(type_id)
        except ValueError:
            continue
        unit = each.sample_unit
        name = f"{each.name}:{each.sample_type}"
        found.append({"id": type_id, "name": name, "unit": unit, "kind": each.kind})
    return {"types": found}


def series(rows: Sequence[Series]) -> dict[str, Any]:
    """Give label sets, in a stable order."""
    return {
        "series": sorted((dict(each.labels) for each in rows), key=lambda row: sorted(row.items()))
    }


def timeline(line: Timeline, selection: Selection) -> dict[str, Any]:
    """Give a time line; null where there was nothing."""
    return {
        "start_ms": line.start_ms,
        "step_ms": line.step_ms,
        **_measure(selection),
        "values": [
            None if np.isnan(value) else round(value, _DECIMALS) for value in line.values.tolist()
        ],
    }


def flame_graph(columns: FlameColumns, selection: Selection) -> dict[str, Any]:
    """Give a flame graph as columns in preorder."""
    return {
        "type": selection.type_id,
        **_measure(selection),
        "from_ms": selection.start_ms,
        "until_ms": selection.end_ms,
        "total": int(columns.total[0]),
        **_columns(columns),
        "self": columns.self,
    }


def diff(columns: DiffColumns, base: Selection, selection: Selection) -> dict[str, Any]:
    """Give a diff's flame graph; ``self`` and ``total`` are those of the later side."""
    return {
        "type": selection.type_id,
        **_measure(selection),
        "from_ms": selection.start_ms,
        "until_ms": selection.end_ms,
        "base_from_ms": base.start_ms,
        "base_until_ms": base.end_ms,
        "total": int(columns.total[0]),
        "base_total": int(columns.base_total[0]),
        **_columns(columns),
        "self": columns.self,
        "base_self": columns.base_self,
    }


def top(table: TopTable, selection: Selection) -> dict[str, Any]:
    """Give the functions with most self value."""
    return {
        "type": selection.type_id,
        **_measure(selection),
        "total": table.total,
        "functions": table.functions,
        "rows": [
            {
                "function": row.function,
                "file": row.file,
                "line": row.line,
                "self": row.self,
                "total": row.total,
            }
            for row in table.rows
        ],
    }


def top_diff(table: DiffTable, selection: Selection) -> dict[str, Any]:
    """Give the functions whose self value changed most."""
    return {
        "type": selection.type_id,
        **_measure(selection),
        "total": table.total,
        "base_total": table.base_total,
        "functions": table.functions,
        "rows": [
            {
                "function": row.function,
                "file": row.file,
                "line": row.line,
                "self": row.self,
                "total": row.total,
                "base_self": row.base_self,
                "base_total": row.base_total,
            }
            for row in table.rows
        ],
    }


def _measure(selection: Selection) -> dict[str, str]:
    known = profile_types.parse_id(selection.type_id)
    return {"unit": known.sample_unit, "kind": known.kind}


def _columns(columns: FlameColumns | DiffColumns) -> dict[str, Any]:
    return {
        "nodes": len(columns.name),
        "pruned": columns.pruned,
        "functions": columns.functions,
        "files": columns.files,
        "lines": columns.lines,
        "name": np.ascontiguousarray(columns.name),
        "depth": np.ascontiguousarray(columns.depth),
    }
