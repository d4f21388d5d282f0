"""Names that a browser leaves out of addresses: the page says so, and asks for nothing else in their place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, bundle, settings_of
from tests.endpoints.voices import SAYINGS
from tests.ui.browsing import visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
SAID = "it leaves that out of addresses"


@pytest.mark.parametrize("name", ["..", "."])
async def test_a_person_or_a_choice_called_by_dots_is_refused_in_a_sentence(chromium, settings_of: Callable[..., Settings], name: str):
    one, other = ("".join(pieces) for pieces in list(SAYINGS.values())[:2])
    told = {"user": "ada", "prompt": PROMPT, "chosen_text": one, "rejected_text": other, "event_id": name}
    async with visiting(chromium, settings_of()) as visit:
        await visit.service.post("/feedback", told)
        await visit.become("ada")
        await visit.page.click("nav a[href='#you']")
        await visit.says("#history", PROMPT)
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
        await visit.page.click("#history li:first-child button")
        await visit.says("#said", SAID)
        for view in ("you", "try"):
            await visit.page.click(f"nav a[href='#{view}']")
            await visit.page.fill("#user", name)
            await visit.page.press("#user", "Enter")
            await visit.says("#said", f"A browser cannot ask for something called “{name}”: {SAID}")
            await visit.page.click("#new-person")
        assert [each for each in asked if not each.startswith("GET") and not each.endswith("/route")] == []
        assert await visit.comparisons("ada") == 1
        assert visit.errors == []


async def test_the_page_of_the_api_sends_no_path_that_names_something_else(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        await visit.page.goto(f"{visit.url}/docs")
        drawn = visit.page.locator("#get-users-user")
        await drawn.locator("summary").first.click()
        await drawn.locator("form input").first.fill("..")
        await drawn.locator("form button").click()
        await visit.says("#get-users-user form", SAID)
        assert await drawn.locator("form button").is_enabled()
