"""Draws what store_queries.py measured: cost by range and by rows. Needs matplotlib.

Usage: python bench/store_queries.py --data-dir DIR --json > queries.json
       python bench/store_plot.py queries.json docs/img/store-queries.svg
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

_RANGE = re.compile(r"flame graph, (\d+) h")
_WEEK = 168
_ROLLED_UP, _RAW, _PLAIN = "#2563eb", "#d97706", "#6b7280"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw two panels: time by range, CPU by raw rows."""
    # Not among the project's dependencies: only this program draws.
    importlib.import_module("matplotlib").use("svg")
    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams.update({"svg.hashsalt": "flamewell", "font.size": 9, "svg.fonttype": "none"})
    figure, (by_range, by_rows) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    _draw_ranges(by_range, found)
    _draw_rows(by_rows, found)
    figure.savefig(path, metadata={"Date": None})


def _draw_ranges(axes: Any, found: dict[str, Any]) -> None:
    points = []
    for each in found["warm"]:
        name = _RANGE.fullmatch(each["question"])
        if name:
            points.append((int(name[1]), each["p50_ms"], each["p99_ms"], each["cpu_p50_ms"]))
    hours, p50, p99, _ = zip(*sorted(points), strict=True)
    axes.plot(hours, p50, "o-", color=_ROLLED_UP, label="as the page asks, p50")
    axes.plot(hours, p99, "o:", color=_ROLLED_UP, label="as the page asks, p99")
    raw = found["growth"]["points"]
    axes.plot(
        [each["hours"] for each in raw], [each["wall_ms"] for each in raw], "s-", color=_RAW,
        label="raw rows, p50",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(hours, [f"{each} h" if each < _WEEK else "7 days" for each in hours])
    axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.set_title("Flame graph of one service, over HTTP")
    axes.set_xlabel("range")
    axes.set_ylabel("ms")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)


def _draw_rows(axes: Any, found: dict[str, Any]) -> None:
    law, points = found["growth"], found["growth"]["points"]
    rows = [each["rows"] / 1e6 for each in points]
    axes.plot(rows, [each["cpu_ms"] for each in points], "s", color=_RAW, label="measured")
    line = [law["fixed_cpu_ms"] + law["cpu_ns_a_row"] * each for each in rows]
    name = f"{law['fixed_cpu_ms']:.0f} ms + {law['cpu_ns_a_row']:.0f} ns a row"
    axes.plot(rows, line, "-", color=_RAW, label=name)
    plain = [each for each in found["baselines"] if each["way"] == "plain Parquet, DuckDB"]
    by_hours = {each["hours"]: each["rows"] / 1e6 for each in points}
    known = [each for each in plain if each["hours"] in by_hours]
    if known:
        axes.plot(
            [by_hours[each["hours"]] for each in known], [each["cpu_ms"] for each in known],
            "^--", color=_PLAIN, label="plain Parquet, DuckDB (merge alone)",
        )  # fmt: skip
    axes.set_title("CPU of a flame graph by raw rows")
    axes.set_xlabel("million rows")
    axes.set_ylabel("CPU ms")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)


def main() -> None:
    """Read the figures and draw them."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
