"""The way of somebody new, by steps: from a clone to the page's first sentence about what it learned. How long, and how much is to read.

    python -m loadtest.newcomer [--checkout DIR]

    git clone ─> make serve ─> ready ─> the page ─> an example question ─> two answers ─> a choice ─> what was learned

The machine's seconds are measured; a person's are what is to read at 238 words a minute (Brysbaert 2019, "How many words do we read per
minute?", silent reading of English) and two seconds for each thing to click or type. `--checkout` takes a checkout that `make serve` has
been run in, to leave out cloning and installing. Needs Chromium and Playwright (`make .venv/.stamp-dev`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.async_api import Page, async_playwright

from attune.models.measuring.report_files import table

WORDS_PER_MINUTE = 238.0
ACTION_S = 2.0
READY_S = 900.0
ROOT = Path(__file__).resolve().parents[1]
LAST_READ = "## Five minutes with it"
"""Where the README may be left for the page."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: seconds of the machine, words to read, things to click or type."""

    name: str
    machine_s: float
    words: int = 0
    actions: int = 0

    @property
    def person_s(self) -> float:
        """Seconds of reading and clicking."""
        return 60.0 * self.words / WORDS_PER_MINUTE + ACTION_S * self.actions


async def walk(checkout: Path | None) -> list[Step]:
    """Returns the steps of one newcomer; the server is stopped and the clone removed at the end."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split(LAST_READ, maxsplit=1)[0]
    with tempfile.TemporaryDirectory(prefix="newcomer-") as scratch:
        steps = [Step("read the README up to its two commands", 0.0, words=len(readme.split()))]
        folder = checkout or Path(scratch) / "attune"
        if checkout is None:
            began = time.monotonic()
            await (await asyncio.create_subprocess_exec("git", "clone", "-q", str(ROOT), str(folder))).wait()
            steps.append(Step("git clone", time.monotonic() - began, actions=1))
        began = time.monotonic()
        async with _serving(folder, Path(scratch) / "data") as url:
            steps.append(Step("make serve, until it is ready", time.monotonic() - began, actions=1))
            steps += await _first_choice(url)
    return steps


@contextlib.asynccontextmanager
async def _serving(folder: Path, data: Path) -> AsyncIterator[str]:
    """Gives the address of a server that `make serve` in `folder` has started, once it is ready.

    Raises:
        RuntimeError: it ended before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ATTUNE_", "PYTHON", "VIRTUAL_ENV"))}
    settings = {"ATTUNE_PORT": str(port), "ATTUNE_DATA_DIR": str(data)}
    serving = await asyncio.create_subprocess_exec("make", "serve", cwd=folder, env=inherited | settings, start_new_session=True, stdout=2)
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(READY_S), httpx.AsyncClient(base_url=url) as client:
            while not await _is_ready(client):
                if serving.returncode is not None:
                    raise RuntimeError(f"make serve ended with {serving.returncode}")
                await asyncio.sleep(0.1)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(serving.pid, signal.SIGINT)
        await serving.wait()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _first_choice(url: str) -> list[Step]:
    """Returns the steps on the page: it opens, an example question, two answers, a choice, what was learned."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = await browser.new_page()
        steps = []
        began = time.monotonic()
        await page.goto(url)
        await page.wait_for_selector("#example-list button")
        steps.append(Step("the page opens", time.monotonic() - began, await _words(page, "main"), actions=1))
        began = time.monotonic()
        await page.click("#example-list button")
        await page.wait_for_selector("#choose-first:enabled")
        answers = await _words(page, "#first .text") + await _words(page, "#second .text")
        steps.append(Step("an example question, until both answers are there", time.monotonic() - began, answers, actions=1))
        began = time.monotonic()
        await page.click("#choose-first")
        await page.wait_for_selector("#why", state="visible")
        learned = await page.inner_text("#learned")
        steps.append(Step(f"a choice, until the page says: {learned!r}", time.monotonic() - began, len(learned.split()), actions=1))
        await browser.close()
    return steps


async def _words(page: Page, selector: str) -> int:
    return len((await page.inner_text(selector)).split())


def main() -> None:
    """Prints the steps and their sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, help="a checkout that `make serve` has been run in; cloned and installed if not given")
    steps = asyncio.run(walk(parser.parse_args().checkout))
    rows = [[step.name, f"{step.machine_s:.1f}", str(step.words), str(step.actions), f"{step.person_s:.0f}"] for step in steps]
    machine, person = sum(step.machine_s for step in steps), sum(step.person_s for step in steps)
    rows.append(
        ["all", f"{machine:.1f}", str(sum(step.words for step in steps)), str(sum(step.actions for step in steps)), f"{person:.0f}"]
    )
    print("\n".join(table(["step", "machine, s", "words to read", "clicks and commands", "person, s"], rows)))


if __name__ == "__main__":
    main()
