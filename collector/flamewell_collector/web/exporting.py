"""The formats in which a merged profile can be saved."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from flask import Response

from flamewell_collector.analysis import flamegraph
from flamewell_collector.errors import QueryError
from flamewell_collector.exports import folded, parquet, pprof, speedscope, svg
from flamewell_collector.model import Selection, StackTree
from flamewell_collector.web.answers import file_answer
from flamewell_wire import profile_types

_SVG_MAX_NODES: Final = 20_000
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Format:
    """A file format.

    Attributes:
        name: As in the ``format`` parameter.
        suffix: Of the file's name.
        content_type: Of the answer.
        encode: Makes the file of a merged profile and what was selected.
    """

    name: str
    suffix: str
    content_type: str
    encode: Callable[[StackTree, Selection], bytes]


def _pprof(tree: StackTree, selection: Selection) -> bytes:
    length = selection.end_ms - selection.start_ms
    return pprof.encode(tree, selection.type_id, selection.start_ms, length)


def _folded(tree: StackTree, _selection: Selection) -> bytes:
    return folded.encode(tree).encode("utf-8", "replace")


def _speedscope(tree: StackTree, selection: Selection) -> bytes:
    return speedscope.encode(tree, selection.type_id, name=title_of(selection))


def _parquet(tree: StackTree, selection: Selection) -> bytes:
    return parquet.encode(tree, selection.type_id)


def _svg(tree: StackTree, selection: Selection) -> bytes:
    columns = flamegraph.build(tree, max_nodes=_SVG_MAX_NODES)
    unit = profile_types.parse_id(selection.type_id).sample_unit
    drawn = svg.encode(columns, unit=unit, title=title_of(selection), subtitle=_subtitle(selection))
    return drawn.encode("utf-8", "replace")


FORMATS: Final = (
    Format("pprof", ".pb.gz", "application/octet-stream", _pprof),
    Format("folded", ".folded.txt", "text/plain; charset=utf-8", _folded),
    Format("speedscope", ".speedscope.json", "application/json", _speedscope),
    Format("parquet", ".parquet", "application/vnd.apache.parquet", _parquet),
    Format("svg", ".svg", "image/svg+xml; charset=utf-8", _svg),
)


def format_named(name: str) -> Format:
    """Give a format by its name.

    Raises:
        QueryError: There is none of that name.
    """
    for each in FORMATS:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in FORMATS)
    raise QueryError(f"format is {name[:40]!r}, one of {known} is expected")


def export(chosen: Format, tree: StackTree, selection: Selection) -> Response:
    """Answer with a merged profile as a file."""
    begin = datetime.fromtimestamp(selection.start_ms / 1_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = ("flamewell", title_of(selection), selection.type_id.split(":")[1], begin)
    name = "-".join(_UNSAFE.sub("_", each)[:60] for each in parts)
    return file_answer(
        chosen.encode(tree, selection), content_type=chosen.content_type, name=name + chosen.suffix
    )


def title_of(selection: Selection) -> str:
    """Give the service that a selection names, or words for what it does select."""
    for matcher in selection.matchers:
        if matcher.name == "service_name" and matcher.operator == "=":
            return matcher.value
    return "selected services" if selection.matchers else "all services"


def _subtitle(selection: Selection) -> str:
    begin, end = (
        datetime.fromtimestamp(at / 1_000, UTC).isoformat(sep=" ", timespec="seconds")
        for at in (selection.start_ms, selection.end_ms)
    )
    return f"{selection.type_id}, {begin} to {end}"
