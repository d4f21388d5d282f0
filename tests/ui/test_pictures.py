"""The pictures of a person: where they stand among the members, what moved over their choices, and the same in numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, bundle, settings_of
from tests.ui.browsing import visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

DRAW = """async counts => {
  const { simplex } = await import("./ui/simplex.js");
  const drawn = {};
  for (const count of counts) {
    const names = Array.from({ length: count }, (_, at) => `a-member-with-a-long-name-${at}`);
    const alike = Object.fromEntries(names.map(name => [name, 1 / count]));
    const sure = Object.fromEntries(names.map((name, at) => [name, at ? 0 : 1]));
    const made = simplex([[0, { next: alike }], [1, { next: sure }]], () => "line-0");
    if (!made) { drawn[count] = null; continue; }
    document.querySelector("main").append(made);
    const picture = made.querySelector("svg"), at = (one, name) => Number(one.getAttribute(name));
    const places = selector => [...picture.querySelectorAll(selector)].map(one => [at(one, "cx"), at(one, "cy")]);
    const frame = picture.getBoundingClientRect();
    const boxes = [...picture.querySelectorAll("text")].map(text => text.getBoundingClientRect());
    drawn[count] = {
      height: frame.height,
      corners: places(".corner"), before: places(".step")[0], here: places(".here")[0], said: picture.querySelector("desc").textContent,
      inside: boxes.every(box => box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom),
      apart: boxes.every((one, i) => boxes.every((other, j) => i === j || one.right <= other.left || other.right <= one.left
        || one.bottom <= other.top || other.bottom <= one.top)),
    };
    made.remove();
  }
  return drawn;
}"""

LOOKS = "all => all.map(one => [one.textContent.trim().split(' ')[0], one.querySelector('path').getAttribute('class')])"


async def test_a_person_stands_at_the_corner_of_a_sure_member_and_in_the_middle_of_equal_ones(
    chromium, settings_of: Callable[..., Settings]
):
    async with visiting(chromium, settings_of(), viewport={"width": 390, "height": 844}) as visit:
        drawn = await visit.page.evaluate(DRAW, list(range(1, 10)))
        assert (drawn["1"], drawn["9"]) == (None, None)
        for members in range(2, 9):
            seen = drawn[str(members)]
            assert len(seen["corners"]) == members
            assert seen["here"] == pytest.approx(seen["corners"][0], abs=0.2)
            assert seen["before"] == pytest.approx([215, 125], abs=0.2), "the middle of the picture"
            assert (seen["inside"], seen["apart"]) == (True, True), f"names of {members} members"
            assert (seen["height"] < 100) is (members == 2), "two members are a line, and no empty square"
            assert "is nearest to a-member-with-a-long-name-0, with 100\u00a0%, after 1 choice." in seen["said"]


async def test_pictures_survive_a_reload_and_an_undone_choice_takes_what_came_after_it_along(
    chromium, settings_of: Callable[..., Settings]
):
    async with visiting(chromium, settings_of()) as visit:
        page = visit.page
        for button in ("#choose-first", "#choose-second"):
            await visit.ask()
            await visit.choose(button)
            await visit.says("#learned", "After 1" if button == "#choose-first" else "After 2")
        me = await visit.person()
        made = await visit.service.post("/generate", {"user": me, "prompt": PROMPT})
        await visit.service.post("/feedback", {"user": me, "candidate": made["candidates"][0]["candidate_id"], "rating": 1.0})
        await page.reload()
        await page.click("nav a[href='#you']")
        await visit.says("#chances tbody", "3")
        assert f"{made['candidates'][0]['member']} rated 100\u00a0%" in await visit.text("#history li:first-child")
        assert await page.eval_on_selector_all("#chances tbody th", "all => all.map(one => one.textContent)") == ["3", "2", "1", "0"]
        assert await page.locator("#over-time svg[role=img]").count() == 3
        shares = await page.eval_on_selector_all("#chances tbody tr:first-child td", "all => all.map(one => parseInt(one.textContent))")
        assert sum(shares) == pytest.approx(100, abs=len(shares))
        looks = await page.eval_on_selector_all("#over-time .legend li", LOOKS)
        assert len({name for name, _ in looks}) == len({tuple(look) for look in looks}), "a name has one colour in every picture"

        await page.click("#history li:last-child button")  # the first choice: what was known after it is no longer what happened
        await visit.says("#you-learned", "After 2 choices")
        assert await page.eval_on_selector_all("#chances tbody th", "all => all.map(one => one.textContent)") == ["2", "0"]
        page.on("dialog", lambda dialog: dialog.accept())
        before = await visit.person()
        await page.click("#forget")
        await visit.says("#forgotten", "Deleted: ")
        kept = await page.evaluate("() => Object.keys(sessionStorage).filter(name => name.startsWith('attune-seen-'))")
        assert f"attune-seen-{before}" not in kept
