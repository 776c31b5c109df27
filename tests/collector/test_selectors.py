"""PromQL matcher lists: what is read, what is refused and where, what matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_collector.errors import SelectorError
from flamewell_collector.model import Matcher
from flamewell_collector.selectors import MAX_MATCHERS, matches, parse_selector


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("{}", ()),
        (" { } ", ()),
        ('{a="b"}', (("a", "=", "b"),)),
        ('{a="b",}', (("a", "=", "b"),)),
        ("{a='b'}", (("a", "=", "b"),)),
        ("{a=`b\\d\"'`}", (("a", "=", "b\\d\"'"),)),
        ('{ a = "b" , c != "d" }', (("a", "=", "b"), ("c", "!=", "d"))),
        ('{a=~"b.*",c!~"d|e"}', (("a", "=~", "b.*"), ("c", "!~", "d|e"))),
        ('{a="}{,="}', (("a", "=", "}{,="),)),
        (r'{a="q\"\\\n\tA\x41é\U0001F525"}', (("a", "=", 'q"\\\n\tAAé🔥'),)),
        ('{k8s.pod.name="x"}', (("k8s.pod.name", "=", "x"),)),
        ('{"app.kubernetes.io/name"="x"}', (("app.kubernetes.io/name", "=", "x"),)),
        ('{a=""}', (("a", "=", ""),)),
    ],
)
def test_reads(text: str, expected: tuple) -> None:
    assert parse_selector(text) == tuple(Matcher(*each) for each in expected)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("a", 1, "starts with {"),
        ("{a=b}", 4, "quoted value"),
        ('{a"b"}', 3, "one of ="),
        ('{a="b" c="d"}', 8, "comma"),
        ('{a="b"', 7, "comma or }"),
        ('{a="b"} x', 9, "nothing may follow"),
        ('{a="b}', 4, "never closed"),
        ("{a=`b}", 4, "never closed"),
        ('{1a="b"}', 2, "label name"),
        ('{,a="b"}', 2, "label name"),
        ('{a=="b"}', 4, "quoted value"),
        (r'{a="\q"}', 5, "escape"),
        (r'{a="\ud800"}', 5, "Unicode"),
        (r'{a="\U00110000"}', 5, "Unicode"),
        ('{a=~"("}', 5, "regular expression"),
        (r'{a=~"(?=x)"}', 5, "regular expression"),
        (r'{a=~"(a)\\1"}', 5, "regular expression"),
        ('{""="b"}', 2, "cannot be empty"),
    ],
)
def test_says_where_and_what(text: str, position: int, words: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert caught.value.position == position
    assert words in str(caught.value)
    assert f"character {position}:" in str(caught.value)


def test_refuses_too_much() -> None:
    with pytest.raises(SelectorError, match="longer than"):
        parse_selector("{" + 'a="b",' * 10_000 + "}")
    with pytest.raises(SelectorError, match=f"more than {MAX_MATCHERS}"):
        parse_selector("{" + 'a="b",' * (MAX_MATCHERS + 1) + "}")


@pytest.mark.parametrize(
    ("operator", "pattern", "value", "expected"),
    [
        ("=", "a", "a", True),
        ("=", "a", "ab", False),
        ("=", "", "", True),
        ("!=", "a", "", True),
        ("!=", "a", "a", False),
        ("=~", "a|b", "b", True),
        ("=~", "a|b", "ab", False),
        ("=~", "a.*", "a\nb", True),
        ("=~", "", "", True),
        ("=~", ".+", "", False),
        ("=~", "é+", "éé", True),
        ("!~", "a.*", "abc", False),
        ("!~", "a.*", "", True),
    ],
)
def test_matches_whole_values(operator: str, pattern: str, value: str, expected: bool) -> None:
    assert matches(Matcher("x", operator, pattern), value) is expected


def test_regexes_take_linear_time() -> None:
    # Backtracking engines need 2^4000 steps for this one; the test's own timeout would end it.
    assert not matches(Matcher("x", "=~", "(a*)*(a|aa)+b"), "a" * 4_000)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    position = 1
    try:
        parse_selector(text)
    except SelectorError as error:
        position = error.position
    assert 1 <= position <= len(text) + 1


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_every_value_can_be_written(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    (matcher,) = parse_selector(f'{{a="{escaped}"}}')
    assert matcher.value == value
