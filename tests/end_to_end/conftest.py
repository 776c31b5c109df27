"""A browser, and pages in it that may do nothing wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from end_to_end.fake_api import FakeApi, serving
from end_to_end.fake_profiles import shop
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZE = {"width": 1280, "height": 800}

_WATCH_POLICY = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violation: ${event.violatedDirective} ${event.blockedURI}`);
});
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium; started once, as it takes a second."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def console_allows() -> list[str]:
    """Regular expressions of console errors that a test provokes on purpose."""
    return []


@pytest.fixture
def open_page(browser: Browser, console_allows: list[str]) -> Iterator[Callable[..., Page]]:
    """Open pages with options of a browser context; what goes wrong in any of them fails the test.

    That is: a console error or warning, an uncaught error, a violation of the content policy, or
    a request to anywhere but where the page came from.
    """
    wrong: list[str] = []
    contexts = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            wrong.append(message.text)

    def open_one(**options: Any) -> Page:
        context = browser.new_context(**{"viewport": SIZE, **options})
        contexts.append(context)
        context.add_init_script(_WATCH_POLICY)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", note)
        page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
        page.on("request", lambda request: note_stranger(request.url))
        return page

    def note_stranger(url: str) -> None:
        if not url.startswith(("data:", "blob:", "http://127.0.0.1:")):
            wrong.append(f"asked {url}")

    yield open_one
    for context in contexts:
        context.close()
    left = [each for each in wrong if not any(re.search(ok, each) for ok in console_allows)]
    assert not left, "the page did wrong:\n" + "\n".join(left)


@pytest.fixture
def browser_page(open_page: Callable[..., Page]) -> Page:
    """Give an empty page of usual size."""
    return open_page()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """Serve a small shop's profiles."""
    with serving(shop()) as running:
        yield running
