"""What the page says of the models behind it: of the demo's what they know, of others nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import bundle, settings_of
from tests.endpoints.voices import Voice
from tests.tiny_bundle import write_tiny_bundle
from tests.ui.browsing import visiting

if TYPE_CHECKING:
    from playwright.async_api import Response

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
OWN = {"own": Voice("own", ("yes .",))}


@pytest.mark.parametrize(("name", "members", "said"), [("demo", None, True), ("demonstrated", None, False), ("demo", OWN, False)])
async def test_what_the_demos_models_know_is_said_of_the_demos_models_alone(
    chromium, settings_of: Callable[..., Settings], tmp_path: Path, name: str, members: dict[str, Voice] | None, said: bool
):
    settings = settings_of(bundle=str(write_tiny_bundle(tmp_path, name=name)))
    async with visiting(chromium, settings, members=members) as visit:
        await visit.says("#learned", "Nothing is known of you yet")
        assert ("The demo's small models" in await visit.text("#examples-note")) is said


@pytest.mark.parametrize(
    ("members", "said"), [(0, "has no models that write them"), (1, "one model that answers"), (3, "Several models can answer you")]
)
async def test_two_answers_are_offered_where_two_members_can_write_them(
    chromium, settings_of: Callable[..., Settings], tmp_path: Path, members: int, said: str
):
    settings = settings_of(bundle=str(write_tiny_bundle(tmp_path, members=members > 0)))
    async with visiting(chromium, settings, members={0: {}, 1: OWN, 3: None}[members]) as visit:
        await visit.says("#try-note", said)
        await visit.says("#learned", "Nothing is known of you yet")
        shown = [await visit.page.is_visible(part) for part in ("#prompt", "#send", "#example-list")]
        assert shown == [members > 1] * 3
        assert ("Which answer do you like better?" in await visit.text("#try-title")) is (members > 1)
        await visit.page.click("nav a[href='#operate']")
        await visit.says("#members-note", "by how much its latest answers differ" if members else "This server has no members that answer.")
        shares = await visit.page.eval_on_selector_all("#members td:nth-child(2)", "all => all.map(one => one.textContent)")
        assert shares == ["\u2013"] * members, "no answer was scored yet"
        await visit.says("#coverage-note", "The process that answered has seen no user of late.")


async def test_who_answers_next_is_of_the_question_in_the_box_and_the_same_in_every_view(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of()) as visit:
        await visit.ask("the very first question")
        await visit.choose()
        await visit.says("#learned", "Next answer: ")  # what is asked for that is over

        def of_another(answer: Response) -> bool:
            return answer.url.endswith("/route") and answer.request.post_data_json["prompt"] != "the very first question"

        async with visit.page.expect_response(of_another) as asked:
            await visit.page.click("#another")
        box = await visit.page.input_value("#prompt")
        told = await asked.value
        assert told.request.post_data_json["prompt"] == box
        likeliest, share = max((await told.json())["routing"]["propensities"].items(), key=lambda one: one[1])
        await visit.says("#learned", f"Next answer: {likeliest}, {math.floor(100 * share + 0.5)}\u00a0%.")
        said = re.search(r"Next answer: .*", await visit.text("#learned"))
        assert said
        for view in ("you", "try", "you"):
            await visit.page.click(f"nav a[href='#{view}']")
            await visit.says("#you-learned" if view == "you" else "#learned", said.group())
        await visit.says("#next-note", box)
