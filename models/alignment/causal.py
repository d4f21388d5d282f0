"""Any causal language model with LoRA adapters in memory: loaded by path or hub id, answering and judging answers.

    base (+ adapters) ─> load ─> LanguageModel ─> sample ─> Answer ─> token_statistics ─> Statistics

Nothing here knows of rewards. A tokenizer without a chat template gets PLAIN_TEMPLATE; CUDA is used where there is some.
Letters: `N` answers, `T` tokens of an answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from attune.models.alignment.adapter_fit import check_adapter
from attune.models.data.hub import located, show_downloads_only
from attune.models.data.progress import Steps
from attune.models.seam.counts import counted

BASE = None
"""The member that is the base itself, without an adapter."""

PLAIN_TEMPLATE = (
    "{%- for message in messages -%}{{- message['role'] + ': ' + message['content'] + '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}"
)
"""Chat template of tokenizers that come without one."""

DEFAULT_MAX_TOKENS = 128
"""Where the model's own generation settings name no `max_new_tokens`; what `/generate` allows by default too."""

_MOST_TOKENS, _MOST_NUMBERS = 4096, 1 << 26  # judged at a time: padded tokens, and numbers in a tensor over the vocabulary


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer: its text, its tokens without the end, and the token by which the model ended it, if it did."""

    text: str
    ids: tuple[int, ...]
    end: int | None = None

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def all_ids(self) -> tuple[int, ...]:
        """The tokens with the end."""
        return self.ids if self.end is None else (*self.ids, self.end)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What two models think of each answer, in nats summed over its tokens.

    Attributes:
        tokens: `[N]` tokens judged, the end included where the model ended.
        base_nll: `[N]` minus the log-probability under the base.
        member_nll: `[N]` the same under the member.
        kl: `[N]` sum over the tokens of KL(member || base) between the next-token distributions at temperature 1.
    """

    tokens: NDArray[np.float64]
    base_nll: NDArray[np.float64]
    member_nll: NDArray[np.float64]
    kl: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A base with its adapters; `members` are the adapters' names. `network` and `tokenizer` are Hugging Face objects."""

    network: Any
    tokenizer: Any
    members: tuple[str, ...]
    template: str

    @property
    def context(self) -> int:
        """Longest text in tokens; 2**30 where the configuration names none."""
        config = self.network.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**30)

    @property
    def max_tokens(self) -> int:
        """Longest answer in tokens that the model's own generation settings allow."""
        return int(self.network.generation_config.max_new_tokens or DEFAULT_MAX_TOKENS)

    @contextmanager
    def speaking_as(self, member: str | None) -> Iterator[Any]:
        """Gives the network with one member's adapter switched on; BASE switches all of them off.

        Raises:
            KeyError: no adapter of that name was loaded.
        """
        if member is not BASE and member not in self.members:
            raise KeyError(f"{member!r} is not among the loaded adapters {list(self.members)}")
        if not self.members:
            yield self.network
        elif member is BASE:
            with self.network.disable_adapter():
                yield self.network
        else:
            self.network.set_adapter(member)
            yield self.network

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each prompt as a single user turn, up to where the answer begins."""
        told = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [
            self.tokenizer.apply_chat_template(turn, chat_template=self.template, tokenize=False, add_generation_prompt=True)
            for turn in told
        ]
        return cast("list[list[int]]", self.tokenizer(texts, add_special_tokens=False)["input_ids"])


def load(base: Path | str, adapters: Mapping[str, Path] | None = None) -> LanguageModel:
    """Returns the base and its adapters in memory: float32 on a CPU, the model's own type on CUDA.

    Args:
        base: folder or hub id of a causal language model with its tokenizer.
        adapters: name to folder in peft's format.

    Raises:
        NotOnHub, OSError: there is no such model.
        AdapterMisfit: an adapter does not fit the base (`check_adapter`).
    """
    cuda = torch.cuda.is_available()
    base = located(str(base))
    show_downloads_only()
    # peft asks transformers for an attribute under its old name, for each model and checkpoint; nobody who trains can do anything about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    network: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto" if cuda else torch.float32)
    for name, folder in (adapters or {}).items():
        check_adapter(name, folder, network)
        if isinstance(network, PeftModel):
            network.load_adapter(folder, name)
        else:
            network = PeftModel.from_pretrained(network, folder, name)
    network = network.to("cuda" if cuda else "cpu").eval()
    return LanguageModel(network, tokenizer, tuple(adapters or {}), tokenizer.chat_template or PLAIN_TEMPLATE)


class _Written(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped to mypy here
    """Tells after each token how far a batch of answers is, and stops none of them."""

    def __init__(self, told: Callable[[int, int], None], width: int, most: int) -> None:
        self._told, self._width, self._most = told, width, most

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: object) -> torch.Tensor:
        self._told(input_ids.shape[1] - self._width, self._most)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def end(self, length: int) -> None:
        """Ends the line; all answers may have ended before the last token that they could have."""
        self._told(length - self._width, length - self._width)


@torch.inference_mode()
def sample(
    model: LanguageModel,
    member: str | None,
    prompts: Sequence[str],
    seed: int,
    batch: int = 128,
    progress: Callable[[int], None] | None = None,
    temperature: float | None = None,
    writing: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Returns one sampled answer to each prompt, with the model's own generation settings (temperature, nucleus, length).

    Args:
        model: where the member is.
        member: adapter that answers; BASE for none.
        prompts: repeat a prompt for several answers to it.
        seed: of the sampling; equal seeds, prompts, batches and threads give equal texts. The global generator is left as it was.
        batch: answers written side by side; a small model spends its time between the products, not in them.
        progress: told how many answers there are, after each batch.
        temperature: in place of the model's own.
        writing: told after each token how many a batch has, and how many it may have; if None, people are told now and then.

    Raises:
        ValueError: a prompt leaves no room for an answer.
    """
    changed = {} if temperature is None else {"temperature": temperature}
    ids = model.prompt_ids(prompts)
    longest = max(map(len, ids), default=0)
    if longest + 1 > model.context:
        raise ValueError(f"a prompt of {longest} tokens leaves no room for an answer in a context of {model.context}")
    found: list[Answer] = []
    with model.speaking_as(member) as network, torch.random.fork_rng():
        for start in range(0, len(ids), batch):
            torch.manual_seed(_mixed(seed, start))
            padded = model.tokenizer.pad({"input_ids": ids[start : start + batch]}, padding_side="left", return_tensors="pt")
            width = padded["input_ids"].shape[1]
            most = min(model.max_tokens, model.context - width)
            what = f"{member or 'base'}: wrote {{}} tokens of {counted(min(batch, len(ids) - start), 'answer')}"
            written = _Written(writing or Steps(what, at_most=True), width, most)
            output = network.generate(
                **padded.to(network.device),
                do_sample=True,
                max_new_tokens=most,
                max_length=None,
                stopping_criteria=StoppingCriteriaList([written]),
                **changed,
            )
            written.end(output.shape[1])
            found += [answer_of(row, model.tokenizer, ends_of(model)) for row in output[:, width:].tolist()]
            if progress is not None:
                progress(len(found))
    return found


@torch.inference_mode()
def token_statistics(
    model: LanguageModel, member: str | None, prompts: Sequence[str], answers: Sequence[Answer], max_batch_tokens: int | None = None
) -> Statistics:
    """Returns what the base and `member` think of each answer, token by token.

    The sum of `kl` over an answer that `member` sampled estimates KL(member || base) over whole answers by the chain rule,
    with the expectation over each next token taken exactly. It is unbiased where answers are sampled at temperature 1
    without truncation; a model's own generation settings sample nearer the mode, so it says how far apart the two are
    along the answers that are served.

    Args:
        model: where the member is.
        member: adapter; BASE gives zeros for `kl`.
        prompts: `[N]` the prompt of each answer.
        answers: `[N]` answers by whomever.
        max_batch_tokens: padded tokens judged at a time; if None, as many as keep a tensor over the vocabulary below 256 MiB.
    """
    limit = max_batch_tokens or max(1, min(_MOST_TOKENS, _MOST_NUMBERS // model.network.get_output_embeddings().weight.shape[0]))
    rows = model.prompt_ids(prompts)
    texts = [[*prompt, *answer.all_ids][: model.context] for prompt, answer in zip(rows, answers, strict=True)]
    found, told = np.zeros((4, len(texts))), Steps(f"{member or 'base'}: judged {{}} answers")
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    while order:
        size = max(1, limit // len(texts[order[-1]]))
        chosen, order = order[-size:], order[:-size]
        logs = {}
        ids, mask, judged = _right_padded([texts[row] for row in chosen], [len(rows[row]) for row in chosen])
        ids, mask, judged = (tensor.to(model.network.device) for tensor in (ids, mask, judged[:, 1:]))
        for name in (BASE,) if member is BASE else (BASE, member):
            with model.speaking_as(name) as network:
                logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            logs[name] = torch.log_softmax(logits.float(), dim=-1)
        targets = ids[:, 1:, None]
        kl = (logs[member].exp() * (logs[member] - logs[BASE])).sum(dim=-1)
        sums = [judged, *(-logs[name].gather(2, targets)[..., 0] * judged for name in (BASE, member)), kl * judged]
        found[:, chosen] = torch.stack([value.double().sum(dim=1) for value in sums]).cpu().numpy()
        told(len(texts) - len(order), len(texts))
    return Statistics(*found)


def ends_of(model: LanguageModel) -> frozenset[int]:
    """Returns every token that ends an answer, by the generation settings or the tokenizer."""
    settings = model.network.generation_config.eos_token_id
    own = {settings} if isinstance(settings, int) else set(settings or ())
    return frozenset(own | ({model.tokenizer.eos_token_id} - {None}))


def answer_of(row: list[int], tokenizer: Any, ends: frozenset[int]) -> Answer:
    """Returns the answer that generated tokens are, up to the first that ends it."""
    stop = next((position for position, token in enumerate(row) if token in ends), None)
    ids = tuple(row if stop is None else row[:stop])
    return Answer(str(tokenizer.decode(ids, skip_special_tokens=True)).strip(), ids, None if stop is None else row[stop])


def _right_padded(texts: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns ids, attention mask and which tokens belong to the answers, `[N, T]` each."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *([0] * (width - len(text)))] for text in texts])
    position = torch.arange(width)[None, :]
    real = position < torch.tensor([len(text) for text in texts])[:, None]
    return ids, real.long(), real & (position >= torch.tensor(starts)[:, None])


def _mixed(seed: int, start: int) -> int:
    """Returns a seed for one batch, so that a batch can be drawn again without those before it."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1, np.uint64)[0])
