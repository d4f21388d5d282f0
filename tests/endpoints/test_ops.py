"""What operators ask, and loading another bundle while requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from attune import __version__
from attune.service.errors import BundleRefused
from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.voices import Voice, voices
from tests.stores import FreshStore
from tests.tiny_bundle import HEADS, MEMBERS, write_tiny_bundle

TEXTS = {"user": "u1", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG}


async def test_ready_says_what_serves_and_that_every_part_answers(service: Service):
    ready = await service.get("/readyz")
    assert (ready["status"], ready["bundle"], ready["store"]) == ("ready", service.serving.bundle.id, "ok")
    assert ready["members"] == dict.fromkeys(MEMBERS, "ok")
    assert ready["scorer"]["provider"] == "CPUExecutionProvider"
    assert await service.get("/livez") == {"status": "alive"}


async def test_a_member_away_is_named_and_only_all_of_them_make_it_not_ready(settings_of: Callable[..., Settings]):
    async with running(settings_of(ready_needs_store=False), FreshStore()) as service:
        health = service.app.state.health
        service.members["warm"].away = True
        await health.try_members()
        assert (await service.get("/readyz"))["members"]["warm"] == "is away"
        assert await service.metric("attune_ready_part", part="members") == 1
        for voice in service.members.values():
            voice.away = True
        await health.try_members()
        assert await service.metric("attune_ready") == 0
        assert await service.metric("attune_ready_part", part="members") == 0
        problem = await service.get("/readyz", status=503)
        assert problem["code"] == "not-ready"
        assert all(member in problem["detail"] for member in MEMBERS)


async def test_a_dead_scorer_fails_livez_and_readyz(service: Service):
    await service.serving.batcher.aclose()
    assert (await service.get("/livez", status=503))["code"] == "not-ready"
    assert (await service.get("/readyz", status=503))["scorer"]["state"].startswith("the scorer has died")
    assert (await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT]}, status=503))["code"] == "not-ready"


async def test_version_bundle_and_portfolio_say_what_is_served(service: Service):
    assert (await service.get("/version"))["attune"] == __version__
    bundle = await service.get("/bundle")
    assert bundle["families"]["vrf"] == {"heads": list(HEADS), "evidence": 6}
    assert bundle["manifest"]["trained_on"] == "nothing"
    assert bundle["batch_budget_tokens"] == 256
    portfolio = await service.get("/portfolio")
    assert [member["name"] for member in portfolio["members"]] == list(MEMBERS)
    assert portfolio["members"][2]["values"]["vrf"] == {"concise": 0.0, "detailed": 0.0, "warm": 1.0}
    assert portfolio["members"][2]["intervals"]["vrf"]["warm"] == 0.05
    assert (portfolio["certificate"]["epsilon"], portfolio["certificate"]["vertices"]) == (0.25, 4)


async def test_metrics_have_what_serves_and_what_was_asked(service: Service):
    await service.post("/generate", {"user": "u1", "prompt": PROMPT, "member": "warm"})
    await service.post("/feedback", TEXTS)
    assert await service.metric("attune_ready") == 1
    assert await service.metric("attune_bundle_info", bundle=service.serving.bundle.id) == 1
    assert await service.metric("attune_batch_budget_tokens") == 256
    assert await service.metric("attune_member_tokens_total", member="warm", kind="completion") == 11
    assert await service.metric("attune_member_first_token_seconds_count", member="warm") == 1
    assert await service.metric("attune_scorer_tokens_total", kind="real") > 0
    for stage in ("tokenize", "queue", "inference", "redis", "member"):
        assert await service.metric("attune_stage_duration_seconds_count", stage=stage) > 0
    answer = await service.client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")


# --- reload -----------------------------------------------------------------------------------------------------------


async def test_a_bundle_of_the_same_basis_keeps_its_users(service: Service, tmp_path: Path):
    await service.post("/feedback", TEXTS)
    before = await service.get("/users/u1")
    with capture_logs() as lines:
        reloaded = await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, note="second"))})
    assert reloaded["users_kept"] is True
    (line,) = [line for line in lines if "bundle was loaded" in line["event"] or "basis was loaded" in line["event"]]
    assert (line["log_level"], line["bundle"], line["before"]) == ("info", reloaded["bundle"], reloaded["before"])
    assert reloaded["before"] != reloaded["bundle"] == (await service.get("/version"))["bundle"]
    after = await service.get("/users/u1")
    assert (after["user"], after["families"]) == (before["user"], before["families"])
    assert await service.metric("attune_bundle_info", bundle=reloaded["bundle"]) == 1
    assert await service.metric("attune_bundle_info", bundle=reloaded["before"]) == 0
    assert await service.metric("attune_bundle_reloads_total", result="loaded") == 1


async def test_a_bundle_of_another_basis_starts_its_users_at_the_prior_and_the_old_one_has_them_still(
    service: Service, bundle: Path, tmp_path: Path
):
    await service.post("/feedback", TEXTS)
    with capture_logs() as lines:
        reloaded = await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, salt=0.25))})
    assert reloaded["users_kept"] is False
    (line,) = [line for line in lines if "bundle of another basis was loaded" in line["event"]]
    assert (line["log_level"], line["bundle"], line["before"]) == ("warning", reloaded["bundle"], reloaded["before"])
    assert "`attune replay`" in line["event"]
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 0
    await service.post("/admin/reload", {"bundle": str(bundle)})
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 1


def damaged(bundle: Path) -> Path:
    content = bytearray((bundle / "scorer.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "scorer.onnx").write_bytes(bytes(content))
    return bundle


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda root: root / "nothing", "manifest.json"),
    "damaged": (lambda root: damaged(write_tiny_bundle(root)), "scorer.onnx"),
    "wrong probes": (lambda root: write_tiny_bundle(root, probe_error=0.01), "probe 0 differs by 0.0"),
    "too long a name": (lambda root: root / ("x" * 300), "File name too long"),
    "an address": (lambda _: Path("https://bundles.example.com/bundle-x"), "`attune bundle fetch` brings a bundle"),
    "a folder of bundles": (lambda root: write_tiny_bundle(root).parent, "name one of them: bundle-"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_bad_bundle_is_refused_and_the_old_one_keeps_serving(service: Service, tmp_path: Path, kind: str):
    make, message = REFUSED[kind]
    before = await service.get("/version")
    problem = await service.post("/admin/reload", {"bundle": str(make(tmp_path))}, status=409)
    assert problem["code"] == "bundle-refused"
    assert message in problem["detail"]
    assert await service.get("/version") == before
    await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT]})
    assert await service.metric("attune_bundle_reloads_total", result="refused") == 1


async def test_a_request_in_flight_finishes_on_the_bundle_it_began_with(service: Service, tmp_path: Path):
    voice = service.members["warm"]
    voice.gate.clear()
    old = service.serving
    asking = asyncio.ensure_future(service.post("/generate", {"user": "u1", "prompt": PROMPT, "member": "warm"}))
    await voice.began.wait()
    reloaded = await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, note="second"))})
    assert old.batcher.alive
    assert (await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT]}))["bundle"] == reloaded["bundle"]
    voice.gate.set()
    assert (await asking)["bundle"] == reloaded["before"]
    await old.leases.idle()
    await old.batcher.drain()


async def test_reload_without_a_path_takes_the_configured_bundle(service: Service):
    reloaded = await service.post("/admin/reload", {})
    assert reloaded["bundle"] == reloaded["before"]


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [({"family": "none"}, "no family none"), ({"shadow_families": ("nobody",)}, "no family nobody"), ({"require_gpu": True}, "CUDA")],
)
async def test_what_cannot_be_served_stops_the_start_with_its_reason(settings_of: Callable[..., Settings], given: dict, message: str):
    with pytest.raises(BundleRefused, match=message):
        async with running(settings_of(**given), FreshStore()):
            pass


async def test_a_bundle_without_a_roster_stops_the_start(settings_of: Callable[..., Settings]):
    from attune.service.app import create_app

    app = create_app(settings_of(), store=FreshStore())
    with pytest.raises(BundleRefused, match="no roster that says where they are"):
        async with app.router.lifespan_context(app):
            pass


async def test_the_configured_family_serves_and_shadows_are_measured(settings_of: Callable[..., Settings]):
    async with running(settings_of(family="micro", shadow_families=("bradley_terry",)), FreshStore()) as service:
        assert (await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT]}))["family"] == "micro"
        await service.post("/feedback", TEXTS)
        for family, measured in (("micro", 1), ("bradley_terry", 1), ("vrf", 0)):
            assert await service.metric("attune_prequential_log_loss_nats_count", family=family) == measured


async def test_stopping_refuses_what_is_new_and_waits_for_what_is_there(settings_of: Callable[..., Settings]):
    members: dict[str, Voice] = voices()
    members["warm"].gate.clear()
    async with asyncio.TaskGroup() as group:
        async with running(settings_of(), FreshStore(), members) as service:
            held = group.create_task(service.post("/generate", {"user": "u1", "prompt": PROMPT, "member": "warm"}))
            await members["warm"].began.wait()

            stopping = asyncio.Event()

            async def meanwhile() -> None:
                await stopping.wait()
                answer = await service.client.get("/users/u1")
                assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
                assert "stopping" in answer.json()["detail"]
                members["warm"].gate.set()

            late = group.create_task(meanwhile())
            asyncio.get_running_loop().call_soon(stopping.set)  # runs when the block below first waits: then it drains
        assert held.done()
        assert late.done()
    assert held.result()["candidates"]


# --- the page -----------------------------------------------------------------------------------------------------------


async def test_the_page_loads_nothing_from_elsewhere(service: Service):
    answer = await service.client.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "://" not in answer.text
    assert len(answer.content) < 20_000
