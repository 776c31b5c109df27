"""The SVG export: well-formed, static, and harmless whatever the names are."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from collector.profiles_of_stacks import FRAMES, stacks_strategy, tree_of
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.analysis.flamegraph import build
from flamewell_collector.exports.amounts import amount_text, share_text
from flamewell_collector.exports.svg import encode

MAIN, WORK, _, LIB_WORK, *_ = FRAMES
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    '"><script>alert(1)</script>',
    "' onload='alert(1)",
    "</title></svg><img src=x onerror=alert(1)>",
    "\x00\x1b[31m\x08bell\x07",
    "\u202egnp.exe",
    "]]>&lt;&amp;<!--",
]


def draw(stacks, **names) -> ET.Element:
    text = encode(build(tree_of(stacks)), unit="nanoseconds", **{"title": "pay", **names})
    return ET.fromstring(text)


def bars(picture: ET.Element) -> list[dict]:
    found = []
    for group in picture.iter(f"{SVG}g"):
        rect, title = group.find(f"{SVG}rect"), group.find(f"{SVG}title")
        numbers = {key: float(rect.get(key)) for key in ("x", "y", "width", "height")}
        found.append({**numbers, "title": title.text, "fill": rect.get("fill")})
    return found


def test_a_bar_says_function_place_and_amounts() -> None:
    root, main, work = bars(draw([((MAIN, WORK), 3_000_000_000), ((MAIN,), 1_000_000_000)]))
    assert root["title"] == "total\n4.00 s, 100.0 %; self 0 ns"
    assert main["title"] == "main\napp.py:1\n4.00 s, 100.0 %; self 1.00 s"
    assert work["title"] == "work\napp.py:10\n3.00 s, 75.0 %; self 3.00 s"
    assert root["width"] == main["width"] == pytest.approx(1180)
    assert work["width"] == pytest.approx(885, abs=0.01)
    assert root["y"] < main["y"] < work["y"]


def test_bars_lie_below_their_parents_and_beside_each_other() -> None:
    _, main, one, two, other = bars(
        draw([((MAIN, WORK), 3), ((MAIN, LIB_WORK), 2), ((MAIN,), 4), ((WORK,), 1)])
    )
    assert main["x"] == one["x"]
    assert two["x"] == pytest.approx(one["x"] + one["width"], abs=0.02)
    assert other["x"] == pytest.approx(main["x"] + main["width"], abs=0.02)


def test_the_colour_belongs_to_the_function() -> None:
    first, second = (bars(draw([((MAIN, WORK), n)])) for n in (1, 9))
    assert [each["fill"] for each in first] == [each["fill"] for each in second]
    assert first[1]["fill"] != first[2]["fill"]


def test_what_is_too_narrow_is_counted() -> None:
    stacks = [((MAIN, WORK), 10**9), ((MAIN, LIB_WORK), 1)]
    picture = draw(stacks)
    assert len(bars(picture)) == 3
    assert "too narrow to be drawn: 1 of 4 frames" in "".join(picture.itertext())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    text = encode(
        build(tree_of([(((name, name, 1),), 5)])),
        unit="bytes",
        title=name,
        subtitle=name,
    )
    check_static(ET.fromstring(text))


@given(st.text(max_size=20), st.text(max_size=8))
def test_any_text_is_well_formed_xml(function, file) -> None:
    stacks = [(((function, file, 2),), 5)]
    check_static(draw(stacks, title=function, subtitle=file))


@given(stacks_strategy)
def test_any_profile_is_drawn(stacks) -> None:
    check_static(draw(stacks))


def check_static(picture: ET.Element) -> None:
    tags = {element.tag.removeprefix(SVG) for element in picture.iter()}
    assert tags <= {"svg", "title", "style", "rect", "text", "g"}
    for element in picture.iter():
        assert set(element.attrib) <= {
            *("width", "height", "viewBox", "role", "fill", "class", "x", "y", "rx"),
            "text-anchor",
        }
        if element.tag == f"{SVG}style":
            assert "url(" not in element.text
            assert "@import" not in element.text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nanoseconds", "0 ns"),
        (999, "nanoseconds", "999 ns"),
        (12_345_678, "nanoseconds", "12.3 ms"),
        (90 * 10**9, "nanoseconds", "1.50 min"),
        (3 * 2**20, "bytes", "3.00 MiB"),
        (-2048, "bytes", "-2.00 KiB"),
        (1_234_567, "count", "1,234,567"),
        (5, "parsecs", "5"),
    ],
)
def test_amounts(value, unit, text) -> None:
    assert amount_text(value, unit) == text


def test_a_share_of_nothing_is_nothing() -> None:
    assert share_text(0, 0) == "0.0 %"
