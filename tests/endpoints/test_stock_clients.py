"""Stock clients run unchanged against a real server: Cohere, LangChain, instructor, LiteLLM, LlamaIndex; `openai` is in `test_chat`.

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

import pytest

from attune.service.errors import TextTooLong
from attune.service.members.member import Event, GenerationRequest
from attune.service.settings import Settings
from tests.endpoints.conftest import running
from tests.endpoints.stock_clients import CLIENTS, SAYS_JSON
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
        url = str(wired.base_url).rstrip("/")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NO_PROXY": "127.0.0.1"}
        process = await asyncio.create_subprocess_exec(
            python, str(SCRIPT), client, url, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()[-4000:]
