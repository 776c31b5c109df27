"""Comparing two ranges."""

from __future__ import annotations

import pytest
from end_to_end.fake_api import FakeApi
from end_to_end.page_parts import bar, colour, drag, opened, settled, state, wait_for_state
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

HOUR = 3_600_000


@pytest.fixture
def compared(api: FakeApi, browser_page: Page) -> Page:
    """Compare a time after the change with one before it."""
    now, before = api.change_ms, api.change_ms - 900_000
    return opened(
        browser_page, api,
        "service=shop&from=now-1h&compare=1"
        f"&range={now}-{now + 600_000}&base={before}-{before + 600_000}",
    )  # fmt: skip


def test_it_begins_with_two_ranges(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.keyboard.press("c")
    wait_for_state(page, compare="1")
    settled(page)
    expect(page.locator("#compare-bar")).to_be_visible()
    expect(page.locator("#timeline .band.base")).to_be_visible()
    expect(page.locator("#timeline .band.now")).to_be_visible()
    asked = api.questions("diff")[-1]
    assert asked["base_until"] == asked["from"]
    expect(page.locator("#legend")).to_contain_text("grew")
    page.keyboard.press("c")
    wait_for_state(page, compare=None)
    expect(page.locator("#compare-bar")).to_be_hidden()


def test_a_link_shows_both_ranges(compared: Page) -> None:
    base = compared.locator("#timeline .band.base").bounding_box()
    now = compared.locator("#timeline .band.now").bounding_box()
    assert base is not None
    assert now is not None
    # A quarter of an hour lies between their starts, on a time line of an hour.
    width = compared.locator("#timeline .u-over").evaluate("(plot) => plot.clientWidth")
    assert (now["x"] - base["x"]) / width == pytest.approx(0.25, abs=0.01)
    assert now["width"] / width == pytest.approx(1 / 6, abs=0.01)


def test_what_grew_is_red_and_what_shrank_is_blue(compared: Page) -> None:
    grown = colour(compared, bar(compared, "raw_decode"))
    assert grown[0] > grown[2] + 20
    # execute has come anew, so everything else is a smaller part of the whole.
    shrunk = colour(compared, bar(compared, "apply_discounts"))
    assert shrunk[2] > shrunk[0]


def test_the_scale_is_said_and_can_be_changed(compared: Page) -> None:
    normalised = compared.get_by_role("button", name="Normalised")
    absolute = compared.get_by_role("button", name="Absolute")
    expect(normalised).to_have_attribute("aria-pressed", "true")
    # Of the same amount as before: a smaller share, an equal rate.
    share = colour(compared, bar(compared, "apply_discounts"))
    absolute.click()
    wait_for_state(compared, scale="rate")
    rate = colour(compared, bar(compared, "apply_discounts"))
    assert share != rate
    assert max(rate) - min(rate) < 12
    expect(absolute).to_have_attribute("aria-pressed", "true")


def test_the_table_has_both_sides_and_the_change(compared: Page) -> None:
    heads = compared.locator("#table thead th")
    expect(heads).to_have_count(4)
    expect(heads.nth(1)).to_contain_text("Base")
    expect(heads.nth(3)).to_contain_text("Change")
    row = compared.locator("#table tbody tr", has_text="[native]").last
    expect(row).to_contain_text("new")
    expect(row).to_contain_text("+")


def test_hovering_tells_both_sides(compared: Page) -> None:
    compared.mouse.move(*bar(compared, "raw_decode").middle)
    tooltip = compared.locator("#tooltip")
    expect(tooltip).to_contain_text("Baseline")
    expect(tooltip).to_contain_text("Now")
    expect(tooltip).to_contain_text("+")


def test_presets_of_the_baseline(api: FakeApi, compared: Page) -> None:
    start, end = (int(each) for each in state(compared)["range"].split("-"))
    compared.get_by_role("button", name="Previous window").click()
    wait_for_state(compared, base=f"{2 * start - end}-{start}")
    compared.get_by_role("button", name="Yesterday").click()
    wait_for_state(compared, base=f"{start - 24 * HOUR}-{end - 24 * HOUR}")
    settled(compared)
    asked = api.questions("diff")[-1]
    assert int(asked["base_from"]) == start - 24 * HOUR
    # A baseline that is not on the time line is drawn below the other one.
    assert any(int(each["from"]) < start - 20 * HOUR for each in api.questions("timeline"))


def test_a_drag_sets_the_side_that_is_chosen(compared: Page) -> None:
    before = state(compared)
    compared.locator("#compare-bar .side.base").click()
    drag(compared, "#timeline .u-over", 0.05, 0.2)
    compared.wait_for_function("(base) => !location.hash.includes(base)", arg=before["base"])
    assert state(compared)["range"] == before["range"]
    compared.locator("#compare-bar .side.now").click()
    after = state(compared)
    drag(compared, "#timeline .u-over", 0.6, 0.7)
    compared.wait_for_function("(range) => !location.hash.includes(range)", arg=before["range"])
    assert state(compared)["base"] == after["base"]


def test_other_labels_can_be_the_baseline(api: FakeApi, compared: Page) -> None:
    compared.locator("#base-selector").fill('region="us"')
    compared.locator("#base-selector").press("Enter")
    wait_for_state(compared, baseSelector='region="us"')
    compared.wait_for_function("() => !document.querySelector('.busy')")
    assert api.questions("diff")[-1]["base_query"] == '{region="us", service_name="shop"}'
