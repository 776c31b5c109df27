"""A batch that breaks the collector, told from a collector that is ill."""

from __future__ import annotations

import pytest

from flamewell_agent.suspects import UNREADABLE, Suspects


@pytest.fixture
def suspects() -> Suspects:
    return Suspects()


def fail(suspects: Suspects, sequence: int, times: int, reason: str = "timeout") -> bool:
    return any(suspects.note_failure(sequence, reason) for _ in range(times))


def test_where_nothing_arrives_nothing_is_given_up(suspects):
    for _ in range(100):
        for sequence in (1, 2, 3):
            assert not fail(suspects, sequence, 10)
    assert suspects.passed_over() == (1, 2, 3)


def test_one_that_fails_while_others_arrive_is_given_up(suspects):
    assert not fail(suspects, 1, 5)
    assert suspects.passed_over() == (1,)
    for other in (2, 3):
        suspects.note_arrival(other)
        assert suspects.passed_over() == ()  # it gets another try
        assert not fail(suspects, 1, 1)
        assert suspects.passed_over() == (1,)
    suspects.note_arrival(4)
    assert fail(suspects, 1, 1)
    assert suspects.passed_over() == ()


def test_one_that_arrives_in_the_end_clears_the_others(suspects):
    fail(suspects, 1, 5)
    fail(suspects, 2, 5)
    suspects.note_arrival(3)
    suspects.note_arrival(1)
    assert suspects.passed_over() == ()
    suspects.note_arrival(4)
    assert not fail(suspects, 2, 4)


@pytest.mark.parametrize("reason", ["status_401", "status_503", "unreachable", "tls"])
def test_what_is_wrong_with_the_way_is_held_against_no_batch(suspects, reason):
    assert not fail(suspects, 1, 100, reason)
    assert suspects.passed_over() == ()


def test_one_that_the_disk_does_not_give_is_passed_over_only(suspects):
    fail(suspects, 1, 5, UNREADABLE)
    for other in range(2, 20):
        suspects.note_arrival(other)
        assert not fail(suspects, 1, 1, UNREADABLE)
    assert suspects.passed_over() == (1,)
    suspects.forget_before(2)
    assert suspects.passed_over() == ()
