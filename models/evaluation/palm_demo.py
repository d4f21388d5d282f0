"""The demo's portfolio: the trained heads of one family as rewards, its base language model, its prompts by split.

heads + trunk ─> learned_rewards ─┐
prompts by split ─> palm_prompts ─┴─> train_portfolio ─> build_portfolio ─> out/palm.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.alignment.answers import Rewards, sample_answers
from models.alignment.causal import BASE, load
from models.alignment.language_model import BASE_NAME
from models.alignment.member import Prompts, fingerprint
from models.data.embeddings import Embedder, embed_texts
from models.data.preferences import Texts
from models.data.synthetic import prompts
from models.data.trunk import load_demo_trunk
from models.evaluation.palm import Palm, PalmSettings, build_portfolio
from models.portfolio.rewards import Normalisation, fit_normalisation
from models.training.heads import TrainedFamily, compute_outputs, load_heads

Array = NDArray[np.float64]


def train_portfolio(
    demo: Path,
    out: Path,
    *,
    seed: int = 0,
    settings: PalmSettings | None = None,
    family: str = "attributes",
    trunk: Embedder | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Palm:
    """Builds the demo's portfolio from its base language model and the trained heads of one family as rewards.

    Args:
        demo: folder with `language_model/base`, `heads.json` and `heads.safetensors`.
        out: see `build_portfolio`.
        seed: of everything random.
        settings: see there.
        family: whose heads are the rewards; calibrated on the base's answers to the training prompts.
        trunk: that the heads read; the demo's own if None.
        cache: folder of the embedding cache; None keeps none.
        progress: told a line now and then.

    Raises:
        KeyError: no family of that name was trained.
        OracleFailed, NotCovered: see `build_portfolio`.
    """
    settings = settings or PalmSettings()
    base = demo / "language_model" / "base"
    families = {one.family.name: one for one in load_heads(demo)[0]}
    asked, fresh = palm_prompts(seed)
    shared = out / "members" / "shared" / "training.jsonl"
    said = sample_answers(load(base), BASE, asked.training, settings.member.answers, seed, shared, fingerprint(base), progress)
    calibration = [(prompt, answer.text) for prompt, answer in zip(*said.flat(), strict=True)]
    rewards, normalisation = learned_rewards(families[family], trunk or load_demo_trunk(), calibration, cache)
    return build_portfolio(
        base,
        rewards,
        normalisation,
        out,
        family=family,
        seed=seed,
        settings=settings,
        asked=asked,
        fresh=fresh,
        base_name=BASE_NAME,
        roster_base="language_model/base",
        progress=progress,
    )


def learned_rewards(
    family: TrainedFamily, trunk: Embedder, calibration: Sequence[tuple[str, str]], cache: Path | None = None
) -> tuple[Rewards, Normalisation]:
    """Returns a trained family's heads as rewards in [0, 1], and the frozen map that makes them so.

    Args:
        family: whose heads; it needs names that can be told apart.
        trunk: that the heads read.
        calibration: pairs of prompt and response whose rewards span [0, 1], half a percent at each end left out.
        cache: folder of the embedding cache; None keeps none.

    Raises:
        RewardsInvalid: of `models.portfolio`, where a head is the same for all responses.
    """
    known: dict[tuple[str, str], NDArray[np.float32]] = {}

    def raw(pairs: Sequence[tuple[str, str]]) -> Array:
        missing = tuple(dict.fromkeys(pair for pair in pairs if pair not in known))
        if missing:
            table = Texts(tuple(dict.fromkeys((prompt, None) for prompt, _ in missing)), missing)
            outputs = compute_outputs([family], embed_texts(table, trunk, cache).candidates)
            known.update(zip(missing, outputs[f"{family.family.name}_rewards"], strict=True))
        return np.array([known[pair] for pair in pairs], dtype=np.float64)

    normalisation = fit_normalisation(raw(calibration))
    names = family.family.heads
    return Rewards(names, lambda asked, said: normalisation.apply(raw(list(zip(asked, said, strict=True))))), normalisation


def palm_prompts(seed: int = 0, training: int = 400) -> tuple[Prompts, tuple[str, ...]]:
    """Returns the demo's prompts for the search, and fresh ones for the certificate.

    Members learn from training topics; of validation topics one half chooses checkpoints and the other values policies for the
    search; test topics only certify.
    """
    asked = {part: tuple(prompt.text for prompt in prompts(part, seed)) for part in ("train", "validation", "test")}
    return Prompts(asked["train"][:training], asked["validation"][0::2], asked["validation"][1::2]), asked["test"]
