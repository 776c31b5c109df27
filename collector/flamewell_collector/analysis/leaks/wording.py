"""A verdict in one sentence. Pure."""

from __future__ import annotations

import math
from typing import Final

from flamewell_collector.analysis.leaks.detector import STRAIGHT_FIT, Verdict
from flamewell_collector.analysis.leaks.trend import BINS

_SIZES: Final = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
_TIMES: Final = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0))
_SAME: Final = 0.9
_WHOLE_FROM: Final = 100


def explain(verdict: Verdict, *, replicas: int = 1, replicas_growing: int = 1) -> str:
    """Say why, for how long, and when memory will be full.

    Args:
        verdict: Amounts in bytes.
        replicas: Containers of the workload that are there.
        replicas_growing: Of these, how many are suspects as well, this one included.
    """
    evidence = verdict.evidence
    window = evidence.bin_minutes * BINS * 60
    steadily = " steadily" if evidence.fit >= STRAIGHT_FIT else ""
    an_hour = size(evidence.slope_per_second * 3_600)
    parts = [
        f"memory grew{steadily} by {size(evidence.rise)} in {span(window)}",
        f"{an_hour} an hour",
        f"to {_of_limit(verdict)}",
    ]
    beyond = evidence.highest_before
    if math.isfinite(beyond):
        parts.append(f"above all it had before ({size(beyond)})")
    if evidence.order_beside_cpu < _SAME * evidence.order:
        parts.append("partly along with CPU use")
    if evidence.full_in_a_row:
        times = "once" if evidence.full_in_a_row == 1 else f"{evidence.full_in_a_row} times"
        parts.append(f"having run full {times} before")
    if replicas > 1:
        parts.append(f"as do {replicas_growing} of {replicas} containers of the workload")
    when = _when(verdict)
    return ", ".join(parts) + (f"; {when}" if when else "")


def size(value: float) -> str:
    """Show bytes."""
    for name, scale in _SIZES:
        if abs(value) >= scale:
            return f"{_digits(value / scale)} {name}"
    return f"{value:.0f} B"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.3g}"


def span(seconds: float) -> str:
    """Show a length of time in one unit or two."""
    rest, parts = round(seconds), []
    for name, length in _TIMES:
        if rest >= length:
            parts.append(f"{int(rest // length)} {name}")
            rest %= int(length)
    return " ".join(parts[:2]) or "0 s"


def _of_limit(verdict: Verdict) -> str:
    level, limit = verdict.evidence.level, verdict.evidence.limit
    if not math.isfinite(limit):
        return f"{size(level)} (there is no limit)"
    return f"{size(level)}, {level / limit:.0%} of the limit of {size(limit)}"


def _when(verdict: Verdict) -> str:
    evidence = verdict.evidence
    if not math.isfinite(evidence.seconds_to_limit):
        return ""
    text = f"the limit is reached in about {span(evidence.seconds_to_limit)}"
    if math.isfinite(evidence.latest_seconds):
        earliest, latest = span(evidence.earliest_seconds), span(evidence.latest_seconds)
        if earliest != latest:
            text += f" ({earliest} to {latest})"
    return text
