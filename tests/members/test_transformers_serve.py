"""A server that somebody else wrote, `transformers serve` on tiny models: the member that asks it, and README's lines for own models."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

pytest.importorskip("peft")
for needed in ("fastapi", "uvicorn", "openai", "pydantic"):  # what transformers itself asks for before it serves
    pytest.importorskip(needed)

from attune.service.members.local import LocalEngine  # noqa: E402
from attune.service.members.member import OneMemberFailed, TextPiece  # noqa: E402
from attune.service.members.openai import OpenAIMember  # noqa: E402
from attune.service.members.spec import OpenAISpec  # noqa: E402
from tests.members.asking import ask, collect, soon  # noqa: E402
from tests.members.tiny import write_base  # noqa: E402
from tests.project.test_own_llms import next_line  # noqa: E402
from tests.project.tree import ROOT  # noqa: E402
from tests.tiny_bundle import write_tiny_bundle  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base whose own settings ask for sampling: without that, this server is greedy whatever the request says."""
    base = write_base(tmp_path_factory.mktemp("served") / "base", seed=3)
    settings = base / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_sample": True}))
    return base


@pytest.fixture(scope="module")
def base_url(base):
    """Each request names the folder of its model."""
    command = shutil.which("transformers", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if command is None:
        pytest.skip("the command `transformers` is not installed, which the package of this name brings")
    arguments = ["serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--log-level", "info"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    server = subprocess.Popen([command, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said, url = [], None
    try:
        for line in server.stderr:  # ends when the server does
            said.append(line)
            if found := re.search(r"running on (http://[^\s]+)", line):
                url = found[1]
                break
        assert url, "the server ended: " + "".join(said[-20:])
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
        load(f"{url}/v1", base)
        yield f"{url}/v1"
    finally:
        server.kill()
        server.wait()


def load(base_url, model):
    """Has the server load a model, which may take longer on a busy machine than a member waits for a first sign."""
    said = {"model": str(model), "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    httpx.post(f"{base_url}/chat/completions", json=said, timeout=300).raise_for_status()


@asynccontextmanager
async def relay_to(base_url):
    """Passes bytes between a connection and the server, and says when the connection has closed."""
    host, port = re.search(r"//([^:/]+):(\d+)", base_url).groups()
    left = asyncio.Event()

    async def pump(reader, writer):
        with suppress(ConnectionError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(pump(server_reader, writer))
        await pump(reader, server_writer)
        left.set()
        await back

    relay = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with relay:
        yield f"http://127.0.0.1:{relay.sockets[0].getsockname()[1]}/v1", left


@pytest.fixture
def member(base, base_url, connections):
    return OpenAIMember("served", OpenAISpec(base_url=base_url, model=str(base), temperature=0.0, top_p=1.0), connections)


async def test_its_check_raises_nothing_although_its_list_of_models_breaks_offline(member, base_url):
    assert (await asyncio.to_thread(httpx.get, f"{base_url}/models", timeout=60)).status_code == 500
    await member.check()


async def test_an_answer_streams_in_pieces_and_is_the_local_members_own(member, base):
    engine = LocalEngine(base, {}, threads=1)
    await asyncio.to_thread(engine.load)
    request = ask("Where should I travel?", temperature=0.0, top_p=1.0, seed=None, max_tokens=40)
    text, finish = await collect(engine.member("local"), request)
    await engine.aclose()
    events = [event async for event in member.stream(request, soon())]
    *pieces, served = events
    assert len(pieces) > 5
    # It sends bytes that make no character as U+FFFD, one by one and joined; the rest is the same.
    assert re.sub("\ufffd+", "", "".join(piece.text for piece in pieces)) == re.sub("\ufffd+", "", text)
    assert (served.prompt_tokens, served.completion_tokens, served.usage) == (finish.prompt_tokens, finish.completion_tokens, "reported")


async def test_sampling_parameters_reach_it(member):
    greedy = await collect(member, ask(temperature=0.0, seed=None))
    assert await collect(member, ask(temperature=None, top_p=None, seed=None)) == greedy
    assert await collect(member, ask(temperature=2.0, top_p=1e-6, seed=5)) == greedy
    one, again, other = [await collect(member, ask(temperature=2.0, top_p=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert one == again != other
    _, finish = await collect(member, ask(temperature=0.0, max_tokens=3))
    assert (finish.reason, finish.completion_tokens) == ("length", 3)


async def test_a_stop_string_ends_the_answer_before_it(member):
    text, _ = await collect(member, ask(temperature=0.0, seed=None))
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    cut, finish = await collect(member, ask(temperature=0.0, seed=None, stop=(stop,)))
    assert cut == text[: text.index(stop)]
    assert finish.reason == "stop"


async def test_a_caller_who_leaves_closes_the_connection_and_the_next_is_served(member, base, base_url, connections):
    async with relay_to(base_url) as (relayed_url, left):
        relayed = OpenAIMember("served", OpenAISpec(base_url=relayed_url, model=str(base)), connections)
        async with aclosing(relayed.stream(ask(max_tokens=100), soon())) as events:
            assert isinstance(await anext(events), TextPiece)
        await left.wait()
    assert (await collect(member, ask(temperature=0.0)))[0]


async def test_a_model_that_it_does_not_know_is_a_failure_with_its_reason(base_url, connections):
    with pytest.raises(OneMemberFailed, match="HTTP "):
        await collect(OpenAIMember("lost", OpenAISpec(base_url=base_url, model="nobody/nothing"), connections), ask())


def told(section):
    """Returns the first block of a section of README, as somebody would paste it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    block = re.search(r"(?:^(?: {4}.*)?\n)+", body[body.index("\n    ") + 1 :], re.MULTILINE)
    assert block
    return re.sub(r"^ {4}", "", block[0], flags=re.MULTILINE).strip() + "\n"


@pytest.mark.slow
def test_two_own_models_serve_a_first_routed_and_learned_request(tmp_path, base_url):
    block = re.sub(r"^make .*\n", "", told("Your own language models"), flags=re.MULTILINE)
    members = set(json.loads(re.search(r"<<'END'\n(.*?)^END$", block, re.MULTILINE | re.DOTALL)[1]))
    bases = [write_base(tmp_path / f"model-{seed}", seed=seed) for seed in (1, 2)]
    for base in bases:
        load(base_url, base)
    models = iter(bases)
    block = re.sub(r'"model": "[^"]*"', lambda _: f'"model": "{next(models)}"', block)
    block = re.sub(r'"base_url": "[^"]*"', f'"base_url": "{base_url}"', block)
    assert (len(members), block.count(base_url)) == (2, 2)

    # What `make serve` has made: a virtual environment and a bundle; the tiny one in place of the demo's.
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "attune").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attune.service "$@"\n')
    (programs / "attune").chmod(0o755)
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    write_tiny_bundle(tmp_path / ".attune" / "bundles")
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"ATTUNE_PORT": "0", "ATTUNE_BATCH_BUDGET_TOKENS": "256", "LLM_KEY": "unused", "PYTHONPATH": paths}
    serving = subprocess.Popen(
        ["bash", "-euc", block],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        ready = next_line(serving, r"attune ready on (http://[^\s]+) .*$")
        assert "without member" not in ready[0]
        url = ready[1]
        assert serving.stderr
        threading.Thread(target=serving.stderr.read, daemon=True).start()
        python = told("From Python")
        assert 'Client("http://127.0.0.1:8000")' in python
        asked = python.replace("http://127.0.0.1:8000", url)
        subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, env=environment, check=True)

        with httpx.Client(base_url=url, timeout=300) as client:
            assert client.get("/users/ada").json()["user"]["comparisons"] == 1
            said = {"model": "auto", "user": "ada", "messages": [{"role": "user", "content": "How do I make pancakes?"}], "max_tokens": 8}
            answered = client.post("/v1/chat/completions", json=said)
            assert answered.json()["choices"][0]["message"]["content"]
            assert answered.headers["x-attune-member"] in members
            law = client.post("/route", json={"user": "ada", "prompt": "How do I make pancakes?"}).json()["routing"]["propensities"]
            assert law.keys() == members
            assert sum(law.values()) == pytest.approx(1.0)
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait(timeout=10)
