"""Trains the demo's reward heads.

    generated answers + the base's own answers ─> simulated users compare ─> bradley_terry, micro, vrf, sparse_moe, additive, sparserm
                                               ─> rated by manner, users compare ─> attributes

Only topics of the training split are used, and those of the validation split for stopping; what this writes is small enough
to be committed, and two runs with one seed write equal bytes. Members come afterwards (`demo.members`): a new one must not
start every user again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from attune.models.data.embeddings import Embedder, Vectors, embed_texts
from attune.models.data.preferences import Comparisons, Texts, together
from attune.models.data.trunk import Trunk, load_demo_trunk
from attune.models.data.trunk_file import write_trunk_file
from attune.models.portfolio.pool import Pool
from attune.models.seam.attributes import NAME as ATTRIBUTES
from attune.models.training.additive import AdditiveSettings, train_additive
from attune.models.training.attributes import AttributesSettings, Ratings, train_attributes
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.cards import write_cards
from attune.models.training.heads import TrainedFamily, compute_outputs, load_heads, save_heads
from attune.models.training.last_head import with_last_head
from attune.models.training.latents import learn_latents
from attune.models.training.loop import LoopSettings, TrainingData
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.prior_trust import with_trust
from attune.models.training.sparse_autoencoder import AutoencoderSettings
from attune.models.training.sparserm import SparseRmSettings, train_sparserm
from attune.models.training.sureness import with_sureness
from attune.models.training.vrf import VrfSettings, train_vrf
from demo.corpus.tastes import DEFAULT_CONCENTRATION, DEFAULT_SHARPNESS, draw_users, manner_scores, utility
from demo.corpus.texts import MANNERS, Split, prompts
from demo.drawn import bradley_terry_choice, draw_comparisons
from demo.probes import write_probes
from demo.rewards import grammar_pool

QUALITY = "quality"
DEFAULT_FAMILY = ATTRIBUTES
"""The least validation loss of all (`provenance.json` has them), and weights that can be read as tastes."""
ON_A_CARD = 1
"""Answers at either end of a head's card: one of each shows what it stands for, and every server sends all cards with `GET /bundle`."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Sizes of the demo's training. Axes of `additive` are few, because the sum of all families is to stay below 1 kB a user.

    Attributes:
        users, per_user: training users and comparisons of each.
        validation_users: stop the training; of other prompts.
        regulars, per_regular: so many further users of either kind tell so much, as people do who stay for years.
        prompts: most prompts of a split, for heads.
        answers: generated answers per prompt and manner.
        direction_prompts: training prompts, and half as many validation prompts, that `sparserm` learns from.
        base_prompts, base_answers: what the language model itself is asked, for answers as they are really written.
        card_prompts: training prompts whose generated answers a head's card is chosen from.
        member_prompts, member_answers: what every member is asked for its values.
    """

    users: int = 2000
    per_user: int = 40
    validation_users: int = 300
    regulars: int = 100
    per_regular: int = 320
    prompts: int = 400
    answers: int = 2
    direction_prompts: int = 120
    base_prompts: int = 240
    base_answers: int = 8
    member_prompts: int = 160
    card_prompts: int = 8
    member_answers: int = 2
    bradley_terry: BradleyTerrySettings = field(default_factory=BradleyTerrySettings)
    micro: MicroSettings = field(default_factory=MicroSettings)
    vrf: VrfSettings = field(
        default_factory=lambda: VrfSettings(start="population", loop=LoopSettings(steps=1000, evaluate_every=100, patience=6))
    )
    additive: AdditiveSettings = field(default_factory=lambda: AdditiveSettings(axes=6))
    sparserm: SparseRmSettings = field(default_factory=SparseRmSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    attributes: AttributesSettings = field(default_factory=AttributesSettings)


def train_demo(
    out: Path,
    *,
    seed: int = 0,
    settings: DemoSettings | None = None,
    trunk: Embedder | None = None,
    cache: Path | None = None,
) -> list[TrainedFamily]:
    """Trains the demo's families, writes them into `out`, and returns them.

    Written: `heads.json`, `heads.safetensors`, `trunk.json`, `provenance.json`, `probes.jsonl`, and, where `out/language_model` is,
    `answers/base.jsonl` with what its base says.

    Args:
        out: folder of the demo, made if absent.
        seed: of everything drawn.
        settings: sizes and the families' settings.
        trunk: the demo's own if None.
        cache: folder of the embedding cache; None keeps none.
    """
    settings = settings or DemoSettings()
    trunk = trunk or load_demo_trunk()
    written = {part: written_pool(part, settings, seed=seed) for part in ("train", "validation")}
    pools = [written["train"], *base_pools(out, settings, seed=seed), written["validation"]]
    texts = combine(pools)
    vectors = embed_texts(texts, trunk, cache)
    data = draw_training_data(texts, vectors, set(written["validation"].prompts), settings, seed=seed)
    regulars = draw_training_data(texts, vectors, set(written["validation"].prompts), settings, seed=seed, regulars=True)
    trained = train_families(texts, data, with_regulars(data, regulars), settings, seed)
    if isinstance(trunk, Trunk):
        trained.append(train_directions(data, trunk, settings, seed))
        write_trunk_file(out, trunk)
    save_heads(out, trained, DEFAULT_FAMILY)
    write_probes(out)
    write_demo_cards(out, seed=seed, settings=settings, trunk=trunk, cache=cache)
    provenance = {
        "seed": seed,
        "trained_on": {
            "users": f"simulated: Dirichlet({DEFAULT_CONCENTRATION}) over {', '.join(MANNERS)}; sharpness {DEFAULT_SHARPNESS:g}",
            "answers": "generated, and the base model's own; training topics" if len(pools) > 2 else "generated; training topics",
            "train_comparisons": {"count": len(data.train), "sha256": data.train.sha256()},
            "validation_comparisons": {"count": len(data.validation), "sha256": data.validation.sha256()},
            "regulars": {"train_sha256": regulars.train.sha256(), "validation_sha256": regulars.validation.sha256()},
        },
        "trunk_sha256": trunk.sha256,
        "validation_nll": {one.family.name: one.summary["validation_nll"] for one in trained},
        "settings": asdict(settings),
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return trained


def write_demo_cards(
    out: Path, *, seed: int = 0, settings: DemoSettings | None = None, trunk: Embedder | None = None, cache: Path | None = None
) -> None:
    """Writes the cards of heads that are in `out`, as `train_demo` does after training them; the arguments are its own."""
    settings = settings or DemoSettings()
    texts = combine([written_pool("train", replace(settings, prompts=min(settings.prompts, settings.card_prompts)), seed=seed)])
    vectors = embed_texts(texts, trunk or load_demo_trunk(), cache)
    write_cards(out, load_heads(out)[0], texts, vectors.candidates, top=ON_A_CARD)


def train_families(texts: Texts, data: TrainingData, with_long: TrainingData, settings: DemoSettings, seed: int) -> list[TrainedFamily]:
    """Returns the demo's families in the order in which they share the evidence vector, each with its trust.

    Args:
        texts: that both data share.
        data: users of a few dozen comparisons.
        with_long: the same and regulars: how sure to become of somebody is learned from those who tell much.
        settings: of every family.
        seed: of everything drawn.
    """
    found_by_themselves = [
        train_bradley_terry(data, settings.bradley_terry, seed),
        with_sureness(train_micro(data, settings.micro, seed), with_long),
        train_vrf(with_long, settings.vrf, seed),
    ]
    trained = [name_heads(one, texts, data.vectors.candidates) for one in found_by_themselves]
    trained += [train_attributes(data, rate(texts, data), settings.attributes, seed), train_additive(data, settings.additive, seed)]
    return [with_last_head(with_trust(one, data), data) for one in trained]


def train_directions(data: TrainingData, trunk: Trunk, settings: DemoSettings, seed: int) -> TrainedFamily:
    """Returns `sparserm`, learned from the comparisons on a part of the prompts: an autoencoder needs the states of every token.

    Tastes cancel over the demo's users, so this global family has little to find here; what it can do is measured elsewhere
    (`python -m studies sparserm`). It is in the bundle because it says in words what a score is made of.
    """
    parts = []
    for part, count in ((data.train, settings.direction_prompts), (data.validation, settings.direction_prompts // 2)):
        asked = np.unique(part.prompt)[:count]
        parts.append(list(part.take(np.isin(part.prompt, asked)).records()))
    small = Comparisons.from_records([*parts[0], *parts[1]])
    is_train = np.arange(len(small)) < len(parts[0])
    _, latents = learn_latents(small.texts, trunk, settings.autoencoder, seed, layer=trunk.layers[0])
    few = TrainingData(small.take(is_train), small.take(~is_train), _vectors_of(small.texts, data))
    return train_sparserm(few, settings.sparserm, seed, latents=latents, tokenizer=Tokenizer.from_str(trunk.tokenizer_json.decode()))


def _vectors_of(texts: Texts, data: TrainingData) -> Vectors:
    table = data.train.texts
    prompt = {asked: row for row, asked in enumerate(table.prompts)}
    candidate = {told: row for row, told in enumerate(table.candidates)}
    return Vectors(
        data.vectors.prompts[[prompt[asked] for asked in texts.prompts]],
        data.vectors.candidates[[candidate[told] for told in texts.candidates]],
    )


def written_pool(part: Split, settings: DemoSettings, *, seed: int) -> Pool:
    """Returns generated answers in every manner to prompts of one split."""
    return grammar_pool(prompts(part, seed)[: settings.prompts], settings.answers, seed=seed_for(seed, part))


def base_pools(demo: Path, settings: DemoSettings, *, seed: int) -> list[Pool]:
    """Returns what the language model of `demo`, without an adapter, answers to training prompts; nothing where there is none."""
    if not has_language_model(demo):
        return []
    from demo.answer_pools import BASE_NAME, generate_pool  # noqa: PLC0415 - peft takes seconds and only this branch needs it

    asked = [prompt.text for prompt in prompts("train", seed)[: settings.base_prompts]]
    number, cache = seed_for(seed, "base-train"), demo / "answers" / "base.jsonl"
    return [generate_pool(demo / "language_model", asked, (BASE_NAME,), settings.base_answers, seed=number, cache=cache, progress=say)]


def has_language_model(demo: Path) -> bool:
    """Returns whether the demo's language model was trained."""
    return (demo / "language_model" / "base" / "config.json").is_file()


def combine(pools: Sequence[Pool]) -> Texts:
    """Returns all texts of the pools, each prompt and each answer once."""
    tables = [pool.texts() for pool in pools]
    asked = dict.fromkeys(prompt for table in tables for prompt in table.prompts)
    answers = dict.fromkeys(candidate for table in tables for candidate in table.candidates)
    return Texts(tuple(asked), tuple(answers))


def draw_training_data(
    texts: Texts, vectors: Vectors, held: set[str], settings: DemoSettings, *, seed: int, regulars: bool = False
) -> TrainingData:
    """Returns comparisons of simulated users: validation users on the prompts in `held`, training users on all others.

    With `regulars`, of other users who tell more.
    """
    scores = np.array([manner_scores(text) for _, text in texts.candidates])
    is_held = np.array([prompt in held for prompt, _ in texts.prompts])
    per_user = settings.per_user if not regulars else settings.per_regular
    parts = []
    for part, users, where in (("train", settings.users, ~is_held), ("validation", settings.validation_users, is_held)):
        name = f"{part}-regular" if regulars else part
        parts.append(
            draw_comparisons(
                texts,
                utility(draw_users(settings.regulars if regulars else users, seed_for(seed, f"{name}-tastes")), scores),
                per_user=per_user,
                choose=bradley_terry_choice(DEFAULT_SHARPNESS),
                seed=seed_for(seed, f"{name}-comparisons"),
                prompts=np.flatnonzero(where),
                name=name,
            )
        )
    train, validation = parts
    return TrainingData(train, validation, vectors)


def with_regulars(strangers: TrainingData, regulars: TrainingData) -> TrainingData:
    """Returns the comparisons of both kinds of users; both are over the same texts."""
    return TrainingData(together(strangers.train, regulars.train), together(strangers.validation, regulars.validation), strangers.vectors)


def rate(texts: Texts, data: TrainingData) -> Ratings:
    """Returns the true manner scores of all candidates as ratings; candidates of the validation prompts choose penalties."""
    position = {prompt: row for row, (prompt, _) in enumerate(texts.prompts)}
    asked = np.array([position[prompt] for prompt, _ in texts.candidates])
    scores = np.array([manner_scores(text) for _, text in texts.candidates])
    return Ratings(MANNERS, scores, np.isin(asked, data.train.prompt), np.isin(asked, data.validation.prompt))


def name_heads(trained: TrainedFamily, texts: Texts, vectors: NDArray[np.float32]) -> TrainedFamily:
    """Returns the family with heads named after the manner that their rewards follow most, for people who read explanations.

    Names are read off after training, from the answers' true manners; heads are trained without them. A head for everybody,
    `quality`, keeps its name.
    """
    if len(trained.family.heads) == 1:
        return trained
    rewards = compute_outputs([trained], vectors)[f"{trained.family.name}_rewards"]
    scores = np.array([manner_scores(text) for _, text in texts.candidates])
    together = np.corrcoef(rewards.T, scores.T)[: rewards.shape[1], rewards.shape[1] :]
    names: list[str] = [""] * len(together)
    used: dict[str, int] = {}
    for head in np.argsort(-np.abs(together).max(axis=1), kind="stable"):
        strongest = int(np.argmax(np.abs(together[head])))
        name = MANNERS[strongest] if together[head, strongest] > 0 else f"not {MANNERS[strongest]}"
        used[name] = used.get(name, 0) + 1
        names[head] = name if used[name] == 1 else f"{name} {used[name]}"
    kept = [old if old == QUALITY else new for old, new in zip(trained.family.heads, names, strict=True)]
    family = replace(trained.family, heads=tuple(kept))  # type: ignore[type-var]  # every family is a dataclass
    return replace(trained, family=family, summary={**trained.summary, "head_correlations": np.round(together, 3).tolist()})


def say(line: str) -> None:
    """Tells people who wait a line of progress, on stderr."""
    sys.stderr.write(line + "\n")


def seed_for(seed: int, purpose: str) -> int:
    """Returns a seed for one purpose, so that adding a draw somewhere changes no other."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "little")
