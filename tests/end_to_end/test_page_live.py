"""The page in front of a real collector."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.otlp_batches import cpu_request
from end_to_end.page_parts import bar, settled, wait_for_state
from end_to_end.system import System, system
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

SECOND = 1_000_000_000
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[System]:
    with system(tmp_path) as running:
        running.start_collector()
        yield running


def send(running: System, body: bytes) -> None:
    request = urllib.request.Request(
        f"{running.url}/v1development/profiles",
        data=body,
        headers={"Content-Type": "application/x-protobuf"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def fill(running: System) -> None:
    now = int(time.time() * 1000)
    before = {"sixty": 60 * SECOND, "thirty": 30 * SECOND, EVIL: 10 * SECOND}
    after = {**before, "thirty": 60 * SECOND}
    for name, ago_ms, functions in (("old", 2_700_000, before), ("new", 60_000, after)):
        send(
            running,
            cpu_request(
                service="checkout", batch_id=name, functions=functions, time_ms=now - ago_ms
            ),
        )


def test_before_anything_was_sent(collector: System, browser_page: Page) -> None:
    browser_page.goto(collector.url)
    expect(browser_page.get_by_text("No profiles yet")).to_be_visible()
    send(collector, cpu_request(service="first", batch_id="1", functions={"work": SECOND}))
    expect(browser_page.locator("#title")).to_have_text("first", timeout=30_000)
    settled(browser_page)
    expect(browser_page.locator("#table tbody")).to_contain_text("work")


def test_it_shows_what_was_sent(
    collector: System, browser_page: Page, console_allows: list[str]
) -> None:
    fill(collector)
    page = browser_page
    page.goto(f"{collector.url}/#from=now-1h")
    settled(page)
    expect(page.locator("#title")).to_have_text("checkout")
    rows = page.locator("#table tbody tr")
    expect(rows.filter(has_text="sixty")).to_contain_text("52.2 %")
    expect(rows.filter(has_text="thirty")).to_contain_text("39.1 %")
    expect(rows.filter(has_text=EVIL)).to_contain_text("8.7 %")
    whole = page.evaluate("document.getElementById('scroller').clientWidth")
    assert bar(page, "sixty").width / whole == pytest.approx(120 / 230, abs=0.01)

    page.keyboard.press("c")
    wait_for_state(page, compare="1")
    settled(page)
    expect(page.locator("#legend")).to_contain_text("grew")
    grown = page.locator("#table tbody tr", has_text="thirty")
    expect(grown).to_contain_text("30.0 %")
    expect(grown).to_contain_text("46.2 %")
    page.keyboard.press("c")

    page.locator("#export-menu summary").click()
    with page.expect_download() as download:
        page.locator("#export-links a[href*='format=folded']").click()
    text = download.value.path().read_text()
    assert "main" in text
    assert "sixty" in text

    console_allows.append("status of 400")
    page.locator("#selector").fill('node=~"("')
    page.locator("#selector").press("Enter")
    expect(page.locator("#selector-error")).to_be_visible()
