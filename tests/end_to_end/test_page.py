"""The page around the flame graph: services, what is asked for, links, and what goes wrong."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
from end_to_end.fake_api import FakeApi
from end_to_end.fake_profiles import CPU, HEAP, RSS
from end_to_end.page_parts import drag, opened, settled, state, wait_for_state
from playwright.sync_api import Error, Page, Route, expect

pytestmark = pytest.mark.browser


def asked_since(api: FakeApi, path: str, before: int) -> list[dict[str, str]]:
    return api.questions(path)[before:]


def test_services_stand_by_cpu_time_and_the_rest_apart(api: FakeApi, browser_page: Page) -> None:
    page = browser_page
    page.goto(api.url)
    settled(page)
    names = page.locator("#service-list a.service .name")
    expect(names).to_have_text(["shop", "orders", "idle"])
    expect(page.locator("#service-list a.service").first).to_contain_text("1.00 cores")
    expect(page.locator("#service-list a.service").first).to_contain_text("412 MiB")
    expect(page.locator("#service-list .badge").nth(1)).to_have_text("Go")
    others = page.locator("#service-list details.others")
    expect(others.locator("summary")).to_have_text("Other processes (3)")
    expect(others.get_by_text("postgres")).to_be_hidden()
    others.locator("summary").click()
    expect(others.locator(".name")).to_have_text(["postgres", "sshd", "cron"])


def test_the_service_with_most_cpu_time_is_shown_first(api: FakeApi, browser_page: Page) -> None:
    browser_page.goto(api.url)
    settled(browser_page)
    expect(browser_page.locator("#title")).to_have_text("shop")
    assert '{service_name="shop"}' in {each.get("query") for each in api.questions("flamegraph")}


def test_of_all_services_the_largest_nodes_are_asked_for(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    assert "max_nodes" not in api.questions("flamegraph")[-1]
    page.get_by_role("link", name="All services").click()
    expect(page.locator("#title")).to_have_text("All services")
    settled(page)
    assert api.questions("flamegraph")[-1]["max_nodes"] == "20000"


def test_services_are_found_and_chosen_with_keys(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.keyboard.press("s")
    expect(page.locator("#service-search")).to_be_focused()
    page.keyboard.type("ord")
    expect(page.locator("#service-list a.service .name")).to_have_text(["orders"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait_for_state(page, service="orders")
    expect(page.locator("#title")).to_have_text("orders")
    page.locator("#service-search").fill("nobody")
    expect(page.locator("#service-list")).to_contain_text("No service")


def test_types_have_human_names(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    options = page.locator("#type option")
    expect(options).to_have_text(["CPU time", "Heap in use", "Memory (RSS)"])
    page.locator("#type").select_option(HEAP)
    wait_for_state(page, type=HEAP)
    expect(page.locator("#time-title")).to_have_text("Heap in use")
    settled(page)
    expect(page.locator("#table tbody tr").first).to_contain_text("MiB")
    assert api.questions("flamegraph")[-1]["type"] == HEAP


def test_a_reading_says_that_it_has_no_stacks(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.locator("#type").select_option(RSS)
    expect(page.locator("#flame-notice")).to_contain_text("has no stacks")
    assert not [each for each in api.questions("flamegraph") if each["type"] == RSS]
    page.locator("#flame-notice button").first.click()
    settled(page)
    expect(page.locator("#flame-notice")).to_be_hidden()


def test_a_late_answer_does_not_cover_what_was_chosen_since(
    api: FakeApi, browser_page: Page
) -> None:
    page = opened(browser_page, api)
    held: list[Route] = []
    # Playwright sets an attribute on handlers, which a bound builtin does not take.
    page.route("**/api/v1/flamegraph?**", lambda route: held.append(route))  # noqa: PLW0108
    page.locator("#service-list a.service", has_text="orders").click()
    expect(page.locator("#title")).to_have_text("orders")
    page.locator("#type").select_option(RSS)
    expect(page.locator("#flame-notice")).to_contain_text("has no stacks")
    for route in held:
        with contextlib.suppress(Error):  # the page has given this question up
            route.continue_()
    page.wait_for_timeout(300)
    expect(page.locator("#flame-notice")).to_be_visible()


def test_labels_narrow_what_is_shown(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api, "service=")
    page.locator("#selector").fill('node="n2"')
    page.locator("#selector").press("Enter")
    wait_for_state(page, selector='node="n2"')
    settled(page)
    assert api.questions("flamegraph")[-1]["query"] == '{node="n2"}'
    expect(page.locator("#table tbody")).to_contain_text("wait")


def test_a_bad_selector_is_told_in_the_apis_words(
    api: FakeApi, browser_page: Page, console_allows: list[str]
) -> None:
    console_allows.append("status of 400")
    page = opened(browser_page, api)
    page.locator("#selector").fill("node=")
    page.locator("#selector").press("Enter")
    expect(page.locator("#selector-error")).to_contain_text("selector, character")
    expect(page.locator("#selector")).to_have_attribute("aria-invalid", "true")
    page.locator("#selector").fill('node="n1"')
    page.locator("#selector").press("Enter")
    expect(page.locator("#selector-error")).to_be_hidden()
    settled(page)


def test_ranges_by_preset_and_by_hand(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.locator("#range-menu summary").click()
    page.get_by_role("button", name="Last 6 hours").click()
    wait_for_state(page, **{"from": "now-6h"})
    expect(page.locator("#range-name")).to_have_text("Last 6 hours")
    page.wait_for_function("() => !document.querySelector('.busy')")
    last = api.questions("timeline")[-1]
    assert int(last["until"]) - int(last["from"]) == 6 * 3_600_000
    page.locator("#range-menu summary").click()
    page.locator("#range-from").fill("tomorrow-ish")
    page.locator("#range-menu").dispatch_event("toggle")  # the browser's own may come this late
    page.locator("#range-form button").click()
    expect(page.locator("#range-error")).to_contain_text("not a time")
    page.locator("#range-from").fill("now-40m")
    page.locator("#range-until").fill("now-10m")
    page.keyboard.press("Enter")
    wait_for_state(page, **{"from": "now-40m", "until": "now-10m"})
    expect(page.locator("#range-menu")).not_to_have_attribute("open", "")


def test_a_drag_on_the_time_line_selects_and_a_double_click_resets(
    api: FakeApi, browser_page: Page
) -> None:
    page = opened(browser_page, api)
    whole = api.questions("timeline")[-1]
    drag(page, "#timeline .u-over", 0.25, 0.5)
    page.wait_for_function("() => location.hash.includes('range=')")
    settled(page)
    start, end = (int(each) for each in state(page)["range"].split("-"))
    length = int(whole["until"]) - int(whole["from"])
    assert (start - int(whole["from"])) / length == pytest.approx(0.25, abs=0.01)
    assert (end - start) / length == pytest.approx(0.25, abs=0.01)
    asked = api.questions("flamegraph")[-1]
    assert (int(asked["from"]), int(asked["until"])) == (start, end)
    expect(page.locator("#range-chip")).to_be_visible()
    page.locator("#timeline .u-over").dblclick()
    wait_for_state(page, range=None)
    expect(page.locator("#range-chip")).to_be_hidden()


def test_the_time_line_works_with_keys(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.keyboard.press("t")
    expect(page.locator("#timeline")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('range=')")
    before = state(page)["range"]
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(before) => !location.hash.includes(before)", arg=before)
    page.keyboard.press("Delete")
    wait_for_state(page, range=None)


def test_live_asks_again_by_itself_and_stops(api: FakeApi, browser_page: Page) -> None:
    page = browser_page
    page.clock.install()
    page.goto(f"{api.url}/#service=shop")
    settled_by_clock(page)
    before = len(api.questions("timeline"))
    page.clock.run_for(11_000)
    page.wait_for_timeout(300)
    assert len(api.questions("timeline")) > before
    page.locator("#live").click()
    expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(200)
    before = len(api.asked)
    page.clock.run_for(60_000)
    page.wait_for_timeout(300)
    assert len(api.asked) == before


def settled_by_clock(page: Page) -> None:
    # With a clock of its own the page draws when the clock is moved on.
    for _ in range(50):
        page.clock.run_for(100)
        if page.locator("#table tbody tr").count():
            return
        page.wait_for_timeout(50)
    raise AssertionError("no profile is shown")


def test_the_theme_is_the_systems_until_one_is_chosen(
    api: FakeApi, open_page: Callable[..., Page]
) -> None:
    page = opened(open_page(color_scheme="dark"), api)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert sum(int(each) for each in re.findall(r"\d+", dark)[:3]) < 200
    page.locator("#theme").click()
    light = page.evaluate(ground)
    assert sum(int(each) for each in re.findall(r"\d+", light)[:3]) > 600
    page.reload()
    settled(page)
    assert page.evaluate(ground) == light


def test_exports(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.locator("#export-menu summary").click()
    forms = ["pprof", "folded", "speedscope", "svg", "parquet"]
    for form in forms:
        with page.expect_download() as download:
            page.locator(f"#export-links a[href*='format={form}']").click()
        download.value.cancel()
    asked = api.questions("export")
    assert [each["format"] for each in asked] == forms
    for each in asked:
        assert each["type"] == CPU
        assert each["query"] == '{service_name="shop"}'
        assert int(each["until"]) > int(each["from"])


def test_a_copied_link_is_the_whole_state(api: FakeApi, open_page: Callable[..., Page]) -> None:
    page = opened(
        open_page(permissions=["clipboard-read", "clipboard-write"]), api,
        "service=shop&search=price&flipped=1&view=table",
    )  # fmt: skip
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    page.wait_for_timeout(1100)  # so that "now" is another one
    other = open_page()
    other.goto(link)
    settled(other)
    expect(other.locator("#title")).to_have_text("shop")
    expect(other.locator("#search")).to_have_value("price")
    # The time is fixed: who opens it later sees the same.
    first, second = api.questions("flamegraph")[0], api.questions("flamegraph")[-1]
    assert abs(int(first["from"]) - int(second["from"])) < 1000
    assert state(other)["view"] == "table"


def test_back_and_forward_go_through_the_steps(api: FakeApi, browser_page: Page) -> None:
    page = opened(browser_page, api)
    page.locator("#service-list a.service", has_text="orders").click()
    expect(page.locator("#title")).to_have_text("orders")
    page.go_back()
    expect(page.locator("#title")).to_have_text("shop")
    page.go_forward()
    expect(page.locator("#title")).to_have_text("orders")


def test_without_services_it_says_what_to_do(api: FakeApi, browser_page: Page) -> None:
    api.services = []
    page = browser_page
    page.goto(api.url)
    expect(page.get_by_text("No profiles yet")).to_be_visible()
    expect(page.get_by_text("within 30 s")).to_be_visible()
    expect(page.get_by_text("flamewell", exact=True).first).to_be_visible()
    assert page.locator("canvas").count() >= 1


def test_a_range_without_data_offers_others(api: FakeApi, browser_page: Page) -> None:
    page = browser_page
    orders = next(each for each in api.services if each.name == "orders")
    api.services = [type(orders)("orders", "go", cpu_cores=0.0, rates={CPU: {}})]
    page.goto(f"{api.url}/#service=orders")
    expect(page.locator("#flame-notice")).to_contain_text("No samples")


def test_without_a_connection_the_page_says_so_and_comes_back(
    api: FakeApi, browser_page: Page, console_allows: list[str]
) -> None:
    console_allows.append("ERR_FAILED|ERR_CONNECTION_REFUSED")
    page = opened(browser_page, api)
    page.route("**/api/v1/**", lambda route: route.abort())
    page.locator("#service-list a.service", has_text="orders").click()
    expect(page.get_by_text("does not answer").first).to_be_visible()
    page.unroute_all()
    expect(page.get_by_text("does not answer").first).to_be_hidden(timeout=30_000)
    settled(page)
    expect(page.locator("#title")).to_have_text("orders")


def test_a_failing_question_can_be_asked_again(
    api: FakeApi, browser_page: Page, console_allows: list[str]
) -> None:
    console_allows.append("status of 503")
    page = opened(browser_page, api)
    api.faults["flamegraph"] = (503, "unavailable", "the question took too long")
    page.locator("#service-list a.service", has_text="orders").click()
    expect(page.locator("#flame-notice")).to_contain_text("the question took too long")
    api.faults.clear()
    page.locator("#flame-notice button").click()
    expect(page.locator("#flame-notice")).to_be_hidden()


def test_while_it_loads_it_says_so(api: FakeApi, browser_page: Page) -> None:
    api.hold.clear()
    browser_page.goto(api.url)
    expect(browser_page.locator("#service-list .skeleton").first).to_be_visible()
    api.hold.set()
    settled(browser_page)
    expect(browser_page.locator(".skeleton")).to_have_count(0)
