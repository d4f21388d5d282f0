"""Every example runs against a real server, where what it needs is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from attune.client import AsyncClient
from attune.service.members.openai import OpenAIMember
from attune.service.members.roster_file import read_roster
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream import Turn, running_upstream
from tests.endpoints.conftest import PROMPT, SHORT, bundle, running, settings_of
from tests.endpoints.test_stock_clients import python_with
from tests.endpoints.voices import voices
from tests.project.tree import ROOT
from tests.socket_server import on_socket

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

EXAMPLES = ROOT / "examples"


@pytest.fixture
async def url(settings_of) -> AsyncIterator[str]:
    """Where the application listens."""
    async with running(settings_of()) as service, on_socket(service.app) as (url, _):
        yield url


async def run(*arguments: str, typed: str = "", python: str = sys.executable, **environment: str) -> str:
    """Returns what a Python program prints that ends well."""
    code, out, complaints = await ran(*arguments, typed=typed, python=python, **environment)
    assert code == 0, complaints
    return out


async def ran(*arguments: str, typed: str = "", python: str = sys.executable, **environment: str) -> tuple[int | None, str, str]:
    """Returns exit code, output and complaints of a Python program."""
    process = await asyncio.create_subprocess_exec(
        python,
        *arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaints = await process.communicate(typed.encode())
    return process.returncode, out.decode(), complaints.decode()


async def test_the_agent_runs_its_tool_and_its_thumb_is_learned(settings_of):
    async def calls_then_says(turn: Turn) -> None:
        said = turn.body.get("messages", ())
        if said and said[-1]["role"] == "user":
            zone = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "Nowhere/At all"}'}}
            await turn.whole("", "tool_calls", content=None, tool_calls=[zone])
        else:
            await turn.whole(f"They said {said[-1]['content']}" if said else "")

    members: dict[str, Any] = dict(voices())
    async with running_upstream() as upstream, UpstreamPool(environ={}) as pool:
        upstream.answers(calls_then_says)
        members["warm"] = OpenAIMember("warm", OpenAISpec(base_url=upstream.base_url, model="m", passes=["tools"]), pool, environ={})
        async with running(settings_of(), members=members) as service, on_socket(service.app) as (url, _):
            printed = await run("examples/agent.py", "--url", url, "--rating", "1", "What time is it?")
            code, _, complaints = await ran("examples/agent.py", "--url", "http://127.0.0.1:9", "What time is it?")
    first, answered, member, learned = printed.splitlines()
    assert first.startswith("[warm calls clock: error: ")
    assert answered == f"They said {first.removeprefix('[warm calls clock: ').removesuffix(']')}"
    assert (member, learned) == ("[warm]", "[learned: 1 so far]")
    assert (code, complaints) == (1, "http://127.0.0.1:9: Connection error.\n")


async def test_the_chat_talks_and_its_thumbs_are_learned(url: str):
    printed = await run("examples/chat.py", "--url", url, "--user", "ada", typed=f"/up\n{PROMPT}\n/up\n{PROMPT}\n/down\n/quit\nnot asked\n")
    assert printed.startswith("nothing to rate yet")
    assert "[learned: 1 so far]" in printed
    assert "[learned: 2 so far]" in printed
    assert "not asked" not in printed
    assert (EXAMPLES / "chat.py").read_text(encoding="utf-8").count("\n") <= 60


async def test_langchain_asks_and_its_answer_is_rated(url: str):
    python = python_with("langchain_openai")
    printed = await run("examples/langchain_chat.py", "--url", url, "--user", "grace", PROMPT, python=python, PYTHONPATH="")
    assert "[learned: 1 so far]" in printed


async def test_without_a_server_the_chat_says_so_in_a_line():
    away = "http://127.0.0.1:1"
    code, _, complaints = await ran("examples/chat.py", "--url", away, typed=f"{PROMPT}\n", NO_PROXY="*")
    assert (code, complaints.count("\n")) == (1, 1)
    assert complaints.startswith(f"{away} does not answer: ")


async def test_without_a_server_the_chain_says_so_in_a_line():
    away, python = "http://127.0.0.1:1", python_with("langchain_openai")
    code, _, complaints = await ran("examples/langchain_chat.py", "--url", away, PROMPT, python=python, PYTHONPATH="", NO_PROXY="*")
    assert code == 1
    assert "Traceback" not in complaints
    assert f"{away} does not answer: " in complaints


def gateway_of(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the module as a proxy would load it whose environment names this server."""
    monkeypatch.setenv("ATTUNE_URL", url)
    monkeypatch.setenv("ATTUNE_WITHIN_S", "60")  # a busy machine is not out of reach
    found = importlib.util.spec_from_file_location("litellm_gateway", EXAMPLES / "litellm_gateway.py")
    assert found is not None
    assert found.loader is not None
    gateway = importlib.util.module_from_spec(found)
    found.loader.exec_module(gateway)
    return gateway


async def test_behind_a_gateway_the_member_is_chosen_and_the_thumb_learned(url: str, monkeypatch: pytest.MonkeyPatch):
    gateway = gateway_of(url, monkeypatch)
    turns = [{"role": "user", "content": PROMPT}]
    member, decision = await gateway.choose("bob", turns)
    async with AsyncClient(url) as attune:
        assert member in {one.name for one in (await attune.portfolio()).members}
        for _ in range(2):
            assert await gateway.thumb("bob", decision, SHORT, up=True, event_id="thumb-1")
        assert (await attune.user("bob")).comparisons == 1
    if gateway.attune is not None:
        sent = await gateway.attune.async_pre_call_hook(None, None, {"model": "auto", "user": "bob", "messages": turns}, "completion")
        assert sent["model"] != "auto"
        assert sent["metadata"]["attune_decision"]
    away = gateway_of("http://127.0.0.1:1", monkeypatch)
    assert await away.choose("bob", turns) == ("concise", None)
    assert not await away.thumb("bob", decision, SHORT, up=True, event_id="thumb-2")


async def test_the_notebook_evaluates_a_log_of_this_server(url: str, tmp_path: Path):
    log = tmp_path / "log.jsonl"
    async with AsyncClient(url, timeout_s=60) as attune:
        with log.open("w", encoding="utf-8") as written:
            for user in range(6):
                for _ in range(2):
                    pair = await attune.generate(f"user-{user}", PROMPT, candidates=2, policy="uniform", max_tokens=8)
                    better, worse = sorted(pair.candidates, key=lambda one: len(one.text))
                    await attune.prefer(f"user-{user}", better, over=worse)
                await attune.rate(f"user-{user}", better, 1.0)  # a thumb is no duel
                written.writelines(json.dumps(line) + "\n" for line in await attune.export(f"user-{user}"))
    notebook = json.loads((EXAMPLES / "off_policy.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"), encoding="utf-8")
    printed = await run(str(program), LOG=str(log))
    assert "12 decisions, 18 comparisons" in printed
    assert "12 duels of 6 users" in printed
    assert "left out: 6 ratings of one answer" in printed
    assert re.search(r"^uniform +.*ips 0\.\d\d \[0\.\d\d, [01]\.\d\d\]", printed, re.MULTILINE)
    assert "mostly the best" in printed


def test_the_roster_for_vllm_is_one_that_the_server_takes():
    members = read_roster(EXAMPLES / "vllm_lora_roster.json")
    assert set(members) == {"concise", "detailed", "playful", "base"}


async def test_the_converter_of_summaries_says_what_it_needs():
    for given in ([], ["/nowhere"], ["--help"]):
        code, out, complaints = await ran("examples/summeval/convert.py", *given)
        assert (code, out, complaints.splitlines()) == (1, "", ["one argument is needed: the folder that holds summeval-op-detailed.jsonl"])
