"""What tests need to look at the page: where bars are, and what colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from end_to_end.fake_api import FakeApi
from playwright.sync_api import Page

WHERE = """
async ([wanted, occurrence]) => {
  const load = (name) => import(new URL(`static/js/flame/${name}.js`, document.baseURI));
  const { buildModel } = await load("model");
  const { deepest, layOut } = await load("layout");
  const { boxOf, ROW } = await load("render");
  const { findPath } = await load("paths");
  const asked = performance.getEntriesByType("resource").filter((each) =>
    /api\\/v1\\/(flamegraph|diff)\\?/.test(each.name));
  const model = buildModel(await (await fetch(asked.at(-1).name)).json());
  const state = new URLSearchParams(location.hash.slice(1));
  const zoom = findPath(model, state.get("zoom") ?? "");
  const scroller = document.getElementById("scroller");
  const scene = {
    model, layout: layOut(model, state.get("scale") ?? "share"), zoom,
    lastLevel: deepest(model, zoom), flipped: state.get("flipped") === "1",
    top: scroller.scrollTop, width: scroller.clientWidth,
  };
  const found = [];
  for (let node = 0; node < model.n; node++) {
    if (model.functions[model.name[node]] === wanted) found.push(node);
  }
  const box = boxOf(scene, found[occurrence]);
  if (!box) return null;
  const canvas = document.getElementById("flame").getBoundingClientRect();
  return { x: canvas.x + box.x, y: canvas.y + box.y, width: box.width, height: ROW };
}
"""

COLOUR = """
([x, y]) => {
  const canvas = document.getElementById("flame");
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const at = [Math.round((x - box.x) * scale), Math.round((y - box.y) * scale)];
  // From a copy: reading the page's own canvas would make it a slow one.
  const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, ...at, 1, 1, 0, 0, 1, 1);
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
"""


@dataclass(frozen=True)
class Box:
    """A bar on the screen."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


def opened(page: Page, api: FakeApi, fragment: str = "service=shop") -> Page:
    """Open the page and wait for its first profile."""
    page.goto(f"{api.url}/#{fragment}")
    settled(page)
    return page


def settled(page: Page) -> None:
    """Wait until the profile is there and no answer is awaited."""
    page.locator("#table tbody tr").first.wait_for(state="attached")
    page.wait_for_function("() => !document.querySelector('.busy')")
    frame(page)


def frame(page: Page) -> None:
    """Wait for what is scheduled to be drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def bar(page: Page, function: str, occurrence: int = 0) -> Box:
    """Find the bar of a function; the first one in preorder by default."""
    found = page.evaluate(WHERE, [function, occurrence])
    assert found is not None, f"{function} is not in the picture"
    return Box(**found)


def colour(page: Page, box: Box) -> tuple[int, int, int]:
    """Give the fill of a bar: near its end, where no text is."""
    frame(page)
    red, green, blue = page.evaluate(COLOUR, [box.x + box.width - 4, box.y + 4])
    return red, green, blue


def state(page: Page) -> dict[str, str]:
    """Give the state that stands in the address."""
    return dict(parse_qsl(urlsplit(page.url).fragment, keep_blank_values=True))


def wait_for_state(page: Page, **wanted: Any) -> None:
    """Wait until the address has these values; None for absent."""
    page.wait_for_function(
        """(wanted) => {
          const state = new URLSearchParams(location.hash.slice(1));
          return Object.entries(wanted).every(([name, value]) => state.get(name) === value);
        }""",
        arg=wanted,
    )


def drag(page: Page, selector: str, start: float, end: float) -> None:
    """Drag over an element, from one part of its width to another."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * start, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (start + end) / 2, y, steps=3)
    page.mouse.move(box["x"] + box["width"] * end, y, steps=3)
    page.mouse.up()
