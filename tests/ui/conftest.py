"""One browser for all tests of a file, on the loop that they share; each has a context, a server and a database of its own."""

from __future__ import annotations

import pytest_asyncio

from tests.ui.browsing import browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium():
    async with browser() as started:
        yield started
