"""Clocks that were set and machines that slept."""

from __future__ import annotations

import pytest

from flamewell_agent.clock_watch import ClockWatch, Reading, compare

BEFORE = Reading(wall=1_000.0, monotonic=50.0, boot=70.0)


@pytest.mark.parametrize(
    ("wall", "monotonic", "boot", "kinds"),
    [
        (1_015.0, 65.0, 85.0, ()),
        (1_015.4, 65.0, 85.0, ()),  # slewed
        (4_615.0, 65.0, 85.0, ("forward",)),
        (915.0, 65.0, 85.0, ("backward",)),
        (1_615.0, 65.0, 685.0, ("suspended",)),
        (1_015.0, 65.0, 685.0, ("backward", "suspended")),
    ],
)
def test_what_happened_between_two_looks(wall, monotonic, boot, kinds):
    jump = compare(BEFORE, Reading(wall, monotonic, boot))
    assert (jump.kinds if jump else ()) == kinds


def test_sizes_are_told():
    jump = compare(BEFORE, Reading(1_700.0, 65.0, 685.0))
    assert jump is not None
    assert jump.wall_step_seconds == pytest.approx(85)
    assert jump.suspended_seconds == pytest.approx(600)


def test_each_look_starts_anew():
    readings = iter([BEFORE, Reading(2_000, 51, 71), Reading(2_001, 52, 72)])
    watch = ClockWatch(lambda: next(readings))
    assert watch.look() is not None
    assert watch.look() is None


def test_real_clocks_do_not_jump():
    assert ClockWatch().look() is None
