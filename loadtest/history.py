"""A history told to a server that starts from nothing: comparisons a second, CPU time of each, and counts after kills in the middle.

    python -m loadtest.history BUNDLE [--comparisons 100000] [--users 5000] [--distinct 20000] [--kill]

`attune users import` sends a made history to a server of its own. With `--kill` the import is killed after a third, started again, and the
server is killed after two thirds, while the import goes on; in the end every comparison must count once, or the exit code is 1. CPU time is
of all processes: the server with its store, and the import. Beside it stands what raw ONNX Runtime needs for the same texts, each once, in
batches of equal lengths, measured on a sample of them in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from attune.models.seam.bundle import read_bundle
from attune.models.seam.padding import pad
from attune.models.seam.text import Encoded
from loadtest.own_server import OwnServer
from loadtest.workloads import raw_sessions, run_raw, sorted_batches

WORDS = tuple(
    f"{verb}{noun}"
    for verb in ("boil ", "cut ", "fold ", "carry ", "paint ", "read ", "plant ", "leave ")
    for noun in ("the water", "a pan", "two letters", "the garden", "some bread", "every window", "a warm coat", "the early train")
)
ANSWERS = 10
"""To one prompt, among which users chose."""
BATCH_TOKENS = 512
PROGRESS = re.compile(r"([\d,]+) of [\d,]+ sent")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time."""

    server_s: float
    store_s: float


def write_history(path: Path, comparisons: int, users: int, distinct: int, seed: int) -> None:
    """Writes a table of choices by users in random order, each between two answers to a prompt; `distinct` answers of 12 to 60 words."""
    draw = random.Random(seed)
    prompts = [f"How do I {' '.join(draw.choices(WORDS, k=2))}, {number}?" for number in range(max(1, distinct // ANSWERS))]
    texts = {prompt: [" ".join(draw.choices(WORDS, k=draw.randint(4, 20))) for _ in range(ANSWERS)] for prompt in prompts}
    with path.open("w", encoding="utf-8") as file:
        for _ in range(comparisons):
            prompt = draw.choice(prompts)
            chosen, rejected = draw.sample(texts[prompt], 2)
            row = {"user": f"history-{draw.randrange(users)}", "prompt": prompt, "chosen": chosen, "rejected": rejected}
            file.write(json.dumps(row) + "\n")


def floor_of(bundle: Path, file: Path, sample: int = 300) -> tuple[int, float]:
    """Returns how many texts a history has, answers and prompts, each once, and the raw scorer's CPU time for all of them, seconds."""
    read = read_bundle(bundle)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    answers = sorted({(row["prompt"], row[name]) for row in rows for name in ("chosen", "rejected")})
    prompts = sorted({row["prompt"] for row in rows})
    encoder, draw = read.text_encoder(), random.Random(0)
    (session, *_) = raw_sessions(read.scorer, threads=1).values()

    def cost_s(texts: list[Encoded], count: int) -> float:
        batches = [pad(batch) for batch in sorted_batches(texts, BATCH_TOKENS)]
        run_raw(session, batches[:1])
        return run_raw(session, batches).cpu_s / len(texts) * count

    some = draw.sample(answers, min(sample, len(answers)))
    few = draw.sample(prompts, min(sample, len(prompts)))
    of_answers = cost_s([row for prompt, text in some for row in encoder.candidates(prompt, [text])], len(answers))
    return len(answers) + len(prompts), of_answers + cost_s([encoder.prompt(prompt) for prompt in few], len(prompts))


def cpu_of(pid: int) -> float:
    """Returns the processor time of a process, seconds; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100.0


class Import:
    """`attune users import` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.sent = 0
        self.said = ""

    @classmethod
    async def begin(cls, file: Path, url: str) -> Import:
        command = (sys.executable, "-m", "attune.models", "users", "import", str(file), "--url", url)
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE))

    async def until(self, sent: int) -> None:
        """Returns when so many were sent, or it ended."""
        assert self.process.stderr is not None
        while self.sent < sent and (line := await self.process.stderr.readline()):
            self.said = line.decode()
            if found := PROGRESS.match(self.said):
                self.sent = int(found[1].replace(",", ""))

    async def end(self) -> str:
        """Returns what it said last, which has the counts.

        Raises:
            RuntimeError: it failed.
        """
        await self.until(sys.maxsize)
        out, _ = await self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the import ended with {self.process.returncode}: {self.said}{out.decode()}")
        return out.decode().strip()


async def counted(url: str, users: int) -> int:
    """Returns how many comparisons the server knows of all users."""
    found = 0
    async with aiohttp.ClientSession(url) as session:
        for user in range(users):
            async with session.get(f"/users/history-{user}") as answer:
                found += (await answer.json())["user"]["comparisons"]
    return found


async def run(given: argparse.Namespace, folder: Path) -> bool:
    """Prints what was measured; returns whether every comparison counts once."""
    file = folder / "history.jsonl"
    write_history(file, given.comparisons, given.users, given.distinct, given.seed)
    settings = {"ATTUNE_BUNDLE": str(given.bundle.resolve()), "ATTUNE_DRAIN_S": "1"}
    async with OwnServer(folder / "data", settings) as server:
        before = Cpu(cpu_of(server.pid), cpu_of(server.store_pid))
        spent_s, began_s = 0.0, time.perf_counter()
        children_s = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        importing = await Import.begin(file, server.url)
        if given.kill:
            await importing.until(given.comparisons // 3)
            importing.process.kill()
            await importing.process.wait()
            print(f"the import was killed after {importing.sent:,}", flush=True)
            importing = await Import.begin(file, server.url)
            await importing.until(2 * given.comparisons // 3)
            spent_s = cpu_of(server.pid) - before.server_s + cpu_of(server.store_pid) - before.store_s
            await server.kill()
            print(f"the server was killed after {importing.sent:,}", flush=True)
            await server.start()
            before = Cpu(0.0, 0.0)
        print(await importing.end(), flush=True)
        took_s = time.perf_counter() - began_s
        spent_s += cpu_of(server.pid) - before.server_s + cpu_of(server.store_pid) - before.store_s
        import_s = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - children_s
        there = await counted(server.url, given.users)
    per = 1e3 / given.comparisons
    print(f"{given.comparisons:,} comparisons of {given.users:,} users: {took_s:.0f} s, {given.comparisons / took_s:,.0f} a second")
    # A server that was killed is a child whose time cannot be told from that of the import.
    of_import = "" if given.kill else f", {per * import_s:.2f} ms of the import"
    print(f"CPU a comparison: {per * spent_s:.2f} ms of server and store{of_import}")
    texts, floor_s = floor_of(given.bundle, file)
    print(f"{texts:,} texts, each once, cost raw ONNX Runtime {per * floor_s:.2f} ms of CPU time a comparison")
    print(f"{there:,} count; {'each once' if there == given.comparisons else f'{there - given.comparisons:+,} is wrong'}")
    return bool(there == given.comparisons)


def main() -> None:
    """Parses arguments, measures, and ends with 1 if a count is wrong."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle", type=Path)
    options.add_argument("--comparisons", type=int, default=100_000)
    options.add_argument("--users", type=int, default=5_000)
    options.add_argument("--distinct", type=int, default=20_000, help="answers that the pairs are made of, ten to a prompt")
    options.add_argument("--kill", action="store_true", help="kill the import after a third and the server after two thirds")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        sys.exit(0 if asyncio.run(run(given, Path(folder))) else 1)


if __name__ == "__main__":
    main()
