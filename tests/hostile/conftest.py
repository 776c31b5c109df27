"""What the hostile tests take from the agent's: real targets and a real sampler."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from agent.conftest import burning, spawn, spy, until

__all__ = ["burning", "spawn", "spy", "until"]


@pytest.fixture(autouse=True)
def _proc_is_restored() -> Iterator[None]:
    """Discovery tells psutil where /proc is: for the whole process."""
    before = psutil.PROCFS_PATH
    yield
    psutil.PROCFS_PATH = before
