"""How fast the page shows a flame graph of 200,000 nodes, in Debian's chromium.

Run it from the repository: ``python bench/page_speed.py``. A server on the loopback address sends
an answer that was made before; writing it as JSON and compressing it is part of the first picture,
as it is with the real one. Figures are the least of several runs: what the page needs on a quiet
machine.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path

from machine import describe

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from end_to_end.conftest import CHROMIUM, FLAGS, SIZE
from end_to_end.fake_api import PACKAGE, FakeApi, serving
from end_to_end.fake_profiles import large
from playwright.sync_api import Browser, Page, Request, sync_playwright

NODES = 200_000
LOADS = 3
FRAMES = 15

WATCH = """
// Notes when text was first written on a flame graph, and how long callbacks that draw take.
globalThis.seen = { first: 0, frames: [], drew: false };
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (...values) {
  if (this.canvas.closest(".u-wrap") === null) {
    seen.drew = true;
    seen.first ||= performance.now();
  }
  return write.apply(this, values);
};
const request = globalThis.requestAnimationFrame.bind(globalThis);
globalThis.requestAnimationFrame = (work) =>
  request((time) => {
    seen.drew = false;
    const begin = performance.now();
    work(time);
    if (seen.drew) seen.frames.push(performance.now() - begin);
  });
"""
SEARCH = """
async (pattern) => {
  const { buildModel } = await import("/static/js/flame/model.js");
  const { compile, matchNames, matchedSum } = await import("/static/js/flame/search.js");
  const address = performance.getEntriesByType("resource").find((each) =>
    each.name.includes("/api/v1/flamegraph")).name;
  const answer = await (await fetch(address)).json();
  const timed = (work) => {
    const begin = performance.now();
    const value = work();
    return [performance.now() - begin, value];
  };
  const runs = { model: [], search: [] };
  for (let run = 0; run < 15; run++) {
    const [took, model] = timed(() => buildModel(answer));
    runs.model.push(took);
    runs.search.push(timed(() => {
      matchedSum(model, matchNames(model, compile(pattern).regex), 0);
    })[0]);
  }
  return { model: Math.min(...runs.model), search: Math.min(...runs.search) };
}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    nodes = parser.parse_args().nodes
    with serving([large(nodes)]) as api, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        figures = measure(browser, api)
        version = browser.version
        browser.close()
    print(f"{describe()}, Chromium {version}, {SIZE['width']} x {SIZE['height']}, {nodes:,} nodes")
    for name, value, unit in figures:
        print(f"{name:46} {value:10,.1f} {unit}")


def measure(browser: Browser, api: FakeApi) -> list[tuple[str, float, str]]:
    """Load the page a few times; move and search in the last one."""
    firsts = []
    for _ in range(LOADS - 1):
        page, _ = load(browser, api)
        firsts.append(page.evaluate("seen.first"))
        page.close()
    page, sizes = load(browser, api)
    firsts.append(page.evaluate("seen.first"))
    frames = frame_times(page)
    searched = page.evaluate(SEARCH, "function_1[0-9]*5$")
    memory = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    page.close()
    graph = next(size for url, size in sizes.items() if "/api/v1/flamegraph" in url)
    return [
        (f"first picture after navigation, least of {LOADS}", min(firsts), "ms"),
        (f"frame (script), least of {len(frames)}", min(frames), "ms"),
        ("frame (script), median", sorted(frames)[len(frames) // 2], "ms"),
        ("columns to model, least of 15", searched["model"], "ms"),
        ("search, least of 15", searched["search"], "ms"),
        ("flame graph over the wire, gzip", graph / 1000, "kB"),
        ("script and styles of the page, gzip", assets_size(sizes) / 1000, "kB"),
        ("script heap", memory, "MiB"),
    ]


def load(browser: Browser, api: FakeApi) -> tuple[Page, dict[str, int]]:
    """Load the page until its first picture; give it and the bytes of each answer."""
    page = browser.new_page(viewport=SIZE)
    page.add_init_script(WATCH)
    requests: list[Request] = []
    # Playwright sets an attribute on handlers, which a bound builtin does not take.
    page.on("requestfinished", lambda request: requests.append(request))  # noqa: PLW0108
    page.goto(api.url)
    page.wait_for_function("() => seen.first > 0", timeout=60_000)
    page.wait_for_load_state("networkidle")
    return page, {each.url: each.sizes()["responseBodySize"] for each in requests}


def frame_times(page: Page) -> list[float]:
    """Move the pointer over the graph: each place is a new picture."""
    page.evaluate("seen.frames.length = 0")
    box = page.evaluate(
        """() => {
          const [canvas] = [...document.querySelectorAll("canvas")].filter(
            (each) => !each.closest(".u-wrap"));
          const { x, y, width, height } = canvas.getBoundingClientRect();
          return { x, y, width, height };
        }"""
    )
    for at in range(4 * FRAMES):
        page.mouse.move(
            box["x"] + 20 + (37 * at) % (box["width"] - 40), box["y"] + 12 + 21 * (at % 8)
        )
        page.wait_for_timeout(40)
    times = page.evaluate("seen.frames")
    if len(times) < FRAMES:
        sys.exit(f"only {len(times)} pictures were drawn while the pointer moved")
    return list(times)


def assets_size(sizes: dict[str, int]) -> int:
    """Sum what the page's own files take when compressed."""
    paths = [url.partition("/static/")[2] for url in sizes if "/static/" in url]
    return sum(len(gzip.compress((PACKAGE / "static" / path).read_bytes(), 6)) for path in paths)


if __name__ == "__main__":
    main()
