"""axe-core finds nothing on the page's three views and on the reference of the API: light, dark, and on a phone; and nothing jumps."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from typing import Any

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import bundle, settings_of
from tests.ui.browsing import Visit, visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(find_spec("axe_playwright_python") is None, reason="axe-core (PyPI: axe-playwright-python) is not installed"),
]
_SHIFTS = """window.shifted = 0;
new PerformanceObserver(list => list.getEntries().forEach(entry => (window.shifted += entry.value)))
  .observe({ type: "layout-shift", buffered: true });"""
"""Counts what moves within half a second of a click as well, which web.dev leaves out: an answer may take any time."""
_BYTES = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter(one => one.entryType === "navigation" || /\\.(js|css|svg)$/.test(one.name)).reduce((sum, one) => sum + one.decodedBodySize, 0)"""


async def violations(visit: Visit) -> list[str]:
    """Returns what axe-core finds wrong with what is shown now."""
    await visit.page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found: list[Any] = await visit.page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
async def test_axe_finds_nothing_and_nothing_jumps(chromium, settings_of: Callable[..., Settings], scheme: str, width: int):
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    async with visiting(chromium, settings_of(), **look) as visit:
        await visit.page.add_init_script(_SHIFTS)
        await visit.page.reload()
        await visit.says("#learned", "Nothing is known of you yet")
        for key in "12":
            await visit.ask()
            await visit.page.keyboard.press(key)  # a driver's click would scroll first
            await visit.page.wait_for_selector("#second-why", state="visible")
        assert await visit.page.evaluate("window.shifted") <= 0.1  # what web.dev calls good
        assert 10_000 < await visit.page.evaluate(_BYTES) <= 150_000
        await visit.page.reload()
        await visit.says("#learned", "After 2 choices")
        await visit.page.click("nav a[href='#operate']")  # whose picture is of what is learned from now on
        await visit.says("#foresight", "Nothing yet")
        await visit.page.click("nav a[href='#try']")
        assert (await visit.page.locator("body > header").bounding_box() or {})["height"] < 130, "two rows on a phone, one at a desk"
        assert await violations(visit) == []
        await visit.ask()
        assert await violations(visit) == []
        await visit.choose()
        assert await violations(visit) == []
        for view, shown in (("you", "#weights li"), ("operate", "#foresight .timeline")):
            await visit.page.click(f"nav a[href='#{view}']")
            await visit.page.wait_for_selector(shown)
            assert await violations(visit) == [], view
        await visit.page.goto(f"{visit.url}/docs#post-score")
        await visit.page.wait_for_selector("#post-score textarea")
        assert await violations(visit) == []
        assert visit.errors == []


async def test_the_reference_is_drawn_from_the_document_searched_and_used(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        await visit.page.goto(f"{visit.url}/docs")
        await visit.page.wait_for_selector("#post-score")
        assert "`" not in await visit.text("#operations")
        await visit.page.fill("#find", "feedback ranking")
        await visit.says("#found", " of ")
        found = await visit.page.locator("#operations .operation:visible").evaluate_all("all => all.map(one => one.id)")
        assert "post-feedback" in found
        assert "get-version" not in found
        await visit.page.fill("#find", "")
        await visit.page.click("#post-score > summary")
        await visit.says("#post-score", "the answers to compare")
        await visit.page.click("#post-score form button")
        await visit.says("#post-score form pre", '"personalization": "prior"')
        await visit.page.click("#post-score a[href='#type-ScoreUsage']")
        await visit.says("#type-ScoreUsage", "tokens that went through the scorer")
        assert asked
        assert all(url.startswith(visit.url) for url in asked)
        assert visit.errors == []


async def test_what_is_written_from_right_to_left_is_shown_so(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        for voice in visit.service.members.values():
            voice.pieces = ("ست ", "دقائق.")
        await visit.page.fill("#user", "سارة")
        await visit.page.press("#user", "Enter")
        await visit.ask("كيف أسلق بيضة؟")
        await visit.choose()
        await visit.page.click("nav a[href='#you']")
        await visit.page.wait_for_selector("#history li")
        for element in ("#user", "#prompt", "#first .text", "#history li p", "#next-note bdi"):
            assert await visit.page.eval_on_selector(element, "found => getComputedStyle(found).direction") == "rtl", element
