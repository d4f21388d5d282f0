"""A headless Chromium in front of the real application on a socket, and what a person would do with the page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from attune.service.settings import Settings
from attune.service.state.store import Store
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.voices import Voice
from tests.socket_server import on_socket
from tests.stores import FreshStore

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 60_000
"""An answer takes some ten milliseconds; a machine that runs other tests may take a thousand times that."""


@dataclass
class Visit:
    """One open page and the server behind it; `errors` is what the browser's console complained about."""

    page: Page
    service: Service
    url: str
    server: uvicorn.Server
    errors: list[str] = field(default_factory=list)

    async def text(self, selector: str) -> str:
        """Returns the text of one element."""
        return await self.page.inner_text(selector)

    async def says(self, selector: str, part: str) -> None:
        """Waits until an element shows this."""
        await self.page.wait_for_function(
            "([selector, part]) => document.querySelector(selector)?.innerText.includes(part)", arg=[selector, part], timeout=PATIENCE_MS
        )

    async def ask(self, prompt: str = PROMPT) -> None:
        """Asks, and waits until a choice is possible."""
        await self.page.fill("#prompt", prompt)
        await self.page.press("#prompt", "Enter")
        await self.page.wait_for_selector("#choose-first:enabled")

    async def choose(self, button: str = "#choose-first") -> None:
        """Chooses, and waits until the page says that it was learned and why."""
        await self.page.click(button)
        await self.page.wait_for_selector("#why", state="visible")

    async def become(self, name: str) -> None:
        """Changes the person, and waits until the page has read them."""
        async with self.page.expect_response(lambda answer: f"/users/{name}" in answer.url):
            await self.page.fill("#user", name)
            await self.page.press("#user", "Enter")

    async def comparisons(self, user: str) -> int:
        """Returns how many comparisons the server has of somebody."""
        seen = await self.service.get(f"/users/{user}")
        return int(seen["user"]["comparisons"])

    async def person(self) -> str:
        """Returns who the page says is asking."""
        return await self.page.input_value("#user")


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Starts Chromium, or skips the test where it or its driver is not installed."""
    driver = pytest.importorskip("playwright.async_api", reason="playwright, which drives the browser, is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    async with driver.async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        await started.close()


@contextlib.asynccontextmanager
async def visiting(
    browser: Browser, settings: Settings, store: Store | None = None, members: dict[str, Voice] | None = None, **context: Any
) -> AsyncIterator[Visit]:
    """Starts the application on a free port and opens its page in a fresh context."""
    on_real = FreshStore() if store is None else store
    async with running(settings, on_real, members) as service, on_socket(service.app) as (url, server):
        opened = await browser.new_context(**context)
        opened.set_default_timeout(PATIENCE_MS)
        try:
            visit = Visit(await opened.new_page(), service, url, server)
            visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
            visit.page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
            await visit.page.goto(f"{visit.url}{settings.root_path}/")
            yield visit
        finally:
            await opened.close()
