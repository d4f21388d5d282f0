"""The demo's portfolio, by PALM (SCIENCE §4): members chosen by lazy search, aligned by DPO, pruned, certified, installed.

    heads ─> rewards in [0, 1] ─> lazy search, one DPO adapter per call ─> smallest portfolio ─> roster.json, adapters/, members.json
    fresh answers of all policies ─> certificate; of the members ─> values.npz, portfolio.json

Three sets of training prompts that share none: adapters learn on the first, the search values policies on the second, and
certificate and served values come from the third. Checkpoints are chosen on validation topics; test topics are for `python -m demo report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards
from attune.models.alignment.trained_member import DOCUMENT, Prompts
from attune.models.data.embeddings import Embedder, embed_texts
from attune.models.data.preferences import Texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.portfolio.end_to_end import PalmSettings, build_portfolio
from attune.models.portfolio.model_oracles import DpoOracle
from attune.models.portfolio.oracles import Solution
from attune.models.portfolio.own_heads import member_values
from attune.models.portfolio.pool_values import Values
from attune.models.portfolio.rewards import Normalisation
from attune.models.seam.attributes import NAME as FAMILY  # its heads are PALM's rewards: each is what its name says, and rated in [0, 1]
from attune.models.seam.certificate import read_certificate
from attune.models.seam.member_values import write_values
from attune.models.seam.portfolio import Portfolio, write_portfolio
from attune.models.training.heads import TrainedFamily, compute_outputs, load_heads
from demo.corpus.outside import outside_question
from demo.corpus.texts import prompts
from demo.heads import DemoSettings, say, seed_for
from demo.language_model.training import BASE_NAME
from demo.members import install_members, member_pool, portfolio_of
from demo.rewards import DEMO_SETTINGS

Array = NDArray[np.float64]

SAME_REWARDS = 1e-5
"""Members' mean rewards may differ by so much between two trainings of the same heads: rounding, and nothing else."""


@dataclass(frozen=True, slots=True)
class PortfolioSettings:
    """Sizes of the search.

    Attributes:
        learn, value: training prompts that adapters learn on, and that the search values policies on.
        certify: prompts of the rest that certify.
        choose: validation prompts that choose checkpoints.
        outside: questions about no topic that adapters learn on besides, so that members go on saying what they do not know.
        palm: of the search, see there.
    """

    learn: int = 320
    value: int = 160
    certify: int = 280
    choose: int = 60
    outside: int = 40
    palm: PalmSettings = field(
        default_factory=lambda: PalmSettings(epsilon=0.015, delta=0.015, max_calls=24, most_members=6, answers=2, member=DEMO_SETTINGS)
    )


def train_portfolio(
    demo: Path, work: Path, *, seed: int = 0, jobs: int = 1, settings: PortfolioSettings | None = None, trunk: Embedder | None = None
) -> Portfolio:
    """Searches, aligns, prunes and certifies the demo's members; installs them in `demo`; returns the portfolio.

    Written: `language_model/adapters/`, `roster.json`, `members.json` (every policy that was trained, its figures, and what was
    kept), `values.npz`, `portfolio.json`, `answers/train.jsonl`.

    Args:
        demo: folder with heads and the base language model.
        work: keeps the search's state, adapters and answers; a killed run goes on from there.
        seed: of everything drawn.
        jobs: adapters trained at the same time, in processes of one thread each: the search begins with one for each reward alone,
            which need not wait for each other; from then on every call depends on those before it.
        settings: sizes.
        trunk: the demo's own if None.

    Raises:
        OracleFailed: an adapter could not be trained; what was found before is in `work`.
    """
    settings = settings or PortfolioSettings()
    trunk = trunk or load_demo_trunk()
    trained = load_heads(demo)[0]
    cache = work / "vectors"
    normalisation, rewards = demo_rewards(demo, work, trunk)
    if jobs > 1:
        train_policies(demo, work, np.eye(len(rewards.names)), seed=seed, settings=settings, jobs=jobs, progress=say)
    asked, fresh = search_prompts(seed, settings)
    palm = build_portfolio(
        demo / "language_model" / "base",
        rewards,
        normalisation,
        work,
        family=FAMILY,
        seed=seed,
        settings=settings.palm,
        asked=asked,
        fresh=fresh,
        base_name=BASE_NAME,
        progress=say,
    )
    names = {old: policy_name(rewards.names, np.array(list(palm.made_for[old].values()))) for old in palm.names}
    install_members(demo, {names[old]: folder for old, folder in palm.adapters.items()})
    size = DemoSettings(member_prompts=len(fresh), member_answers=1)
    pool = member_pool(demo, "train", size, seed=seed, skip=settings.learn + settings.value)
    values = member_values(trained, pool, trunk, cache, seed=seed)
    (demo / "values.npz").write_bytes(write_values(pool.members, {name: one.head for name, one in values.items()}))
    _write_record(demo, work, names, values)
    made_for = {names[old]: weights for old, weights in palm.made_for.items()}
    portfolio = portfolio_of(pool, values, made_for, palm.certificate)
    (demo / "portfolio.json").write_bytes(write_portfolio(portfolio))
    return portfolio


def measure_again(
    demo: Path, *, seed: int = 0, trunk: Embedder | None = None, cache: Path | None = None, settings: PortfolioSettings | None = None
) -> Portfolio:
    """Measures the members that are there under heads that were trained anew; writes `values.npz` and `portfolio.json`.

    Nothing is aligned and nothing is proved again: the certificate stays if the rewards that it speaks of are the same.

    Args:
        demo: folder with heads, members and their portfolio.
        seed: of the search that found them.
        trunk: the demo's own if None.
        cache: folder of the embedding cache.
        settings: sizes of that search.

    Raises:
        ValueError: the certificate's rewards are not what they were; nothing is written.
    """
    settings, trained = settings or PortfolioSettings(), load_heads(demo)[0]
    old = json.loads((demo / "portfolio.json").read_text(encoding="utf-8"))
    size = DemoSettings(member_prompts=settings.certify, member_answers=1)
    pool = member_pool(demo, "train", size, seed=seed, skip=settings.learn + settings.value)
    values = member_values(trained, pool, trunk or load_demo_trunk(), cache, seed=seed)
    before = np.array([member["values"][FAMILY] for member in old["members"]])
    moved = float(np.abs(before - values[FAMILY].mean).max())
    if moved > SAME_REWARDS:
        raise ValueError(f"members' values under {FAMILY!r} moved by {moved:g}: its heads are others, and the search must be run again")
    made_for = {member["name"]: member["weights"] for member in old["members"]}
    certificate = None if old["certificate"] is None else read_certificate(old["certificate"])
    portfolio = portfolio_of(pool, values, made_for, certificate)
    (demo / "values.npz").write_bytes(write_values(pool.members, {name: one.head for name, one in values.items()}))
    (demo / "portfolio.json").write_bytes(write_portfolio(portfolio))
    return portfolio


def demo_rewards(demo: Path, work: Path, trunk: Embedder | None = None) -> tuple[Normalisation, Rewards]:
    """Returns what `normalised_rewards` does, for the demo's heads, with the cache of a search in `work`."""
    [rated] = [one for one in load_heads(demo)[0] if one.family.name == FAMILY]
    return normalised_rewards(rated, trunk or load_demo_trunk(), work / "vectors")


def train_policies(
    demo: Path,
    work: Path,
    weights: Array,
    *,
    seed: int = 0,
    settings: PortfolioSettings,
    jobs: int = 1,
    progress: Callable[[str], None],
) -> tuple[Solution, ...]:
    """Returns the policies for `weights` `[J, d]`, aligned exactly as the search aligns its own; what `work` holds is not trained again.

    Raises:
        OracleFailed: one could not be trained; those that were are kept.
    """
    if jobs < 2:
        return tuple(_train_policy(demo, work, row, seed, settings) for row in weights)
    found = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(_train_policy, demo, work, row, seed, settings) for row in weights]
        for number, one in enumerate(waiting, start=1):
            found.append(one.result())
            progress(f"{number} of {len(weights)} policies trained")
    return tuple(found)


def _train_policy(demo: Path, work: Path, weights: Array, seed: int, settings: PortfolioSettings) -> Solution:
    oracle = DpoOracle(
        base=demo / "language_model" / "base",
        rewards=demo_rewards(demo, work)[1],
        prompts=search_prompts(seed, settings)[0],
        out=work / "members",
        seed=seed,
        settings=settings.palm.member,
        slack=settings.palm.slack,
        confidence=settings.palm.confidence,
        base_name=BASE_NAME,
    )
    return oracle.solve(weights)


def search_prompts(seed: int, settings: PortfolioSettings) -> tuple[Prompts, tuple[str, ...]]:
    """Returns what the search asks (`held_out` is what it values policies on), and the fresh prompts of the certificate."""
    training = tuple(prompt.text for prompt in prompts("train", seed))
    choosing = tuple(prompt.text for prompt in prompts("validation", seed)[: settings.choose])
    rng = np.random.default_rng(seed_for(seed, "outside"))
    beyond = dict.fromkeys(outside_question(rng) for _ in range(settings.outside))
    fresh = settings.learn + settings.value
    asked = Prompts((*training[: settings.learn], *beyond), choosing, training[settings.learn : fresh])
    return asked, training[fresh : fresh + settings.certify]


def normalised_rewards(rated: TrainedFamily, trunk: Embedder, cache: Path | None) -> tuple[Normalisation, Rewards]:
    """Returns the frozen map of the rated heads to [0, 1], which is the ratings' own scale, and the rewards of any texts.

    Args:
        rated: the family of rated attributes.
        trunk: that it was trained on.
        cache: folder of the embedding cache.
    """
    intercepts = np.array([rated.summary[FAMILY][name]["intercept"] for name in rated.family.heads])
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


def _write_record(demo: Path, work: Path, names: Mapping[str, str], values: Mapping[str, Values]) -> None:
    """Writes `members.json`: the account of the search with every policy's training, members under the names that they serve by.

    `values` has, per family, the share of the members' variance between prompts that the value head explains out of fold: the
    ablation against a vector of values that does not look at the prompt, which explains 0 of it.
    """
    account = json.loads((work / "palm.json").read_text(encoding="utf-8"))
    account["values"] = {name: {"r2": value.r2, "penalty": value.penalty} for name, value in values.items()}
    for handle, policy in account["policies"].items():
        made = json.loads((work / "members" / handle / DOCUMENT).read_text(encoding="utf-8"))
        policy |= {"serves_as": names.get(handle), **{key: made[key] for key in ("pairs", "kept", "held_out")}}
    (demo / "members.json").write_text(json.dumps(account, indent=1, sort_keys=True) + "\n", encoding="utf-8")
