"""The table of ``flamewell-agent targets``: each process, its decision, and what that means."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.identity.container import parse_placement
from flamewell_agent.model import Coverage, ProcessKey
from flamewell_agent.status_server import coverage_row

_NANOS = 1_000_000_000
_SHORT_ID = 12
_EXPLAINED = {
    "memory_only": "neither Python nor Go: no profiler reads it",
    "go_detection_off": "a Go program; set go_endpoints, annotate its pod, or set go_detect",
    "not_permitted": "the agent may not read it: run `flamewell-agent check`",
    "free_threaded": "py-spy does not read free-threaded interpreters",
    "agent_itself": "the agent waits in C while it samples: there is nothing to see",
    "opted_out": 'its pod has the annotation flamewell.dev/profile: "false"',
    "dropped_by_relabelling": "a relabel_configs rule drops it",
    "process_ended": "it ended while it was looked at",
    "interpreter_files_gone": "its libpython was deleted or updated since it started: restart it",
    "idle": "it uses so little CPU that a window would tell nothing",
    "over_budget": "a window would not fit into overhead_budget; its turn comes",
    "waits_for_budget": "a window would not fit into overhead_budget now; its turn comes",
    "no_turn": "others of its kind had the turn; its own comes",
    "sibling_sampled": "another process of the same service was sampled for both",
    "over_memory_ceiling": "its sampler would take more memory than memory_ceiling_bytes allows",
    "over_pause_budget": "native frames would stop it for longer than target_pause_budget",
    "reacts_badly": "it got slower when it was sampled: it is left alone for a while",
    "set_back": "earlier windows failed: it is left alone for a while",
    "too_many_windows": "enough samplers run at once already; its turn comes",
    "no_python_on_cpu": "it was idle, or in native code without the GIL",
    "no_pprof_endpoint": "a Go program that serves no /debug/pprof on its ports",
    "no_listening_port": "a Go program that listens on no port",
    "certificate_not_trusted": "no known authority signed its pprof endpoint's certificate",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are shown; empty: all.

    Attributes:
        service: Shell pattern of the service's name.
        runtime: ``cpython``, ``go`` or ``other``.
        state: ``sampled``, ``skipped`` or ``failed``.
    """

    service: str = ""
    runtime: str = ""
    state: str = ""

    def takes(self, coverage: Coverage) -> bool:
        """Tell whether a row is shown."""
        return (
            (not self.service or fnmatch.fnmatchcase(coverage.service_name, self.service))
            and self.runtime in {"", coverage.process.runtime}
            and self.state in {"", coverage.state}
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A process with its decision.

    Attributes:
        coverage: The decision.
        cpu_percent: Of one core, None where the process is gone.
    """

    coverage: Coverage
    cpu_percent: float | None

    @property
    def place(self) -> str:
        """Where it runs: the container's id, a systemd unit, a Nomad task."""
        placement = parse_placement(self.coverage.process.cgroup)
        return placement.container_id[:_SHORT_ID] or placement.nomad_task or placement.unit

    def as_dict(self) -> dict[str, object]:
        """Give what ``--json`` shows."""
        placement = parse_placement(self.coverage.process.cgroup)
        return {
            **coverage_row(self.coverage),
            "container_id": placement.container_id,
            "pod_uid": placement.pod_uid,
            "unit": placement.unit,
            "cpu_percent": self.cpu_percent,
        }


def measure(
    coverage: Sequence[Coverage],
    seconds: float,
    *,
    read: Callable[[int], int | None] = process_cpu_nanos,
) -> list[Row]:
    """Add the CPU that each process uses, sorted by what is most of interest."""
    before, began = _read_all(coverage, read), time.monotonic()
    threading.Event().wait(seconds)
    after, passed = _read_all(coverage, read), time.monotonic() - began
    rows = []
    for each in coverage:
        key = each.process.key
        first, last = before[key], after[key]
        percent = None
        if first is not None and last is not None and last >= first:
            percent = round(100 * (last - first) / _NANOS / passed, 1)
        rows.append(Row(each, percent))
    return sorted(rows, key=_interest)


def table(rows: Iterable[Row], *, explain: bool = False) -> str:
    """Show rows for people. Pure."""
    heading = ("PID", "RUNTIME", "CPU %", "DECISION", "REASON", "CONTAINER")
    lines = ["{:>8} {:<14} {:>6} {:<8} {:<24} {:<12} SERVICE".format(*heading)]
    reasons: dict[str, None] = {}
    for row in rows:
        each = row.coverage
        runtime = f"{each.process.runtime} {each.process.runtime_version}".strip()
        detail = f"  ({_printable(each.detail)})" if each.detail else ""
        percent = "-" if row.cpu_percent is None else f"{row.cpu_percent:.1f}"
        lines.append(
            f"{each.process.key.pid:>8} {_printable(runtime):<14} {percent:>6} {each.state:<8} "
            f"{each.reason:<24} {_printable(row.place)[:_SHORT_ID] or '-':<12} "
            f"{_printable(each.service_name)}{detail}"
        )
        reasons.setdefault(each.reason)
    if explain:
        known = [(reason, _EXPLAINED[reason]) for reason in reasons if reason in _EXPLAINED]
        if known:
            lines.append("")
            lines += [f"{reason}: {text}" for reason, text in known]
    return "\n".join(lines)


def summary(rows: Sequence[Row], all_count: int) -> str:
    """Count what was decided, on one line. Pure."""
    states = Counter(row.coverage.state for row in rows)
    parts = [f"{states[state]} {state}" for state in ("sampled", "skipped", "failed")]
    reasons = Counter(row.coverage.reason for row in rows if row.coverage.state != "sampled")
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
    shown = f"{len(rows)} processes" if len(rows) == all_count else f"{len(rows)} of {all_count}"
    return f"{shown}: {', '.join(parts)}" + (f" ({told})" if told else "")


def _read_all(
    coverage: Sequence[Coverage], read: Callable[[int], int | None]
) -> dict[ProcessKey, int | None]:
    return {each.process.key: read(each.process.key.pid) for each in coverage}


def _interest(row: Row) -> tuple[int, str, int]:
    """Sort what is sampled first, then what could be, then the rest."""
    each = row.coverage
    order = {"sampled": 0, "failed": 1, "skipped": 2 if each.reason != "memory_only" else 3}
    return order[each.state], each.service_name, each.process.key.pid


def _printable(text: str) -> str:
    """Keep a hostile name from moving the terminal's cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)
