"""The page's pure modules, run in the browser they are made for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from end_to_end.fake_api import serving
from end_to_end.fake_profiles import EVIL_NAMES
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def modules(browser: Browser) -> Iterator[Page]:
    """One empty document for all: pure modules leave nothing behind in it."""
    with serving([]) as api, browser.new_page() as page:
        page.goto(f"{api.url}/blank")
        yield page


def call(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """Call an exported function."""
    return page.evaluate(
        "async ([module, name, values]) => (await import(`/static/js/${module}`))[name](...values)",
        [module, function, list(arguments)],
    )


def graph(**sides: list[int]) -> dict[str, Any]:
    #  total(0) ─ a ─ b ─ a
    #           │   └ c
    #           └ c
    return {
        "type": "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
        "unit": "nanoseconds",
        "kind": "delta",
        "from_ms": 0,
        "until_ms": 10_000,
        "base_from_ms": 0,
        "base_until_ms": 20_000,
        "pruned": False,
        "functions": ["total", "a", "b", "c"],
        "files": ["", "a.py", "b.py", "c.py"],
        "lines": [0, 1, 2, 3],
        "name": [0, 1, 2, 1, 3, 3],
        "depth": [0, 1, 2, 3, 2, 1],
        **sides,
    }


SELF = [0, 1, 2, 3, 4, 10]


def test_totals_parents_and_ends_come_from_columns(modules: Page) -> None:
    found = modules.evaluate(
        """async (graph) => {
          const { buildModel } = await import("/static/js/flame/model.js");
          const { total, parent, end, maxDepth } = buildModel(graph);
          return { total: [...total], parent: [...parent], end: [...end], maxDepth };
        }""",
        graph(self=SELF),
    )
    assert found == {
        "total": [20, 10, 5, 3, 4, 10],
        "parent": [-1, 0, 1, 2, 1, 0],
        "end": [6, 5, 4, 4, 5, 6],
        "maxDepth": 3,
    }


def test_random_trees_have_the_totals_that_a_plain_sum_gives(modules: Page) -> None:
    chance = random.Random(7)
    for _ in range(20):
        depth = [0]
        for _ in range(chance.randint(0, 60)):
            depth.append(chance.randint(1, depth[-1] + 1))
        own = [chance.randint(0, 9) for _ in depth]
        expected = []
        for at, level in enumerate(depth):
            end = at + 1
            while end < len(depth) and depth[end] > level:
                end += 1
            expected.append(sum(own[at:end]))
        found = modules.evaluate(
            """async ([depth, self]) => {
              const { shape, totals } = await import("/static/js/flame/model.js");
              const { parent } = shape(Int32Array.from(depth));
              return [...totals(Float64Array.from(self), parent)];
            }""",
            [depth, own],
        )
        assert found == expected


def test_bars_lie_inside_their_parents_and_side_by_side(modules: Page) -> None:
    found = modules.evaluate(
        """async (graph) => {
          const { buildModel } = await import("/static/js/flame/model.js");
          const { layOut } = await import("/static/js/flame/layout.js");
          const { start, width } = layOut(buildModel(graph), "share");
          return [[...start], [...width]];
        }""",
        graph(self=SELF),
    )
    start, width = found
    assert width == pytest.approx([1, 0.5, 0.25, 0.15, 0.2, 0.5])
    assert start == pytest.approx([0, 0, 0, 0, 0.25, 0.5])


@pytest.mark.parametrize(
    ("pattern", "total", "nodes"),
    [("^a$", 10, 1), ("b", 5, 1), ("c", 14, 2), ("b|c", 19, 3), ("a.py", 10, 1), ("nothing", 0, 0)],
)
def test_nested_matches_count_once(modules: Page, pattern: str, total: int, nodes: int) -> None:
    found = modules.evaluate(
        """async ([graph, pattern]) => {
          const { buildModel } = await import("/static/js/flame/model.js");
          const search = await import("/static/js/flame/search.js");
          const model = buildModel(graph);
          const matched = search.matchNames(model, search.compile(pattern).regex);
          return search.matchedSum(model, matched, 0);
        }""",
        [graph(self=SELF), pattern],
    )
    assert (found["total"], found["nodes"]) == (total, nodes)


def test_a_diff_is_on_one_scale_even_if_the_ranges_are_not_equally_long(modules: Page) -> None:
    twice = [2 * value for value in SELF]
    scales = modules.evaluate(
        """async (graph) => {
          const { buildModel } = await import("/static/js/flame/model.js");
          const { diffScales } = await import("/static/js/flame/layout.js");
          const model = buildModel(graph);
          return ["share", "rate"].map((mode) => diffScales(model, mode));
        }""",
        graph(self=SELF, base_self=twice),
    )
    # Twice the amount in twice the time: the same rate, and the same shares.
    assert scales[0]["now"] == pytest.approx(2 * scales[0]["base"])
    assert scales[1]["now"] == pytest.approx(2 * scales[1]["base"])


def test_diff_colours_follow_the_change(modules: Page) -> None:
    assert call(modules, "flame/colors.js", "diffStyle", 1, 1) == 5
    assert call(modules, "flame/colors.js", "diffStyle", 1, 0) == 10
    assert call(modules, "flame/colors.js", "diffStyle", 0, 1) == 0
    assert call(modules, "flame/colors.js", "diffStyle", 0, 0) == 5
    for theme in ("light", "dark"):
        fills = call(modules, "flame/colors.js", "diffFills", theme)
        assert len(set(fills)) == 11


@pytest.mark.parametrize(
    ("function", "file", "package"),
    [
        ("loads", "/usr/lib/python3.12/json/__init__.py", "json"),
        ("handle", "/venv/lib/python3.12/site-packages/flask/app.py", "flask"),
        ("checkout", "/srv/shop/orders.py", "orders"),
        ("[no GIL / native]", "", ""),
        ("[native]", "", ""),
        ("malloc", "malloc.c", ""),
        ("main.(*priceList).linePrice", "/srv/orders/main.go", "main"),
        ("net/http.(*conn).serve", "", "net/http"),
        ("(12 smaller)", "", ""),
    ],
)
def test_packages(modules: Page, function: str, file: str, package: str) -> None:
    assert call(modules, "flame/colors.js", "packageOf", function, file) == package


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nanoseconds", "0 s"), (1_500, "nanoseconds", "1.50 µs"),
        (61e9, "nanoseconds", "1.02 min"), (0, "bytes", "0 B"),
        (1023, "bytes", "1023 B"), (412 * 2**20, "bytes", "412 MiB"),
        (999, "count", "999"), (12_300, "count", "12.3 k"),
    ],
)  # fmt: skip
def test_amounts(modules: Page, value: float, unit: str, text: str) -> None:
    assert call(modules, "format.js", "amount", value, unit) == text


def test_small_shares_are_not_called_nothing(modules: Page) -> None:
    assert call(modules, "format.js", "share", 1, 1e9) == "< 0.01 %"
    assert call(modules, "format.js", "share", 342, 1000) == "34.2 %"
    assert call(modules, "format.js", "share", 0, 1000) == "0.00 %"
    assert call(modules, "format.js", "share", 1, 0) == "\N{EN DASH}"


def test_what_can_not_be_seen_in_a_name_is_shown(modules: Page) -> None:
    assert call(modules, "format.js", "visible", EVIL_NAMES[2]) == "⟨202E⟩gnp.exe"
    assert call(modules, "format.js", "visible", EVIL_NAMES[3]) == "a⟨000A⟩b⟨0009⟩c⟨0000⟩d"


@pytest.mark.parametrize(
    ("service", "typed", "selector"),
    [
        ("shop", "", '{service_name="shop"}'),
        ("", 'node="n1"', '{node="n1"}'),
        ("shop", ' { node="n1" } ', '{node="n1", service_name="shop"}'),
        ('a"b\\c\n', "", '{service_name="a\\"b\\\\c\\n"}'),
        ("", "{node=", "{{node=}"),
    ],
)
def test_selectors(modules: Page, service: str, typed: str, selector: str) -> None:
    assert call(modules, "selector.js", "compose", service, typed) == selector


def test_a_state_survives_its_address(modules: Page) -> None:
    state = {
        "service": "<b>&=#%", "type": "memory:inuse_space:bytes:space:bytes",
        "selector": 'node=~"n.*"', "from": "now-6h", "until": "1700000000000",
        "range": [1, 2], "compare": True, "base": [3, 4], "baseSelector": "{}", "scale": "rate",
        "zoom": "3.abc", "search": "a|b", "view": "table", "flipped": True, "live": False,
    }  # fmt: skip
    fragment = call(modules, "state.js", "encode", state)
    assert call(modules, "state.js", "decode", f"#{fragment}") == state


def test_nonsense_in_an_address_is_the_default(modules: Page) -> None:
    defaults = call(modules, "state.js", "decode", "")
    nonsense = "#range=9-1&base=x&scale=cubic&view=sideways&__proto__=1&constructor=2"
    assert call(modules, "state.js", "decode", nonsense) == defaults


@pytest.mark.parametrize("pattern", ["(", "[", "*", "a" * 301])
def test_a_pattern_that_is_none_says_so(modules: Page, pattern: str) -> None:
    found = modules.evaluate(
        """async (pattern) => {
          const { regex, error } = (await import("/static/js/flame/search.js")).compile(pattern);
          return [regex === null, error];
        }""",
        pattern,
    )
    assert found[0]
    assert found[1]


def test_times_as_they_are_typed(modules: Page) -> None:
    now = 1_800_000_000_000
    assert call(modules, "timerange.js", "toMs", "now", now) == now
    assert call(modules, "timerange.js", "toMs", "now - 90m", now) == now - 5_400_000
    assert call(modules, "timerange.js", "toMs", "1700000000000", now) == 1_700_000_000_000
    assert call(modules, "timerange.js", "readRange", "now", "now-1h", now)["error"]
    assert call(modules, "timerange.js", "readRange", "yesterday", "now", now)["error"]
    absolute = call(modules, "timerange.js", "readRange", "2026-11-22 21:05", "now", now)
    assert absolute["from"].isdigit()
    assert absolute["until"] == "now"
