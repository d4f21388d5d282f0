"""The demo's portfolio, by PALM (SCIENCE §4): members chosen by lazy search, aligned by DPO, pruned, certified, installed.

    heads ─> rewards in [0, 1] ─> lazy search, one DPO adapter per call ─> smallest portfolio ─> roster.json, adapters/, members.json
    fresh answers of all policies ─> certificate; of the members ─> values.safetensors, portfolio.json

Three sets of training prompts that share none: adapters learn on the first, the search values policies on the second, and
certificate and served values come from the third. Checkpoints are chosen on validation topics; test topics are for `attune evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.alignment.adapter_fit import WEIGHTS
from models.alignment.answers import Rewards
from models.alignment.causal import load, sample
from models.alignment.dpo import DpoSettings
from models.alignment.language_model import BASE_NAME
from models.alignment.member import DOCUMENT, MemberSettings, Prompts
from models.data.embeddings import Embedder, embed_texts
from models.data.preferences import Texts
from models.data.synthetic import prompts
from models.data.trunk import load_demo_trunk
from models.evaluation.demo import say, seed_for
from models.evaluation.demo_members import install_members, member_values, portfolio_of
from models.evaluation.member_oracles import DpoOracle
from models.portfolio.certificate import Evidence, certify
from models.portfolio.measure import Values
from models.portfolio.pool import Pool, read_pool, write_pool
from models.portfolio.prune import Pruned, prune
from models.portfolio.rewards import Normalisation
from models.portfolio.search import Search, SearchSettings, lazy_search
from models.seam.bundle import sha256_of
from models.seam.certificate import Certificate
from models.seam.portfolio import Portfolio, write_portfolio
from models.training.heads import TrainedFamily, compute_outputs, load_heads, save_values

Array = NDArray[np.float64]

FAMILY = "attributes"
"""The family whose heads are PALM's rewards: each is what its name says, and rated in [0, 1]."""


@dataclass(frozen=True, slots=True)
class PortfolioSettings:
    """Sizes of the search.

    Attributes:
        learn, value: training prompts that adapters learn on, and that the search values policies on; the rest certify.
        certify: most prompts of the rest.
        choose: validation prompts that choose checkpoints.
        epsilon, delta: what the search is to prove, see `SearchSettings`.
        max_calls: adapters that are trained at most.
        shortfall: how far, at most, a trained adapter is taken to be from the best policy at its own weights, in normalised reward.
            Nothing can measure it: with 0 the certificate speaks of the policies that this training finds.
        spare: share that pruning may lose beside what all policies together prove.
        confidence: of the certificate.
        member: how an adapter is made.
    """

    learn: int = 320
    value: int = 160
    certify: int = 280
    choose: int = 60
    epsilon: float = 0.05
    delta: float = 0.02
    max_calls: int = 10
    shortfall: float = 0.0
    spare: float = 0.01
    confidence: float = 0.95
    member: MemberSettings = field(
        default_factory=lambda: MemberSettings(
            answers=8,
            pairs=2,
            dpo=DpoSettings(imitation=1.0, learning_rate=2e-3, epochs=1, checkpoints=2),
            validation_answers=1,
            held_out_answers=1,
        )
    )


def train_portfolio(
    demo: Path,
    work: Path,
    *,
    seed: int = 0,
    settings: PortfolioSettings | None = None,
    trunk: Embedder | None = None,
) -> Portfolio:
    """Searches, aligns, prunes and certifies the demo's members; installs them in `demo`; returns the portfolio.

    Written: `language_model/adapters/`, `roster.json`, `members.json` (every policy that was trained, its figures, and what was
    kept), `values.safetensors`, `portfolio.json`, `answers/train.jsonl`.

    Args:
        demo: folder with heads and the base language model.
        work: keeps the search's state, adapters and answers; a killed run goes on from there.
        seed: of everything drawn.
        settings: sizes.
        trunk: the demo's own if None.

    Raises:
        OracleFailed: an adapter could not be trained; what was found before is in `work`.
        HeadsInvalid: the demo has no heads of FAMILY.
    """
    settings = settings or PortfolioSettings()
    trunk = trunk or load_demo_trunk()
    trained = load_heads(demo)[0]
    [rated] = [one for one in trained if one.family.name == FAMILY]
    cache = work / "vectors"
    normalisation, rewards = normalised_rewards(rated, trunk, cache)
    asked = [prompt.text for prompt in prompts("train", seed)]
    learn, value = asked[: settings.learn], asked[settings.learn : settings.learn + settings.value]
    fresh = asked[settings.learn + settings.value :][: settings.certify]
    choose = [prompt.text for prompt in prompts("validation", seed)[: settings.choose]]
    oracle = DpoOracle(
        demo / "language_model" / "base",
        rewards,
        Prompts(tuple(learn), tuple(choose), tuple(value)),
        work / "policies",
        seed,
        settings.member,
        settings.shortfall,
        base_name=BASE_NAME,
        progress=say,
    )
    limits = SearchSettings(settings.epsilon, settings.delta, settings.max_calls)
    search = lazy_search(oracle, limits, state=work / "search.jsonl", progress=say)
    kept = _smallest(search, settings)
    names = [policy_name(rewards.names, solution.weights) for solution in search.solutions]
    folders = {name: oracle.folder(solution.weights) for name, solution in zip(names, search.solutions, strict=True)}
    pool = _answers(demo, folders, fresh, work / "fresh.jsonl", seed)
    certificate = _certify(search, kept, pool, rewards, normalisation, settings)
    members = [names[index] for index in kept.chosen]
    install_members(demo, {name: folders[name] for name in members})
    chosen = Pool(tuple(members), pool.prompts, tuple(tuple(row[i] for i in kept.chosen) for row in pool.answers), pool.source)
    write_pool(chosen, demo / "answers" / "train.jsonl")
    values = member_values(trained, chosen, trunk, cache, seed=seed)
    save_values(demo, {name: one.head for name, one in values.items()})
    made_for = {names[index]: dict(zip(rewards.names, search.solutions[index].weights.tolist(), strict=True)) for index in kept.chosen}
    portfolio = portfolio_of(chosen, values, made_for, certificate)
    (demo / "portfolio.json").write_bytes(write_portfolio(portfolio))
    _write_record(demo, search, kept, names, folders, values, settings, seed)
    return portfolio


def normalised_rewards(rated: TrainedFamily, trunk: Embedder, cache: Path | None) -> tuple[Normalisation, Rewards]:
    """Returns the frozen map of the rated heads to [0, 1], which is the ratings' own scale, and the rewards of any texts.

    Args:
        rated: the family of rated attributes.
        trunk: that it was trained on.
        cache: folder of the embedding cache.
    """
    intercepts = np.array([rated.summary["attributes"][name]["intercept"] for name in rated.family.heads])
    normalisation = Normalisation(-intercepts, np.ones_like(intercepts))

    def score(asked: Sequence[str], responses: Sequence[str]) -> Array:
        texts = Texts(tuple((prompt, None) for prompt in dict.fromkeys(asked)), tuple(zip(asked, responses, strict=True)))
        vectors = embed_texts(texts, trunk, cache, progress=lambda _done, _total: None)
        return normalisation.apply(compute_outputs([rated], vectors.candidates)[f"{FAMILY}_rewards"].astype(np.float64))

    return normalisation, Rewards(rated.family.heads, score)


def policy_name(rewards: Sequence[str], weights: Array) -> str:
    """Returns a name for people: the rewards that make up at least a sixth, strongest first, with tenths where there are several."""
    order = [int(k) for k in np.argsort(-weights, kind="stable") if weights[k] >= 1 / 6] or [int(np.argmax(weights))]
    if len(order) == 1 and weights[order[0]] > 0.95:
        return rewards[order[0]]
    return "-".join(f"{rewards[k]}{round(10 * weights[k])}" for k in order)


def _smallest(search: Search, settings: PortfolioSettings) -> Pruned:
    """Returns the fewest policies within what was asked for, or, where the search did not reach it, near what all of them prove."""
    if search.reached:
        return prune(search.solutions, settings.epsilon, settings.delta)
    say(f"the search ended with {search.proof.excess:.4f} left to prove after {search.calls} policies; the portfolio says what is proved")
    return prune(search.solutions, settings.epsilon + settings.spare, max(settings.delta, search.proof.excess))


def _answers(demo: Path, folders: Mapping[str, Path], asked: Sequence[str], cache: Path, seed: int) -> Pool:
    """Returns one answer of every policy to every fresh prompt."""
    base = demo / "language_model" / "base"
    source = " ".join([sha256_of(base / "model.safetensors"), *(sha256_of(folder / WEIGHTS) for folder in folders.values())])
    if cache.exists() and (found := read_pool(cache)).source == source and found.prompts == tuple(asked):
        return found
    model = load(base, dict(folders))
    texts = []
    for number, name in enumerate(folders):
        texts.append([answer.text for answer in sample(model, name, asked, seed_for(seed, f"fresh {number}"))])
        say(f"{name}: {len(asked)} fresh answers")
    pool = Pool(tuple(folders), tuple(asked), tuple(tuple((text,) for text in row) for row in zip(*texts, strict=True)), source)
    write_pool(pool, cache)
    return pool


def _certify(
    search: Search, kept: Pruned, pool: Pool, rewards: Rewards, normalisation: Normalisation, settings: PortfolioSettings
) -> Certificate:
    texts = pool.texts().candidates
    scored = rewards.of([prompt for prompt, _ in texts], [text for _, text in texts]).reshape(*pool.shape, -1).mean(axis=2)  # [P, J, d]
    asked = np.array([solution.weights for solution in search.solutions])
    evidence = Evidence(
        scored[:, list(kept.chosen)],
        asked,
        np.einsum("pjd,jd->pj", scored, asked) + settings.shortfall,
        np.array([search.solutions[index].value for index in kept.chosen]),
        np.array([float(solution.weights @ solution.value) + settings.shortfall for solution in search.solutions]),
    )
    return certify(
        evidence,
        normalisation,
        family=FAMILY,
        rewards=rewards.names,
        epsilon=settings.epsilon,
        delta=settings.delta,
        confidence=settings.confidence,
        oracle_calls=search.calls,
    )


def _write_record(
    demo: Path,
    search: Search,
    kept: Pruned,
    names: Sequence[str],
    folders: Mapping[str, Path],
    values: Mapping[str, Values],
    settings: PortfolioSettings,
    seed: int,
) -> None:
    policies = []
    for index, (name, solution) in enumerate(zip(names, search.solutions, strict=True)):
        made = json.loads((folders[name] / DOCUMENT).read_text(encoding="utf-8"))
        policies.append(
            {
                "name": name,
                "kept": index in kept.chosen,
                "weights": solution.weights.tolist(),
                "value": solution.value.tolist(),
                "half_width": solution.half_width.tolist(),
                "pairs": made["pairs"],
                "checkpoint": made["kept"],
                "held_out": made["held_out"],
            }
        )
    record = {
        "seed": seed,
        "settings": asdict(settings),
        "search": {"calls": search.calls, "reached": search.reached, "ratio": search.proof.ratio, "gap": search.proof.gap},
        "pruned": {"members": len(kept.chosen), "greedy": kept.greedy, "ratio": kept.proof.ratio, "gap": kept.proof.gap},
        "values": {name: {"r2": value.r2, "penalty": value.penalty} for name, value in values.items()},
        "policies": policies,
    }
    (demo / "members.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
