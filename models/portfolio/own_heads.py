"""A portfolio over the heads of a folder of families, so that its certificate and the users of a bundle speak of the same rewards.

    answers of the base ─> every head's range ─> heads squashed to [0, 1] = the rewards ─> build_portfolio
    fresh answers of the members kept ─> rewards under every family ─> portfolio.json, values.npz, families.json, families.npz

The folder is what `portfolio show`, `portfolio vllm` and `bundle build --portfolio` read. Axis letters: `P` prompts, `M` members, `G`
answers, `K` heads.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards, RewardsInvalid, sample_answers
from attune.models.alignment.causal import BASE, load
from attune.models.alignment.trained_member import fingerprint
from attune.models.data.embeddings import Embedder, embed_texts
from attune.models.data.preferences import Texts
from attune.models.data.trunk_file import load_trunk_of
from attune.models.portfolio.begun import begin
from attune.models.portfolio.end_to_end import MOST_REWARDS, Palm, PalmSettings, build_portfolio, told_of
from attune.models.portfolio.inputs import read_prompts
from attune.models.portfolio.pool import Pool
from attune.models.portfolio.pool_values import Values, fit_values
from attune.models.portfolio.rewards import Normalisation, fit_normalisation
from attune.models.seam.additive import Additive
from attune.models.seam.counts import counted
from attune.models.seam.families import Family
from attune.models.seam.families_file import write_families
from attune.models.seam.member_values import write_values
from attune.models.seam.portfolio import Portfolio, PortfolioMember, write_portfolio
from attune.models.training.heads import TrainedFamily, compute_outputs, load_heads
from attune.models.training.linear_map import FOLDS

Array = NDArray[np.float64]
Tell = Callable[[str], None]

CALIBRATION_PROMPTS, CALIBRATION_ANSWERS = 64, 4
"""Of the base: 256 answers put the ends of a reward's range at their 0.5 % tails."""

ENOUGH = 0.8
"""Share of how answers of the base differ along the axes of taste that the axes taken as rewards explain, where nobody named heads."""


def build_over_heads(
    base: Path | str,
    families: Path,
    file: Path,
    out: Path,
    *,
    family: str = "",
    heads: Sequence[str] = (),
    settings: PalmSettings,
    seed: int,
    base_name: str = "",
    cache: Path | None = None,
    progress: Tell | None = None,
) -> str:
    """Builds a portfolio for the heads of one family and prompts of a text file; returns what to tell people.

    Args:
        base: folder or hub id of a causal language model.
        families: folder with heads and `trunk.json`.
        file: of prompts, one a line, see `read_prompts`.
        out: made if absent; going on with what is there.
        family: whose heads are the rewards; empty takes the default one, or the first that has enough heads.
        heads: names of those that are the rewards, 2 to `MOST_REWARDS`; empty takes all, or of `additive` everybody's and the leading
            axes'. Of the others the certificate knows nothing, and how much of a user's taste lies along them.
        settings: of the search and its members.
        seed: of everything random.
        base_name: what adapters call their base.
        cache: folder of the embedding cache.
        progress: told a line now and then.

    Raises:
        RewardsInvalid: no family can be weighed, a head is not there, or a head says the same of all answers of the base.
        SettingsInvalid: prompts are too few, see `read_prompts`.
        PortfolioConflict: `out` was begun with other heads, another base, other prompts or settings.
        TrunkUnavailable, OracleFailed, NotCovered: see `load_trunk_of` and `build_portfolio`.
    """
    trained, default = load_heads(families)
    chosen = _with_several_heads(trained, family, default, named=bool(heads))
    wanted = _places(chosen.family.heads, heads)
    asked = read_prompts(file, held_out=2 * FOLDS)
    trunk = load_trunk_of(families)
    begin(out, base, _told(chosen, heads, trunk), asked, seed, settings.member)
    said = sample_answers(
        load(base, {}),
        BASE,
        asked.training[:CALIBRATION_PROMPTS],
        CALIBRATION_ANSWERS,
        seed,
        out / "answers" / "calibration.jsonl",
        fingerprint(base),
        progress,
    )
    prompts, answers = said.flat()
    raw = _raw_rewards(chosen, trunk, cache, prompts, [answer.text for answer in answers])
    normalisation = fit_normalisation(raw, places=wanted or leading_rewards(chosen.family, raw))
    palm = build_portfolio(
        base,
        squashed(chosen, normalisation, trunk, cache),
        normalisation,
        out,
        family=chosen.family.name,
        seed=seed,
        settings=settings,
        asked=replace(asked, held_out=asked.held_out[0::2]),
        fresh=asked.held_out[1::2],
        base_name=base_name,
        progress=progress,
    )
    lay_out_values(palm, trained, default, trunk, cache, seed=seed)
    ends = ", ".join(
        f"{head} {low:.3g} to {low + width:.3g}"
        for head, low, width in zip(palm.certificate.rewards, normalisation.offset, normalisation.scale, strict=True)
    )
    which = f"{len(normalisation.places)} of {len(chosen.family.heads)} heads" if normalisation.places else "the heads"
    return f"rewards are {which} of {chosen.family.name!r}, 0 to 1 over what the base gives: {ends}\n{told_of(palm)}"


def squashed(trained: TrainedFamily, normalisation: Normalisation, trunk: Embedder, cache: Path | None) -> Rewards:
    """Returns the heads of a family that are rewards, in [0, 1]."""
    places = list(normalisation.places) or list(range(len(trained.family.heads)))

    def score(asked: Sequence[str], responses: Sequence[str]) -> Array:
        return normalisation.apply(_raw_rewards(trained, trunk, cache, asked, responses)[:, places])

    return Rewards(tuple(trained.family.heads[place] for place in places), score)


def member_values(trained: Sequence[TrainedFamily], pool: Pool, trunk: Embedder, cache: Path | None, *, seed: int) -> dict[str, Values]:
    """Returns what the members of a pool are worth under every family's heads, from their answers."""
    vectors = embed_texts(pool.texts(), trunk, cache)
    outputs = compute_outputs(trained, vectors.candidates)
    found = {}
    for one in trained:
        rewards = outputs[f"{one.family.name}_rewards"].astype(np.float64).reshape(*pool.shape, -1)
        found[one.family.name] = fit_values(rewards, vectors.prompts, seed=seed)
    return found


def lay_out_values(palm: Palm, trained: Sequence[TrainedFamily], default: str, trunk: Embedder, cache: Path | None, *, seed: int) -> None:
    """Writes what the members kept are worth beside them: `portfolio.json`, `values.npz`, and the families that they are measured under."""
    prompts = next(iter(palm.answers.values())).prompts
    said = [palm.answers[name].answers for name in palm.names]
    answers = tuple(tuple(tuple(answer.text for answer in member[row]) for member in said) for row in range(len(prompts)))
    values = member_values(trained, Pool(palm.names, prompts, answers, "fresh answers"), trunk, cache, seed=seed)
    members = tuple(PortfolioMember(name, _sentence(palm.made_for[name]), palm.made_for[name]) for name in palm.names)
    means = {name: one.mean for name, one in values.items()}
    portfolio = Portfolio(members, means, {name: one.interval for name, one in values.items()}, palm.certificate)
    files = write_families([one.family for one in trained], default, {one.family.name: one.trust for one in trained})
    files["values.npz"] = write_values(palm.names, {name: one.head for name, one in values.items()})
    for name, content in files.items():
        (palm.out / name).write_bytes(content)
    (palm.out / "portfolio.json").write_bytes(write_portfolio(portfolio))


def _told(chosen: TrainedFamily, heads: Sequence[str], trunk: Embedder) -> dict[str, str]:
    """Returns what tells the rewards of one run from those of another: names alone stay the same when a family is trained anew."""
    digest = hashlib.sha256(trunk.sha256.encode())
    for name, tensor in sorted(chosen.heads.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    named = ", ".join(heads) or "as many as matter"
    return {"family": chosen.family.name, "--heads": named, "weights of the heads": digest.hexdigest()[:12]}


def _with_several_heads(trained: Sequence[TrainedFamily], wanted: str, default: str, *, named: bool) -> TrainedFamily:
    by_name = {one.family.name: one for one in trained}
    counts = {name: len(one.family.heads) for name, one in by_name.items()}
    several = [name for name, count in counts.items() if count > 1]
    fit = [name for name in several if named or counts[name] <= MOST_REWARDS or isinstance(by_name[name].family, Additive)]
    there = ", ".join(f"{name} with {count}" for name, count in counts.items())
    if wanted and wanted not in by_name:
        raise RewardsInvalid(f"there is no family {wanted!r} here; there is {there}")
    if not several or (wanted and wanted not in several):
        raise RewardsInvalid(
            f"a portfolio weighs 2 rewards and more, and {wanted or 'every family here'} has fewer heads ({there}): train families with "
            "--personalise, import a reward model with several labels, or give functions with --rewards"
        )
    if not fit or (wanted and wanted not in fit):
        raise RewardsInvalid(
            f"a portfolio weighs at most {MOST_REWARDS} rewards, and {there}: name those that matter most, --heads NAME,NAME of "
            + ", ".join(by_name[wanted or several[0]].family.heads)
        )
    return by_name[wanted or (default if default in fit else fit[0])]


def _places(there: Sequence[str], heads: Sequence[str]) -> list[int]:
    """Returns where the heads of these names are."""
    unknown = [name for name in heads if name not in there]
    if unknown:
        raise RewardsInvalid(f"there is no head {unknown[0]!r}; heads are {', '.join(there)}")
    repeated = [name for name, count in Counter(heads).items() if count > 1]
    if repeated:
        raise RewardsInvalid(f"head {repeated[0]!r} is named {heads.count(repeated[0])} times; name each once")
    if heads and not 1 < len(heads) <= MOST_REWARDS:
        raise RewardsInvalid(f"{counted(len(heads), 'head is', 'heads are')} named; a portfolio weighs 2 to {MOST_REWARDS} rewards")
    return [there.index(name) for name in heads]


def leading_rewards(family: Family, raw: Array) -> list[int]:
    """Returns which heads are the rewards where nobody named any: all, or everybody's and those of the axes that matter most.

    Answers of the base differ along every axis; as many axes are taken as explain `ENOUGH` of it and `MOST_REWARDS` has room for.
    """
    if not isinstance(family, Additive):
        return list(range(len(family.heads)))
    spread = np.var(family.along_axes(raw), axis=0)
    explained = np.cumsum(spread) / max(float(spread.sum()), 1e-12)
    axes = min(int(np.searchsorted(explained, ENOUGH)) + 1, family.axes, (MOST_REWARDS - 1) // 2)
    return list(family.leading_heads(axes))


def _raw_rewards(one: TrainedFamily, trunk: Embedder, cache: Path | None, asked: Sequence[str], responses: Sequence[str]) -> Array:
    texts = Texts(tuple((prompt, None) for prompt in dict.fromkeys(asked)), tuple(zip(asked, responses, strict=True)))
    vectors = embed_texts(texts, trunk, cache)
    found: Array = compute_outputs([one], vectors.candidates)[f"{one.family.name}_rewards"].astype(np.float64)
    return found


def _sentence(weights: Mapping[str, float]) -> str:
    shares = {name: weight for name, weight in sorted(weights.items(), key=lambda item: -item[1]) if weight >= 0.05}
    return "Aligned to " + ", ".join(f"{weight:.0%} {name}" for name, weight in shares.items()) + "."
