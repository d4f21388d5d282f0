"""Tokens per second of local members with mixed adapters, against transformers' own generate, alternating in one run.

    python -m loadtest.generation                       a random Llama of 4.2 M parameters with four adapters, on the CPU
    python -m loadtest.generation --base DIR --adapters DIR --device cuda

Three ways to write the same answers: `members` is what Attune serves (every row its own adapter, streaming, sampling);
`generate, mixed` is transformers' generate with peft's `adapter_names`; `generate, base` is generate without adapters, a
ceiling that no adapter reaches. Ratios are taken within a round, since absolute figures drift on shared machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from attune.service.members.local import LocalEngine
from attune.service.members.member import ChatTurn, Finish, GenerationRequest

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
        self.members = [self.engine.member(name, name) for name in adapters]

    def run(self, prompts: list[str], tokens: int) -> int:
        async def one(index: int) -> int:
            request = GenerationRequest((ChatTurn("user", prompts[index]),), tokens, 1.0, 0.95, seed=index)
            member = self.members[index % len(self.members)]
            async for event in member.stream(request, asyncio.get_running_loop().time() + 600.0):
                if isinstance(event, Finish):
                    return event.completion_tokens
            raise AssertionError("a stream ends with its finish")

        async def run_all() -> int:
            return sum(await asyncio.gather(*map(one, range(len(prompts)))))

        return asyncio.run(run_all())


class Generate:
    """The yardstick: transformers' generate, one call a batch."""

    def __init__(self, args: argparse.Namespace, adapters: dict[str, Path], tokenizer: Any) -> None:
        dtype = torch.float32 if args.device == "cpu" else "auto"
        self.network = AutoModelForCausalLM.from_pretrained(args.base, dtype=dtype, local_files_only=True)
        for index, (name, path) in enumerate(adapters.items()):
            if index == 0:
                self.network = PeftModel.from_pretrained(self.network, str(path), adapter_name=name)
            else:
                self.network.load_adapter(str(path), adapter_name=name)
        self.network = self.network.to(args.device).eval()
        self.names, self.tokenizer, self.device = list(adapters), tokenizer, args.device

    def run(self, prompts: list[str], tokens: int) -> int:
        texts = [f"user: {prompt}\nassistant:" for prompt in prompts]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(self.device)
        mixed = {"adapter_names": [self.names[index % len(self.names)] for index in range(len(prompts))]} if self.names else {}
        with torch.inference_mode():
            written = self.network.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=True, temperature=1.0, top_p=0.95, top_k=0, **mixed,
            )  # fmt: skip
        return int(written.shape[1] - inputs["input_ids"].shape[1]) * len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="directory of the base; a random model is made if it is left out")
    parser.add_argument("--adapters", type=Path, help="directory of adapter directories")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="per second of this process's processor time: for a busy machine")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()

    disable_progress_bar()
    set_verbosity_error()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as made:
        if args.base is None:
            write_random_model(Path(made))
            args.base, args.adapters = Path(made) / "base", Path(made) / "adapters"
        args.base = write_endless(args.base, Path(made) / "endless")
        adapters = {path.name: path for path in sorted(args.adapters.iterdir()) if path.is_dir()} if args.adapters else {}
        tokenizer = AutoTokenizer.from_pretrained(args.base, local_files_only=True)
        ways: dict[str, Members | Generate] = {
            "members": Members(args, adapters),
            "generate, mixed": Generate(args, adapters, tokenizer),
            "generate, base": Generate(args, {}, tokenizer),
        }
        rows = []
        print(f"{'batch':>5}  " + "  ".join(f"{name:>16}" for name in ways) + "   members / mixed")
        for batch in args.batches:
            prompts = [" ".join(WORDS[(index + at) % len(WORDS)] for at in range(args.prompt_tokens)) for index in range(batch)]
            speeds: dict[str, list[float]] = {name: [] for name in ways}
            for round_ in range(args.rounds + 1):
                for name, way in ways.items():
                    start = clock()
                    tokens = way.run(prompts, args.tokens)
                    if round_:  # the first warms up
                        speeds[name].append(tokens / (clock() - start))
            medians = {name: statistics.median(found) for name, found in speeds.items()}
            ratios = sorted(own / other for own, other in zip(speeds["members"], speeds["generate, mixed"], strict=True))
            rows.append(
                {"batch": batch, "tokens_per_s": medians, "ratio": statistics.median(ratios), "ratio_range": [ratios[0], ratios[-1]]}
            )
            figures = "  ".join(f"{medians[name]:>10.0f} tok/s" for name in ways)
            print(f"{batch:>5}  {figures}   {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
