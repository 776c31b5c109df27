"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``warn``: works in part; ``fail``: the agent cannot do its work.
        detail: What was seen.
        mend: What to do about it, empty where nothing.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


def render(check: Check) -> str:
    """Show a finding as one line, with a second one that says how to mend it. Pure."""
    line = f"{check.status:<5} {check.name}: {check.detail}"
    return f"{line}\n      → {check.mend}" if check.mend else line
