"""The flame graph and its table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from end_to_end.fake_api import FakeApi, serving
from end_to_end.fake_profiles import SHOP_TOTAL, deep, large
from end_to_end.page_parts import bar, colour, frame, opened, settled, state, wait_for_state
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def big() -> Iterator[FakeApi]:
    with serving([large(20_000), deep(300)]) as running:
        yield running


def test_bars_are_as_wide_as_their_share(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api, "service=shop&from=now-10m")
    whole = page.evaluate("document.getElementById('scroller').clientWidth")
    checkout, native = bar(page, "checkout"), bar(page, "[no GIL / native]")
    assert native.width / whole == pytest.approx(80e6 / SHOP_TOTAL, abs=0.001)
    assert colour(page, checkout) != colour(page, native)
    red, green, blue = colour(page, native)
    assert max(red, green, blue) - min(red, green, blue) < 8, "what is no program's code is grey"


def test_a_module_has_one_hue(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    first, second = colour(page, bar(page, "price_cart")), colour(page, bar(page, "execute"))
    again = colour(page, bar(page, "price_cart"))
    assert first == again
    assert first != second


def test_the_box_beside_the_pointer(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.mouse.move(*bar(page, "execute").middle)
    tooltip = page.locator("#tooltip")
    expect(tooltip).to_be_visible()
    expect(tooltip).to_contain_text("execute")
    expect(tooltip).to_contain_text("psycopg/cursor.py:17")
    expect(tooltip).to_contain_text(" %")
    expect(tooltip).to_contain_text("Self")
    expect(tooltip).not_to_contain_text("Of zoom")
    page.mouse.click(*bar(page, "checkout").middle)
    wait_for_zoom(page, "checkout")
    page.mouse.move(*bar(page, "execute").middle)
    expect(tooltip).to_contain_text("Of zoom")
    page.mouse.move(5, 5)
    expect(tooltip).to_be_hidden()


def wait_for_zoom(page: Page, function: str) -> None:
    expect(page.locator("#crumbs b")).to_have_text(function)
    frame(page)


def test_a_click_zooms_and_escape_and_crumbs_lead_back(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    whole = page.evaluate("document.getElementById('scroller').clientWidth")
    page.mouse.click(*bar(page, "dispatch_request").middle)
    wait_for_zoom(page, "dispatch_request")
    assert bar(page, "dispatch_request").width == pytest.approx(whole, abs=1)
    page.mouse.click(*bar(page, "price_cart").middle)
    wait_for_zoom(page, "price_cart")
    assert "zoom" in state(page)
    page.keyboard.press("Escape")
    wait_for_zoom(page, "dispatch_request")
    page.locator("#crumbs button").first.click()
    wait_for_state(page, zoom=None)
    assert bar(page, "dispatch_request").width < whole


def test_a_zoom_stays_where_it_is_when_newer_data_come(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.mouse.click(*bar(page, "checkout").middle)
    wait_for_zoom(page, "checkout")
    page.locator("#range-menu summary").click()
    page.get_by_role("button", name="Last 6 hours").click()
    page.wait_for_function("() => !document.querySelector('.busy')")
    wait_for_zoom(page, "checkout")


def test_the_search_says_its_exact_share(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api, "service=shop&from=now-10m")
    plain = colour(page, bar(page, "execute"))
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    # walk calls itself twice: 10 %, not 30 %.
    page.keyboard.type("^WALK$")
    expect(page.locator("#search-result")).to_contain_text("10.0 % matched")
    wait_for_state(page, search="^WALK$")
    assert colour(page, bar(page, "execute")) != plain
    assert colour(page, bar(page, "walk")) != colour(page, bar(page, "execute"))
    page.locator("#search").fill("apply|walk")
    expect(page.locator("#search-result")).to_contain_text("34.0 % matched")
    expect(page.locator("#table tbody tr")).to_have_count(2)
    page.locator("#search").fill("(")
    expect(page.locator("#search-result")).to_contain_text("not a regular expression")
    page.locator("#search").fill("nothing_like_it")
    expect(page.locator("#search-result")).to_have_text("no match")
    page.locator("#search").press("Escape")
    expect(page.locator("#search")).to_have_value("")
    expect(page.locator("#search-result")).to_have_text("")


def test_flames_stand_on_their_root(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    assert bar(page, "checkout").y > bar(page, "<module>").y
    page.keyboard.press("f")
    wait_for_state(page, flipped="1")
    frame(page)
    assert bar(page, "checkout").y < bar(page, "<module>").y
    page.mouse.move(*bar(page, "execute").middle)
    expect(page.locator("#tooltip")).to_contain_text("execute")


def test_the_graph_works_with_keys(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.keyboard.press("g")
    expect(page.locator("#flame")).to_be_focused()
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    announced = page.locator("#announce")
    expect(announced).to_contain_text("checkout")
    page.keyboard.press("ArrowRight")
    expect(announced).to_contain_text("render_invoice")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    wait_for_zoom(page, "checkout")
    page.keyboard.press("Escape")
    wait_for_state(page, zoom=None)


def test_those_who_see_no_canvas_have_a_name_and_a_table(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    label = page.locator("#flame").get_attribute("aria-label")
    assert label is not None
    assert "Flame graph of" in label
    assert page.get_by_role("table", name="Functions with self and total").count() == 1


def test_the_table_is_exact_and_sorts(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api, "service=shop&from=now-10m")
    rows = page.locator("#table tbody tr")
    expect(rows.first).to_contain_text("apply_discounts")
    expect(rows.first).to_contain_text("28.0 %")
    page.get_by_role("button", name="Total", exact=True).click()
    expect(rows.first).to_contain_text("<module>")
    expect(rows.first).to_contain_text("92.0 %")
    page.get_by_role("button", name="Function", exact=True).click()
    expect(rows.first).to_contain_text("<module>")
    expect(page.locator("#table [aria-sort=ascending]")).to_have_text("Function")
    walk = rows.filter(has_text="walk")
    expect(walk).to_have_count(1)
    expect(walk).to_contain_text("10.0 %")
    walk.locator("button").click()
    wait_for_state(page, search="^walk$")
    expect(page.locator("#search-result")).to_contain_text("10.0 % matched")


def test_views(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.get_by_role("button", name="Graph", exact=True).click()
    expect(page.locator("#tablebox")).to_be_hidden()
    expect(page.locator("#flame")).to_be_visible()
    page.get_by_role("button", name="Table", exact=True).click()
    expect(page.locator("#flame")).to_be_hidden()
    expect(page.locator("#tablebox")).to_be_visible()
    page.get_by_role("button", name="Both", exact=True).click()
    frame(page)
    page.mouse.move(*bar(page, "execute").middle)
    expect(page.locator("#tooltip")).to_contain_text("execute")


def test_a_deep_stack_scrolls(big: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, big, "service=deep")
    scroller = page.locator("#scroller")
    assert scroller.evaluate("(box) => box.scrollHeight > 300 * 20")
    scroller.evaluate("(box) => { box.scrollTop = 3000; }")
    frame(page)
    place = bar(page, "level_150")
    seen = scroller.bounding_box()
    assert seen is not None
    assert seen["y"] <= place.y <= seen["y"] + seen["height"]
    page.mouse.move(*place.middle)
    expect(page.locator("#tooltip")).to_contain_text("level_150")
    # The canvas is as high as what is seen, not as the whole: a browser refuses very large ones.
    assert page.locator("#flame").evaluate("(canvas) => canvas.height") < 2_000


def test_of_many_nodes_only_those_that_can_be_seen_are_drawn(
    big: FakeApi, browser_page: Page
) -> None:
    page = opened(browser_page, big, "service=large")
    drawn = page.evaluate(
        """async () => {
          const { app } = await import(new URL("static/js/main.js", document.baseURI));
          return app.flame.view.renderer.drawn;
        }"""
    )
    assert 50 < drawn < 8_000
    expect(page.locator("#table-foot button")).to_contain_text("Show 200 more")


def test_a_fine_screen_gets_fine_bars(api: FakeApi, open_page) -> None:
    page = opened(open_page(device_scale_factor=2), api)
    sizes = page.locator("#flame").evaluate("(c) => [c.width, c.getBoundingClientRect().width]")
    assert sizes[0] == pytest.approx(2 * sizes[1], abs=2)


def test_what_was_cut_is_told_by_the_exact_table(api: FakeApi, browser_page: Page) -> None:
    cut = {
        "functions": ["total", "main", "(7 smaller)"], "files": ["", "m.py", ""],
        "lines": [0, 1, 0], "name": [0, 1, 2], "depth": [0, 1, 2], "self": [0, 600, 400],
        "nodes": 3, "pruned": True, "total": 1000,
    }  # fmt: skip
    shop = api.services[0]
    api.services[0] = type(shop)("shop", cpu_cores=1.0, rates=shop.rates, columns=cut)
    page = browser_page
    page.goto(f"{api.url}/#service=shop")
    settled(page)
    expect(page.locator("#table tbody")).to_contain_text("apply_discounts")
    assert api.questions("top")
