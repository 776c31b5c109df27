"""The shared names and schemas."""

from __future__ import annotations

import pytest

from flamewell_wire import pprof, profile_types


def test_ids_are_unique_and_parse_back():
    assert len(profile_types.BY_ID) == len(profile_types.ALL)
    for each in profile_types.ALL:
        assert profile_types.parse_id(each.id) is each


def test_unknown_types_are_deltas_unless_they_are_in_use_amounts():
    assert profile_types.parse_id("a:b:c:d:e").kind == "delta"
    assert profile_types.parse_id("a:inuse_b:c:d:e").kind == "gauge"


@pytest.mark.parametrize("text", ["", "cpu", "a:b:c:d", "a:b:c:d:e:f"])
def test_a_malformed_id_says_what_is_expected(text):
    with pytest.raises(ValueError, match="five parts"):
        profile_types.parse_id(text)


def test_pprof_field_numbers_by_known_bytes():
    # sample_type = {type: 1, unit: 2}; string_table "", "cpu"; period = 10_000_000
    raw = b"\x0a\x04\x08\x01\x10\x02" + b"\x32\x00" + b"\x32\x03cpu" + b"\x60\x80\xad\xe2\x04"
    profile = pprof.Profile.FromString(raw)
    assert (profile.sample_type[0].type, profile.sample_type[0].unit) == (1, 2)
    assert list(profile.string_table) == ["", "cpu"]
    assert profile.period == 10_000_000
    assert profile.SerializeToString() == raw
