"""Direct preference optimisation of a LoRA adapter with TRL (Rafailov et al. 2023, arXiv 2305.18290), resumable.

    base + [Pair] ─> train_dpo ─> work/checkpoint-<step>/ (adapter, optimiser, random state) + Curve

The pairs are the tokens that the base sampled, not texts that are tokenized again. The reference is the base: the same
network with the adapter switched off. Which of the checkpoints becomes the member is not decided here.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import DPOConfig, DPOTrainer

from attune.models.alignment.adapter_fit import CONFIG, WEIGHTS
from attune.models.alignment.causal import LanguageModel, load
from attune.models.alignment.pairs import Pair
from attune.models.data.progress import LINES_S, left
from attune.models.seam.counts import counted

_CURVE = {
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
    "grad_norm": "gradient",
    "learning_rate": "learning_rate",
}


@dataclass(frozen=True, slots=True)
class DpoSettings:
    """How an adapter is aligned.

    Attributes:
        rank, alpha: of the adapter on every linear layer but the output head.
        beta: weight of KL(member || base); smaller values let a member go further. In units of the reward weights as given.
        imitation: weight of the chosen answers' mean negative log-probability beside the DPO loss, which keeps their probability from
            sinking together with that of the rejected ones (Pang et al. 2024, arXiv 2404.19733).
        learning_rate: at its peak. DPO of all weights is done at 5e-7 to 5e-6 (Rafailov et al. 2023, arXiv 2305.18290; Tunstall et al.
            2023, arXiv 2310.16944), and LoRA takes about ten times the rate of full training: the default is the upper end of that, for
            bases of half a billion parameters and more. A model of a few million parameters takes 1e-3 to 4e-3.
        epochs: passes over the pairs.
        batch: pairs a step.
        warmup: share of the steps.
        checkpoints: how many are kept along the way, the last included.
        bf16: matrix products in bfloat16.
        gradient_checkpointing: trade a fifth of the speed for memory.
    """

    rank: int = 8
    alpha: int = 32
    beta: float = 0.1
    imitation: float = 0.0
    learning_rate: float = 5e-5
    epochs: int = 2
    batch: int = 16
    warmup: float = 0.1
    checkpoints: int = 4
    bf16: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "beta", "learning_rate", "epochs", "batch", "checkpoints"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; more than 0 was expected")
        if not self.imitation >= 0:
            raise ValueError(f"imitation is {self.imitation}; at least 0 was expected")


@dataclass(frozen=True, slots=True)
class Aligned:
    """What a run left: its checkpoints by step, and the training curve, one mapping of figures per logged step."""

    checkpoints: Mapping[int, Path]
    curve: tuple[Mapping[str, float], ...]
    steps: int


class _TokenPairs(DPOTrainer):  # type: ignore[misc]  # TRL is untyped to mypy here
    """TRL's trainer on pairs that are tokens already."""

    def _prepare_dataset(self, dataset: Any, *_: object) -> Any:
        return dataset


class StepsTold(TrainerCallback):  # type: ignore[misc]  # transformers likewise
    """Tells a line whenever TRL logs, between two logs every few seconds, and after each checkpoint that is complete on disk."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._began = clock(), 0
        self._said_s = clock()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: object) -> None:
        self._began = self._clock(), int(state.global_step)
        self._said_s = self._began[0]

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Mapping[str, float] | None = None, **_: object) -> None:
        if logs and "loss" in logs:
            self._say(state, ": " + ", ".join(f"{name} {logs[key]:.3f}" for key, name in list(_CURVE.items())[:3] if key in logs))

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: object) -> None:
        if self._clock() - self._said_s >= LINES_S:
            self._say(state, "")

    def _say(self, state: Any, figures: str) -> None:
        began_s, known = self._began
        self._said_s = self._clock()
        rest = left(self._said_s - began_s, state.global_step - known, state.max_steps - known)
        self._tell(f"step {state.global_step} of {state.max_steps}{figures}{rest}")

    def on_save(self, _args: Any, state: Any, _control: Any, **_: object) -> None:
        self._tell(f"checkpoint {state.global_step}")


def train_dpo(
    base: Path | str,
    pairs: Sequence[Pair],
    work: Path,
    seed: int,
    settings: DpoSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> Aligned:
    """Trains an adapter on `pairs`, going on from the last complete checkpoint that `work` holds.

    Args:
        base: folder or hub id of a causal language model.
        pairs: of answers that the base gave.
        work: of this run alone: the caller vouches that checkpoints in it come from the same base, pairs, seed and settings.
        seed: of the adapter's weights and the order of the pairs. A run that was killed and resumed ends where an
            uninterrupted one does, up to the order of floating-point sums.
        settings: see there.
        progress: told a line now and then.

    Raises:
        ValueError: there are no pairs.
        OSError: there is no such model, or `work` cannot be written.
    """
    settings = settings or DpoSettings()
    if not pairs:
        raise ValueError("there are no pairs to learn from")
    model = load(base)
    steps = math.ceil(len(pairs) * settings.epochs / settings.batch)
    work.mkdir(parents=True, exist_ok=True)
    done = complete_checkpoints(work)
    if max(done, default=0) >= steps:
        return Aligned(done, _curve(done[max(done)]), steps)
    trainer = _trainer(model, pairs, work, seed, settings, steps)
    trainer.remove_callback(PrinterCallback)
    if progress is not None:
        trainer.add_callback(StepsTold(progress))
        progress(f"{counted(len(pairs), 'pair')}, {counted(steps, 'step')}" + (f", from step {max(done)}" if done else ""))
    trainer.train(resume_from_checkpoint=str(done[max(done)]) if done else None)
    done = complete_checkpoints(work)
    return Aligned(done, _curve(done[max(done)]), steps)


def complete_checkpoints(work: Path) -> dict[int, Path]:
    """Returns the checkpoints of `work` by step; one that was being written when the process died is left out.

    `trainer_state.json` is what the trainer writes last.
    """
    found = {}
    for folder in work.glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
            found[int(state["global_step"])] = folder
    return dict(sorted(found.items()))


def _trainer(model: LanguageModel, pairs: Sequence[Pair], work: Path, seed: int, settings: DpoSettings, steps: int) -> Any:
    disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    prompts = model.prompt_ids([pair.prompt for pair in pairs])
    rows = [
        {"prompt_ids": ids, "chosen_ids": list(pair.chosen.all_ids), "rejected_ids": list(pair.rejected.all_ids)}
        for ids, pair in zip(prompts, pairs, strict=True)
    ]
    lengths = [len(ids) + max(len(pair.chosen.all_ids), len(pair.rejected.all_ids)) for ids, pair in zip(prompts, pairs, strict=True)]
    dataset = Dataset.from_list([rows[row] for row in training_order(lengths, settings.batch, settings.epochs, seed)])
    config = DPOConfig(
        output_dir=str(work),
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if settings.imitation else ["sigmoid"],
        loss_weights=[1.0, settings.imitation] if settings.imitation else None,
        learning_rate=settings.learning_rate,
        num_train_epochs=1,
        train_sampling_strategy="sequential",  # the order is the rows'
        per_device_train_batch_size=settings.batch,
        warmup_steps=math.ceil(settings.warmup * steps),
        lr_scheduler_type="cosine",
        max_length=None if model.context >= 2**30 else model.context,
        bf16=settings.bf16,
        activation_checkpointing=settings.gradient_checkpointing,
        save_steps=math.ceil(steps / settings.checkpoints),
        save_total_limit=None,
        logging_steps=max(1, steps // 20),
        seed=seed,
        data_seed=seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        disable_dropout=True,
    )
    lora = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"
    )
    return _TokenPairs(model=model.network.train(), args=config, train_dataset=dataset, processing_class=model.tokenizer, peft_config=lora)


def training_order(lengths: Sequence[int], batch: int, epochs: int, seed: int) -> list[int]:
    """Returns every index once an epoch, in an order whose batches of `batch` are of like lengths.

    Lengths are sorted within windows of eight batches, and the batches of a window shuffled: a third less padding, and still
    an order that is random and that a resumed run finds again.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(lengths)) for _ in range(epochs)])
    found: list[int] = []
    for start in range(0, len(order), 8 * batch):
        window = order[start : start + 8 * batch]
        window = window[np.argsort(np.asarray(lengths)[window], kind="stable")]
        whole = len(window) // batch
        for number in rng.permutation(whole):
            found += window[number * batch : (number + 1) * batch].tolist()
        found += window[whole * batch :].tolist()
    return found


def _curve(checkpoint: Path) -> tuple[Mapping[str, float], ...]:
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return tuple(
        {"step": float(entry["step"]), **{name: float(entry[key]) for key, name in _CURVE.items() if key in entry}}
        for entry in history
        if "loss" in entry
    )
