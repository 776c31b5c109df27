"""Questions to a data folder while no collector runs: the collector's own code, without a server.

A folder is opened as a collector opens it, which clears up what a crash left; the log stays as it
is. Retention and compaction do not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import orjson

from flamewell_collector.analysis import flamegraph
from flamewell_collector.analysis import top as tops
from flamewell_collector.app import make_engine, make_leak_watch, now_ms, storage_options
from flamewell_collector.config import CollectorConfig
from flamewell_collector.errors import StorageError
from flamewell_collector.exports.amounts import amount_text, share_text
from flamewell_collector.query import Query
from flamewell_collector.store.opening import open_storage
from flamewell_collector.store.writer import BLOCKS_FOLDER
from flamewell_collector.web import api_answers, exporting
from flamewell_collector.web import leaks as leak_answers
from flamewell_collector.web.otlp import TENANT
from flamewell_collector.web.parameters import DEFAULT_ROWS, MAX_ROWS, Parameters

Answer = Mapping[str, Any]
"""What the HTTP API would answer."""

_BAR_WIDTH: Final = 30
_NAME_WIDTH: Final = 100


@contextmanager
def offline_query(config: CollectorConfig) -> Iterator[Query]:
    """Open a data folder for questions.

    Raises:
        StorageError: It is no data folder, or a collector uses it.
    """
    if config.store_url:
        config = replace(config, read_only=True)
    elif not (config.data_path / BLOCKS_FOLDER).is_dir():
        raise StorageError(
            f"{config.data_path} is no data folder of a collector: name one with --data-dir"
        )
    storage = open_storage(config.data_path, storage_options(config))
    try:
        engine = make_engine(config, storage)
        try:
            yield Query(storage, engine, clock=now_ms, observe=lambda _name, _seconds: None)
        finally:
            engine.close()
    finally:
        storage.close(flush=False)


def parameters(values: Mapping[str, str]) -> Parameters:
    """Read what a command line asks for just as parameters of a request are read."""
    return Parameters(values, TENANT, now_ms())


def services(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/services."""
    span = asked.span()
    return api_answers.services(query.services(asked.tenant, span.start_ms, span.end_ms))


def profile_types(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/profile-types."""
    return api_answers.types(query.type_ids(asked.selection(any_type=True)))


def labels(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/labels."""
    return {"values": query.label_names(asked.selection(any_type=True))}


def label_values(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/label-values."""
    name = asked.required("label")
    return {"values": query.label_values(asked.selection(any_type=True), name)}


def series(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/series."""
    return api_answers.series(query.series(asked.selection(any_type=True)))


def timeline(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/timeline."""
    selection = asked.selection()
    line = query.timeline(selection, step_ms=asked.step_ms(asked.span()))
    return api_answers.timeline(line, selection)


def flame_graph(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/flamegraph."""
    selection = asked.selection()
    columns = flamegraph.build_together(
        query.merge_services(selection), max_nodes=asked.max_nodes()
    )
    return api_answers.flame_graph(columns, selection)


def top(query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/top."""
    selection = asked.selection()
    limit = asked.integer("limit", DEFAULT_ROWS, low=1, high=MAX_ROWS)
    table = tops.top(query.merge_services(selection), limit=limit)
    return api_answers.top(table, selection)


def leaks(config: CollectorConfig, query: Query, asked: Parameters) -> Answer:
    """Answer as /api/v1/leaks: what a collector that runs at the end of the span would say.

    A collector's own state is taken up where it fits; it is left as it is.
    """
    watch = make_leak_watch(config, query, now=lambda: asked.span().end_ms)
    watch.refresh()
    tier, service = asked.text("tier"), asked.text("service")
    return leak_answers.answer(watch.found, tier=tier, service=service, url=config.url)


def export(query: Query, asked: Parameters) -> bytes:
    """Give the file that /api/v1/export gives."""
    chosen = exporting.format_named(asked.text("format", "pprof"))
    selection = asked.selection()
    return chosen.encode(query.merge(selection), selection)


QUESTIONS: Final[Mapping[str, Callable[[Query, Parameters], Answer]]] = {
    "services": services,
    "profile-types": profile_types,
    "labels": labels,
    "label-values": label_values,
    "series": series,
    "timeline": timeline,
    "flamegraph": flame_graph,
    "top": top,
}


def as_json(answer: Answer) -> str:
    """Write an answer as the HTTP API does."""
    return orjson.dumps(
        answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    ).decode()


def as_text(name: str, answer: Answer) -> Iterator[str]:
    """Show an answer to people, line by line."""
    shown: Mapping[str, Callable[[Answer], Iterable[str]]] = {
        "services": _services_text,
        "profile-types": lambda each: (row["id"] for row in each["types"]),
        "series": _series_text,
        "timeline": _timeline_text,
        "flamegraph": _flame_text,
        "top": _top_text,
        "leaks": _leaks_text,
    }
    lines = shown[name](answer) if name in shown else answer["values"]
    return (_one_line(each) for each in lines)


def _services_text(answer: Answer) -> Iterator[str]:
    for row in answer["services"]:
        cores = "" if row["cpu_cores"] is None else f"{row['cpu_cores']:.3f} cores"
        memory = row["memory_bytes"]
        held = "" if memory is None else amount_text(memory, "bytes")
        yield f"{row['service_name']:<40} {cores:>14} {held:>10}  {row['series']} series"


def _series_text(answer: Answer) -> Iterator[str]:
    for labels_of in answer["series"]:
        yield "{" + ", ".join(f'{name}="{labels_of[name]}"' for name in sorted(labels_of)) + "}"


def _timeline_text(answer: Answer) -> Iterator[str]:
    suffix = "/s" if answer["kind"] == "delta" else ""
    for at, value in enumerate(answer["values"]):
        begin = answer["start_ms"] + at * answer["step_ms"]
        yield f"{begin} " + ("-" if value is None else amount_text(value, answer["unit"]) + suffix)


def _flame_text(answer: Answer) -> Iterator[str]:
    """Draw a line a node: bar, share, total, and the name below its callers."""
    depths, totals = answer["depth"].tolist(), answer["self"].tolist()
    callers = [0] * (max(depths, default=0) + 1)
    parents = []
    for node, depth in enumerate(depths):
        parents.append(callers[depth - 1] if depth else -1)
        callers[depth] = node
    for node in range(len(depths) - 1, 0, -1):
        totals[parents[node]] += totals[node]
    whole = answer["total"]
    for name, depth, total in zip(answer["name"].tolist(), depths, totals, strict=True):
        bar = "█" * (round(_BAR_WIDTH * total / whole) if whole else 0)
        function = "  " * depth + answer["functions"][name][:_NAME_WIDTH]
        amount, share = amount_text(total, answer["unit"]), share_text(total, whole)
        yield f"{bar:<{_BAR_WIDTH}} {share:>7} {amount:>10}  {function}"


def _leaks_text(answer: Answer) -> Iterator[str]:
    if not answer["leaks"]:
        yield f"none of {answer['containers']} containers is suspected to leak memory"
    for row in answer["leaks"]:
        where = row["labels"].get("pod") or row["labels"].get("container") or ""
        yield f"{row['tier']:<10} {row['service_name']} {where}: {row['explanation']}"


def _top_text(answer: Answer) -> Iterator[str]:
    whole, unit = answer["total"], answer["unit"]
    yield f"{'self':>10} {'':>7} {'total':>10} {'':>7}  function"
    for row in answer["rows"]:
        place = f"  {row['file']}:{row['line']}" if row["file"] else ""
        yield (
            f"{amount_text(row['self'], unit):>10} {share_text(row['self'], whole):>7} "
            f"{amount_text(row['total'], unit):>10} {share_text(row['total'], whole):>7}  "
            f"{row['function'][:_NAME_WIDTH]}{place}"
        )


def _one_line(text: str) -> str:
    """Keep control characters of names from the terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
