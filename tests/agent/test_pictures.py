"""What stands in for windows that were not run is drawn fairly, bounded, and renewed."""

from __future__ import annotations

from collections import Counter

import pytest

from flamewell_agent.model import Frame, Resource
from flamewell_agent.pictures import PICTURES_AT_MOST, SAMPLES_REMEMBERED, Pictures

A, B = (Frame("a"), Frame("main")), (Frame("b"), Frame("main"))
SHOP = Resource.of({"service.name": "shop"})


def test_few_samples_are_kept_as_they_are_and_added_to():
    pictures = Pictures()
    pictures.add(SHOP, ((A, 3),), 1.0)
    pictures.add(SHOP, ((A, 1), (B, 2)), 0.5)
    picture = pictures.get(SHOP)
    assert picture is not None
    assert dict(picture.samples) == {A: 4, B: 2}
    assert picture.python_share == 0.5
    assert pictures.get(Resource.of({"service.name": "other"})) is None


def test_what_is_drawn_has_the_shares_of_the_windows():
    drawn: Counter[object] = Counter()
    for seed in range(50):
        pictures = Pictures(seed)
        pictures.add(SHOP, ((A, 7_000), (B, 3_000)), 1.0)
        picture = pictures.get(SHOP)
        assert picture is not None
        assert sum(count for _, count in picture.samples) == SAMPLES_REMEMBERED
        drawn.update(dict(picture.samples))
    assert drawn[A] / drawn.total() == pytest.approx(0.7, abs=0.02)


def test_a_new_window_drives_out_an_old_one():
    pictures = Pictures()
    pictures.add(SHOP, ((A, 10_000),), 1.0)
    pictures.add(SHOP, ((B, 10_000),), 1.0)
    picture = pictures.get(SHOP)
    assert picture is not None
    assert dict(picture.samples) == {B: SAMPLES_REMEMBERED}


def test_a_window_without_samples_keeps_the_stacks_and_renews_the_share():
    pictures = Pictures()
    pictures.add(SHOP, ((A, 5),), 1.0)
    pictures.add(SHOP, (), 0.0)
    picture = pictures.get(SHOP)
    assert picture is not None
    assert (dict(picture.samples), picture.python_share) == ({A: 5}, 0.0)


def test_the_number_of_pictures_is_bounded_and_the_oldest_goes():
    pictures = Pictures()
    for at in range(PICTURES_AT_MOST + 5):
        pictures.add(Resource.of({"service.name": f"s{at}"}), ((A, 1),), 1.0)
    assert len(pictures) == PICTURES_AT_MOST
    assert pictures.get(Resource.of({"service.name": "s4"})) is None
    assert pictures.get(Resource.of({"service.name": "s5"})) is not None


def test_equal_frames_are_kept_once():
    pictures = Pictures()
    for at in range(2):
        pictures.add(SHOP, (((Frame(f"leaf{at}"), Frame("ma" + "in")), 1),), 1.0)
    picture = pictures.get(SHOP)
    assert picture is not None
    (first, _), (second, _) = picture.samples
    assert first[1] is second[1]
