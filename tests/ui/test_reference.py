"""`/docs`: a search leaves no empty heading, nothing is deleted by one click, a path has all its names, and what came back can be read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, bundle, settings_of
from tests.ui.browsing import Visit, visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

DELETE = "#delete-users-user"


@pytest_asyncio.fixture(loop_scope="module")
async def visit(chromium, settings_of: Callable[..., Settings]) -> AsyncIterator[Visit]:
    async with visiting(chromium, settings_of(), viewport={"width": 360, "height": 700}) as opened:
        await opened.page.goto(f"{opened.url}/docs")
        await opened.page.wait_for_selector(DELETE)
        yield opened


async def test_a_search_leaves_no_heading_without_operations(visit: Visit):
    headings = visit.page.locator("#operations h2:visible")
    everything = await headings.count()
    await visit.page.fill("#find", "/portfolio/coverage")
    await visit.says("#found", "1 of ")
    assert await headings.count() == 1
    await visit.page.fill("#find", "")
    assert await headings.count() == everything > 1


async def test_nothing_is_deleted_before_the_reader_has_said_yes_and_named_somebody(visit: Visit):
    await visit.service.post("/feedback", {"user": "ada", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG})
    asked: list[str] = []
    answers = iter([False, True])

    async def answer(dialog) -> None:
        asked.append(dialog.message)
        await (dialog.accept() if next(answers) else dialog.dismiss())

    visit.page.on("dialog", answer)
    await visit.page.click(f"{DELETE} > summary")
    await visit.page.fill(f"{DELETE} input", "")
    await visit.page.click(f"{DELETE} button")
    assert asked == [], "a path without a name is sent nowhere"
    await visit.page.fill(f"{DELETE} input", "ada")
    await visit.page.click(f"{DELETE} button")
    assert (len(asked), await visit.comparisons("ada")) == (1, 1)
    await visit.page.click(f"{DELETE} button")
    await visit.says(f"{DELETE} pre[aria-label=Answer]", '"comparisons": 1')
    assert (len(asked), await visit.comparisons("ada")) == (2, 0)


async def test_an_answer_is_read_without_scrolling_sideways(visit: Visit):
    await visit.page.click("#get-decisions-decision_id > summary")
    form = visit.page.locator("#get-decisions-decision_id")
    await form.locator("input").fill("nothing-of-this-name")
    await form.locator("button").click()
    await visit.says("#get-decisions-decision_id pre[aria-label=Answer]", "no decision with this id")
    assert await form.locator("pre[aria-label=Answer]").evaluate("one => one.scrollWidth <= one.clientWidth")
