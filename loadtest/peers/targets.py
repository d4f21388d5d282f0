"""Servers under test, Attune and its peers, each as a process of its own in front of the same upstream or around the same model.

What a peer needs is made below a temporary folder at every start; its packages are in the virtual environment of its name that
`install.sh` makes, and a peer without one is left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from attune.models.seam.bundle import Bundle, read_bundle
from loadtest.own_server import end_in_order
from loadtest.peers import fixed_upstream
from loadtest.peers.infinity_model import write_infinity_model
from loadtest.raw_http import exchange, free_port, http
from loadtest.workloads import ScoreWork, make_requests

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

START_S = 180.0


@dataclass(frozen=True, slots=True)
class Target:
    """One server under test: its process, where it listens, and the requests that it is sent, ready to write.

    `shared` is a server that others need while they are measured: it is never stopped.
    """

    name: str
    process: psutil.Process
    port: int
    requests: list[bytes]
    shared: bool = False

    def stop(self) -> None:
        """Halts it and all below it where they are, so that what they do unasked is in nobody else's figures."""
        for each in [] if self.shared else processes(self.process):
            with suppress(psutil.NoSuchProcess):
                each.suspend()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lets it run, and stops it again afterwards."""
        resume(self.process)
        try:
            yield
        finally:
            self.stop()


def processes(process: psutil.Process) -> list[psutil.Process]:
    """Returns a process and all below it, parents first."""
    return [process, *process.children(recursive=True)]


def resume(process: psutil.Process) -> None:
    """Lets a process and all below it go on: children first, so that no parent finds one of its own standing still."""
    for each in reversed(processes(process)):
        with suppress(psutil.NoSuchProcess):
            each.resume()


def cpu_s(process: psutil.Process) -> float:
    """Returns the CPU time that a process and all below it have used."""
    total = 0.0
    for each in processes(process):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@contextmanager
def started(name: str, command: list[str], port: int | Path, requests: list[bytes], **changes: str) -> Iterator[Target]:
    """Yields a server once it answers one of its requests with 200; it is ended afterwards.

    A server that chooses its port itself names it in a file, whose path is given in place of the port.
    """
    end_in_order()
    log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")} | changes
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        found = asyncio.run(until_answered(process, port, requests[0], log, name))
        yield Target(name, psutil.Process(process.pid), found, requests)
    finally:
        with suppress(psutil.NoSuchProcess):
            resume(psutil.Process(process.pid))  # what is stopped does not end
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # what it started and left behind, as LitServe does
            os.killpg(process.pid, signal.SIGKILL)


async def until_answered(process: subprocess.Popen[bytes], at: int | Path, request: bytes, log: object, name: str) -> int:
    """Returns the port once the server there has answered with 200."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            port = at if isinstance(at, int) else int(await asyncio.to_thread(at.read_text, encoding="utf-8"))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(30):
                status = await exchange(reader, writer, request)
            writer.close()
            if status == 200:
                return port
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            pass
        await asyncio.sleep(0.3)
    log.seek(0)  # type: ignore[attr-defined]
    raise SystemExit(f"{name} did not answer:\n{log.read().decode(errors='replace')[-3000:]}")  # type: ignore[attr-defined]


def attune(bundle: Path, requests: list[bytes], parts: ExitStack, **changes: str) -> Target:
    port, data = free_port(), parts.enter_context(tempfile.TemporaryDirectory())
    command = [sys.executable, "-m", "attune.service", "serve", "--port", str(port), "--bundle", str(bundle), "--data-dir", data]
    quiet = {"ATTUNE_LOG_LEVEL": "warning"}
    return parts.enter_context(started("attune", command, port, requests, **quiet, **changes))


def gateways(bundle: Bundle, peers: list[str], venvs: Path, parts: ExitStack, *, streamed: bool = False) -> list[Target]:
    """Returns Attune and its peers as gateways in front of one upstream."""
    above = free_port()
    upstream = [sys.executable, fixed_upstream.__file__, str(above)]
    direct = parts.enter_context(started("upstream", upstream, above, [http("/v1/chat/completions", {})]))
    folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
    base = f"http://127.0.0.1:{above}/v1"
    roster = {name: {"kind": "openai", "base_url": base, "model": "fixed"} for name in bundle.portfolio.names}
    (folder / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
    message = [{"role": "user", "content": "How do I boil an egg?"}]

    def chats(model: str, path: str = "/v1/chat/completions", **more: str) -> list[bytes]:
        return [http(path, {"model": model, "messages": message, "max_tokens": 20, "stream": streamed, **more})]

    auto = [request for user in range(100) for request in chats("auto", user=f"load-{user}")]
    at = {"ATTUNE_ROSTER": str(folder / "roster.json")}
    # A member is known after 200 of its answers, which takes longer than a block: from the first answer here, so that every block is alike.
    known = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_UNTIL="0", **at)
    unscored = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_SHARE="0", ATTUNE_SCORE_LATER_UNTIL="0", **at)
    new = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_SHARE="1", **at)
    every = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_SHARE="1", ATTUNE_SCORE_LATER_PER_S="0", **at)
    names = {"attune, members known": known, "attune, all scored": every, "attune, unscored": unscored}
    targets = [new, *(replace(target, name=name) for name, target in names.items())]
    if "plain" in peers:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--app-dir",
            str(HERE),
            "plain_proxy:app",
            "--port",
            str(port),
            "--log-level",
            "warning",
        ]
        targets.append(parts.enter_context(started("plain", command, port, chats("fixed"), UPSTREAM=base)))
    if "litellm" in peers and (venvs / "litellm/bin/litellm").exists():
        port, config = free_port(), folder / "litellm.yaml"
        config.write_text((HERE / "litellm.yaml").read_text(encoding="utf-8").replace("PORT", str(above)), encoding="utf-8")
        command = [str(venvs / "litellm/bin/litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        more = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
        targets.append(parts.enter_context(started("litellm", command, port, chats("fixed"), **more)))
    if "tensorzero" in peers and (venvs / "tensorzero/bin/python").exists():
        command = [str(venvs / "tensorzero/bin/python"), str(HERE / "tensorzero_gateway.py"), base, str(folder)]
        asked = chats("tensorzero::function_name::chat", "/openai/v1/chat/completions")
        targets.append(parts.enter_context(started("tensorzero", command, folder / "port", asked, PYTHONPATH="")))
    return [*targets, replace(direct, name="upstream alone", requests=chats("fixed"), shared=True)]


def scorers(
    bundle: Bundle, peers: list[str], venvs: Path, parts: ExitStack, *, law: str, responses: int, beside: list[Path] | None = None
) -> list[Target]:
    """Returns Attune and its peers as scorers of the same texts; and Attune with each bundle of `beside`, under its precisions' names."""
    made = make_requests(bundle.text_encoder(), law=law, texts=192, responses=responses, seed=1)
    folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))

    def score(number: int, request: ScoreWork) -> bytes:
        return http("/score", {"user": f"load-{number}", "prompt": request.prompt, "responses": request.responses})

    # The family whose one head the peers compute; Attune's graph computes all of them all the same.
    scored = [score(number, request) for number, request in enumerate(made)]
    other = {f"attune, {', '.join(read_bundle(path).scorers)}": attune(path, scored, parts) for path in beside or []}
    targets = [attune(bundle.path, scored, parts), *(replace(target, name=name) for name, target in other.items())]
    ids = [[list(row.input_ids) for row in request.rows] for request in made]
    port = free_port()
    if "litserve" in peers and (venvs / "litserve/bin/python").exists():
        command = [str(venvs / "litserve/bin/python"), str(HERE / "litserve_scorer.py"), str(bundle.path), str(port)]
        asked = [http("/predict", {"ids": each}) for each in ids]
        targets.append(parts.enter_context(started("litserve", command, port, asked, PYTHONPATH=str(ROOT))))
    port = free_port()
    if "bentoml" in peers and (venvs / "bentoml/bin/bentoml").exists():
        command = [str(venvs / "bentoml/bin/bentoml"), "serve", "loadtest.peers.bentoml_scorer:BentoScorer", "--working-dir", str(ROOT)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        asked = [http("/predict", {"requests": [each]}) for each in ids]
        more = {"BUNDLE": str(bundle.path.resolve()), "BENTOML_HOME": str(folder / "bento"), "BENTOML_DO_NOT_TRACK": "True"}
        targets.append(parts.enter_context(started("bentoml", command, port, asked, PYTHONPATH="", **more)))
    port = free_port()
    if "infinity" in peers and (venvs / "infinity/bin/infinity_emb").exists():
        write_infinity_model(bundle.path, folder / "infinity")
        command = [str(venvs / "infinity/bin/python"), str(HERE / "infinity_server.py"), "v2", "--model-id", str(folder / "infinity")]
        command += ["--engine", "optimum", "--device", "cpu", "--batch-size", "32"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
        # A prompt and a response are one text to it, of one token fewer.
        texts = [[f"{one.prompt} {text}" for text in one.responses] for one in made]
        asked = [http("/embeddings", {"model": str(folder / "infinity"), "input": each}) for each in texts]
        more = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "DO_NOT_TRACK": "1"}
        targets.append(parts.enter_context(started("infinity", command, port, asked, PYTHONPATH="", **more)))
    return targets
