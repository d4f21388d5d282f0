"""Stock clients run unchanged against a real server: Cohere, LangChain, instructor, LiteLLM, LlamaIndex, OpenAI's agents.

They weigh hundreds of megabytes and want other versions of each other, so they have an environment of their own: `make clients` makes it
and runs this file.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from attune.service.errors import TextTooLong
from attune.service.members.member import Event, GenerationRequest
from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.settings import Settings
from loadtest.upstream import Turn, running_upstream
from tests.endpoints.conftest import running
from tests.endpoints.stock_clients import CLIENTS, SAYS_JSON, WITH_TOOLS
from tests.endpoints.test_streaming import listening
from tests.endpoints.voices import SAYINGS, Voice
from tests.project.tree import ROOT
from tests.stores import FreshStore

SCRIPT = Path(__file__).with_name("stock_clients.py")
THEIRS = Path(os.environ.get("CLIENTS_PYTHON", ROOT / ".venv-clients" / "bin" / "python"))


def python_with(package: str) -> str:
    """Returns an interpreter that has the package; skips where none does."""
    if THEIRS.is_file():
        return str(THEIRS)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; `make clients` installs it apart and runs this test")
    return sys.executable


class Narrow(Voice):
    """A voice that reads no long texts, as models with a context do."""

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        if sum(len(message.content) for message in request.messages) > 4000:
            raise TextTooLong("the prompt is longer than this member reads")
        async for event in super().stream(request, deadline_s):
            yield event


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_stock_client_works_unchanged(settings_of: Callable[..., Settings], client: str):
    python = python_with(client)
    members = {name: Narrow(name) for name in SAYINGS}
    members[SAYS_JSON].pieces = ('{"name": "Ada", ', '"age": 36}')
    async with running(settings_of(), FreshStore(), members) as service, listening(service) as wired:
        await run(python, client, str(wired.base_url))


THOUGHT: dict[str, Any] = {"reasoning_content": "I look at the sky.", "reasoning_details": [{"signature": "c2ln"}]}


async def calls(turn: Turn) -> None:
    """Thinks and calls the first tool that is offered after a user's turn, and else answers; with JSON where a form is asked for."""
    said, tools = turn.body.get("messages", [{}]), turn.body.get("tools")
    if turn.body.get("response_format"):
        text: str | None = '{"name": "Ada", "age": 36}'
    else:
        text = "It is sunny here." if not tools or said[-1].get("role") != "user" else None
    call = {"id": f"call_{len(said)}", "type": "function", "function": {"name": "weather", "arguments": '{"place": "here"}'}}
    if not turn.body.get("stream"):
        called: dict[str, Any] = {} if text else {"content": None, "tool_calls": [call]} | THOUGHT
        await turn.whole(text or "", "stop" if text else "tool_calls", **called)
        return
    await turn.head()
    if text:
        await turn.text(text)
    else:
        await turn.delta(**THOUGHT)
        await turn.delta(tool_calls=[{**call, "index": 0, "function": {"name": "weather", "arguments": ""}}])
        await turn.delta(tool_calls=[{"index": 0, "function": {"arguments": '{"place": "here"}'}}])
    await turn.finish("stop" if text else "tool_calls")


@pytest.mark.parametrize("client", WITH_TOOLS)
async def test_tools_and_forms_of_stock_clients_reach_a_member_that_passes_them(settings_of: Callable[..., Settings], client: str):
    python = python_with(client)
    members: dict[str, Any] = {name: Narrow(name) for name in SAYINGS}
    async with running_upstream() as upstream, UpstreamPool(environ={}) as pool:
        upstream.answers(calls)
        members["concise"] = OpenAIMember("concise", OpenAISpec(base_url=upstream.base_url, model="m", passes="all"), pool, environ={})
        async with running(settings_of(), FreshStore(), members) as service, listening(service) as wired:
            await run(python, client, str(wired.base_url), "tools")
        said = [message for turn in upstream.turns for message in turn.body.get("messages", ()) if message.get("tool_calls")]
    if client == "agents":  # which sends back every item that it got; the others leave thoughts out of a conversation
        assert any(THOUGHT.items() <= message.items() for message in said)


async def run(python: str, client: str, url: str, *more: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NO_PROXY": "127.0.0.1"}
    command = (python, str(SCRIPT), client, url.rstrip("/"), *more)
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-4000:]
