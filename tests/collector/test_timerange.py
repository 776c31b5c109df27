"""Times as clients write them."""

from __future__ import annotations

import pytest

from flamewell_collector.errors import QueryError
from flamewell_collector.timerange import (
    MAX_POINTS,
    TimeRange,
    check_step,
    choose_step_ms,
    make_range,
    parse_time,
)

NOW = 1_795_384_787_979


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("now-1h", NOW - 3_600_000),
        ("now - 30m", NOW - 1_800_000),
        ("now+1h", NOW + 3_600_000),
        ("now-2w", NOW - 1_209_600_000),
        ("now-1d", NOW - 86_400_000),
        ("now-500ms", NOW - 500),
        ("1795384787", 1_795_384_787_000),
        ("1795384787979", NOW),
        ("1795384787979123", NOW),
        ("1795384787979123456", NOW),
        ("0", 0),
    ],
)
def test_reads(text: str, expected: int) -> None:
    assert parse_time(text, now_ms=NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "now-1y", "-5", "1e9", "now-", "٣", "9" * 30])
def test_refuses(text: str) -> None:
    with pytest.raises(QueryError, match="not a time"):
        parse_time(text, now_ms=NOW)


def test_a_range_is_never_empty() -> None:
    assert make_range(1, 2) == TimeRange(1, 2)
    with pytest.raises(QueryError, match="before"):
        make_range(2, 2)


@pytest.mark.parametrize(
    ("seconds", "step"), [(60, 1), (3_600, 30), (86_400, 600), (7 * 86_400, 3_600)]
)
def test_steps_are_round_and_give_about_200_points(seconds: int, step: int) -> None:
    assert choose_step_ms(TimeRange(0, seconds * 1_000)) == step * 1_000


def test_too_many_points_are_refused() -> None:
    span = TimeRange(0, MAX_POINTS * 1_000)
    assert check_step(span, 1_000) == 1_000
    with pytest.raises(QueryError, match="make the step longer"):
        check_step(span, 999)
    for century in (1, 50):
        long = TimeRange(0, century * 100 * 365 * 86_400_000)
        check_step(long, choose_step_ms(long))
