"""Answers nobody wants scored: sent without a pass of the scorer, scored after that or when feedback names them, and written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from attune.service.batching.batcher import Batcher
from attune.service.live.score_queue import TOGETHER, ScoringLater
from attune.service.settings import Settings
from attune.service.usecases.named_answers import AWAITED_S
from tests.endpoints.conftest import PROMPT, Service, running
from tests.stores import FreshStore

ASK = {"user": "u1", "prompt": PROMPT, "member": "warm", "candidates": 2}
UNSCORED = ASK | {"score": False}
CHAT = {"model": "warm", "user": "u1", "messages": [{"role": "user", "content": PROMPT}]}


def ran_the_scorer(answer: httpx.Response) -> bool:
    return "inference;" in answer.headers["server-timing"]


async def scored_later(service: Service) -> None:
    await service.app.state.live.runtime.later.idle()


def no_room_for_later(service: Service) -> None:
    live = service.app.state.live
    live.runtime = replace(live.runtime, later=ScoringLater(service.app.state.metrics.scored_later, most_waiting=0))


class CountingStore(FreshStore):
    """Counts the writes of decisions."""

    writes = 0

    async def write_decision(self, *given: Any, **options: Any) -> bool:
        self.writes += 1
        return await super().write_decision(*given, **options)


@pytest.mark.parametrize(("path", "ask"), [("/generate", UNSCORED), ("/v1/chat/completions", CHAT)])
async def test_a_named_member_is_asked_and_answers_without_a_pass_of_the_scorer(service: Service, path: str, ask: dict[str, Any]):
    answer = await service.client.post(path, json=ask)
    assert answer.status_code == 200
    assert not ran_the_scorer(answer)


async def test_a_chat_whose_prompt_decides_nothing_is_not_tokenized_before_its_answer(service: Service):
    chat = await service.client.post("/v1/chat/completions", json=CHAT)
    assert "tokenize;" not in chat.headers["server-timing"]
    native = await service.client.post("/generate", json=UNSCORED)  # it says what of the prompt was not read
    assert "tokenize;" in native.headers["server-timing"]


@pytest.mark.parametrize("context", [None, "I like it short."])
async def test_a_family_that_reads_the_prompt_has_its_row_later(service: Service, context: str | None):
    attune = {"family": "micro"} | ({} if context is None else {"context": context})
    chat = await service.post("/v1/chat/completions", CHAT | {"attune": attune})
    await scored_later(service)
    kept = await service.get(f"/decisions/{chat['attune']['decision_id']}")
    now = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "member": "warm", "family": "micro"} | attune)
    (later,), (scored,) = kept["candidates"], now["candidates"]
    assert later["text"] == scored["text"]
    assert later["score"] == pytest.approx(scored["score"], abs=1e-5)


async def test_an_unscored_answer_says_null_where_a_score_would_be(service: Service):
    answer = await service.post("/generate", UNSCORED)
    for candidate in answer["candidates"]:
        assert {candidate[name] for name in ("score", "std", "rank")} == {None}
        assert candidate["candidate_id"]
    kept = await service.get(f"/decisions/{answer['decision_id']}")
    assert kept["candidates"][0].keys() >= {"score", "std"}


async def test_a_chat_tells_scores_where_it_is_asked_to(service: Service):
    plain = (await service.post("/v1/chat/completions", CHAT))["choices"][0]
    scored = (await service.post("/v1/chat/completions", CHAT | {"attune": {"score": True}}))["choices"][0]
    expected = (await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [scored["message"]["content"]]}))["scores"][0]
    assert "score" not in plain
    assert (scored["score"], scored["std"], scored["rank"]) == (expected["score"], expected["std"], 1)


async def test_after_the_answer_was_sent_its_scores_join_the_decision(service: Service):
    answer = await service.post("/generate", UNSCORED)
    await scored_later(service)
    kept = (await service.get(f"/decisions/{answer['decision_id']}"))["candidates"]
    texts = [candidate["text"] for candidate in kept]
    scored = await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": texts})
    assert [(one["score"], one["std"]) for one in kept] == [(one["score"], one["std"]) for one in scored["scores"]]
    assert await service.metric("attune_answers_scored_later_total", result="scored") == 1


@pytest.mark.parametrize("keep_text", [True, False])
async def test_feedback_learns_the_same_whether_answers_were_scored_before_or_after_they_were_sent(
    settings_of: Callable[..., Settings], keep_text: bool
):
    learned = []
    for score in (True, False):
        async with running(settings_of(keep_text=keep_text), FreshStore()) as service:
            answer = await service.post("/generate", ASK | {"member": None, "score": score})
            by_member = {candidate["member"]: candidate["candidate_id"] for candidate in answer["candidates"]}
            for _ in range(8):
                if {"warm", "concise"} <= by_member.keys():
                    break
                answer = await service.post("/generate", ASK | {"member": None, "candidates": 3, "score": score})
                by_member = {candidate["member"]: candidate["candidate_id"] for candidate in answer["candidates"]}
            await service.post("/feedback", {"user": "u1", "chosen": by_member["warm"], "rejected": by_member["concise"]})
            learned.append((await service.get("/users/u1"))["families"])
    assert learned[0] == learned[1]


async def test_feedback_scores_from_the_texts_what_found_no_room_to_be_scored(service: Service):
    no_room_for_later(service)
    answer = await service.post("/generate", UNSCORED)
    first, second = (candidate["candidate_id"] for candidate in answer["candidates"])
    told = await service.client.post("/feedback", json={"user": "u1", "chosen": first, "rejected": second})
    assert told.status_code == 200
    assert ran_the_scorer(told)
    assert await service.metric("attune_answers_scored_later_total", result="dropped") == 1


async def test_without_texts_what_found_no_room_is_told_to_come_as_texts(settings_of: Callable[..., Settings]):
    async with running(settings_of(keep_text=False), FreshStore()) as service:
        no_room_for_later(service)
        answer = await service.post("/generate", UNSCORED)
        first, second = (candidate["candidate_id"] for candidate in answer["candidates"])
        told = await service.post("/feedback", {"user": "u1", "chosen": first, "rejected": second}, 410)
        assert "send them as texts" in told["detail"]


async def test_without_texts_feedback_waits_for_what_another_process_is_to_score(settings_of: Callable[..., Settings]):
    store = FreshStore()
    settings = settings_of(keep_text=False)
    async with running(settings, store) as first, running(settings, store) as second:
        answer = await first.post("/generate", UNSCORED)
        chosen, rejected = (candidate["candidate_id"] for candidate in answer["candidates"])
        told = await second.post("/feedback", {"user": "u1", "chosen": chosen, "rejected": rejected})
        assert told["result"] == "applied"


async def test_without_texts_what_another_process_is_still_to_score_is_told_to_come_back(settings_of: Callable[..., Settings]):
    store = FreshStore()
    settings = settings_of(keep_text=False, request_deadline_ms=4000)
    async with running(settings, store) as first, running(settings, store) as second:
        no_room_for_later(first)  # which the second does not know
        answer = await first.post("/generate", UNSCORED)
        chosen, rejected = (candidate["candidate_id"] for candidate in answer["candidates"])
        told = await second.client.post("/feedback", json={"user": "u1", "chosen": chosen, "rejected": rejected})
        assert (told.status_code, told.headers["retry-after"]) == (429, "5")
        second.clock.now_s += AWAITED_S
        await second.post("/feedback", {"user": "u1", "chosen": chosen, "rejected": rejected}, 410)


async def test_feedback_holds_no_permit_while_the_scorer_is_away(settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch):
    async with running(settings_of(keep_text=False), FreshStore()) as service:
        answer = await service.post("/generate", UNSCORED)
        chosen, rejected = (candidate["candidate_id"] for candidate in answer["candidates"])
        with monkeypatch.context() as away:
            away.setattr(Batcher, "alive", False)
            told = await service.post("/feedback", {"user": "u1", "chosen": chosen, "rejected": rejected}, 429)
            assert told["code"] == "not-scored-yet"
        await scored_later(service)
        await service.post("/feedback", {"user": "u1", "chosen": chosen, "rejected": rejected})


async def test_the_end_of_the_process_waits_for_what_is_still_to_be_scored(settings_of: Callable[..., Settings]):
    store = FreshStore()
    async with running(settings_of(), store) as service:
        await service.post("/generate", UNSCORED)
        later = service.app.state.live.runtime.later
    assert later.waiting == 0
    assert service.app.state.metrics.registry.get_sample_value("attune_answers_scored_later_total", {"result": "scored"}) == 1


async def test_scores_do_not_bring_back_a_user_who_was_deleted_meanwhile(service: Service):
    answer = await service.post("/generate", UNSCORED)
    assert (await service.client.delete("/users/u1")).status_code == 200
    await scored_later(service)
    assert (await service.client.get(f"/decisions/{answer['decision_id']}")).status_code in {404, 410}


@pytest.mark.parametrize(("stream", "score", "writes"), [(False, True, 1), (False, False, 1), (True, True, 2)])
async def test_a_decision_is_written_once_and_only_a_stream_writes_it_before_its_end(
    settings_of: Callable[..., Settings], stream: bool, score: bool, writes: int
):
    store = CountingStore()
    async with running(settings_of(), store) as service:
        no_room_for_later(service)
        assert (await service.client.post("/generate", json=ASK | {"stream": stream, "score": score})).status_code == 200
        assert store.writes == writes


async def test_a_prompt_that_was_read_before_is_remembered_and_another_context_is_another_prompt(service: Service):
    ask = {"user": "u1", "prompt": PROMPT}
    first, again, other = [await service.client.post("/route", json=ask | more) for more in ({}, {}, {"context": "warm"})]
    assert [ran_the_scorer(answer) for answer in (first, again, other)] == [True, False, True]
    assert first.json()["routing"]["expected"].keys() == again.json()["routing"]["expected"].keys()


async def test_a_prompt_too_long_is_refused_or_told_though_nothing_reads_it(service: Service):
    ask = {"user": "u1", "prompt": PROMPT * 200, "member": "warm"}
    await service.post("/route", ask | {"truncate": False}, 413)
    assert (await service.post("/route", ask))["truncated_tokens"] > 0


@pytest.mark.parametrize(("keep_text", "scored"), [(True, 0), (False, 1)])
async def test_a_share_of_none_leaves_scoring_to_feedback_where_there_are_texts_for_it(
    settings_of: Callable[..., Settings], keep_text: bool, scored: int
):
    async with running(settings_of(keep_text=keep_text, score_later_share=0.0, score_later_until=0), FreshStore()) as service:
        answer = await service.post("/generate", UNSCORED)
        await scored_later(service)
        assert await service.metric("attune_answers_scored_later_total", result="scored") == scored
        first, second = (candidate["candidate_id"] for candidate in answer["candidates"])
        await service.post("/feedback", {"user": "u1", "chosen": first, "rejected": second})


async def test_only_so_many_decisions_a_second_are_scored_though_nobody_needs_it(settings_of: Callable[..., Settings]):
    async with running(settings_of(score_later_per_s=1e-6), FreshStore()) as service:
        for _ in range(TOGETHER + 4):
            await service.post("/generate", UNSCORED)
        await scored_later(service)
        assert await service.metric("attune_answers_scored_later_total", result="scored") == TOGETHER
        answer = await service.post("/generate", UNSCORED)
        first, second = (candidate["candidate_id"] for candidate in answer["candidates"])
        told = await service.client.post("/feedback", json={"user": "u1", "chosen": first, "rejected": second})
        assert (told.status_code, ran_the_scorer(told)) == (200, True)


async def test_what_could_not_be_scored_from_its_text_is_scored_however_many_there_are(settings_of: Callable[..., Settings]):
    async with running(settings_of(keep_text=False, score_later_per_s=1e-6), FreshStore()) as service:
        for _ in range(TOGETHER + 4):
            await service.post("/generate", UNSCORED)
        await scored_later(service)
        assert await service.metric("attune_answers_scored_later_total", result="scored") == TOGETHER + 4
