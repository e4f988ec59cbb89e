"""The console in a real headless browser, over a real proxy and a simulated fleet."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("playwright", reason="the console's browser tests need `playwright` (dev dependencies)")

from console_rig import CHROMIUM, Visit, chromium, simulated_proxy, visit
from http_rig import RunningProxy
from playwright.async_api import Browser, Page, expect
from scripted_backend import until
from simulation_rig import QUESTIONS, chat

from proxy.trace import BranchTrace, Trace
from proxy.trace_context import new_id

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"),
]
MARKUP = "<img src=x onerror=\"document.title='broken in'\">"
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningProxy]:
    """Two engines, one for greedy requests only, and a few requests of all kinds behind it."""
    folder = tmp_path_factory.mktemp("console")
    change = {"greedy-only": {"sampling": "greedy"}}
    traces = {"path": str(folder / "traces.db"), "store_prompts": True}
    async with simulated_proxy(folder, "a", "greedy-only", change=change, traces=traces) as running:
        for index in range(3):
            await running.ask(chat(QUESTIONS[index].question, slo={"latency_ms": 5000}))
        await running.ask(chat(tts={"strategy": "self-consistency", "n": 64, "stop": "all"}))
        await running.ask(chat(model=MARKUP))
        running.service.traces.record(_with_markup())
        await until(lambda: running.service.traces.written == 6)
        yield running


def _with_markup() -> Trace:
    """A request whose every text is markup."""
    branch = BranchTrace(0, MARKUP, "failed", 1.0, 5.0, 0.0, error=MARKUP, answer=MARKUP, role=MARKUP)
    return Trace(new_id(), 1.7e9, MARKUP, model=MARKUP, branches=[branch], error=MARKUP, prompt=MARKUP, answer=MARKUP)


async def settled(page: Page) -> None:
    await expect(page.locator("#connection")).to_have_text("live")


async def hash_is(page: Page, start: str) -> None:
    await expect(page).to_have_url(re.compile(re.escape(f"/console{start}")))


@pytest.mark.parametrize("hash", ["#fleet", "#frontier", "#requests", "#request/4"])
async def test_a_view_opens_without_an_error_and_asks_nobody_else(
    browser: Browser, proxy: RunningProxy, hash: str
) -> None:
    async with visit(browser, proxy.url, hash) as opened:
        await settled(opened.page)
        await expect(opened.page.locator(f"#view-{hash[1:].split('/')[0]}")).to_be_visible()
        await opened.page.wait_for_timeout(2500)  # one more poll

        assert opened.seen.errors == []
        assert opened.seen.elsewhere(proxy.url) == [] and len(opened.seen.requests) > 10


async def test_the_fleet_is_told_live(browser: Browser, proxy: RunningProxy) -> None:
    async with visit(browser, proxy.url) as opened:
        cards = opened.page.locator("#backends > li")
        await expect(cards).to_have_count(2)
        await expect(cards.filter(has_text="greedy-only")).to_contain_text("No sampled requests")
        backend = proxy.service.catalog.by_name["a"]
        mark = backend.gpu_time.enter()
        try:
            await expect(cards.nth(1)).to_contain_text("1 ours")
        finally:
            backend.gpu_time.leave(mark)
        await expect(cards.nth(1)).to_contain_text("0 ours")
        await opened.page.get_by_label("Filter").fill("nothing like it")
        await expect(opened.page.locator("#fleet-empty")).to_be_visible()


async def test_everything_is_reached_by_keyboard(browser: Browser, proxy: RunningProxy) -> None:
    async with visit(browser, proxy.url) as opened:
        page = opened.page
        await settled(page)
        await page.keyboard.press("Tab")
        assert await opened.focused() == "Skip to the content"
        await page.keyboard.press("Enter")
        assert await opened.focused() != "Skip to the content"
        await page.reload()
        await settled(page)
        for name in ("Skip to the content", "Fleet", "Frontier"):
            await page.keyboard.press("Tab")
            assert await opened.focused() == name
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus is seen"
        await page.keyboard.press("Enter")
        await expect(page.locator("#view-frontier")).to_be_visible()
        assert await opened.focused() == "Frontier", "the view's own heading"
        await _tab_to(opened, "latency_ms")
        await expect(page.locator("output[for=s-latency]")).to_have_text("no limit")
        await page.keyboard.press("Home")
        await expect(page.locator("output[for=s-latency]")).not_to_have_text("no limit")


async def _tab_to(opened: Visit, name: str) -> None:
    for _ in range(30):
        if await opened.focused() == name:
            return
        await opened.page.keyboard.press("Tab")
    raise AssertionError(f"no {name} by Tab")


async def test_the_slider_changes_the_planners_choice(browser: Browser, proxy: RunningProxy) -> None:
    async with visit(browser, proxy.url, "#frontier?model=m") as opened:
        page, choice = opened.page, opened.page.locator("#choice strong")
        await expect(choice).to_contain_text("self-consistency with up to 24 samples, 3 at a time")
        await expect(page.locator("#left-out")).to_contain_text("greedy-only is no candidate")
        slider = page.get_by_label("Answer within")
        await slider.focus()
        await slider.press("Home")
        await expect(choice).not_to_contain_text("24 samples")
        await expect(page.locator(".chart .choice").first).to_have_text("planner's choice")
        await expect(page.locator("table.plans tr.is-ours")).to_have_count(1)
        await hash_is(page, "#frontier?model=m&task=tinymath&objective=quality&latency_ms=")
        short = await choice.inner_text()
        await page.get_by_label("Accuracy at least").press("End")
        await expect(page.locator("#choice")).to_contain_text("gives up quality")
        await expect(page.locator("#why button").filter(has_text="not accurate enough")).to_be_enabled()
        await page.reload()
        await expect(page.locator("#choice")).to_contain_text("gives up quality")
        assert short and await slider.input_value() != "200", "the address keeps the demands"


async def test_a_plan_tells_of_itself_and_is_found_in_the_table(browser: Browser, proxy: RunningProxy) -> None:
    async with visit(browser, proxy.url, "#frontier") as opened:
        page = opened.page
        await expect(page.locator("#chart-latency .point").first).to_be_attached()
        await page.locator("#chart-latency .ring").hover(force=True)
        await expect(page.locator("#tip")).to_contain_text("self-consistency with up to 24 samples, 3 at a time on a")
        await page.locator("table.plans tbody button").nth(2).click()
        await expect(page.locator("#chart-cost .picked")).to_have_count(1)
        rows = page.locator("table.plans tbody tr")
        few = await rows.count()
        await page.locator("#all-plans").click()
        assert await rows.count() > few
        await page.get_by_role("button", name="Accuracy", exact=True).click()
        await expect(page.locator("table.plans th[aria-sort=descending]")).to_contain_text("Accuracy")


async def test_a_request_opens_as_its_waterfall(browser: Browser, proxy: RunningProxy) -> None:
    """All 64 branches; by keyboard; back by the browser's own way."""
    async with visit(browser, proxy.url, "#requests") as opened:
        page = opened.page
        line = page.locator("#request-rows tr").filter(has_text="self-consistency:64")
        await line.get_by_role("link").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator(".branch")).to_have_count(64)
        await expect(page.locator("[data-winner]")).to_have_count(1)
        await expect(page.locator("[data-winner]")).to_contain_text("winner")
        billed = page.get_by_role("row", name="billed")
        await expect(billed).to_contain_text("no price per token is configured")
        assert "$0" not in await billed.inner_text(), "unknown is not zero"
        await expect(page.get_by_role("row", name="Generated tokens")).to_be_visible()
        spans = await page.locator(".branch .run").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().width)"
        )
        assert all(width >= 1 for width in spans) and max(spans) > 100
        await page.go_back()
        await expect(line).to_be_visible()


async def test_a_request_of_several_waves_tells_them_apart(browser: Browser, proxy: RunningProxy) -> None:
    await proxy.ask(chat(tts={"strategy": "self-refine"}))
    async with visit(browser, proxy.url, "#requests?strategy=self-refine") as opened:
        page = opened.page
        await page.locator("#request-rows a").first.click()
        await expect(page.locator(".waterfall .wave").nth(1)).to_have_text("Wave 2")
        await expect(page.locator(".branch[data-role=aside]").first).to_contain_text("aside")


async def test_requests_are_filtered_and_new_ones_come(browser: Browser, proxy: RunningProxy) -> None:
    async with visit(browser, proxy.url, "#requests") as opened:
        page, rows = opened.page, opened.page.locator("#request-rows tr")
        await expect(rows.first).to_be_visible()
        before = await rows.count()
        await proxy.ask(chat(tts={"strategy": "first-finish", "n": 2, "m": 1}))
        await expect(rows).to_have_count(before + 1)
        await expect(rows.first).to_contain_text("first-finish:2")
        await page.get_by_label("Outcome").select_option("refused")
        await expect(rows).to_have_count(1)
        await page.get_by_label("Trace id").fill("none such")
        await expect(page.locator("#requests-empty")).to_contain_text("No stored request matches")


async def test_markup_in_a_trace_stays_text(browser: Browser, proxy: RunningProxy) -> None:
    async with visit(browser, proxy.url, "#requests") as opened:
        page = opened.page
        line = (
            page.locator("#request-rows tr")
            .filter(has=page.locator(".tag", has_text="answered"))
            .filter(has_text=MARKUP)
        )
        await expect(line).to_have_count(1)
        await line.get_by_role("link").click()
        await expect(page.locator(".branch")).to_contain_text(MARKUP)
        await expect(page.locator("#request")).to_contain_text(MARKUP)
        assert await page.locator("main img").count() == 0
        assert await page.title() == "Request · paretoproxy"
        assert opened.seen.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_light_and_dark_by_the_system_and_by_the_button(
    browser: Browser, proxy: RunningProxy, scheme: Any
) -> None:
    async with visit(browser, proxy.url, color_scheme=scheme) as opened:
        await settled(opened.page)
        light, dark = "rgb(246, 247, 249)", "rgb(18, 22, 28)"
        background = "getComputedStyle(document.body).backgroundColor"
        assert await opened.page.evaluate(background) == (light if scheme == "light" else dark)
        button = opened.page.get_by_role("button", name="Theme")
        await button.click()
        assert await opened.page.evaluate(background) == light
        await button.click()
        assert await opened.page.evaluate(background) == dark
        await opened.page.reload()
        assert await opened.page.evaluate(background) == dark, "it is remembered"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash", ["#fleet", "#frontier?latency_ms=300&quality=0.4", "#requests", "#request/4"])
async def test_text_has_the_contrast_that_wcag_asks_for_and_fields_have_names(
    browser: Browser, proxy: RunningProxy, scheme: Any, hash: str
) -> None:
    async with visit(browser, proxy.url, hash, color_scheme=scheme) as opened:
        await settled(opened.page)
        await opened.page.wait_for_timeout(300)

        assert await opened.page.evaluate(CONTRAST) == []
        assert await opened.page.evaluate(NAMELESS) == []


# Text whose contrast is below 4.5 (3 where it is large): WCAG 2.2, 1.4.3. Colours are read through a canvas, as some
# are computed in other spaces than sRGB.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest(".sr-only, :disabled, .skip, noscript, option")) continue;
    const style = getComputedStyle(node);
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(rgba(colour)), luminance(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) bad.push(`${node.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, [role=img]")]
  .filter((node) => node.checkVisibility())
  .filter((node) => !(node.labels?.length || node.getAttribute("aria-label") || node.textContent.trim()))
  .map((node) => node.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("hash", ["#fleet", "#frontier?latency_ms=300", "#requests", "#request/4", "#request/6"])
async def test_a_phone_needs_no_sideways_scrolling(browser: Browser, proxy: RunningProxy, hash: str) -> None:
    async with visit(browser, proxy.url, hash, **PHONE) as opened:
        await settled(opened.page)
        await opened.page.wait_for_timeout(300)

        assert await opened.overflow() <= 0
        small = await opened.page.evaluate(
            "[...document.querySelectorAll('button, select, nav a')].filter(one => one.checkVisibility())"
            ".filter(one => one.getBoundingClientRect().height < 24).map(one => one.textContent)"
        )
        assert small == [], "WCAG 2.5.8: targets of at least 24 pixels"


async def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("[right]")
    keys = {"api_keys": str(tmp_path / "keys.yaml")}
    async with simulated_proxy(tmp_path, "a", server=keys) as proxy, visit(browser, proxy.url) as opened:
        page, field = opened.page, opened.page.get_by_label("Key", exact=True)
        await expect(field).to_be_focused()
        await field.fill("wrong")
        await field.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("The proxy does not know this key.")
        await expect(page.locator("#backends > li")).to_have_count(0)
        await field.fill("right")
        await field.press("Enter")
        await expect(page.locator("#backends > li")).to_have_count(1)
        await page.reload()
        await expect(page.locator("#backends > li")).to_have_count(1)
        assert await page.evaluate("JSON.stringify([Object.values(localStorage), document.cookie])") == '[[],""]'
        assert not [request.url for request in opened.seen.requests if "right" in request.url]
        await page.get_by_role("button", name="Forget key").click()
        await expect(field).to_be_focused()
        await expect(page.locator("#backends > li")).to_have_count(0)
        assert await page.evaluate("sessionStorage.length") == 0


async def test_a_proxy_that_goes_away_is_said_and_a_hidden_page_does_not_ask(
    browser: Browser, proxy: RunningProxy
) -> None:
    async with visit(browser, proxy.url) as opened:
        page = opened.page
        await settled(page)
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await page.wait_for_timeout(300)
        asked = len(opened.seen.requests)
        await page.wait_for_timeout(2500)
        assert len(opened.seen.requests) == asked
        await opened.page.context.set_offline(True)
        await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        await expect(page.locator("#connection")).to_have_text("the proxy cannot be reached")
        await opened.page.context.set_offline(False)
        await expect(page.locator("#connection")).to_have_text("live")
