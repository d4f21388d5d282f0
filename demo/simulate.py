"""Simulated users with known tastes, served by the server's own functions: who is routed where, and how well pairs are predicted.

    per round: posterior samples -> routing.choose(2 members, logged law) -> two answers -> the user picks one -> learn

Prompts on which users give feedback and prompts on which everything is measured are disjoint, and both unknown to
training. Axis letters: `P` prompts, `M` members, `G` answers of one member to one prompt, `R` rounds, `n` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.measuring.figures import accuracy
from attune.models.seam import routing
from attune.models.seam.families import Families, Row
from attune.models.seam.informative import choose_prompt, choose_to_learn, pair_information
from attune.models.seam.portfolio import Portfolio
from demo.corpus.tastes import DEFAULT_SHARPNESS, choose, draw_users, utility

Array = NDArray[np.float64]

COUNTS = (0, 1, 3, 5, 10, 20)
SAMPLES = 256
EPSILON = 0.05


@dataclass(frozen=True, slots=True)
class Arena:
    """What simulated users meet: every member's answers to some prompts, as the scorer and as a person see them.

    Attributes:
        prompts: row of each prompt, `P`.
        answers: `answers[p][m][g]` row of an answer.
        scores: `[P, M, G, 6]` how strongly each answer shows each manner, the truth that no family sees.
    """

    prompts: Sequence[Row]
    answers: Sequence[Sequence[Sequence[Row]]]
    scores: Array


@dataclass(frozen=True, slots=True)
class SimulatedUsers:
    """What was measured, one row per user.

    Attributes:
        correct: `[U, n]` 1 where the family's member for the average prompt is the truly best one.
        correct_per_prompt: `[U, n]` share of held-out prompts on which it is.
        regret: `[U, n]` expected utility of the best member minus that of the routed one, over the held-out prompts.
        pair_accuracy: family -> `[U, n]` on pairs of answers to held-out prompts.
        ideal_accuracy: `[U]` of somebody who knows the user's taste; choices are noisy.
        agreement: family -> `[U]` share of rounds whose choice was predicted before it was learned.
        served: `[U, R]` expected utility of the members shown in each round, minus the best, a cost of exploring.
    """

    correct: Array
    correct_per_prompt: Array
    regret: Array
    pair_accuracy: Mapping[str, Array]
    ideal_accuracy: Array
    agreement: Mapping[str, Array]
    served: Array


def simulate(
    families: Families,
    portfolio: Portfolio,
    feedback: Arena,
    held_out: Arena,
    tastes: Array,
    *,
    router: str,
    seed: int,
    counts: Sequence[int] = COUNTS,
    pairs: int = 40,
    sharpness: float = DEFAULT_SHARPNESS,
    learn_from: int = 0,
) -> SimulatedUsers:
    """Returns what happens to users with `tastes` `[U, 6]` who compare `max(counts)` pairs of answers.

    Args:
        families: all learn from every comparison.
        portfolio: values of the members.
        feedback: where users compare.
        held_out: where routing and pair accuracy are measured.
        tastes: weights over manners, one row a user.
        router: the family whose posterior chooses the members.
        seed: of everything drawn.
        counts: numbers of comparisons after which to measure, increasing.
        pairs: held-out pairs per user.
        sharpness: of the users' choices.
        learn_from: how many prompts policy `learn` is offered for a comparison, of which it draws one with the pair; 0 is policy `sample`.
    """
    results = []
    for user, taste in enumerate(tastes):
        rng = np.random.default_rng([seed, user])
        results.append(_one_user(families, portfolio, feedback, held_out, taste, router, rng, counts, pairs, sharpness, learn_from))
    names = families.names
    return SimulatedUsers(
        correct=np.array([one.correct for one in results]),
        correct_per_prompt=np.array([one.correct_per_prompt for one in results]),
        regret=np.array([one.regret for one in results]),
        pair_accuracy={name: np.array([[point[name] for point in one.pair_accuracy] for one in results]) for name in names},
        ideal_accuracy=np.array([one.ideal_accuracy for one in results]),
        agreement={name: np.array([np.mean([said[name] for said in one.agreed]) for one in results]) for name in names},
        served=np.array([one.served for one in results]),
    )


@dataclass(slots=True)
class _User:
    correct: list[float]
    correct_per_prompt: list[float]
    regret: list[float]
    pair_accuracy: list[dict[str, float]]
    agreed: list[dict[str, float]]
    served: list[float]
    ideal_accuracy: float


def _one_user(
    families: Families,
    portfolio: Portfolio,
    feedback: Arena,
    held_out: Arena,
    taste: Array,
    router: str,
    rng: np.random.Generator,
    counts: Sequence[int],
    pairs: int,
    sharpness: float,
    learn_from: int,
) -> _User:
    user = _User([], [], [], [], [], [], 0.0)
    truth = utility(taste, held_out.scores).mean(axis=2)  # [P, M]
    tests = [_compare(held_out, taste, rng, sharpness) for _ in range(pairs)]
    user.ideal_accuracy = float(np.mean([test.ideal for test in tests]))
    expected = utility(taste, feedback.scores).mean(axis=2)
    evidence = families.prior()
    order = rng.permutation(len(feedback.prompts))
    for count in range(max(counts) + 1):
        if count in counts:
            _measure(user, families, portfolio, held_out, truth, tests, evidence, router, rng)
        if count == max(counts):
            break
        if learn_from:
            offered = [int(order[(count * learn_from + index) % len(order)]) for index in range(learn_from)]
            prompt, (first, second) = _to_learn(families, portfolio, feedback, offered, evidence, router, rng)
        else:
            prompt = int(order[count % len(order)])
            first, second = _members(families, portfolio, feedback.prompts[prompt], evidence, router, "sample", 2, rng).members
        told = _compare(feedback, taste, rng, sharpness, prompt=prompt, members=(first, second))
        added, predicted = families.study(evidence, told.chosen, told.rejected, told.prompt)
        user.agreed.append({name: accuracy(np.array([probability])) for name, probability in predicted.items()})
        user.served.append(float(expected[prompt, [first, second]].mean() - expected[prompt].max()))
        evidence = evidence + added
    return user


def _measure(
    user: _User,
    families: Families,
    portfolio: Portfolio,
    arena: Arena,
    truth: Array,
    tests: Sequence[_ToldPair],
    evidence: Array,
    router: str,
    rng: np.random.Generator,
) -> None:
    best = int(np.argmax(truth.mean(axis=0)))
    everywhere = _members(families, portfolio, None, evidence, router, "best", 1, rng).members[0]
    routed = [_members(families, portfolio, prompt, evidence, router, "best", 1, rng).members[0] for prompt in arena.prompts]
    user.correct.append(float(everywhere == best))
    user.correct_per_prompt.append(float(np.mean(np.array(routed) == best)))
    user.regret.append(float(truth[:, best].mean() - truth[np.arange(len(routed)), routed].mean()))
    predictions = families.predict_all(evidence, *families.stacked([(test.chosen, test.rejected, test.prompt) for test in tests]))
    user.pair_accuracy.append({name: accuracy(predictions[name]) for name in families.names})


def _to_learn(
    families: Families, portfolio: Portfolio, arena: Arena, offered: Sequence[int], evidence: Array, router: str, rng: np.random.Generator
) -> tuple[int, tuple[int, ...]]:
    """Returns the prompt of those offered, and the pair of members, that policy `learn` draws, as a server does."""
    scale, each = families[router].logit_scale, []
    for prompt in offered:
        weights = families.sample_weights(router, evidence, arena.prompts[prompt], rng, SAMPLES)
        each.append(routing.sampled_values(weights, portfolio.values_for(router, arena.prompts[prompt])))
    drawn, _, pairs = choose_prompt(np.array([pair_information(one, scale) for one in each]), epsilon=EPSILON, rng=rng)
    mean = each[drawn].mean(axis=0)
    choice = choose_to_learn(each[drawn], count=2, epsilon=EPSILON, rng=rng, logit_scale=scale, mean=mean, pairs=pairs)
    return offered[drawn], choice.members


def _members(
    families: Families,
    portfolio: Portfolio,
    prompt: Row | None,
    evidence: Array,
    router: str,
    policy: routing.Policy,
    count: int,
    rng: np.random.Generator,
) -> routing.Choice:
    weights = families.sample_weights(router, evidence, prompt, rng, SAMPLES)
    sampled = routing.sampled_values(weights, portfolio.values_for(router, prompt))
    return routing.choose(policy, sampled, count=count, epsilon=EPSILON, rng=rng)


@dataclass(frozen=True, slots=True)
class _ToldPair:
    prompt: Row
    chosen: Row
    rejected: Row
    ideal: float


def _compare(
    arena: Arena,
    taste: Array,
    rng: np.random.Generator,
    sharpness: float,
    *,
    prompt: int | None = None,
    members: tuple[int, int] | None = None,
) -> _ToldPair:
    """Returns one noisy choice between answers of two members, and whether knowing the taste would have predicted it."""
    asked = int(rng.integers(len(arena.prompts))) if prompt is None else prompt
    pair = tuple(int(member) for member in rng.choice(arena.scores.shape[1], size=2, replace=False)) if members is None else members
    answers = [(member, int(rng.integers(arena.scores.shape[2]))) for member in pair]
    utilities = np.array([float(utility(taste, arena.scores[asked, member, answer])) for member, answer in answers])
    winner = choose(rng, utilities, sharpness)
    chosen, rejected = (arena.answers[asked][member][answer] for member, answer in (answers[winner], answers[1 - winner]))
    gap = float(utilities[winner] - utilities[1 - winner])
    return _ToldPair(arena.prompts[asked], chosen, rejected, 0.5 if gap == 0 else float(gap > 0))


def ideal_observer(
    feedback: Arena,
    held_out: Arena,
    tastes: Array,
    *,
    seed: int,
    counts: Sequence[int] = COUNTS,
    sharpness: float = DEFAULT_SHARPNESS,
    particles: int = 4000,
) -> Array:
    """Returns `[U, n]` 1 where exact Bayes routes to the best member: what no family can beat but by luck.

    It knows the prior that tastes are drawn from, the sharpness, and every answer's true manner scores; only the choices
    are noisy. Particles of the prior are weighted by the choices' likelihood, and the policy is that of the server.
    """
    prior = draw_users(particles, seed + 1_000_003)
    worth = held_out.scores.mean(axis=(0, 2))  # [M, 6]
    found = np.zeros((len(tastes), len(counts)))
    for user, taste in enumerate(tastes):
        rng = np.random.default_rng([seed, user])
        best, logs = int(np.argmax(worth @ taste)), np.zeros(particles)
        for count in range(max(counts) + 1):
            weights = np.exp(logs - logs.max())
            weights /= weights.sum()
            if count in counts:
                found[user, list(counts).index(count)] = float(np.argmax(worth @ (weights @ prior)) == best)
            sampled = prior[rng.choice(particles, size=SAMPLES, p=weights)] @ worth.T
            pair = routing.choose("sample", sampled, count=2, epsilon=EPSILON, rng=rng).members
            prompt, answers = rng.integers(len(feedback.prompts)), rng.integers(feedback.scores.shape[2], size=2)
            shown = feedback.scores[prompt, list(pair), answers]
            winner = choose(rng, utility(taste, shown), sharpness)
            logs -= np.logaddexp(0.0, -sharpness * (prior @ (shown[winner] - shown[1 - winner])))
    return found
