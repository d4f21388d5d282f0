"""The page where answers take long: nothing is done twice, the last thing asked for is shown, and nothing that another key saw stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, bundle, settings_of
from tests.ui.browsing import Visit, visiting

if TYPE_CHECKING:
    from playwright.async_api import Route

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


class HeldRequests:
    """Requests of the page to some addresses that do not reach the server before they are let go."""

    def __init__(self) -> None:
        self.waiting: list[Route] = []
        self.came = asyncio.Condition()

    async def hold(self, route: Route) -> None:
        async with self.came:
            self.waiting.append(route)
            self.came.notify_all()

    async def until(self, count: int) -> None:
        async with self.came:
            await self.came.wait_for(lambda: len(self.waiting) >= count)


@asynccontextmanager
async def held(visit: Visit, address: str) -> AsyncIterator[HeldRequests]:
    found = HeldRequests()
    await visit.page.route(address, found.hold)
    try:
        yield found
    finally:
        await visit.page.unroute(address)


async def a_decision(visit: Visit, **headers: str) -> str:
    """Returns the id of the decision of a new choice."""
    await visit.ask()
    await visit.choose()
    exported = (await visit.service.client.get(f"/users/{await visit.person()}/export", headers=headers)).text
    return exported.split('"decision_id":"')[-1].split('"')[0]


async def somebody_who_may_be_forgotten(visit: Visit) -> str:
    """Returns the person, who has chosen once and sees it, and whose "Are you sure?" is answered with yes."""
    await a_decision(visit)
    await visit.page.click("nav a[href='#you']")
    await visit.says("#history", PROMPT)
    visit.page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    return await visit.person()


async def test_who_is_forgotten_is_forgotten_once_and_the_next_person_is_not_told_of_it(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        me = await somebody_who_may_be_forgotten(visit)
        async with held(visit, f"**/users/{me}") as requests:
            await visit.page.click("#forget")
            await requests.until(1)
            assert await visit.page.is_disabled("#forget")
            await requests.waiting[0].continue_()
            await visit.says("#forgotten", "Deleted: 1 choice and ")
        assert await visit.person() != me
        assert await visit.page.is_enabled("#forget")
        await visit.become("grace")
        assert await visit.text("#forgotten") == ""


async def test_who_comes_while_another_is_forgotten_stays(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        me = await somebody_who_may_be_forgotten(visit)
        async with held(visit, f"**/users/{me}") as requests:
            await visit.page.click("#forget")
            await requests.until(1)
            await visit.become("grace")
            await requests.waiting[0].continue_()
            await visit.page.wait_for_selector("#forget:enabled")
        assert await visit.comparisons(me) == 0
        assert await visit.person() == "grace"


async def test_of_two_decisions_the_one_asked_for_last_is_shown(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        earlier, later = await a_decision(visit), await a_decision(visit)
        await visit.page.click("nav a[href='#operate']")
        async with held(visit, f"**/decisions/{earlier}") as requests:
            for decision in (earlier, later):
                await visit.page.fill("#decision-id", decision)
                await visit.page.press("#decision-id", "Enter")
            await visit.says("#decision", later)
            async with visit.page.expect_response(f"**/decisions/{earlier}") as answered:
                await requests.waiting[0].continue_()
            await (await answered.value).finished()
        await visit.page.evaluate("new Promise(done => setTimeout(done))")  # what the page does with an answer comes before this
        assert later in await visit.text("#decision")


async def test_metrics_are_not_asked_for_again_while_they_are_asked_for(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        await visit.page.clock.install()
        await visit.page.reload()
        await visit.page.click("nav a[href='#operate']")
        await visit.says("#members", "detailed")
        async with held(visit, "**/metrics") as requests:
            for _ in range(3):
                await visit.page.clock.run_for(10_000)
            await requests.until(1)
            assert len(requests.waiting) == 1
            async with visit.page.expect_response("**/metrics") as answered:
                await requests.waiting[0].continue_()
            await (await answered.value).finished()
            await visit.page.clock.run_for(10_000)
            await requests.until(2)


@pytest.mark.parametrize("key", ["key-of-beta-that-is-long", "a-key-that-nobody-has"])
async def test_what_one_key_saw_of_the_server_is_not_shown_to_the_next(chromium, settings_of: Callable[..., Settings], key: str):
    keys = "key-of-acme-that-is-long:acme:admin,key-of-beta-that-is-long:beta"
    async with visiting(chromium, settings_of(api_keys=keys)) as visit:
        await visit.says("#said", "needs an API key")
        await visit.page.fill("#key", "key-of-acme-that-is-long")
        await visit.page.press("#key", "Tab")
        await visit.says("#learned", "Nothing is known of you yet")
        decision = await a_decision(visit, authorization="Bearer key-of-acme-that-is-long")
        await visit.page.click("nav a[href='#operate']")
        await visit.says("#coverage-note", "1 user of late")
        await visit.page.fill("#decision-id", decision)
        await visit.page.press("#decision-id", "Enter")
        await visit.says("#decision", decision)
        async with visit.page.expect_response("**/portfolio/coverage"):
            await visit.page.fill("#key", key)
            await visit.page.press("#key", "Tab")
        assert not await visit.page.is_visible("#decision")
        assert await visit.page.text_content("#decision") == ""
        if key == "a-key-that-nobody-has":
            await visit.says("#said", "needs an API key")
            assert await visit.page.text_content("#members") == ""
            assert await visit.text("#bundle") == ""
