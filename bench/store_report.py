"""Writes measured figures into docs/storage.md, between its markers, so that none is typed by hand.

Usage: python bench/store_size.py --json > size.json
       python bench/store_queries.py --data-dir DIR --json > queries.json
       python bench/store_report.py size.json queries.json docs/storage.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def size_text(found: dict[str, Any]) -> str:
    """Tell what ``store_size.py`` measured."""
    store = found["store"]
    raw, sums = store["bytes_a_sample_by_table"], store["rollup_bytes_a_sample_by_table"]
    tables = [*raw, *(each for each in sums if each not in raw)]
    sizes = [
        (f"`{table}`", _number(raw.get(table), 3), _number(sums.get(table), 3)) for table in tables
    ]
    whole = store["bytes_a_sample"], store["rollup_bytes_a_sample"]
    sizes.append(("**together**", f"**{whole[0]:.2f}**", f"**{whole[1]:.2f}**"))
    plain = [
        (f"plain Parquet by {each['writer']}", _number(each["with_symbols_bytes_a_sample"], 2), "")
        for each in found["plain"]
    ]
    rates = store["rows_a_second_a_core"]
    return "\n\n".join(
        (
            f"{found['machine']}; {store['rows']:,} samples of {found['shape']}.",
            _table(("bytes a sample", "raw", "rollups"), [*sizes, *plain]),
            _table(
                ("rows a second of a core", ""),
                [(stage, f"{rate:,}") for stage, rate in rates.items() if stage != "generate"],
            ),
        )
    )


def query_text(found: dict[str, Any]) -> str:
    """Tell what ``store_queries.py`` measured."""
    first = {each["question"]: each["p50_ms"] for each in found["cold"]}
    warm = [
        (
            each["question"],
            f"{each['rows']:,}" if each["rows"] else "",
            _with_goal(each["p50_ms"], each["goal_p50_ms"]),
            _with_goal(each["p99_ms"], each["goal_p99_ms"]),
            _number(each["cpu_p50_ms"]),
            _number(first.get(each["question"])),
        )
        for each in found["warm"]
    ]
    crowds = [
        (
            str(each["clients"]),
            f"{each['ingest_samples_a_second']:,.0f}",
            _number(each["p50_ms"]),
            _number(each["p99_ms"]),
            f"{each['p99_by_p50']:.1f}",
            _number(each["answers_a_second"]),
        )
        for each in found["crowds"]
    ]
    merges = [
        (each["way"], f"{each['hours']} h", _number(each["wall_ms"]), _number(each["cpu_ms"]))
        for each in found["baselines"]
    ]
    parts = [
        f"{found['machine']}; {found['rows']:,} raw samples; load {found['load'][0]:.1f} before.",
        _table(("", "raw samples", "p50 ms", "p99 ms", "CPU ms", "first, cold ms"), warm),
        _law(found["growth"]),
        _table(
            ("clients", "samples/s coming in", "p50 ms", "p99 ms", "p99 / p50", "answers/s"), crowds
        ),
        _table(("sum of a service's stacks alone", "range", "ms", "CPU ms"), merges),
    ]
    return "\n\n".join(each for each in parts if each)


def _law(law: dict[str, Any]) -> str:
    hours = [each["hours"] for each in law["points"]]
    return (
        f"Raw rows cost {law['fixed_cpu_ms']:.0f} ms and {law['cpu_ns_a_row']:.0f} ns of CPU a row "
        f"(at most {law['off']:.0%} off between {hours[0]} h and {hours[-1]} h)."
    )


def replaced(text: str, name: str, content: str) -> str:
    """Put content between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        SystemExit: The markers are not there.
    """
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(text):
        raise SystemExit(f"no markers <!-- {name} --> … <!-- /{name} -->")
    return marked.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(each)} |" for each in rows]
    if not lines:
        return ""
    rule = f"| --- |{' ---: |' * (len(heads) - 1)}"
    return "\n".join((f"| {' | '.join(heads)} |", rule, *lines))


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return ""
    if digits is None:
        digits = 0 if value >= 10 else 1
    return f"{value:,.{digits}f}"


def _with_goal(value: float, goal: float | None) -> str:
    return _number(value) + (f" (goal {goal:,})" if goal else "")


def main() -> None:
    """Read the figures, write the page."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    size, queries, page = map(Path, sys.argv[1:])
    text = replaced(page.read_text(), "size", size_text(json.loads(size.read_text())))
    page.write_text(replaced(text, "queries", query_text(json.loads(queries.read_text()))))


if __name__ == "__main__":
    main()
