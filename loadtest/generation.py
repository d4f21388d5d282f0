"""Tokens per second of local members with mixed adapters, against transformers' own generate, alternating in one run.

    python -m loadtest.generation                       a random Llama of 4.2 M parameters with four adapters, on the CPU
    python -m loadtest.generation --bundle FOLDER       the same through HTTP, too: a server of its own with that bundle
    python -m loadtest.generation --bundle FOLDER --workers 1 2       and beside it one whose members are in the engine's process
    python -m loadtest.generation --base DIR --adapters DIR --device cuda

Ways to write equally many tokens: `members` is what Attune serves (every row its own adapter, streaming, sampling); `HTTP` is
the same through a running server, one connection a client, whole answers; `generate` is transformers' generate with peft's
`adapter_names`, with all threads and with one. Ratios are taken within a round against the faster of these two, by the
clock and by processor time (of a server, of all its processes until the last answer is there), since absolute figures
drift on shared machines. The scoring of answers after they were sent is waited for before the next way begins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from attune.service.members.local import LocalEngine
from attune.service.members.member import ChatTurn, Finish, GenerationRequest
from loadtest.own_server import OwnServer
from loadtest.peers.compare import cpu_at_rest
from loadtest.peers.targets import cpu_s
from loadtest.raw_http import exchange, http

WORDS = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "family", "hand"]


def write_random_model(root: Path) -> None:
    """Writes a Llama of 4.2 M parameters with random weights, a tokenizer of its own and four adapters of rank 8."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 8, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(root / "base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        max_position_embeddings=512, initializer_range=0.2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip  # the wide initial weights make choices as sharp as those of a trained model
    LlamaForCausalLM(config).save_pretrained(root / "base")
    for seed, name in enumerate(["concise", "detailed", "playful", "formal"]):
        torch.manual_seed(seed)
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(LlamaForCausalLM.from_pretrained(root / "base"), lora).save_pretrained(root / "adapters" / name)


def write_endless(base: Path, to: Path) -> Path:
    """Writes a folder with the base's files in which no token ends a text, so that every way writes equally many; returns it."""
    to.mkdir()
    for file in base.iterdir():
        if file.name in {"config.json", "generation_config.json", "tokenizer_config.json"}:
            said = json.loads(file.read_text(encoding="utf-8"))
            kept = {"eos_token_id": None} | {name: None if name in {"eos_token_id", "eos_token"} else value for name, value in said.items()}
            (to / file.name).write_text(json.dumps(kept), encoding="utf-8")
        elif file.name != "special_tokens_map.json":
            (to / file.name).symlink_to(file.resolve())
    return to


class Members:
    """Attune's own way: one stream a row."""

    def __init__(self, args: argparse.Namespace, adapters: dict[str, Path]) -> None:
        self.engine = LocalEngine(args.base, adapters, device=args.device, threads=args.threads, max_batch=max(args.batches))
        self.engine.load()
        assert not self.engine.model.end_tokens, "an answer would end before it is as long as the others"
        self.members = [self.engine.member(name, name) for name in adapters] or [self.engine.member("base")]

    def run(self, prompts: list[str], tokens: int) -> tuple[int, float]:
        """Returns how many tokens were written, and the processor time of it, seconds."""

        async def one(index: int) -> int:
            request = GenerationRequest((ChatTurn("user", prompts[index]),), tokens, 1.0, 0.95, seed=index)
            member = self.members[index % len(self.members)]
            async for event in member.stream(request, asyncio.get_running_loop().time() + 600.0):
                if isinstance(event, Finish):
                    return event.completion_tokens
            raise AssertionError("a stream ends with its finish")

        async def run_all() -> int:
            return sum(await asyncio.gather(*map(one, range(len(prompts)))))

        before_s = time.process_time()
        return asyncio.run(run_all()), time.process_time() - before_s


class ThroughHTTP:
    """The same through a server, which is started here and has the adapters as its members; one connection a client."""

    def __init__(self, args: argparse.Namespace, adapters: dict[str, Path], workers: int, runner: asyncio.Runner) -> None:
        self.way = "HTTP" if workers == 1 else f"HTTP, {workers} workers"
        self.names, self.runner = list(adapters), runner
        roster = args.scratch / "roster.json"
        described = {"kind": "local", "base": str(args.base.resolve()), "device": args.device}
        roster.write_text(json.dumps({name: described | {"adapter": str(path.resolve())} for name, path in adapters.items()}))
        settings = {"ATTUNE_BUNDLE": str(args.bundle.resolve()), "ATTUNE_ROSTER": str(roster)}
        settings |= {"ATTUNE_LOCAL_MAX_BATCH": str(max(args.batches)), "ATTUNE_THREADS": str(args.threads or 0)}
        settings["ATTUNE_WORKERS"] = str(workers)
        self.server = OwnServer(args.scratch / f"data-{workers}", settings)
        self.connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def run(self, prompts: list[str], tokens: int) -> tuple[int, float]:
        """Returns how many tokens were written, and the processor time of it, seconds."""
        return self.runner.run(self._run(prompts, tokens))

    async def _run(self, prompts: list[str], tokens: int) -> tuple[int, float]:
        while len(self.connections) < len(prompts):
            self.connections.append(await asyncio.open_connection("127.0.0.1", int(self.server.url.rsplit(":", 1)[1])))
        asked: dict[str, object] = {"max_tokens": tokens, "temperature": 1.0, "top_p": 0.95, "stream": False}
        bodies = [
            asked | {"model": self.names[at % len(self.names)], "seed": at, "messages": [{"role": "user", "content": prompt}]}
            for at, prompt in enumerate(prompts)
        ]
        requests = [http("/v1/chat/completions", body) for body in bodies]
        process = psutil.Process(self.server.pid)
        before_s = cpu_s(process)
        statuses = await asyncio.gather(*(exchange(*its, request) for its, request in zip(self.connections, requests, strict=False)))
        if set(statuses) != {200}:
            raise SystemExit(f"the server answered {statuses}")
        return tokens * len(prompts), cpu_s(process) - before_s

    async def rest(self) -> None:
        """Returns when the answers are scored."""
        await cpu_at_rest(psutil.Process(self.server.pid), 0.02)


class Generate:
    """The yardstick: transformers' generate, one call a batch."""

    def __init__(self, args: argparse.Namespace, adapters: dict[str, Path]) -> None:
        dtype = torch.float32 if args.device == "cpu" else "auto"
        self.network = AutoModelForCausalLM.from_pretrained(args.base, dtype=dtype, local_files_only=True)
        for index, (name, path) in enumerate(adapters.items()):
            if index == 0:
                self.network = PeftModel.from_pretrained(self.network, str(path), adapter_name=name)
            else:
                self.network.load_adapter(str(path), adapter_name=name)
        self.network = self.network.to(args.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(args.base, local_files_only=True)
        self.names, self.device = list(adapters), args.device

    def run(self, prompts: list[str], tokens: int, threads: int) -> tuple[int, float]:
        """Returns how many tokens were written, and the processor time of it, seconds."""
        before_s = time.process_time()
        torch.set_num_threads(threads)
        texts = [f"user: {prompt}\nassistant:" for prompt in prompts]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(self.device)
        mixed = {"adapter_names": [self.names[index % len(self.names)] for index in range(len(prompts))]} if self.names else {}
        with torch.inference_mode():
            written = self.network.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=True, temperature=1.0, top_p=0.95, top_k=0, **mixed,
            )  # fmt: skip
        return int(written.shape[1] - inputs["input_ids"].shape[1]) * len(prompts), time.process_time() - before_s


Speeds = dict[str, list[tuple[float, float]]]
"""Tokens a second of each way in each round, by the clock and by processor time."""


def measured(ways: dict[str, Callable[[], tuple[int, float]]], rounds: int, rest: Callable[[], None]) -> Speeds:
    """Returns how fast each way was, the ways in turn; a first round warms up."""
    speeds: Speeds = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            began_s = time.perf_counter()
            tokens, used_s = way()
            took_s = time.perf_counter() - began_s
            rest()
            if round_:
                speeds[name].append((tokens / took_s, tokens / used_s))
    return speeds


def ratios(speeds: Speeds, name: str, clock: int) -> list[float]:
    """Returns how many times as fast as the better generate a way was in each round, rising; clock 0 is the clock on the wall."""
    yardsticks = [found for way, found in speeds.items() if way.startswith("generate")]
    best = [max(found[clock] for found in round_) for round_ in zip(*yardsticks, strict=True)]
    return sorted(own[clock] / other for own, other in zip(speeds[name], best, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="directory of the base; a random model is made if it is left out")
    parser.add_argument("--adapters", type=Path, help="directory of adapter directories")
    parser.add_argument("--bundle", type=Path, help="measure through HTTP, too, with this bundle")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="a server with so many processes that take requests, for each")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="of members and of the server; Attune's own choice if it is left out")
    parser.add_argument("--generate-threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}), help="tried for generate")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()

    disable_progress_bar()
    set_verbosity_error()
    with tempfile.TemporaryDirectory() as made, asyncio.Runner() as runner:
        args.scratch = Path(made)
        if args.base is None:
            write_random_model(args.scratch)
            args.base, args.adapters = args.scratch / "base", args.scratch / "adapters"
        args.base = write_endless(args.base, args.scratch / "endless")
        adapters = {path.name: path for path in sorted(args.adapters.iterdir()) if path.is_dir()} if args.adapters else {}
        members, generate = Members(args, adapters), Generate(args, adapters)
        servers = [ThroughHTTP(args, adapters, workers, runner) for workers in args.workers if args.bundle and adapters]
        own = ["members", *(server.way for server in servers)]
        rows = []

        def rest() -> None:
            for server in servers:
                runner.run(server.rest())

        try:
            for server in servers:
                runner.run(server.server.start())
            for batch in args.batches:
                prompts = [" ".join(WORDS[(index + at) % len(WORDS)] for at in range(args.prompt_tokens)) for index in range(batch)]
                ways: dict[str, Callable[[], tuple[int, float]]] = {"members": partial(members.run, prompts, args.tokens)}
                ways |= {server.way: partial(server.run, prompts, args.tokens) for server in servers}
                for threads in args.generate_threads:
                    ways[f"generate, {threads} thr."] = partial(generate.run, prompts, args.tokens, threads)
                speeds = measured(ways, args.rounds, rest)
                medians = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in speeds.items()}
                found = {name: {clock: ratios(speeds, name, at) for at, clock in enumerate(("clock", "cpu"))} for name in own}
                rows.append({"batch": batch, "tokens_per_s": medians, "ratios": found})
                print(f"batch {batch}, tokens a second by the clock / of processor time:")
                for name, (clock, cpu) in medians.items():
                    said = [f"{statistics.median(each):.2f} [{each[0]:.2f}, {each[-1]:.2f}]" for each in found.get(name, {}).values()]
                    print(f"  {name:>16}: {clock:>6.0f} / {cpu:>6.0f}  {' / '.join(said)}", flush=True)
        finally:
            for server in servers:
                runner.run(server.server.stop())
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
