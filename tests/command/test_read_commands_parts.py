"""The pure parts of the read commands: times, types, selectors, amounts, widths."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell.amounts import amount, cores, duration, percent
from flamewell.answers import subtree_sums
from flamewell.client import is_loopback, parse_url
from flamewell.errors import UsageError
from flamewell.selection import build_query, parse_span, parse_time_ms, parse_type
from flamewell.tables import Column, render_table
from flamewell.terminal import Terminal, cut, cut_front, harmless, pad, width
from flamewell_wire.profile_types import ALL

NOW = 1_772_359_200_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("now-1h", NOW - 3_600_000),
        ("now+30s", NOW + 30_000),
        ("1h30m", NOW - 5_400_000),
        ("1.5h", NOW - 5_400_000),
        ("2w", NOW - 14 * 86_400_000),
        ("1700000000", 1_700_000_000_000),
        ("1700000000123", 1_700_000_000_123),
        ("2026-03-01T10:00:00+00:00", 1_772_359_200_000),
        ("2026-03-01T10:00:00Z", 1_772_359_200_000),
    ],
)
def test_times(text, expected) -> None:
    assert parse_time_ms(text, NOW) == expected


def test_a_date_without_a_zone_is_local_time() -> None:
    expected = datetime(2026, 3, 1, 10, 0, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert parse_time_ms(expected.isoformat(), NOW) == 1_772_359_200_000


@pytest.mark.parametrize("text", ["", "soon", "1y", "-1h", "now-", "now-1", "2026-13-01", "1h 5"])
def test_no_times(text) -> None:
    with pytest.raises(UsageError):
        parse_time_ms(text, NOW)


def test_a_span_has_two_ends() -> None:
    span = parse_span("2h..1h", NOW)
    assert (span.from_ms, span.until_ms) == (NOW - 7_200_000, NOW - 3_600_000)
    assert parse_span("2h..", NOW).until_ms == NOW


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.id)
def test_every_type_is_named_by_id_and_by_two_words(kind) -> None:
    assert parse_type(kind.id) is kind
    assert parse_type(f"{kind.name}:{kind.sample_type}") is kind


def test_types_by_one_word() -> None:
    assert parse_type("cpu").name == "process_cpu"
    assert parse_type("goroutine").sample_type == "goroutine"
    assert parse_type("heap:live:bytes:space:bytes").name == "heap"
    with pytest.raises(UsageError, match=r"mutex:delay or block:delay"):
        parse_type("delay")
    with pytest.raises(UsageError, match="mutex:contentions or mutex:delay"):
        parse_type("mutex")


@pytest.mark.parametrize(
    ("service", "selector", "expected"),
    [
        (None, None, "{}"),
        (None, "{}", "{}"),
        ("a", None, '{service_name="a"}'),
        ("a", 'x=~"y.*"', '{x=~"y.*", service_name="a"}'),
        (None, ' {x="}"} ', '{x="}"}'),
        ("a\nb", None, '{service_name="a\\nb"}'),
    ],
)
def test_selectors(service, selector, expected) -> None:
    assert build_query(service, selector) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host:1/", "http://host:1"),
        ("host:4040", "http://host:4040"),
        ("https://host/prefix/", "https://host/prefix"),
    ],
)
def test_urls(text, expected) -> None:
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    "text", ["ftp://host", "http://", "http://h?x=1", "http://a b", "http://[::1"]
)
def test_no_urls(text) -> None:
    with pytest.raises(UsageError):
        parse_url(text)


def test_loopback() -> None:
    assert all(map(is_loopback, ["http://127.0.0.1:1", "http://localhost", "http://[::1]:4"]))
    assert not any(map(is_loopback, ["http://10.0.0.1", "http://localhost.example.com"]))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nanoseconds", "0 ns"),
        (1_234, "nanoseconds", "1.23 µs"),
        (999_999_999, "nanoseconds", "1,000 ms"),
        (1536, "bytes", "1.50 KiB"),
        (-5 << 20, "bytes", "-5.00 MiB"),
        (12_345, "count", "12,345"),
        (12_345_678, "count", "12.3 M"),
    ],
)
def test_amounts(value, unit, text) -> None:
    assert amount(value, unit) == text


def test_other_numbers() -> None:
    assert (cores(0), cores(0.25), cores(12.34), cores(0.00123)) == (
        "0 cores",
        "0.250 cores",
        "12.3 cores",
        "0.00123 cores",
    )
    assert (percent(1, 3), percent(1, 0)) == ("33.3 %", "0.0 %")
    assert [duration(each) for each in (500, 90_000, 90_061_000)] == [
        "500 ms",
        "1 min 30 s",
        "1 d 1 h",
    ]


@given(st.text())
def test_harmless_text_is_printable_and_stays_if_it_was(text) -> None:
    shown = harmless(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@given(st.text(), st.integers(1, 20))
def test_cut_text_fits(text, cells) -> None:
    shown = harmless(text)
    assert width(cut(shown, cells)) <= cells
    assert width(cut_front(shown, cells)) <= cells
    assert width(pad(cut(shown, cells), cells)) == cells


def test_wide_characters_take_two_cells() -> None:
    assert width("日本e\u0301") == 5
    assert cut("日本語", 4) == "日…"
    assert cut_front("/a/b/c.py", 6) == "…/c.py"


def test_a_table_shrinks_names_before_numbers() -> None:
    columns = [
        Column("N", right=True),
        Column("NAME", shrink=cut),
        Column("WHERE", shrink=cut_front),
    ]
    rows = [("12345", "f" * 60, "/very/long/path/to/a/file.py:12")]
    (head, line) = render_table(columns, rows, Terminal(50, colour=False, unicode=True))
    assert width(line) <= 50
    assert line.startswith("12345  fff")
    assert line.endswith("file.py:12")
    assert head.split() == ["N", "NAME", "WHERE"]


@given(st.lists(st.integers(0, 5), max_size=30), st.data())
def test_subtree_sums_are_own_and_children(steps, data) -> None:
    depth = [0]
    for step in steps:
        depth.append(1 + min(step, depth[-1]))
    own = [data.draw(st.integers(0, 9)) for _ in depth]
    for row, total in enumerate(subtree_sums(depth, own)):
        end = next((at for at in range(row + 1, len(depth)) if depth[at] <= depth[row]), len(depth))
        assert total == sum(own[row:end])
