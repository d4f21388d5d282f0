"""The page as a person meets it: asked twice, chosen, taken back, refused, cut off, and read by a screen reader; in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from attune.service.settings import Settings
from attune.service.state.redis_store import RedisStore
from tests.endpoints.conftest import PROMPT, bundle, settings_of
from tests.endpoints.voices import SAYINGS
from tests.tiny_bundle import HEADS, write_tiny_bundle
from tests.ui.browsing import Visit, visiting

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
TEXTS = {"".join(pieces): member for member, pieces in SAYINGS.items()}
_CUT = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent || one.value)"
_PLACEHOLDER = """() => getComputedStyle(document.querySelector("#prompt"), "::placeholder").color
  === getComputedStyle(document.querySelector(".quiet")).color"""
CHOICES = ("#choose-first", "#choose-tie", "#choose-second")


@pytest_asyncio.fixture(loop_scope="module")
async def visit(chromium, settings_of: Callable[..., Settings]) -> AsyncIterator[Visit]:
    async with visiting(chromium, settings_of()) as opened:
        yield opened


async def texts(visit: Visit) -> list[str]:
    return [await visit.page.text_content(f"{card} .text") or "" for card in ("#first", "#second")]


async def test_a_pair_is_blind_until_the_choice_which_is_learned_explained_and_undone(visit: Visit):
    me = await visit.person()
    assert me.startswith("guest-")
    await visit.says("#learned", "Nothing is known of you yet")
    assert not await visit.page.is_visible("#pair")
    await visit.ask()
    shown = await texts(visit)
    assert len(set(shown)) == 2
    assert set(shown) <= set(TEXTS)
    pair = await visit.text("#pair")
    for text in shown:
        pair = pair.replace(text, "")
    assert not any(member in pair for member in SAYINGS), "a member's name stands beside its answer before the choice"

    await visit.choose("#choose-second")
    assert TEXTS[shown[1]] in await visit.text("#second-title")
    assert "won" in (await visit.page.get_attribute("#second", "class") or "")
    await visit.says("#learned", "After 1 choice: ")
    await visit.says("#learned", "Next answer: ")
    assert "score for you" in await visit.text("#first-why")
    assert await visit.comparisons(me) == 1
    assert await visit.page.evaluate("document.activeElement.id") == "another"

    await visit.page.click("#undo")
    await visit.says("#pair-title", "Undone")
    assert await visit.comparisons(me) == 0
    await visit.choose("#choose-tie")
    assert await visit.comparisons(me) == 1
    assert visit.errors == []


async def test_asking_twice_at_once_is_one_round_and_two_answers_never_mix(visit: Visit):
    members = visit.service.members
    for voice in members.values():
        voice.gate.clear()
    await visit.page.fill("#prompt", PROMPT)
    await visit.page.press("#prompt", "Enter")
    await visit.page.wait_for_selector("#send:disabled")
    await visit.page.evaluate("document.getElementById('ask').requestSubmit()")
    await visit.page.evaluate("document.getElementById('ask').requestSubmit()")
    for voice in members.values():
        voice.gate.set()
    await visit.page.wait_for_selector("#choose-first:enabled")
    assert sum(len(voice.asked) for voice in members.values()) == 2
    assert set(await texts(visit)) <= set(TEXTS)


async def test_a_change_of_person_stops_the_round_and_shows_nothing_of_it(visit: Visit):
    members = visit.service.members
    for voice in members.values():
        voice.gate.clear()
    await visit.page.fill("#prompt", PROMPT)
    await visit.page.press("#prompt", "Enter")
    began = [asyncio.ensure_future(voice.began.wait()) for voice in members.values()]
    await asyncio.wait(began, return_when=asyncio.FIRST_COMPLETED)
    await visit.become("grace")
    started = [voice for voice in members.values() if voice.began.is_set()]
    await asyncio.gather(*(voice.left.wait() for voice in started))
    for waiting in began:
        waiting.cancel()
    assert not await visit.page.is_visible("#pair")
    for voice in members.values():
        voice.gate.set()
    await visit.ask()
    assert set(await texts(visit)) <= set(TEXTS)
    await visit.choose()
    assert await visit.comparisons("grace") == 1


async def test_a_key_is_asked_for_kept_at_reload_and_clears_the_refusal(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of(api_keys="key-of-acme:acme")) as visit:
        await visit.says("#said", "needs an API key")
        assert await visit.page.input_value("#key") == ""
        await visit.page.fill("#key", "key-of-acme")
        await visit.page.press("#key", "Tab")
        await visit.says("#learned", "Nothing is known of you yet")
        assert not await visit.page.is_visible("#said")
        me = await visit.person()
        await visit.page.reload()
        await visit.says("#learned", "Nothing is known of you yet")
        assert (await visit.page.input_value("#key"), await visit.person()) == ("key-of-acme", me)


async def test_looking_makes_no_decision(visit: Visit):
    await visit.ask()
    await visit.choose()
    await visit.says("#learned", "After 1 choice")
    before = await visit.service.metric("attune_decisions_total")
    assert before > 0
    exported = (await visit.service.client.get(f"/users/{await visit.person()}/export")).text.count('"type":"decision"')
    await visit.page.click("nav a[href='#you']")
    await visit.says("#you-learned", "Next answer: ")
    await visit.page.click("nav a[href='#operate']")
    await visit.says("#members", "concise")
    await visit.page.click("nav a[href='#try']")
    await visit.become("grace")
    await visit.says("#learned", "Nothing is known of you yet")
    assert await visit.service.metric("attune_decisions_total") == before
    assert exported == 1
    assert '"type":"decision"' not in (await visit.service.client.get("/users/grace/export")).text


async def test_feedback_that_got_lost_is_sent_again_under_its_id_and_learned_once(visit: Visit):
    me = await visit.person()
    await visit.ask()
    sent: list[str] = []

    async def lose_the_first_answer(route) -> None:
        sent.append(route.request.post_data_json["event_id"])
        if len(sent) == 1:
            await route.fetch()  # it reached the server, and its answer got lost
            await route.abort()
        else:
            await route.continue_()

    await visit.page.route("**/feedback", lose_the_first_answer)
    await visit.choose()
    assert len(sent) == 2
    assert len(set(sent)) == 1
    assert await visit.comparisons(me) == 1


async def test_a_choice_that_failed_gives_the_buttons_back_and_can_be_made_again(visit: Visit):
    me = await visit.person()
    await visit.ask()
    page = "<html><body><h1>Bad gateway</h1></body></html>"
    await visit.page.route("**/feedback", lambda route: route.fulfill(status=502, content_type="text/html", body=page))
    await visit.page.click("#choose-first")
    await visit.says("#said", "probably a proxy")
    assert "502 text/html · Bad gateway" in await visit.text("#said small")
    for button in CHOICES:
        assert await visit.page.is_enabled(button)
    assert await visit.comparisons(me) == 0
    await visit.page.unroute("**/feedback")
    await visit.choose()
    assert not await visit.page.is_visible("#said")
    assert await visit.comparisons(me) == 1


async def test_a_server_that_learns_no_tastes_promises_none_before_the_first_choice(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of(family="bradley_terry")) as visit:
        await visit.says("#learned", "Everybody is served alike: this server learns no tastes. Next answer: ")
        await visit.ask()
        await visit.choose()
        await visit.says("#learned", "After 1 choice: this server learns no tastes. Next answer: ")


async def test_a_stream_that_breaks_and_a_server_that_is_gone_are_told_in_sentences(visit: Visit):
    cut = 'event: token\ndata: {"index":0,"member":"warm","text":"lovely fr"}\n\n'
    await visit.page.route("**/generate", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=cut))
    await visit.page.fill("#prompt", PROMPT)
    await visit.page.press("#prompt", "Enter")
    await visit.says("#said", "The connection broke before the answers were complete")
    for button in CHOICES:
        assert await visit.page.is_disabled(button)
    assert await visit.page.is_enabled("#send")
    await visit.page.unroute("**/generate")
    await visit.page.route("**/generate", lambda route: route.abort())
    await visit.page.press("#prompt", "Enter")
    await visit.says("#said", "The server does not answer. Check that it is running")
    assert "generate: " in await visit.text("#said small")


async def test_with_the_store_away_answers_come_and_the_page_says_what_cannot_be_done(chromium, settings_of, tmp_path: Path):
    store = RedisStore(f"unix://{tmp_path}/nobody.sock", timeout_s=0.2)
    async with visiting(chromium, settings_of(), store) as visit:
        await visit.says("#said", "What is known of people is out of reach")
        assert "store-unavailable" in await visit.text("#said small")
        await visit.page.fill("#prompt", PROMPT)
        await visit.page.press("#prompt", "Enter")
        await visit.says("#pair-title", "not teach with them")
        assert set(await texts(visit)) <= set(TEXTS)
        assert await visit.page.is_disabled("#choose-first")


async def test_a_round_by_keyboard_alone_and_what_a_screen_reader_is_told(visit: Visit):
    await visit.page.focus("#prompt")
    await visit.page.keyboard.type(PROMPT)
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_selector("#choose-first:enabled")
    assert await visit.page.evaluate("document.activeElement.id") == "pair"
    assert (await texts(visit))[0] in await visit.page.text_content("#announced")
    await visit.page.keyboard.press("2")
    await visit.says("#pair-title", "the second one")
    assert await visit.page.evaluate("document.activeElement.id") == "another"
    await visit.page.locator("#example-list button").first.press("Enter")
    await visit.page.wait_for_selector("#choose-first:enabled")
    assert await visit.page.evaluate("document.activeElement.id") == "pair"
    await visit.page.keyboard.press("1")
    await visit.page.wait_for_selector("#why", state="visible")
    meters = await visit.page.eval_on_selector_all(
        "#try [role=meter]",
        "all => all.map(one => ['aria-label', 'aria-valuenow', 'aria-valuemin', 'aria-valuemax'].every(name => one.getAttribute(name)))",
    )
    assert meters
    assert all(meters)
    assert [await visit.page.locator(landmark).count() for landmark in ("main", "nav", "body > header", "body > footer")] == [1, 1, 1, 1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_texts_stand_out_and_nothing_scrolls_sideways_from_phone_to_desk(chromium, settings_of: Callable[..., Settings], scheme: str):
    contrast = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
    async with visiting(chromium, settings_of(), color_scheme=scheme) as visit:
        await visit.ask()
        await visit.choose()
        for view, ready in (("try", "#learned"), ("you", "#weights"), ("operate", "#members")):
            await visit.page.click(f"nav a[href='#{view}']")
            await visit.says(ready, "concise" if view != "try" else "After 1 choice")
            assert await visit.page.evaluate(contrast) == []
            assert await visit.page.evaluate(_PLACEHOLDER)
            for width in (390, 700, 1600):
                await visit.page.set_viewport_size({"width": width, "height": 800})
                assert await visit.page.evaluate("document.documentElement.scrollWidth") <= width
                assert await visit.page.eval_on_selector_all("button, #user", _CUT) == []


async def test_on_a_phone_both_choices_and_what_was_learned_stay_in_sight_of_long_answers(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of(), viewport={"width": 390, "height": 700}) as visit:
        for voice in visit.service.members.values():
            voice.pieces = tuple(f"{voice.id} {line}\n" for line in range(60))
        await visit.ask()
        for top in (0, 600):
            await visit.page.evaluate("top => scrollTo(0, top)", top)
            for element in (*CHOICES, *(["#learned"] if top else [])):
                box = await visit.page.locator(element).bounding_box()
                assert box is not None
                assert (box["y"] >= 0, box["y"] + box["height"] <= 700) == (True, True), element


async def test_what_is_known_of_a_person_is_shown_undone_and_deleted(visit: Visit):
    me = await visit.person()
    for button in ("#choose-first", "#choose-second"):
        await visit.ask()
        await visit.choose(button)
    await visit.page.click("nav a[href='#you']")
    await visit.says("#history", PROMPT)
    assert await visit.page.locator("#over-time svg[role=img]").count() == 3
    assert await visit.page.locator("#over-time .timeline .line").count() >= 4
    assert await visit.page.locator("#over-time .shade").count() == 1
    await visit.says("#over-time", "± one standard deviation of")
    assert await visit.page.locator("#weights .bar").count() == 3
    assert "±" in await visit.text("#weights")
    assert not await visit.page.is_visible("#families")
    await visit.page.click("#history li:first-child button")
    await visit.says("#you-learned", "After 1 choice")
    assert await visit.page.locator("#history li").count() == 1
    async with visit.page.expect_download() as saving:
        await visit.page.click("#export")
    saved = await (await saving.value).path()
    assert '"type":"comparison"' in await asyncio.to_thread(saved.read_text, encoding="utf-8")
    visit.page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await visit.page.click("#forget")
    await visit.says("#forgotten", "Deleted: ")
    assert await visit.comparisons(me) == 0
    assert await visit.person() != me


async def test_what_heads_mean_is_shown_by_example_and_as_text(chromium, settings_of: Callable[..., Settings], tmp_path: Path):
    ends = {
        "highest": [{"prompt": "?", "response": "yes <b>.", "reward": 1.0}],
        "lowest": [{"prompt": "?", "response": "no .", "reward": -1.0}],
    }
    with_cards = write_tiny_bundle(tmp_path, cards={"vrf": {HEADS[0]: ends}})
    async with visiting(chromium, settings_of(bundle=str(with_cards))) as visit:
        await visit.page.click("nav a[href='#you']")
        await visit.page.click("#meanings summary")
        await visit.says("#cards", "Most: “yes <b>.”")
        assert await visit.text("#cards dt") == HEADS[0]
        assert "Least: “no .”" in await visit.text("#cards")


async def test_an_operator_sees_members_coverage_foresight_and_one_decision(visit: Visit):
    await visit.ask()
    await visit.choose()
    me = await visit.person()
    exported = (await visit.service.client.get(f"/users/{me}/export")).text
    decision = exported.split('"decision_id":"')[-1].split('"')[0]
    await visit.page.click("nav a[href='#operate']")
    await visit.says("#members", "detailed")
    await visit.says("#coverage-note", "1 user of late")
    covered = await visit.service.get("/portfolio/coverage")
    assert ("is certified to get" if covered["certified"] else "nothing is proved of them") in await visit.text("#coverage-note")
    assert await visit.page.locator("#served .bar").count() == len(covered["members"])
    await visit.says("#agreement", "vrf")
    await visit.says("#latency", "redis")
    await visit.says("#latency", " ms")
    await visit.page.fill("#decision-id", decision)
    await visit.page.press("#decision-id", "Enter")
    await visit.says("#decision", decision)
    assert not re.search(r"\d\.\d{5}", await visit.text("main"))
    await visit.page.fill("#decision-id", "nonsense")
    await visit.page.press("#decision-id", "Enter")
    await visit.says("#said", "no decision with this id")


async def test_behind_a_prefix_the_page_finds_its_files_and_routes(chromium, settings_of: Callable[..., Settings]):
    async with visiting(chromium, settings_of(root_path="/attune")) as visit:
        await visit.page.goto(f"{visit.url}/attune")
        assert visit.page.url.endswith("/attune/")
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        await visit.ask()
        await visit.choose()
        assert asked
        assert all(url.startswith(f"{visit.url}/attune/") for url in asked)
        assert visit.errors == []
