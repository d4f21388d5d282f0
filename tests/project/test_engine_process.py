"""`ATTUNE_WORKERS=2` with local members: one process has their weights, and its death costs only the answers under way."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

pytest.importorskip("peft")

from tests.members.tiny import write_language_model
from tests.project.test_processes import Many
from tests.project.test_serving import COMMAND, PATIENCE_S, environment, serving
from tests.project.tree import ROOT
from tests.tiny_bundle import MEMBERS, write_tiny_bundle

ASKED = {"user": "anna", "prompt": "tell me about tea", "max_tokens": 6, "seed": 5, "score": False}
NOWHERE = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "none"}


def write_local_bundle(root: Path, model: Path, *, salt: float = 0.0, adapter: str = "concise") -> Path:
    """Writes a tiny bundle with a roster of its own: two local members, and one that nobody serves."""
    bundle = write_tiny_bundle(root, salt=salt)
    base = {"kind": "local", "base": str(model / "base")}
    local = {MEMBERS[0]: base | {"adapter": str(model / "adapters" / adapter)}, MEMBERS[1]: base}
    (bundle / "roster.json").write_text(json.dumps({**dict.fromkeys(MEMBERS, NOWHERE), **local}), encoding="utf-8")
    return bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def many(model: Path, tmp_path_factory) -> Iterator[Many]:
    folder = tmp_path_factory.mktemp("data")
    write_local_bundle(folder / "bundles", model)
    with serving(folder, ATTUNE_WORKERS="2") as (process, url, _line):
        lines: list[str] = []
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
        yield Many(psutil.Process(process.pid), url, lines)


def has_torch(process: psutil.Process) -> bool:
    return any("libtorch" in each.path for each in process.memory_maps())


def answer(many: Many, member: str, **more: object) -> httpx.Response:
    return many.post("/generate", ASKED | {"member": member} | more)


def test_one_process_has_the_weights_and_every_process_gives_its_answers(many: Many) -> None:
    (engine,) = many.children("engine")
    assert has_torch(engine)
    assert [has_torch(child) for child in (*many.children("worker"), *many.children("scorer"))] == [False] * 3
    assert many.metric('attune_processes{role="engine"}') == 1.0
    for member in MEMBERS[:2]:
        found = [answer(many, member) for _ in range(8)]
        assert {each.status_code for each in found} == {200}, found[0].text
        assert len({each.json()["candidates"][0]["text"] for each in found}) == 1


def test_a_stream_and_a_refusal_cross(many: Many) -> None:
    asked = {"messages": [{"role": "user", "content": "tea"}], "max_tokens": 6, "temperature": 0}  # drawn, its first token may be the end
    body = {"model": MEMBERS[0], "stream": True} | asked
    with httpx.stream("POST", f"{many.url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 4
    refused = answer(many, MEMBERS[0], prompt="tea " * 400)
    assert refused.status_code == 413, refused.text


def test_the_engine_is_started_again_after_kill_9_and_nothing_else_is_hurt(many: Many) -> None:
    (engine,) = many.children("engine")
    engine.kill()
    assert httpx.get(f"{many.url}/livez", timeout=PATIENCE_S).status_code == 200
    assert many.post("/score", {"user": "anna", "prompt": "tea", "responses": ["yes"]}).status_code == 200
    statuses = many.until_served("/generate", ASKED | {"member": MEMBERS[0]})
    assert set(statuses) <= {200, 502, 503}
    many.until_restarted("engine")
    assert many.children("engine")[0].pid != engine.pid
    assert many.metric('attune_process_restarts_total{role="engine"}') == 1.0
    assert [answer(many, MEMBERS[1]).status_code for _ in range(8)] == [200] * 8


def test_reloads_reach_the_engine_or_leave_it_as_it_was(many: Many, model: Path, tmp_path: Path) -> None:
    before = answer(many, MEMBERS[0]).json()["candidates"][0]["text"]
    lost = write_local_bundle(tmp_path / "lost", model, salt=0.125, adapter="nowhere")
    refused = many.post("/admin/reload", {"bundle": str(lost)})
    assert refused.status_code == 409
    assert "adapter" in refused.text
    assert {answer(many, MEMBERS[0]).json()["candidates"][0]["text"] for _ in range(6)} == {before}
    other = write_local_bundle(tmp_path / "other", model, salt=0.25, adapter="playful")
    assert many.post("/admin/reload", {"bundle": str(other)}).status_code == 200
    after = {answer(many, MEMBERS[0]).json()["candidates"][0]["text"] for _ in range(6)}
    assert len(after) == 1
    assert after != {before}
    assert len(many.children("engine")) == 1


def test_a_signal_leaves_no_process(many: Many) -> None:
    children = many.process.children(recursive=True)
    many.process.send_signal(signal.SIGTERM)
    assert many.process.wait(timeout=60) == 0
    assert not [line for line in many.lines if "Traceback" in line]
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_local_members_may_come_and_go_with_the_roster(model: Path, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles")
    (bundle / "roster.json").write_text(json.dumps(dict.fromkeys(MEMBERS, NOWHERE)), encoding="utf-8")
    with serving(tmp_path, ATTUNE_WORKERS="2") as (process, url, _line):
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        many = Many(psutil.Process(process.pid), url, [])
        assert many.children("engine") == []
        assert many.metric('attune_processes{role="engine"}') == 0.0
        local = write_local_bundle(tmp_path / "local", model, salt=0.25)
        assert many.post("/admin/reload", {"bundle": str(local)}).status_code == 200
        assert [answer(many, MEMBERS[0]).status_code for _ in range(6)] == [200] * 6
        assert many.post("/admin/reload", {"bundle": str(bundle)}).status_code == 200
        assert answer(many, MEMBERS[0]).status_code in {502, 503}
        assert many.post("/admin/reload", {"bundle": str(local)}).status_code == 200
        assert [answer(many, MEMBERS[0]).status_code for _ in range(6)] == [200] * 6


def test_what_is_started_again_serves_as_the_others_do_whatever_its_files_say_by_then(model: Path, tmp_path: Path) -> None:
    bundle = write_local_bundle(tmp_path / "bundles", model)
    roster, keys, config = tmp_path / "members.toml", tmp_path / "keys", tmp_path / "attune.toml"
    local = {name: {"kind": "local", "base": "model/base"} for name in MEMBERS}
    roster.write_text("\n".join(f'[{name}]\nkind = "local"\nbase = "{entry["base"]}"' for name, entry in local.items()), encoding="utf-8")
    (tmp_path / "model").symlink_to(model)
    keys.write_text("", encoding="utf-8")
    config.write_text("local_max_batch = 2\n", encoding="utf-8")
    given = {"ATTUNE_WORKERS": "2", "ATTUNE_ROSTER": str(roster), "ATTUNE_CONFIG": str(config), "ATTUNE_API_KEYS_FILE": str(keys)}
    long = tmp_path / ("temporary-" * 9)  # longer than a socket's path may be
    long.mkdir()
    with serving(tmp_path, **given, TMPDIR=str(long)) as (process, url, _line):
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        many = Many(psutil.Process(process.pid), url, [])
        before = answer(many, MEMBERS[0]).json()["candidates"][0]["text"]
        for file in (roster, keys, config, bundle / "roster.json"):
            file.write_text("{ is being edited", encoding="utf-8")
        assert many.post("/admin/reload", {}).status_code == 409
        ended = [*many.children("engine"), *many.children("worker")[:1]]
        for child in ended:
            child.kill()
            child.wait(PATIENCE_S)
        many.until_restarted("engine")
        many.until_restarted("worker", alive=2)
        assert set(many.until_served("/generate", ASKED | {"member": MEMBERS[0]})) <= {200, 502, 503}
        assert {answer(many, MEMBERS[0]).json()["candidates"][0]["text"] for _ in range(8)} == {before}


def test_an_adapter_that_cannot_be_loaded_stops_the_start_with_exit_code_3(model: Path, tmp_path: Path) -> None:
    bundle = write_local_bundle(tmp_path / "bundles", model)
    other = write_language_model(tmp_path / "other")  # its adapters fit; a file that is no tensors does not
    weights = other / "adapters" / "concise" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    roster = json.loads((bundle / "roster.json").read_text(encoding="utf-8"))
    roster[MEMBERS[0]]["adapter"] = str(weights.parent)
    (bundle / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
    given = environment(tmp_path) | {"ATTUNE_WORKERS": "2"}
    run = subprocess.run(COMMAND, cwd=ROOT, env=given, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 3, run.stderr
    assert MEMBERS[0] in run.stderr
    assert "Traceback" not in run.stderr
