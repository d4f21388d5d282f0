"""What routing weighs beside values: costs, the member that served last, and what the certificate says of the user."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.models.seam.routing import choose, expected_values, member_costs, sampled_worth, utilities
from attune.service.errors import BundleRefused
from attune.service.ids import new_id
from attune.service.settings import Settings
from attune.service.state.store import UserKey, user_tag
from attune.service.usecases.decision_record import CertifiedUser, pack, unpack
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.test_decision_record import record
from tests.endpoints.voices import SAYINGS, voices
from tests.stores import FreshStore
from tests.tiny_bundle import MEMBERS

ROUTE: dict[str, Any] = {"user": "u1", "prompt": PROMPT}
BEST = ROUTE | {"policy": "best"}
PRICES, LATENCIES_S = (1.0, 4.0, 2.0), (0.0, 0.5, 2.0)


def liked(user: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"user": user, "prompt": PROMPT, "chosen_text": chosen, "rejected_text": rejected}


def priced_roster(folder: Path, prices: tuple[float, ...] = PRICES, latencies_s: tuple[float, ...] = LATENCIES_S) -> str:
    """Returns the path of a roster that says what each member costs; the members themselves are given by the test."""
    nowhere = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "none"}
    costs = ({"price": price, "latency_s": latency_s} for price, latency_s in zip(prices, latencies_s, strict=True))
    path = folder / "priced.json"
    path.write_text(json.dumps({name: nowhere | cost for name, cost in zip(MEMBERS, costs, strict=True)}), encoding="utf-8")
    return str(path)


# --- costs --------------------------------------------------------------------------------------------------------------


async def redrawn(service: Service, decision_id: str, policy: str, costs: np.ndarray, weight: float, count: int = 1) -> Any:
    """Returns the choice that the logged seed draws again, computed from the bundle alone."""
    kept = await service.get(f"/decisions/{decision_id}")
    bundle, rng = service.serving.bundle, np.random.default_rng(int(kept["seed"]))
    (row,) = (await service.serving.batcher.submit([service.serving.encoder.prompt(PROMPT)], 5)).rows
    weights = bundle.families["vrf"].sample_weights(np.zeros(6), row, rng, kept["samples"])
    worth = service.serving.standings.last("default").values("vrf", row)
    sampled = utilities(sampled_worth(weights, *worth, rng), costs, weight)
    mean = utilities(expected_values(weights, worth[0]), costs, weight)
    return choose(policy, sampled, count=count, epsilon=kept["epsilon"], rng=rng, mean=mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["sample", "best", "uniform"])
async def test_expected_values_law_and_draw_are_all_of_the_same_utility(settings_of: Callable[..., Settings], tmp_path: Path, policy: str):
    settings = settings_of(roster=priced_roster(tmp_path), routing_cost_weight=0.7, routing_price_share=0.25)
    costs = member_costs(np.array(PRICES), np.array(LATENCIES_S), price_share=0.25)
    async with running(settings, FreshStore()) as service:
        for _ in range(5):
            answer = await service.post("/route", ROUTE | {"policy": policy, "candidates": 2})
            choice = await redrawn(service, answer["decision_id"], policy, costs, 0.7, count=2)
            routing = answer["routing"]
            assert routing["members"] == [MEMBERS[index] for index in choice.members]
            assert list(routing["propensities"].values()) == choice.propensities.tolist()
            assert (routing["propensity"], routing["joint_propensity"]) == (choice.propensity, choice.joint)
            assert [each["mean"] for each in routing["expected"].values()] == choice.mean.tolist()
            assert list(routing["costs"].values()) == pytest.approx((0.7 * costs).tolist())
        user = await service.get("/users/u1")
        values = {name: each["mean"] for name, each in user["portfolio"]["expected"].items()}
        assert values["detailed"] < values["concise"]
        assert [member["cost"] for member in (await service.get("/portfolio"))["members"]] == pytest.approx(costs.tolist())


async def test_members_are_drawn_as_often_as_the_logged_law_says(settings_of: Callable[..., Settings], tmp_path: Path):
    settings = settings_of(roster=priced_roster(tmp_path), routing_cost_weight=0.3, posterior_samples=64)
    async with running(settings, FreshStore()) as service:
        drawn, expected, variance = np.zeros(3), np.zeros(3), np.zeros(3)
        for _ in range(400):
            routing = (await service.post("/route", ROUTE))["routing"]
            law = np.array([routing["propensities"][member] for member in MEMBERS])
            drawn[MEMBERS.index(routing["member"])] += 1
            expected += law
            variance += law * (1 - law)
        assert np.all(expected > 5)
        # The law differs a little between decisions, so the chi-square is of their sum; 18.4 is one in ten thousand for 2 degrees.
        assert float(np.sum((drawn - expected) ** 2 / expected)) < 18.4
        assert np.all(np.abs(drawn - expected) < 4.5 * np.sqrt(variance))


async def test_the_dearer_member_loses_where_the_trade_off_is_great_enough(settings_of: Callable[..., Settings], tmp_path: Path):
    roster = priced_roster(tmp_path, prices=(0.0, 0.0, 3.0), latencies_s=(0.0, 0.0, 0.0))
    served = {}
    for weight in (0.0, 0.2, 4.0):
        async with running(settings_of(roster=roster, routing_cost_weight=weight), FreshStore()) as service:
            for _ in range(6):
                await service.post("/feedback", liked("u1", WARM, LONG))
            routing = (await service.post("/generate", BEST))["routing"]
            served[weight] = routing["member"]
            assert ("costs" in routing) == (weight > 0)
    assert served[0.0] == served[0.2] == "warm"
    assert served[4.0] != "warm"


async def test_a_stand_in_is_chosen_by_utility_too(settings_of: Callable[..., Settings], tmp_path: Path):
    from attune.service.members.member import OneMemberFailed

    roster = priced_roster(tmp_path, prices=(0.0, 5.0, 0.0), latencies_s=(0.0, 0.0, 0.0))
    members = voices()
    members["warm"].failure = OneMemberFailed("warm", "connect", "is away")
    async with running(settings_of(roster=roster, routing_cost_weight=10.0), FreshStore(), members) as service:
        for _ in range(6):
            await service.post("/feedback", liked("u1", WARM, LONG))
        routing = (await service.post("/generate", BEST))["routing"]
        assert routing["fallback"]["wanted"] == "warm"
        assert routing["fallback"]["served"] == "concise"


async def test_the_cost_of_a_member_is_its_price_times_its_tokens_and_one_without_a_price_has_none(
    settings_of: Callable[..., Settings], tmp_path: Path
):
    roster = priced_roster(tmp_path, prices=(0.5, 0.0, 0.25), latencies_s=(0.0, 0.0, 0.0))
    async with running(settings_of(roster=roster), FreshStore()) as service:
        priced, free, other = MEMBERS
        assert await service.metric("attune_member_cost_total", member=priced) == 0
        for member in (priced, priced, free, other):
            await service.post("/generate", {"user": "u1", "prompt": "one two three", "member": member})
        for member, price, answers in ((priced, 0.5, 2), (other, 0.25, 1)):
            tokens = answers * (3 + sum(len(piece.split()) for piece in SAYINGS[member]))
            assert await service.metric("attune_member_cost_total", member=member) == price * tokens
        told = (await service.client.get("/metrics")).text
        assert f'attune_member_cost_total{{member="{free}"}}' not in told


async def test_a_roster_with_a_price_that_is_none_stops_the_start(settings_of: Callable[..., Settings], tmp_path: Path):
    with pytest.raises(BundleRefused, match="price"):
        async with running(settings_of(roster=priced_roster(tmp_path, prices=(1.0, -1.0, 0.0))), FreshStore()):
            pass


# --- hysteresis ---------------------------------------------------------------------------------------------------------


async def turn_to(service: Service, user: str, kind: str) -> None:
    """Lets a user choose until the member of `kind` is clearly the best of an average prompt."""
    text, other = {"warm": (WARM, LONG), "concise": (SHORT, LONG), "detailed": (LONG, SHORT)}[kind]
    for _ in range(40):
        await service.post("/feedback", liked(user, text, other))
        if (await service.get(f"/users/{user}"))["portfolio"]["member"] == kind:
            return
    pytest.fail(f"{kind} did not become the best")


@pytest.fixture
def store() -> Callable[[], Any]:
    return FreshStore


async def test_best_keeps_the_last_member_unless_beaten_by_more(settings_of: Callable[..., Settings], store: Callable[[], Any]):
    async with running(settings_of(routing_hysteresis=5.0), store()) as service:
        await turn_to(service, "u1", "concise")
        assert (await service.post("/generate", BEST))["routing"]["member"] == "concise"
        for _ in range(6):  # by far, or what is sampled for one prompt may say otherwise
            await turn_to(service, "u1", "warm")
        kept = (await service.post("/generate", BEST))["routing"]
        assert (kept["member"], kept["last"], kept["propensity"]) == ("concise", "concise", 1.0)
        assert kept["propensities"]["concise"] == 1.0
        assert kept["expected"]["warm"]["mean"] > kept["expected"]["concise"]["mean"]
        other = (await service.post("/generate", BEST | {"user": "u2"}))["routing"]
        assert "last" not in other


async def test_a_member_that_is_better_by_more_takes_over(settings_of: Callable[..., Settings]):
    async with running(settings_of(routing_hysteresis=0.01), FreshStore()) as service:
        await turn_to(service, "u1", "concise")
        assert (await service.post("/route", BEST))["routing"]["member"] == "concise"
        for _ in range(6):
            await turn_to(service, "u1", "warm")
        routing = (await service.post("/route", BEST))["routing"]
        gap = routing["expected"]["warm"]["mean"] - routing["expected"]["concise"]["mean"]
        assert (routing["member"] == "warm") == (gap > 0.01)
        assert routing["last"] == "concise"


async def test_what_served_counts_and_not_what_was_drawn_or_forced(settings_of: Callable[..., Settings]):
    from attune.service.members.member import OneMemberFailed

    members = voices()
    async with running(settings_of(routing_hysteresis=100.0), FreshStore(), members) as service:
        members["warm"].failure = OneMemberFailed("warm", "connect", "is away")
        await turn_to(service, "u1", "warm")
        served = (await service.post("/generate", BEST))["routing"]["fallback"]["served"]
        await service.post("/generate", ROUTE | {"member": next(name for name in ("concise", "detailed") if name != served)})
        assert (await service.post("/route", BEST))["routing"]["last"] == served


async def test_without_hysteresis_nobody_is_remembered_and_sampling_is_left_alone(settings_of: Callable[..., Settings], service: Service):
    await service.post("/generate", BEST)
    assert "last-member" not in (await service.client.get("/users/u1/export")).text
    assert "last" not in (await service.post("/generate", BEST))["routing"]
    async with running(settings_of(routing_hysteresis=100.0), FreshStore()) as keeping:
        await keeping.post("/generate", BEST)
        laws = [(await keeping.post("/route", ROUTE))["routing"]["propensities"] for _ in range(3)]
        assert all(max(law.values()) < 0.95 for law in laws)


async def test_the_last_member_is_exported_and_deleted(settings_of: Callable[..., Settings], store: Callable[[], Any]):
    async with running(settings_of(routing_hysteresis=1.0, user_secret="s" * 32), store()) as service:
        member = (await service.post("/generate", BEST | {"user": "to-delete"}))["routing"]["member"]
        lines = [json.loads(line) for line in (await service.client.get("/users/to-delete/export")).text.splitlines()]
        assert {"type": "last-member", "member": member} in lines
        assert (await service.client.delete("/users/to-delete")).json()["deleted"]["keys"] >= 3
        assert len((await service.client.get("/users/to-delete/export")).text.splitlines()) == 1
        assert "last" not in (await service.post("/route", BEST | {"user": "to-delete"}))["routing"]


async def test_a_last_member_that_the_portfolio_no_longer_has_is_nobody(settings_of: Callable[..., Settings]):
    store = FreshStore()
    async with running(settings_of(routing_hysteresis=100.0, user_secret="s" * 32), store) as service:
        await service.post("/route", BEST)
        key = UserKey("default", user_tag(b"s" * 32, "default", BEST["user"]))
        await store.write_decision(key, new_id(), b"of another bundle", 60.0, "of-another-bundle")
        assert "last" not in (await service.post("/route", BEST))["routing"]


# --- the certificate ----------------------------------------------------------------------------------------------------


async def test_the_certificate_of_a_user_is_that_of_their_weights(service: Service):
    certificate = service.serving.bundle.portfolio.certificate
    assert certificate is not None
    told = [(await service.post("/route", ROUTE))["routing"]["certificate"]]
    for _ in range(12):
        await service.post("/feedback", liked("u1", WARM, LONG))
    told.append((await service.post("/generate", ROUTE))["routing"]["certificate"])
    before, after = told
    assert before["ratio"] >= certificate.worst_ratio - 1e-12
    # Towards one head the members are at their best: more is proved of a user who knows what they want.
    assert after["ratio"] > before["ratio"]
    assert after["lower"] > before["lower"]
    for each in told:
        assert (each["family"], each["confidence"]) == ("vrf", 0.95)
        assert each["lower"] <= each["upper"]
        assert each["ratio"] >= each["lower"] / each["upper"] - 1e-12
    assert certificate.proved(np.full(3, 1 / 3)) == pytest.approx((before["ratio"], before["lower"], before["upper"]))
    assert (await service.post("/route", ROUTE | {"prompt": "tell me about tea"}))["routing"]["certificate"] == after


async def test_a_family_without_a_certificate_says_null_and_the_decision_keeps_what_was_said(service: Service):
    other = await service.post("/route", ROUTE | {"family": "micro"})
    assert other["routing"]["certificate"] is None
    made = await service.post("/generate", ROUTE)
    kept = await service.get(f"/decisions/{made['decision_id']}")
    assert kept["routing"]["certificate"] == made["routing"]["certificate"] is not None


async def test_what_is_known_of_a_user_has_the_certificate_that_routing_gives(service: Service):
    await service.post("/feedback", liked("u1", WARM, LONG))
    routed = (await service.post("/route", ROUTE))["routing"]["certificate"]
    assert (await service.get("/users/u1"))["portfolio"]["certificate"] == routed


async def test_the_stream_has_the_certificate_too(service: Service):
    answer = await service.client.post("/generate", json=ROUTE | {"stream": True})
    assert answer.text.count('"certificate":{"ratio":') == 2


def test_a_record_of_before_is_read_with_nothing_in_its_place():
    made = record([], np.zeros(1, dtype=np.float32))
    full = replace(
        made,
        routing=replace(made.routing, costs={"a": 0.5}, certificate=CertifiedUser(0.9, 0.8, 1.0, "vrf", 0.95), hysteresis=0.1, last="a"),
    )
    assert unpack(pack(full)).routing == full.routing
    body = zlib.decompress(pack(made)[1:])
    (size,) = struct.unpack_from("<I", body)
    header = json.loads(body[4 : 4 + size])
    for name in ("costs", "certificate", "hysteresis", "last"):
        del header["routing"][name]
    older = json.dumps(header).encode()
    content = pack(made)[:1] + zlib.compress(struct.pack("<I", len(older)) + older + body[4 + size :])
    assert unpack(content).routing == made.routing
