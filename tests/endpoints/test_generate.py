"""`POST /generate` and `/route`: who was drawn with which law, what is kept before anybody can refer to it, and who stands in."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from attune.models.seam.routing import choose, sampled_worth
from attune.service.errors import MemberFailed
from attune.service.ids import candidate_id
from attune.service.members.member import OneMemberFailed
from attune.service.settings import Settings
from attune.service.state.redis_store import RedisStore
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.voices import SAYINGS, Voice, voices
from tests.state.servers import raw_server
from tests.stores import FreshStore
from tests.tiny_bundle import MEMBERS, write_tiny_bundle

ASK = {"user": "u1", "prompt": PROMPT}


def fails(member: str) -> OneMemberFailed:
    return OneMemberFailed(member, "connect", "no connection")


async def test_a_pair_comes_from_two_different_members_with_ids_ready_for_feedback(service: Service):
    answer = await service.post("/generate", ASK | {"candidates": 2})
    first, second = answer["candidates"]
    assert first["member"] != second["member"]
    assert [first["member"], second["member"]] == answer["routing"]["members"]
    for index, candidate in enumerate((first, second)):
        assert candidate["candidate_id"] == candidate_id(answer["decision_id"], index)
        assert candidate["text"] == "".join(SAYINGS[candidate["member"]])
        assert candidate["finish_reason"] == "stop"
        assert candidate["usage"]["completion_tokens"] > 0
    assert sorted(candidate["rank"] for candidate in answer["candidates"]) == [1, 2]


async def test_candidates_are_scored_as_score_would_score_them(service: Service):
    answer = await service.post("/generate", ASK | {"candidates": 3})
    texts = [candidate["text"] for candidate in answer["candidates"]]
    scored = await service.post("/score", ASK | {"responses": texts})
    for candidate, score in zip(answer["candidates"], scored["scores"], strict=True):
        assert (candidate["score"], candidate["std"], candidate["rank"]) == (score["score"], score["std"], score["rank"])


async def test_propensities_are_a_law_and_the_one_of_the_member_is_among_them(service: Service):
    routing = (await service.post("/generate", ASK | {"candidates": 2}))["routing"]
    assert sum(routing["propensities"].values()) == pytest.approx(1.0)
    assert routing["propensity"] == routing["propensities"][routing["member"]]
    first, second = (routing["propensities"][member] for member in routing["members"])
    assert routing["joint_propensity"] == pytest.approx(first * second / (1 - first))
    assert min(routing["propensities"].values()) >= 0.05 / 3
    assert set(routing["expected"]) == set(MEMBERS)
    assert routing["fallback"] is None


async def test_the_kept_seed_draws_the_same_members_again(service: Service):
    answer = await service.post("/generate", ASK | {"candidates": 2, "context": "warm"})
    kept = await service.get(f"/decisions/{answer['decision_id']}")
    bundle, rng = service.serving.bundle, np.random.default_rng(int(kept["seed"]))
    row = (await service.serving.batcher.submit([service.serving.encoder.prompt(PROMPT, "warm")], 5)).rows[0]
    family = bundle.families["vrf"]
    evidence = bundle.families.part("vrf", bundle.families.prior())
    weights = family.sample_weights(evidence, row, rng, kept["samples"])
    sampled = sampled_worth(weights, *service.serving.standings.last("default").values("vrf", row), rng)
    choice = choose("sample", sampled, count=2, epsilon=kept["epsilon"], rng=rng)
    assert [MEMBERS[index] for index in choice.members] == answer["routing"]["members"]
    assert choice.propensities.tolist() == list(answer["routing"]["propensities"].values())


async def test_every_decision_has_a_seed_of_its_own(service: Service):
    decisions = [(await service.post("/route", ASK))["decision_id"] for _ in range(5)]
    assert len({(await service.get(f"/decisions/{decision}"))["seed"] for decision in decisions}) == 5


async def test_the_draws_follow_the_propensities(service: Service):
    for _ in range(3):
        await service.post("/feedback", ASK | {"chosen_text": WARM, "rejected_text": LONG})
    routings = [(await service.post("/route", ASK))["routing"] for _ in range(200)]
    drawn = Counter(routing["member"] for routing in routings)
    for member in MEMBERS:
        law = np.array([routing["propensities"][member] for routing in routings])
        spread = np.sqrt(np.sum(law * (1 - law)))
        assert abs(drawn[member] - law.sum()) < 5 * spread  # once in two million runs by chance


@pytest.mark.parametrize("policy", ["best", "uniform", "sample"])
async def test_a_policy_is_the_law_that_is_logged(service: Service, policy: str):
    for _ in range(6):
        await service.post("/feedback", ASK | {"chosen_text": WARM, "rejected_text": LONG})
    routing = (await service.post("/route", ASK | {"policy": policy}))["routing"]
    assert routing["policy"] == policy
    if policy == "best":
        assert (routing["member"], routing["propensity"]) == ("warm", 1.0)
    if policy == "uniform":
        assert set(routing["propensities"].values()) == {1 / 3}
    if policy == "sample":
        assert routing["propensities"]["warm"] > 0.6


async def test_a_forced_member_writes_every_candidate_and_nobody_drew_it(service: Service):
    answer = await service.post("/generate", ASK | {"member": "concise", "candidates": 5, "seed": 7})
    assert [candidate["member"] for candidate in answer["candidates"]] == ["concise"] * 5
    routing = answer["routing"]
    assert (routing["policy"], routing["propensity"], routing["joint_propensity"]) == ("forced", None, None)
    assert sorted(request.seed for request in service.members["concise"].asked) == [7, 8, 9, 10, 11]
    assert await service.metric("attune_decisions_total", policy="forced", member="concise") == 5


async def test_what_is_asked_of_a_member_is_what_the_caller_asked(service: Service):
    turns = [{"role": "system", "content": "be short"}, {"role": "user", "content": PROMPT}]
    ask = {"user": "u1", "messages": turns, "member": "warm", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["."], "seed": 3}
    await service.post("/generate", ask)
    (asked,) = service.members["warm"].asked
    assert [(message.role, message.content) for message in asked.messages] == [("system", "be short"), ("user", PROMPT)]
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.stop, asked.seed) == (9, 0.5, 0.9, (".",), 3)


async def test_sampling_that_is_not_named_is_left_to_the_member(service: Service):
    await service.post("/generate", ASK | {"member": "warm"})
    (asked,) = service.members["warm"].asked
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.seed) == (128, None, None, None)


async def test_a_part_of_an_answer_that_the_scorer_has_no_room_for_is_counted(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].pieces = ("egg " * 100,)
    async with running(settings_of(), FreshStore(), members) as service:
        (candidate,) = (await service.post("/generate", ASK | {"member": "warm"}))["candidates"]
        kept = sum(map(len, [service.serving.encoder.candidates(PROMPT, ["egg " * 100])[0]]))
        assert candidate["usage"]["unscored_tokens"] > 0
        assert kept == 64


async def test_an_answer_without_text_is_that_members_failure_and_never_a_candidate(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].pieces = ()
    async with running(settings_of(), FreshStore(), members) as service:
        refused = await service.post("/generate", ASK | {"member": "warm"}, status=502)
        assert refused["attempts"] == {"warm": "wrote no text"}
        made = await service.post("/generate", ASK | {"candidates": 3})
        assert "" not in [candidate["text"] for candidate in made["candidates"]]
        assert made["routing"]["fallback"]["wanted"] == "warm"


# --- members away ---------------------------------------------------------------------------------------------------


async def test_when_the_drawn_member_is_away_the_next_best_serves_and_the_propensity_is_null(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure = fails("warm")
    async with running(settings_of(), FreshStore(), members) as service:
        for _ in range(6):
            await service.post("/feedback", ASK | {"chosen_text": WARM, "rejected_text": SHORT})
        answer = await service.post("/generate", ASK | {"policy": "best"})
        routing = answer["routing"]
        by_value = sorted(MEMBERS, key=lambda member: -routing["expected"][member]["mean"])
        assert by_value[0] == "warm"
        assert routing["fallback"] == {"wanted": "warm", "served": by_value[1], "reason": "no connection"}
        assert (routing["member"], routing["members"]) == (by_value[1], ["warm"])
        assert (routing["propensity"], routing["joint_propensity"]) == (None, None)
        assert answer["candidates"][0]["member"] == by_value[1]
        kept = await service.get(f"/decisions/{answer['decision_id']}")
        assert kept["routing"] == routing
        assert await service.metric("attune_fallbacks_total", member="warm") == 1
        assert await service.metric("attune_member_requests_total", member="warm", result="connect") == 1
        assert await service.metric("attune_member_requests_total", member=by_value[1], result="ok") == 1


async def test_of_a_pair_whose_members_are_away_the_third_stands_in_for_both(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure, members["detailed"].failure = fails("warm"), fails("detailed")
    async with running(settings_of(), FreshStore(), members) as service:
        answer = await service.post("/generate", ASK | {"candidates": 3, "policy": "uniform"})
        assert {candidate["member"] for candidate in answer["candidates"]} == {"concise"}
        assert answer["routing"]["propensity"] is None


async def test_of_a_pair_whose_members_are_away_each_candidate_gets_a_stand_in_of_its_own(
    settings_of: Callable[..., Settings], tmp_path: Path
):
    # The two that are away are worth most under every head, so that policy `best` draws them, in this order.
    bundle = write_tiny_bundle(tmp_path, certified=False, further={"first": 9.0, "second": 8.0})
    members = voices() | {name: Voice(name, ("yes .",), failure=fails(name)) for name in ("first", "second")}
    async with running(settings_of(bundle=str(bundle)), FreshStore(), members) as service:
        answer = await service.post("/generate", ASK | {"candidates": 2, "policy": "best"})
        routing = answer["routing"]
        assert routing["members"] == ["first", "second"]
        free = sorted(MEMBERS, key=lambda member: -routing["expected"][member]["mean"])
        assert [candidate["member"] for candidate in answer["candidates"]] == free[:2]
        assert await service.metric("attune_fallbacks_total", member="first") == 1
        assert await service.metric("attune_fallbacks_total", member="second") == 1


async def test_when_all_members_are_away_each_is_named_with_its_reason(settings_of: Callable[..., Settings]):
    members = voices()
    for name, voice in members.items():
        voice.failure = fails(name)
    async with running(settings_of(), FreshStore(), members) as service:
        problem = await service.post("/generate", ASK, status=502)
        assert problem["code"] == "member-failed"
        assert problem["attempts"] == dict.fromkeys(MEMBERS, "no connection")


async def test_nobody_stands_in_for_a_forced_member(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure = fails("warm")
    async with running(settings_of(), FreshStore(), members) as service:
        problem = await service.post("/generate", ASK | {"member": "warm"}, status=502)
        assert list(problem["attempts"]) == ["warm"]
        assert not members["concise"].asked


@pytest.mark.parametrize("stream", [True, False])
async def test_a_member_that_breaks_off_is_not_continued_in_another_voice(settings_of: Callable[..., Settings], stream: bool):
    members = voices()
    for voice in members.values():
        voice.failure, voice.fails_after = MemberFailed("broke off", {voice.id: "broke off"}), 1
    async with running(settings_of(), FreshStore(), members) as service:
        if stream:  # somebody has seen the first piece
            answer = await service.client.post("/generate", json=ASK | {"stream": True})
            assert "event: error" in answer.text
        else:  # nobody has seen anything, so the others are asked, each for a whole answer
            assert (await service.post("/generate", ASK, status=502))["code"] == "member-failed"
        assert sum(len(voice.asked) for voice in members.values()) == (1 if stream else 3)
        assert all(voice.open_streams == 0 for voice in members.values())


async def test_a_json_request_whose_member_breaks_off_is_answered_whole_by_another(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure, members["warm"].fails_after = fails("warm"), 1
    async with running(settings_of(), FreshStore(), members) as service:
        made = await service.post("/generate", ASK | {"candidates": 3})
        for candidate in made["candidates"]:
            assert candidate["text"] == "".join(SAYINGS[candidate["member"]])


# --- the store away -------------------------------------------------------------------------------------------------


async def test_with_redis_away_it_answers_from_the_prior_and_gives_no_ids_that_could_not_be_learned_from(
    settings_of: Callable[..., Settings], tmp_path
):
    async with running(settings_of(), RedisStore(f"unix://{tmp_path}/nobody.sock", timeout_s=0.2)) as service:
        answer = await service.client.post("/generate", json=ASK | {"candidates": 2})
        body = answer.json()
        assert (answer.status_code, body["personalization"], body["decision_id"]) == (200, "unavailable", None)
        assert [candidate["candidate_id"] for candidate in body["candidates"]] == [None, None]
        assert "x-decision-id" not in answer.headers
        assert (await service.post("/route", ASK))["decision_id"] is None


@contextlib.contextmanager
def full_server(folder: Path) -> Iterator[str]:
    """A real server without memory for anything: it answers what is read and refuses what is written."""
    place = folder / "redis.sock"
    with raw_server(folder, "--port", "0", "--unixsocket", str(place), "--maxmemory", "1"):
        yield f"unix://{place}"


async def test_a_decision_that_the_store_refuses_to_keep_has_no_ids_that_could_not_be_learned_from(
    settings_of: Callable[..., Settings], tmp_path: Path
):
    with full_server(tmp_path) as url:
        async with running(settings_of(), RedisStore(url)) as service:
            for path in ("/route", "/generate"):
                answer = await service.client.post(path, json=ASK)
                body = answer.json()
                assert (answer.status_code, body["personalization"], body["decision_id"]) == (200, "prior", None), answer.text
                assert [candidate["candidate_id"] for candidate in body.get("candidates", [])] == [None] * (path == "/generate")
                assert "x-decision-id" not in answer.headers
                assert answer.headers["x-attune-member"] == body["routing"]["member"]


# --- /route, /decisions and headers -----------------------------------------------------------------------------------


async def test_a_route_is_a_decision_that_feedback_may_name_with_texts(service: Service):
    routed = await service.post("/route", ASK | {"context": "warm"})
    assert not any(voice.asked for voice in service.members.values())
    told = {"user": "u1", "decision_id": routed["decision_id"], "chosen_text": WARM, "rejected_text": LONG}
    assert (await service.post("/feedback", told))["result"] == "applied"
    kept = await service.get(f"/decisions/{routed['decision_id']}")
    assert (kept["candidates"], kept["routing"], kept["context"]) == ([], routed["routing"], "warm")


async def test_a_decision_is_kept_with_its_law_and_its_candidates_and_without_features(service: Service):
    answer = await service.post("/generate", ASK | {"candidates": 2})
    kept = await service.get(f"/decisions/{answer['decision_id']}")
    assert (kept["prompt"], kept["family"], kept["bundle"]) == (PROMPT, "vrf", answer["bundle"])
    assert kept["routing"] == answer["routing"]
    assert [candidate["candidate_id"] for candidate in kept["candidates"]] == [c["candidate_id"] for c in answer["candidates"]]
    assert [candidate["score"] for candidate in kept["candidates"]] == [c["score"] for c in answer["candidates"]]
    assert "u1" not in str(kept)
    assert "features" not in str(kept)


@pytest.mark.parametrize(
    "decision", ["nonsense", "01a3185c-5000-7db5-afb6-d948e446e580", "01a3185c-5000-7db5-afb6-d948e446e581", "%00", "a%2Fb"]
)
async def test_a_decision_that_is_not_there_is_404(service: Service, decision: str):
    assert (await service.get(f"/decisions/{decision}", status=404))["code"] == "unknown-decision"


async def test_member_and_decision_are_in_the_headers(service: Service):
    answer = await service.client.post("/generate", json=ASK)
    body = answer.json()
    assert answer.headers["x-attune-member"] == body["routing"]["member"]
    assert answer.headers["x-decision-id"] == body["decision_id"]
    assert "member;dur=" in answer.headers["server-timing"]
    routed = await service.client.post("/route", json=ASK)
    assert routed.headers["x-attune-member"] == routed.json()["routing"]["member"]


async def test_another_family_may_decide_and_score(service: Service):
    answer = await service.post("/generate", ASK | {"family": "micro"})
    assert answer["family"] == "micro"
    kept = await service.get(f"/decisions/{answer['decision_id']}")
    assert kept["family"] == "micro"


async def test_no_more_different_members_than_there_are(service: Service):
    assert len((await service.post("/generate", ASK | {"candidates": 3}))["candidates"]) == 3
    problem = await service.post("/generate", ASK | {"candidates": 4}, status=422)
    assert "name a `member`" in problem["errors"][0]["message"]
