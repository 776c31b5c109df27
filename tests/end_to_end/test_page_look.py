"""How the page looks: no overflow on small screens, readable colours, and names that lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from end_to_end.fake_api import FakeApi, serving
from end_to_end.fake_profiles import EVIL_NAMES, hostile
from end_to_end.page_parts import bar, frame, opened, settled
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || !element.checkVisibility({ opacityProperty: true }) || element.disabled) continue;
    const style = getComputedStyle(element);
    if (element.closest(".unseen, svg, option")) continue;
    const [a, b] = [light(rgb(style.color)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) {
      poor.push(`${element.tagName} ${element.className} "${element.textContent.slice(0, 20)}"`
        + ` ${ratio.toFixed(2)}`);
    }
  }
  return poor;
}
"""


@pytest.fixture
def evil() -> Iterator[FakeApi]:
    with serving(hostile()) as running:
        yield running


@pytest.mark.parametrize("fragment", ["service=shop", "service=shop&compare=1&search=price"])
def test_text_can_be_read_in_light_and_dark(
    api: FakeApi, browser_page: Page, fragment: str
) -> None:
    now, before = api.change_ms, api.change_ms - 900_000
    ranges = f"&range={now}-{now + 600_000}&base={before}-{now}" if "compare" in fragment else ""
    page = opened(browser_page, api, fragment + ranges)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(CONTRAST) == [], scheme


@pytest.mark.parametrize("fragment", ["service=shop", "service=shop&compare=1"])
def test_nothing_is_wider_than_the_screen(api: FakeApi, browser_page: Page, fragment: str) -> None:
    page = opened(browser_page, api, fragment)
    for width in (1920, 1024, 768, 390):
        page.set_viewport_size({"width": width, "height": 844})
        frame(page)
        frame(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        canvas = page.locator("#flame").bounding_box()
        assert canvas is not None
        assert canvas["width"] > min(300, width * 0.4)
        assert canvas["x"] + canvas["width"] <= width


def test_on_a_phone_services_are_in_a_drawer(api: FakeApi, open_page: Callable[..., Page]) -> None:
    page = opened(open_page(viewport={"width": 390, "height": 844}, has_touch=True), api)
    expect(page.locator("#services")).not_to_be_in_viewport()
    page.locator("#drawer").click()
    expect(page.locator("#services")).to_be_in_viewport()
    page.locator("#service-list a.service", has_text="orders").click()
    expect(page.locator("#title")).to_have_text("orders")
    expect(page.locator("#services")).not_to_be_in_viewport()


def test_names_are_text_and_nothing_else(evil: FakeApi, browser_page: Page) -> None:
    page = browser_page
    page.goto(evil.url)
    settled(page)
    expect(page.locator("#title")).to_have_text(EVIL_NAMES[0])
    rows = page.locator("#table tbody tr")
    expect(rows).to_have_count(len(EVIL_NAMES) + 1)
    expect(page.locator("#table tbody")).to_contain_text("⟨202E⟩gnp.exe")
    expect(page.locator("#table tbody")).to_contain_text("{{ 7 * 7 }}")
    for at in range(rows.count()):
        rows.nth(at).hover()
    for name in EVIL_NAMES[:2]:
        page.mouse.move(*bar(page, name).middle)
        expect(page.locator("#tooltip")).to_contain_text(name)
    page.mouse.click(*bar(page, EVIL_NAMES[1]).middle)
    expect(page.locator("#crumbs b")).to_have_text(EVIL_NAMES[1])
    frame(page)
    assert page.locator("main img, nav img, #tooltip img, main script").count() == 0
    assert not re.search("owned", page.evaluate("document.title").replace(EVIL_NAMES[0], ""))
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_service_may_be_called_anything(evil: FakeApi, browser_page: Page) -> None:
    page = browser_page
    page.goto(evil.url)
    settled(page)
    page.locator("#service-list a.service").nth(1).click()
    expect(page.locator("#title")).to_have_text("__proto__")
    settled(page)
    assert '{service_name="__proto__"}' in {
        each.get("query") for each in evil.questions("flamegraph")
    }


def test_less_motion_is_respected(api: FakeApi, open_page: Callable[..., Page]) -> None:
    page = opened(open_page(reduced_motion="reduce"), api)
    moving = page.evaluate(
        """() => document.getAnimations().filter((each) =>
          each.effect.getComputedTiming().duration > 1).length"""
    )
    assert moving == 0
