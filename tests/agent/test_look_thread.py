"""A look that never ends keeps nobody waiting for long, and is not tried again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from flamewell_agent.errors import LookHungError
from flamewell_agent.look_thread import HANGS_AT_MOST, LookThread


@pytest.fixture
def server() -> Iterator[threading.Event]:
    """Give an event that looks may wait for, as for a server that is away."""
    event = threading.Event()
    yield event
    event.set()


def test_what_a_look_gives_and_what_it_raises_comes_back():
    looks = LookThread()
    assert looks.run("a", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        looks.run("b", lambda: 1 // 0)
    assert looks.run("c", lambda: sum(range(100_000))) > 0
    assert looks.cpu_seconds > 0
    looks.rest()


def test_one_that_hangs_is_given_up_and_the_others_go_on(server, until):
    looks = LookThread(0.05)
    with pytest.raises(LookHungError):
        looks.run("gone", server.wait)
    assert looks.run("there", lambda: 7) == 7
    assert looks.hung == 1
    with pytest.raises(LookHungError):
        looks.run("gone", lambda: 7)  # not tried
    server.set()
    until(lambda: looks.would_try("gone"))
    assert looks.run("gone", lambda: 7) == 7
    looks.rest()


def test_no_more_than_a_few_threads_hang(server):
    looks = LookThread(0.05)
    before = threading.active_count()
    for at in range(HANGS_AT_MOST + 3):
        with pytest.raises(LookHungError):
            looks.run(str(at), server.wait)
    assert looks.hung == HANGS_AT_MOST
    assert threading.active_count() - before <= HANGS_AT_MOST
