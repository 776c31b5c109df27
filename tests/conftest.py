"""What holds for every test: nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture(autouse=True)
def _leaves_no_process_and_no_thread() -> Iterator[None]:
    """Fail a test that leaves a child process or a non-daemon thread behind."""
    processes = _children()
    threads = _threads()
    yield
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (_children() - processes or _threads() - threads):
        time.sleep(0.02)
    assert not _children() - processes, "child processes are left behind"
    assert not _threads() - threads, "threads are left behind"


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def _threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if not each.daemon}
