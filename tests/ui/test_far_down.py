"""Who has scrolled down sees what was refused, stays where they undid a choice, and keeps a number beside its unit; also long names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, bundle, settings_of
from tests.endpoints.voices import Voice
from tests.tiny_bundle import write_tiny_bundle
from tests.ui.browsing import Visit, visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PHONE = {"width": 360, "height": 700}
NAMES = ("fast", "organisation/a-name-2026-11-29-that-is-long-instruct")
NOWHERE = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
WRITTEN = {name: Voice(name, ("word and more words . " * 400, name)) for name in NAMES}


@pytest_asyncio.fixture(loop_scope="module")
async def visit(chromium, settings_of: Callable[..., Settings], tmp_path: Path) -> AsyncIterator[Visit]:
    roster = tmp_path / "roster.json"
    roster.write_text(json.dumps(dict.fromkeys(NAMES, NOWHERE)), encoding="utf-8")
    settings = settings_of(bundle=str(write_tiny_bundle(tmp_path / "bundles", members=False)), roster=str(roster))
    async with visiting(chromium, settings, members=WRITTEN, viewport=PHONE) as opened:
        yield opened


async def in_sight(visit: Visit, element: str) -> bool:
    box = await visit.page.locator(element).bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= PHONE["height"]


async def learn(visit: Visit, many: int) -> None:
    for at in range(many):
        told = {"user": await visit.person(), "prompt": f"{PROMPT} {at}", "chosen_text": SHORT, "rejected_text": LONG, "event_id": f"e{at}"}
        await visit.service.post("/feedback", told)


async def test_a_choice_that_is_refused_says_so_where_the_person_is(visit: Visit):
    await visit.ask()
    await visit.page.evaluate("() => scrollTo(0, 1500)")
    await visit.page.context.set_offline(True)
    await visit.page.click("#choose-first")
    await visit.says("#said", "The server does not answer")
    assert await visit.page.evaluate("() => scrollY") > 500
    assert await in_sight(visit, "#said")


async def test_undoing_one_of_many_choices_stays_at_its_place(visit: Visit):
    await learn(visit, 12)
    await visit.page.click("nav a[href='#you']")
    await visit.says("#you-learned", "After 12 choices")
    await visit.page.locator("#history button").nth(8).focus()
    await visit.page.keyboard.press("Enter")
    await visit.says("#you-learned", "After 11 choices")
    await visit.page.wait_for_function("() => [...document.querySelectorAll('#history button')].indexOf(document.activeElement) === 8")
    assert await in_sight(visit, "#history li:nth-child(9) button")


async def test_long_names_leave_numbers_in_sight_and_no_line_ends_before_a_unit(visit: Visit):
    await learn(visit, 1)
    await visit.page.click("nav a[href='#you']")
    await visit.says("#you-learned", "After 1 choice")
    assert await visit.page.evaluate("() => document.querySelector('#chances').parentElement.scrollWidth") <= PHONE["width"]
    for part in ("#you-learned", "#next", "#weights", "#chances"):
        text = await visit.page.text_content(part) or ""
        assert ("\u00a0%" in text or "\u00a0±\u00a0" in text, " %" in text, " ±" in text) == (True, False, False), part
