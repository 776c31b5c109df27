"""The collector's JSON answers as typed rows. Pure; an answer of another shape is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flamewell.errors import CommandError


@dataclass(frozen=True, slots=True)
class Service:
    """A service in the list.

    Attributes:
        service_name: Its name.
        runtime: ``cpython``, ``go``, or empty.
        types: The ids of its profile types.
        cpu_cores: CPU use as sampled, None where there is no CPU profile.
        memory_bytes: Resident memory, None where not known.
        memory_limit_bytes: Its limit, None where there is none.
        last_seen_ms: Time of its last profile, ms since the epoch; 0 where not known.
    """

    service_name: str
    runtime: str
    types: tuple[str, ...]
    cpu_cores: float | None
    memory_bytes: float | None
    memory_limit_bytes: float | None
    last_seen_ms: int


@dataclass(frozen=True, slots=True)
class TopRow:
    """A function; ``self`` and ``total`` in the profile type's unit."""

    function: str
    file: str
    line: int
    self: int
    total: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A flame graph in preorder; row 0 is the root.

    Attributes:
        unit: Of the values.
        pruned: Whether small nodes were cut into "(n smaller)".
        functions: What ``name`` points into.
        files: Files of those, or empty.
        lines: Lines of those, 0 where not known.
        name: Of each row.
        depth: Of each row.
        own: The self value of each row.
        base_own: The earlier self value of each row; empty if this is not a diff.
    """

    unit: str
    pruned: bool
    functions: list[str]
    files: list[str]
    lines: list[int]
    name: list[int]
    depth: list[int]
    own: list[int]
    base_own: list[int]


@dataclass(frozen=True, slots=True)
class DiffRow:
    """A function in two ranges, in the profile type's unit, not scaled."""

    function: str
    file: str
    line: int
    self: int
    total: int
    base_self: int
    base_total: int


def parse_services(answer: Any) -> list[Service]:
    """Read ``/api/v1/services``.

    Raises:
        CommandError: It is something else.
    """
    try:
        return [
            Service(
                service_name=str(each["service_name"]),
                runtime=str(each.get("runtime") or ""),
                types=tuple(str(kind) for kind in each.get("types") or ()),
                cpu_cores=_number(each.get("cpu_cores")),
                memory_bytes=_number(each.get("memory_bytes")),
                memory_limit_bytes=_number(each.get("memory_limit_bytes")),
                last_seen_ms=int(each.get("last_seen_ms") or 0),
            )
            for each in answer["services"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unexpected("services") from error


def parse_top(answer: Any) -> tuple[list[TopRow], int]:
    """Read ``/api/v1/top``.

    Returns:
        The rows, and the whole profile's value.

    Raises:
        CommandError: It is something else.
    """
    try:
        rows = [
            TopRow(
                str(each["function"]),
                str(each["file"]),
                int(each["line"]),
                int(each["self"]),
                int(each["total"]),
            )
            for each in answer["rows"]
        ]
        return rows, int(answer["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unexpected("top") from error


def parse_graph(answer: Any) -> Graph:
    """Read ``/api/v1/flamegraph`` or ``/api/v1/diff``.

    Raises:
        CommandError: It is something else, or its columns do not fit together.
    """
    try:
        graph = Graph(
            unit=str(answer["unit"]),
            pruned=bool(answer.get("pruned")),
            functions=[str(each) for each in answer["functions"]],
            files=[str(each) for each in answer["files"]],
            lines=[int(each) for each in answer["lines"]],
            name=[int(each) for each in answer["name"]],
            depth=[int(each) for each in answer["depth"]],
            own=[int(each) for each in answer["self"]],
            base_own=[int(each) for each in answer.get("base_self") or ()],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unexpected("flame graph") from error
    if not _fits(graph):
        raise _unexpected("flame graph")
    return graph


def subtree_sums(depth: list[int], own: list[int]) -> list[int]:
    """Sum own values over each row's subtree; rows in preorder."""
    total = list(own)
    path: list[int] = []
    for row, level in enumerate(depth):
        while len(path) > level:
            done = path.pop()
            if path:
                total[path[-1]] += total[done]
        path.append(row)
    while len(path) > 1:
        done = path.pop()
        total[path[-1]] += total[done]
    return total


def diff_rows(graph: Graph) -> list[DiffRow]:
    """Sum a diff's rows by function; a recursive function's total counts once a stack."""
    total = subtree_sums(graph.depth, graph.own)
    base_total = subtree_sums(graph.depth, graph.base_own)
    sums = [[0, 0, 0, 0] for _ in graph.functions]
    path: list[int] = []
    open_count = [0] * len(graph.functions)
    for row, (name, level) in enumerate(zip(graph.name, graph.depth, strict=True)):
        for left in path[level:]:
            open_count[left] -= 1
        del path[level:]
        path.append(name)
        open_count[name] += 1
        sums[name][0] += graph.own[row]
        sums[name][2] += graph.base_own[row]
        if open_count[name] == 1:
            sums[name][1] += total[row]
            sums[name][3] += base_total[row]
    return [
        DiffRow(graph.functions[name], graph.files[name], graph.lines[name], *values)
        for name, values in enumerate(sums)
        if name != graph.name[0] and any(values)
    ]


def _fits(graph: Graph) -> bool:
    """Tell whether columns have equal lengths, names exist, and the depths are a preorder."""
    count, names = len(graph.name), len(graph.functions)
    lengths = {len(graph.depth), len(graph.own), len(graph.base_own) or count}
    return (
        lengths == {count}
        and count > 0
        and len(graph.files) == len(graph.lines) == names
        and all(0 <= name < names for name in graph.name)
        and graph.depth[0] == 0
        and all(
            1 <= below <= above + 1
            for above, below in zip(graph.depth, graph.depth[1:], strict=False)
        )
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _unexpected(what: str) -> CommandError:
    return CommandError(
        f"the collector's answer ({what}) has a shape that this command does not know; "
        "are they of different versions? `flamewell --version` says this one's"
    )
