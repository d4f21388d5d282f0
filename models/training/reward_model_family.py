"""A trained reward model as a family: its final layer becomes the heads as they are, and users are fitted over them.

    ClassifierTrunk ─> final layer, and a column of zeros for the length ─> 1 head: everybody's · K heads: `attributes` over them
    users' comparisons ─> population N(m, S) over what each head counts; without them every head counts alike

Before anything is written the heads' answers are held against transformers' own: token ids must be equal, logits nearly so. Axis letters:
`N` texts, `K` heads, `D` size of the vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attune.models.data.classifier import ClassifierTrunk
from attune.models.data.preferences import ComparisonInvalid
from attune.models.seam.additive import evidence_size
from attune.models.seam.attributes import Attributes
from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.counts import counted
from attune.models.seam.evidence import MOST_NUMBERS
from attune.models.seam.text import Encoded
from attune.models.seam.trust import LOSSES
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.hierarchical import Population, PopulationSettings, fit_population
from attune.models.training.loop import TrainingData

Array = NDArray[np.float64]

NAME = "imported"
MOST_NAME = 100
"""Characters of a head's name, which stands in answers, logs and on the page."""

MOST_HEADS = next(count for count in range(MOST_NUMBERS, 0, -1) if evidence_size(count) + LOSSES <= MOST_NUMBERS)
"""Heads that a user can have weights of."""

MOST_DIFFERENCE = 1e-4
"""Of a logit from transformers': the two run the same weights, and only the order of sums may differ."""

PROMPTS = (
    "How do I boil an egg?",
    "What should I read on a long journey?",
    "Explain why the Moon changes its shape.",
    "My flight was cancelled. Write a short note to my team.",
    "Is it safe to eat rice that stood out overnight?",
    "Translate 'good morning' into Greek.",
    "Plan a weekend by the sea.",
    "ok",
)
RESPONSES = (
    "Yes.",
    "Put it in boiling water for seven minutes, then cool it under the tap.",
    "I am not sure; perhaps ask somebody who knows.\n\n1. Look it up.\n2. Try it.\n3. Tell me how it went!",
    "¡Claro! Crêpes, naïveté, 東京, Ελλάδα: 3 + 4 = 7 🙂",
)
"""Every prompt with every response: the 32 texts that an import is checked on."""


class ImportRefused(RuntimeError):
    """The heads would not answer as the reward model does; the message carries the text and both numbers. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Named:
    """Names of the heads, and what somebody should be told about where they come from."""

    names: tuple[str, ...]
    told: tuple[str, ...] = ()


def head_names(labels: Sequence[str], given: Sequence[str]) -> Named:
    """Returns the heads' names: those given, else the model's labels, else numbers.

    Raises:
        ImportRefused: there are not as many as labels, or one is empty or repeats; or there are more than a user can have weights of.
    """
    count = len(labels)
    if count > MOST_HEADS:
        raise ImportRefused(
            f"the model has {count} heads, and how a person weighs them can be kept for {MOST_HEADS} at most: "
            f"pairs of heads count, and a user is at most {MOST_NUMBERS:,} numbers"
        )
    if given:
        if len(given) != count:
            raise ImportRefused(
                f"{counted(len(given), 'name was', 'names were')} given, {', '.join(given)}; "
                f"the model has {counted(count, 'head')}, and each needs one"
            )
        if not all(name.strip() for name in given):
            raise ImportRefused(f"name {1 + [bool(name.strip()) for name in given].index(False)} of the {count} that were given is empty")
        if odd := next((name for name in given if not _readable(name)), None):
            raise ImportRefused(f"{odd[:MOST_NAME]!r} is no name for a head: {MOST_NAME} characters at most, all of which can be seen")
        if len({*given}) != count:
            raise ImportRefused(f"{max(given, key=given.count)!r} was given to several heads; each needs a name of its own")
        return Named(tuple(given))
    if count == 1:
        return Named(("reward",))
    if not (why := _unusable(labels)):
        return Named(tuple(labels))
    numbered = tuple(f"reward_{index}" for index in range(count))
    return Named(numbered, (f"the model {why}: they are called reward_0 to reward_{count - 1}; --names names them",))


def _unusable(labels: Sequence[str]) -> str:
    """Returns why a model's labels are no names of its heads; empty where they are."""
    if all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return f"does not name its {len(labels)} outputs"
    if len({*labels}) != len(labels):
        return f"calls several of its {len(labels)} outputs {max(labels, key=labels.count)!r}"
    odd = next((label for label in labels if not _readable(label)), None)
    return "" if odd is None else f"calls one of its {len(labels)} outputs {odd[:MOST_NAME]!r}, which is no name"


def _readable(name: str) -> bool:
    return bool(name.strip()) and name.isprintable() and len(name) <= MOST_NAME


def imported_heads(trunk: ClassifierTrunk) -> nn.Linear:
    """Returns the final layer on the trunk's vectors `[D + 1] -> [K]`: its weights, and zeros for the length."""
    layer = nn.Linear(trunk.width, trunk.final.out_features)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :-1] = trunk.final.weight
        layer.bias.zero_()
        if trunk.final.bias is not None:
            layer.bias.copy_(trunk.final.bias)
    return layer.eval().requires_grad_(requires_grad=False)


@torch.inference_mode()
def check_against_transformers(trunk: ClassifierTrunk, tokenizer: Any) -> float:
    """Returns the greatest difference of a logit from what transformers answers on 32 texts.

    Args:
        trunk: of the reward model.
        tokenizer: transformers' own, whose chat template or pairs a user of the model would take.

    Raises:
        ImportRefused: a text becomes other tokens here, a logit is no number or differs by more than `MOST_DIFFERENCE`.
    """
    head = imported_heads(trunk)
    worst = 0.0
    for prompt in PROMPTS:
        for response, row in zip(RESPONSES, trunk.encoder.candidates(prompt, RESPONSES), strict=True):
            asked = _as_transformers(tokenizer, prompt, response)
            ids = asked["input_ids"][0].tolist()
            if row.dropped_tokens:  # longer than is read here: the same cut text is given to both
                asked = {"input_ids": torch.tensor([row.input_ids])}
                if trunk.token_types:
                    asked["token_type_ids"] = torch.tensor([[int(at >= row.pool_start) for at in range(len(row))]])
            elif list(row.input_ids) != ids:
                raise ImportRefused(
                    f"{prompt!r} with {response!r} becomes {len(row)} tokens here and {len(ids)} other ones by the model's tokenizer: "
                    "its template cannot be cut at the texts, which a chat template with a special token on both sides of each text can"
                )
            found = head(torch.from_numpy(trunk.embed([row])))[0]
            expected = trunk.model(**asked).logits[0].float()
            if not bool(expected.isfinite().all()):
                raise ImportRefused(f"{prompt!r} with {response!r}: a logit of the model is no finite number, by transformers too")
            difference = float((found - expected).abs().max())
            if not difference <= MOST_DIFFERENCE:
                raise ImportRefused(
                    f"{prompt!r} with {response!r}: a logit differs by {difference:.3g} from transformers'; {MOST_DIFFERENCE:g} is allowed"
                )
            worst = max(worst, difference)
    return worst


def import_family(trunk: ClassifierTrunk, names: tuple[str, ...], data: TrainingData | None, settings: PopulationSettings) -> TrainedFamily:
    """Returns the family of a reward model's heads.

    Args:
        trunk: of the reward model.
        names: of its heads.
        data: users' comparisons with vectors of this trunk; None fits nobody.
        settings: of the population.

    Raises:
        ComparisonInvalid: the comparisons tell nothing.
    """
    layer = imported_heads(trunk)
    heads = Heads({f"{NAME}_rewards": nn.Sequential(layer)}, {f"{NAME}_rewards": "candidate"}).eval()
    if len(names) == 1:
        return TrainedFamily(BradleyTerry(NAME, names, 1.0), heads, {"users": "everybody alike: the model has one head"})
    if data is None:
        population = default_population(_rewards(layer, trunk.embed(check_rows(trunk))))
        users = "every head counts alike, in units of its spread on 32 texts; nothing was fitted"
    else:
        population = fit_population(data, _rewards(layer, data.vectors.candidates).astype(np.float32), settings)
        if not np.abs(population.mean).sum() > 0:
            raise ComparisonInvalid("the users' comparisons contradict one another so that they say nothing of what people want")
        users = f"fitted on {counted(len(data.train), 'comparison')} of {counted(len(np.unique(data.train.user)), 'user')}"
    root = np.asarray(np.linalg.cholesky(population.covariance), dtype=np.float64)
    family = Attributes(NAME, names, float(np.abs(population.mean).sum()), population.mean, root)
    return TrainedFamily(family, heads, {"users": users})


def default_population(rewards: Array) -> Population:
    """Returns the population that is assumed where nobody's choices are known: every head counts alike, and people differ.

    In units of each head's standard deviation over `rewards` `[N, K]`: means of `1 / K`, so that a text better by one deviation under
    every head is preferred with odds of e to 1, and deviations of `1 / sqrt(K)`.
    """
    spread = np.maximum(rewards.std(axis=0), 1e-6)
    count = rewards.shape[1]
    return Population(1.0 / (count * spread), np.diag(1.0 / (count * spread**2)))


def _rewards(layer: nn.Linear, vectors: NDArray[np.float32]) -> Array:
    with torch.inference_mode():
        found: Array = layer(torch.from_numpy(np.ascontiguousarray(vectors))).double().numpy()
    return found


def check_rows(trunk: ClassifierTrunk) -> list[Encoded]:
    """Returns the rows of the 32 texts, prompt by prompt."""
    return [row for prompt in PROMPTS for row in trunk.encoder.candidates(prompt, RESPONSES)]


def _as_transformers(tokenizer: Any, prompt: str, response: str) -> Any:
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return tokenizer(prompt, response, return_tensors="pt")
