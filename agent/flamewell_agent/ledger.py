"""The coverage ledger: one line a process and cycle, with a reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flamewell_agent.model import Coverage, Process, ProcessKey, WindowResult


def account(
    processes: Sequence[Process],
    *,
    results: Iterable[WindowResult],
    skipped: Iterable[tuple[Process, str]],
    go: Iterable[Coverage],
    service_of: Callable[[Process], str],
    wall_skipped: Iterable[tuple[Process, str]] = (),
) -> list[Coverage]:
    """Give exactly one line for each process.

    Args:
        processes: All of the scan.
        results: Of this cycle's windows.
        skipped: Processes without a window, with the reason.
        go: Lines of the Go sampler.
        service_of: Names a process's service.
        wall_skipped: Processes that should have a wall-clock window and got none, with the reason.
    """
    walls = {process.key: f"no wall-clock window: {reason}" for process, reason in wall_skipped}
    lines: dict[ProcessKey, Coverage] = {each.process.key: each for each in go}
    for process, reason in skipped:
        word, _, detail = reason.partition(":")
        lines[process.key] = Coverage(process, service_of(process), "skipped", word, detail.strip())
    for result in results:
        process = result.window.process
        if result.window.kind == "wall":
            if result.failure:
                walls[process.key] = f"wall-clock window failed: {result.failure}"
            elif (line := lines.get(process.key)) is not None and line.state == "skipped":
                lines[process.key] = replace(line, state="sampled", reason="wall_clock_only")
            continue
        service = service_of(process)
        if result.failure:
            line = Coverage(process, service, "failed", result.failure, result.detail)
        elif not result.samples:
            line = Coverage(process, service, "sampled", "no_python_on_cpu")
        else:
            line = Coverage(process, service, "sampled", f"{result.window.rate_hz}hz")
        lines[process.key] = line
    for key, words in walls.items():
        line = lines.get(key)
        if line is not None:
            detail = f"{line.detail}; {words}" if line.detail else words
            lines[key] = replace(line, detail=detail)
    return [lines.get(each.key) or _unprofiled(each, service_of(each)) for each in processes]


def _unprofiled(process: Process, service: str) -> Coverage:
    word, _, detail = process.unreadable.partition(":")
    if word:
        return Coverage(process, service, "skipped", word, detail.strip())
    return Coverage(process, service, "skipped", "memory_only", "no profiler for it")
