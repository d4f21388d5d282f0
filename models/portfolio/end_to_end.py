"""A portfolio from a base model and reward functions, end to end: searched, aligned, pruned, certified, laid out for serving.

    1. lazy search over weights, each call a member aligned by DPO         out/search.jsonl, out/members/<member>/
    2. the fewest members that keep the promise                            prune
    3. all policies on fresh prompts, which chose nothing                  out/answers/<member>.jsonl
    4. the certificate over every user                                     out/palm.json, written last
    5. what is served                                                      out/adapters/<member>/, out/roster.json

A run that was killed goes on where it stopped, in the middle of a member too. The optimum at a weight is that of the member that
was aligned to it plus `slack`: the certificate is relative to what training reaches, not to every conceivable policy. Letters: `P`
prompts, `J` weights asked, `M` members kept, `d` rewards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.adapter_fit import CONFIG, WEIGHTS
from attune.models.alignment.base_answers import Answers, Rewards, RewardsInvalid, sample_answers
from attune.models.alignment.causal import LanguageModel, load
from attune.models.alignment.trained_member import MemberSettings, Prompts, fingerprint
from attune.models.portfolio.begun import begin
from attune.models.portfolio.certify import Evidence, certify
from attune.models.portfolio.inputs import described, read_prompts, tried
from attune.models.portfolio.model_oracles import DpoOracle
from attune.models.portfolio.oracles import Solution
from attune.models.portfolio.prune import Pruned, prune, prune_to
from attune.models.portfolio.rewards import Normalisation
from attune.models.portfolio.search import Search, SearchSettings, lazy_search
from attune.models.portfolio.show import ACCOUNT, what_would_prove_more, whom
from attune.models.seam.certificate import Certificate

Array = NDArray[np.float64]
Tell = Callable[[str], None]

NOISE = 0.01
"""Reward by which portfolios may differ before one counts as better: less than the standard error of a value on some hundred prompts."""


MOST_REWARDS = 12
"""Proofs look at the corners of a polytope of as many dimensions: 0.3 s for 12 policies and 12 rewards, and without end at 25."""


@dataclass(frozen=True, slots=True)
class PalmSettings:
    """How a portfolio is built.

    Attributes:
        epsilon, delta: the promise of the search: at most this share and this much, in normalised reward, is lost.
        max_calls: most members that are trained.
        most_members: that are kept; where more would be needed for the promise, those that leave least unproved. None for as many.
        slack: how far a trained member may be from the best at its own weights, as far as the caller vouches.
        confidence: of the certificate.
        answers: of each policy to each fresh prompt.
        member: how one is made.
    """

    epsilon: float = 0.02
    delta: float = 0.02
    max_calls: int = 12
    most_members: int | None = None
    slack: float = 0.0
    confidence: float = 0.95
    answers: int = 2
    member: MemberSettings = field(default_factory=MemberSettings)


@dataclass(frozen=True, slots=True)
class Palm:
    """A finished portfolio: names of the members kept, weights and values on fresh prompts `[M, d]`, and all policies' answers to these."""

    out: Path
    search: Search
    names: tuple[str, ...]
    weights: Array
    values: Array
    certificate: Certificate
    answers: Mapping[str, Answers]

    @property
    def adapters(self) -> dict[str, Path]:
        """Folder of each member's adapter."""
        return {name: self.out / "adapters" / name for name in self.names}

    @property
    def made_for(self) -> dict[str, dict[str, float]]:
        """Weights over the rewards' names that each member was aligned to."""
        rewards = self.certificate.rewards
        return {name: dict(zip(rewards, row.tolist(), strict=True)) for name, row in zip(self.names, self.weights, strict=True)}


def build_portfolio(
    base: Path | str,
    rewards: Rewards,
    normalisation: Normalisation,
    out: Path,
    *,
    family: str,
    seed: int = 0,
    settings: PalmSettings | None = None,
    asked: Prompts,
    fresh: Sequence[str],
    base_name: str = "",
    roster_base: str | None = None,
    progress: Tell | None = None,
) -> Palm:
    """Builds a portfolio and writes it to `out` as described above.

    Args:
        base: folder or hub id of a causal language model.
        rewards: in [0, 1], two or more.
        normalisation: that made them so, for the certificate; online weights are over raw rewards.
        out: made if absent; going on with what is there.
        family: whose heads the rewards are.
        seed: of everything random.
        settings: see there.
        asked: prompts for the search: `held_out` is what it values policies on.
        fresh: prompts for the certificate, which chose nothing.
        base_name: what adapters call their base.
        roster_base: where the roster finds the base, absolute or below `out`; where `base` is, if None.
        progress: told a line now and then.

    Raises:
        RewardsInvalid: there are more than `MOST_REWARDS`.
        OracleFailed: a member could not be trained or was refused; what was done before is kept, and the call may be repeated.
        NotCovered: the search ended before its promise was kept (`max_calls`) and all policies together do not keep it.
    """
    settings = settings or PalmSettings()
    if len(rewards.names) > MOST_REWARDS:
        raise RewardsInvalid(f"there are {len(rewards.names)} rewards; a portfolio is searched over at most {MOST_REWARDS}")
    if progress is not None and settings.max_calls < len(rewards.names):
        progress(
            f"{len(rewards.names)} rewards and at most {settings.max_calls} members: of a reward without a member hardly anything is proved"
        )
    oracle = DpoOracle(
        base=base,
        rewards=rewards,
        prompts=asked,
        out=out / "members",
        seed=seed,
        settings=settings.member,
        slack=settings.slack,
        confidence=settings.confidence,
        base_name=base_name,
        progress=progress,
    )
    wanted = SearchSettings(settings.epsilon, settings.delta, settings.max_calls)
    search = lazy_search(_Means(oracle), wanted, state=out / "search.jsonl", progress=progress)
    pruned = _prune(search, settings)
    names = tuple(solution.handle for solution in search.solutions)
    model = load(base, {name: out / "members" / name for name in names})
    said = _on_fresh_prompts(model, names, tuple(fresh), out, fingerprint(base), settings.answers, seed, progress)
    measured = np.stack([one.rewards(rewards).mean(axis=1) for one in said.values()], axis=1)
    chosen = list(pruned.chosen)
    weights = np.array([solution.weights for solution in search.solutions])
    evidence = Evidence(
        members=measured[:, chosen],
        asked=weights,
        optima=np.einsum("pjd,jd->pj", measured, weights) + settings.slack,
        planned=np.array([search.solutions[index].value for index in chosen]),
        planned_optima=np.array([float(solution.optimum or 0.0) for solution in search.solutions]),
    )
    certificate = certify(
        evidence,
        normalisation,
        family=family,
        rewards=rewards.names,
        epsilon=settings.epsilon,
        delta=settings.delta,
        confidence=settings.confidence,
        oracle_calls=search.calls,
    )
    kept = tuple(names[index] for index in chosen)
    palm = Palm(out, search, kept, weights[chosen], measured[:, chosen].mean(axis=0), certificate, said)
    _lay_out(palm, _for_roster(base, out) if roster_base is None else roster_base, pruned, measured, settings, seed)
    if progress is not None:
        progress(f"{len(kept)} of {len(names)} members kept: {', '.join(kept)}; certified ratio {certificate.worst_ratio:.3f}")
    return palm


def build_from_files(
    base: Path | str,
    rewards: Rewards,
    file: Path,
    out: Path,
    *,
    settings: PalmSettings,
    seed: int,
    base_name: str = "",
    progress: Tell | None = None,
) -> str:
    """Builds a portfolio for rewards that are in [0, 1] as they are and prompts of a text file; returns what to tell people.

    `read_prompts` says which prompts are held out; every other of them values policies for the search, the rest certify.
    """
    asked = read_prompts(file, held_out=4)
    tried(rewards, asked.training)
    begin(out, base, {"rewards": ", ".join(rewards.names)}, asked, seed, settings.member)
    if progress is not None:
        progress(f"settings of each member: {described(settings.member)}")
    unit = Normalisation(np.zeros(len(rewards.names)), np.ones(len(rewards.names)))
    palm = build_portfolio(
        base,
        rewards,
        unit,
        out,
        family="rewards",
        asked=replace(asked, held_out=asked.held_out[0::2]),
        fresh=asked.held_out[1::2],
        seed=seed,
        settings=settings,
        base_name=base_name,
        progress=progress,
    )
    return told_of(palm)


def told_of(palm: Palm) -> str:
    """Returns the members kept and what is proved of them, for people."""
    rewards = palm.certificate.rewards
    lines = [
        f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in made.items() if value > 0) for name, made in palm.made_for.items()
    ]
    worst = dict(zip(rewards, palm.certificate.worst_weights.round(3).tolist(), strict=True))
    proved = (
        f"{whom(palm.certificate)} gets at least {palm.certificate.worst_ratio:.3f} of what {palm.search.calls} trained members can give"
    )
    lines += what_would_prove_more(palm.certificate.worst_ratio)
    return "\n".join([*lines, f"{proved}, with confidence {palm.certificate.confidence:g}; the worst served has weights {worst}"])


@dataclass(frozen=True, slots=True)
class _Means:
    """The oracle with point estimates: the search plans with them, and fresh prompts bear the intervals of the certificate.

    With intervals in the search itself, sampling error would be taken for a gap that another member could close.
    """

    oracle: DpoOracle

    @property
    def dimensions(self) -> int:
        return self.oracle.dimensions

    @property
    def beta(self) -> float:
        return self.oracle.beta

    def solve(self, weights: Array) -> Solution:
        found = self.oracle.solve(weights)
        return replace(found, half_width=np.zeros_like(found.half_width))


def _prune(search: Search, settings: PalmSettings) -> Pruned:
    """Returns the smallest portfolio for what was asked, or for what the search proved where `max_calls` ended it before.

    Between portfolios of one size those are taken whose members were made for one reward each, as far as there are such: people can
    name what such a member is for.
    """
    prefer = np.array([solution.weights.max() for solution in search.solutions])
    lacking = 0.0 if search.reached else max(0.0, search.proof.excess - settings.delta)
    pruned = prune(search.solutions, settings.epsilon, settings.delta + lacking + 1e-9, prefer=prefer)
    if settings.most_members is None or len(pruned.chosen) <= settings.most_members:
        return pruned
    return prune_to(search.solutions, settings.most_members, settings.epsilon, prefer=prefer, tolerance=NOISE)


def _on_fresh_prompts(
    model: LanguageModel,
    names: Sequence[str],
    fresh: tuple[str, ...],
    out: Path,
    source: str,
    answers: int,
    seed: int,
    progress: Tell | None,
) -> dict[str, Answers]:
    """Returns every policy's answers to the fresh prompts."""
    found: dict[str, Answers] = {}
    for number, name in enumerate(names):
        told = f"{source} {fingerprint(out / 'members' / name)}"
        file = out / "answers" / f"{name}.jsonl"
        found[name] = sample_answers(model, name, fresh, answers, seed + 100 + number, file, told, progress)
    return found


def _for_roster(base: Path | str, out: Path) -> str:
    """Returns what a roster in `out` calls the base: relative to it where the base lies inside, absolute elsewhere, a hub id as it is."""
    if not Path(base).is_dir():
        return str(base)
    whole, root = Path(base).resolve(), out.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _lay_out(palm: Palm, base: str, pruned: Pruned, measured: Array, settings: PalmSettings, seed: int) -> None:
    """Writes the adapters that are served, their roster, and `palm.json`, the account of it all."""
    out, search = palm.out, palm.search
    roster: dict[str, Any] = {}
    shutil.rmtree(out / "adapters", ignore_errors=True)  # an earlier run may have kept others
    for name in palm.names:
        folder = out / "adapters" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(out / "members" / name / file, folder / file)
        roster[name] = {"kind": "local", "base": base, "adapter": f"adapters/{name}"}
    _write(out / "roster.json", roster)
    error = 1.96 * measured.std(axis=0, ddof=1) / np.sqrt(len(measured))
    _write(
        out / ACCOUNT,
        {
            "members": palm.made_for,
            "policies": {
                solution.handle: {
                    "weights": solution.weights.tolist(),
                    "searched": solution.value.tolist(),
                    "fresh": measured[:, index].mean(axis=0).tolist(),
                    "half_width_95": error[index].tolist(),
                    "kl": solution.divergence,
                }
                for index, solution in enumerate(search.solutions)
            },
            "search": {"calls": search.calls, "reached": search.reached, "excess": search.proof.excess, "ratio": search.proof.ratio},
            "pruned": {"size": len(pruned.chosen), "greedy": pruned.greedy, "exact": pruned.exact},
            "certificate": {
                "worst_ratio": palm.certificate.worst_ratio,
                "gap": palm.certificate.gap,
                "worst_weights": palm.certificate.worst_weights.tolist(),
                "confidence": palm.certificate.confidence,
                "oracle_calls": palm.certificate.oracle_calls,
            },
            "settings": asdict(settings),
            "seed": seed,
        },
    )


def _write(file: Path, document: dict[str, Any]) -> None:
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(file)
