"""`attune members measure`: own upstreams asked, scored and told, a run that goes on, and evidence that a deployment takes once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI, Response
from scipy.stats import t

from attune.service.settings import Settings
from attune.service.upstream_measurement import Asking, MeasureFailed, half_widths, import_measured, in_lines, measure_members, read_prompts
from tests.endpoints.conftest import running
from tests.endpoints.voices import Voice
from tests.project.test_command_line import attune
from tests.project.test_own_llms import MANNERS, upstream, write_roster
from tests.socket_server import on_socket
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

__all__ = ["upstream"]
PROMPTS = ["how do i boil an egg ?", "tell me about tea", "what is the best way to travel ?"]


@pytest.fixture
def settings(tmp_path, upstream) -> Settings:
    bundle = write_tiny_bundle(tmp_path / "bundles", members=False)
    roster = write_roster(tmp_path / "mine.json", upstream, terse="short", kind="warm")
    return Settings(data_dir=tmp_path, bundle=str(bundle), roster=str(roster), batch_budget_tokens=256, threads=1)


def test_members_are_asked_once_each_prompt_and_a_broken_run_goes_on(tmp_path, settings):
    said: list[str] = []
    kept = tmp_path / "V.json.answers.jsonl"
    first = measure_members(settings, PROMPTS, tmp_path / "V.json", Asking(together=2), said.append)
    assert said[0] == "asking terse, kind for 6 answers, 2 at a time"
    assert said[-2:] == ["6 of 6 answers, about 0 s left", "scoring 6 answers"]
    lines = kept.read_text().splitlines()
    assert sorted((json.loads(line)["member"], json.loads(line)["text"]) for line in lines) == sorted(
        [("terse", MANNERS["short"]), ("kind", MANNERS["warm"])] * 3
    )
    kept.write_text("\n".join([*lines[:3], lines[3][:20]]))  # killed in the middle of a line
    again = measure_members(settings, PROMPTS, tmp_path / "V.json", Asking(), said.append)
    assert "3 answers are there already" in said
    assert again == first == json.loads((tmp_path / "V.json").read_text())
    assert measure_members(settings, PROMPTS, tmp_path / "V.json", Asking(), said.append) == first
    assert said[-2:] == ["6 answers are there already", "scoring 6 answers"]
    values = {name: dict(zip(first["heads"]["vrf"], one["means"]["vrf"], strict=True)) for name, one in first["members"].items()}
    assert values["terse"]["concise"] > values["kind"]["concise"]
    assert values["kind"]["warm"] > values["terse"]["warm"]


async def test_a_deployment_takes_a_measurement_once_as_evidence(tmp_path, settings):
    document = await as_thread(lambda: measure_members(settings, PROMPTS, tmp_path / "V.json", Asking(), lambda _: None))
    body = {"basis": document["basis"], "event_id": document["event_id"]}
    body["members"] = {name: {part: one[part] for part in ("answers", "means", "covariances")} for name, one in document["members"].items()}
    async with running(settings, FreshStore(), {name: Voice(name, ("yes .",)) for name in ("terse", "kind")}) as service:
        assert (await service.post("/admin/members", body))["members"] == {"terse": "applied", "kind": "applied"}
        assert (await service.post("/admin/members", body))["members"] == {"terse": "duplicate", "kind": "duplicate"}
        told = {member["name"]: member for member in (await service.get("/portfolio"))["members"]}
        assert (told["kind"]["evidence"]["answers"], told["kind"]["evidence"]["latest"]) == (3.0, 0.0)
        assert told["kind"]["worth"]["vrf"]["warm"]["mean"] > told["terse"]["worth"]["vrf"]["warm"]["mean"]
        wrong = await service.post("/admin/members", body | {"basis": "another"}, status=422)
        assert "rewards mean something else" in wrong["detail"]
        broken = body | {"event_id": "other", "members": {"kind": body["members"]["kind"] | {"means": {"vrf": [1.0]}}}}
        assert "needs 3 means" in (await service.post("/admin/members", broken, status=422))["detail"]


async def test_the_command_prints_what_was_measured_and_what_a_deployment_said_of_it_for_programs(tmp_path, settings):
    where = ["--bundle", settings.bundle, "--roster", settings.roster, "--out", str(tmp_path / "V.json")]
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    command = ["members", "measure", *where, "--prompts", str(tmp_path / "prompts.txt"), "--json"]
    async with running(settings, FreshStore()) as service, on_socket(service.app) as (url, _):
        done = await as_thread(lambda: attune(*command, "--url", url, ATTUNE_DATA_DIR=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"written", "imported"} == set(found) - set(json.loads((tmp_path / "V.json").read_text()))
    assert found["imported"]["members"] == {"terse": "applied", "kind": "applied"}
    assert {name: one["answers"] for name, one in found["members"].items()} == {"terse": 3, "kind": 3}
    done = await as_thread(lambda: attune(*command[:-1], ATTUNE_DATA_DIR=str(tmp_path)))
    assert done.stdout.splitlines()[0] == f"measured terse by 3 answers, kind by 3 answers; written to {tmp_path / 'V.json'}"


def test_a_member_that_does_not_answer_is_told(tmp_path, settings):
    write_roster(tmp_path / "mine.json", "http://127.0.0.1:9/v1", away="short")
    said: list[str] = []
    with pytest.raises(MeasureFailed, match="away answered fewer than two prompts") as caught:
        measure_members(settings, PROMPTS[:2], tmp_path / "V.json", Asking(tries=1), said.append)
    assert caught.value.goes_on  # with the answers that are there
    assert any(line.startswith("away gave no answer to prompt 1: ") and "members failed" not in line for line in said)


def test_a_member_that_fails_is_told_at_its_first_failure_and_once(tmp_path, settings):
    write_roster(tmp_path / "mine.json", "http://127.0.0.1:9/v1", away="short")
    said: list[str] = []
    with pytest.raises(MeasureFailed, match="away answered fewer than two prompts"):
        measure_members(settings, PROMPTS[:2], tmp_path / "V.json", Asking(tries=2), said.append)
    (first,) = [line for line in said if line.startswith("away fails, and is tried up to 2 times an answer: ")]
    assert said.index(first) == 1


def test_what_was_measured_is_said_in_sentences_with_the_numbers_of_the_document():
    document = {"members": {"terse": {"answers": 3}, "kind": {"answers": 1200}}, "certificate": {"gap": {"vrf": 0.12345, "micro": 2.0}}}
    first, second = in_lines(document, Path("V.json"), "", None)
    assert first == "measured terse by 3 answers, kind by 1,200 answers; written to V.json"
    assert second.startswith("serving the member with the greatest measured value loses at most so much reward, in 95% of cases: ")
    assert second.endswith(": 0.123 under vrf, 2.000 under micro")
    taken = {"basis": "b", "event_id": "e", "members": {"terse": "applied", "kind": "duplicate"}}
    assert in_lines(document, Path("V.json"), "http://a", taken)[2:] == [
        "http://a took as evidence: terse",
        "http://a had as evidence already: kind",
    ]


@pytest.mark.parametrize("content", [b"<html>welcome</html>", b"[]", b'{"status": "ok"}'])
async def test_what_is_no_attune_is_not_believed_to_have_taken_a_measurement(content):
    other = FastAPI()
    other.post("/admin/members")(lambda: Response(content))
    async with on_socket(other) as (url, _):
        with pytest.raises(MeasureFailed, match=f"^{url} answered, and does not say what it took; is it an Attune\\?$"):
            await as_thread(lambda: import_measured(url, {"basis": "b", "event_id": "e", "members": {}}, ""))


def test_half_widths_are_students(rng):
    rewards = rng.normal(size=(12, 3))
    by_hand = t.ppf(0.975, 11) * rewards.std(axis=0, ddof=1) / np.sqrt(12)
    assert half_widths(rewards, 0.05) == pytest.approx(by_hand, rel=0.01)


def test_answers_that_are_all_alike_make_nobody_certain(rng):
    likely = np.array([0.5, 0.25, 1.0])
    alike = half_widths(np.full((12, 3), 0.1 + 0.2), 0.05, likely)
    assert alike == pytest.approx(t.ppf(0.975, 11) * likely / np.sqrt(12), rel=0.01)
    rewards = rng.normal(size=(12, 3))
    assert half_widths(rewards, 0.05, likely) == pytest.approx(half_widths(rewards, 0.05))


def test_prompts_are_text_or_json_and_each_is_asked_once(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('tell me\n\n{"prompt": "about tea"}\ntell me\n')
    assert read_prompts(file) == ["tell me", "about tea"]
    file.write_bytes('{"prompt": "one\u2028two\x85three"}\r\nfour\x0cfive\r\rsix\n'.encode())
    assert read_prompts(file) == ["one\u2028two\x85three", "four\x0cfive", "six"]
    file.write_text('{"text": "about tea"}\n')
    with pytest.raises(MeasureFailed, match="the text `prompt` is needed") as caught:
        read_prompts(file)
    assert not caught.value.goes_on
    file.write_text('{"prompt": "\\ud800"}\n{"prompt": "about tea"}\n')
    with pytest.raises(MeasureFailed, match="prompt: half of a surrogate pair at character 1"):
        read_prompts(file)
    file.write_text('{"prompt": ' + "[" * 50_000)
    with pytest.raises(MeasureFailed, match="is nested too deeply"):
        read_prompts(file)


def test_a_roster_without_members_is_told_before_anybody_is_asked(tmp_path, settings):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(MeasureFailed, match="the roster names no member"):
        measure_members(settings, PROMPTS, tmp_path / "V.json", Asking(), lambda _: None)


async def as_thread(work):
    import asyncio

    return await asyncio.to_thread(work)
