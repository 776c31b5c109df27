"""Candidates, inputs and results for the governor's tests."""

from __future__ import annotations

from typing import Any

from flamewell_agent.governor import Candidate, Cost, Decision, Inputs
from flamewell_agent.model import Frame, Process, ProcessKey, Window, WindowResult

CORE = 1_000_000_000
"""A whole core, in ns of CPU a second."""
CYCLE = 15
KNOWN = Cost(0.015, 0.00014, 0.0)


def process(pid: int, executable: str = "python") -> Process:
    return Process(ProcessKey(pid, 1), "cpython", "3.11", executable, ())


def candidate(pid: int, cores: float, *, waited: int = 0, cost: Cost | None = None, **more: Any):
    return Candidate(process(pid), cores * CORE, waited, cost, **more)


def inputs(candidates, *, allowance: float = 0.3, **more: Any) -> Inputs:
    return Inputs(
        candidates,
        window_seconds=CYCLE,
        allowance_cpu_seconds=allowance,
        **{"max_rate_hz": 97, "headroom": 1.0, **more},
    )


def rates(decision: Decision) -> dict[int, int]:
    return {each.process.key.pid: each.rate_hz for each in decision.windows if each.kind == "cpu"}


def reasons(decision: Decision) -> dict[int, str]:
    return {each.key.pid: reason for each, reason in decision.skipped}


def result(cpu_seconds: float, looks: int, **more: Any) -> WindowResult:
    window = {"kind": "cpu", "native": False, **more.pop("window", {})}
    return WindowResult(
        Window(process(1), 97, CYCLE, 0.1, **window),
        **{"samples": (((Frame("f"),), looks),), "intervals": looks, **more},
        cpu_seconds=cpu_seconds,
        wall_seconds=15.1,
    )
