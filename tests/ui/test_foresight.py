"""How often families foresaw a choice, over the time that the page is open: nothing first, then lines, and each process for itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import bundle, settings_of
from tests.ui.browsing import visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

READ = """async readings => {
  const { foresight, takeReading } = await import("./ui/foresight.js");
  const sample = (agreed, value) => `attune_prequential_comparisons_total{agreed="${agreed}",family="vrf"} ${value}`;
  const exposition = (process, yes, no) => [`process_start_time_seconds ${process}`, sample("yes", yes), sample("no", no)].join("\\n");
  return readings.map(([seconds, process, yes, no]) => {
    const seen = foresight(takeReading(exposition(process, yes, no), seconds)), line = seen.querySelector(".line");
    return { said: seen.textContent, line: line && line.getAttribute("d") };
  });
}"""


async def test_choices_since_the_page_first_read_are_drawn_over_time_while_somebody_looks(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        await visit.page.clock.install()
        await visit.page.reload()  # what the page wants to do every ten seconds goes by this clock from here on
        await visit.ask()
        await visit.choose()
        await visit.page.click("nav a[href='#operate']")
        await visit.says("#foresight", "Nothing yet: no choice was learned since this page first read the server")
        await visit.says("#agreement", "of 1")
        assert await visit.page.locator("#foresight svg").count() == 0
        await visit.page.click("nav a[href='#try']")
        for _ in range(2):
            await visit.ask()
            await visit.choose()
        await visit.page.click("nav a[href='#operate']")
        await visit.says("#foresight", "of 2")
        families = await visit.page.locator("#agreement .bar").count()
        assert await visit.page.locator("#foresight .timeline > .line").count() == families > 1
        async with visit.page.expect_response("**/metrics"):
            await visit.page.clock.run_for(10_000)
        await visit.page.context.set_offline(True)
        await visit.page.clock.run_for(10_000)
        await visit.says("#foresight-note", "The last reading failed")
        await visit.says("#foresight", "of 2")


async def test_each_process_is_compared_with_its_own_first_reading(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        readings = [[0, "1.5", 10, 10], [10, "1.5", 11, 10], [20, "2.5", 500, 0], [30, "1.5", 11, 13], [40, "2.5", 500, 1]]
        first, one, other, four, missed = await visit.page.evaluate(READ, readings)
        assert "Nothing yet" in first["said"]
        assert "vrf 100\u00a0% of 1" in one["said"]
        assert one["line"] == "M4.0 6.0L316.0 6.0L316.0 6.0", "from the reading before, at the top"
        assert "Nothing yet" in other["said"]
        assert "vrf 25\u00a0% of 4" in four["said"]
        assert "vrf 0\u00a0% of 1" in missed["said"]
