"""Upstreams under own names and nothing known of them: users who compare, a member that joins, and one that changes its manner.

    users in random order ─> weights x members' values sampled ─> two answers ─> a choice ─> the user's sum and both members' sums

The server's own mathematics on its own vectors; only the windows of a member's sum, which the store keeps, are kept here too. Upstreams
answer as members of the demo do. Axis letters: `U` users, `P` prompts, `M` members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.families import Families
from attune.models.seam.member_evidence import EvidenceLayout, ObservedRewards, nothing_observed
from attune.models.seam.member_worth import Known, Worth, drift_of, within_covariance, worth_of
from attune.models.seam.routing import Choice, Policy, choose, sampled_values, sampled_worth
from demo.corpus.tastes import DEFAULT_SHARPNESS, utility
from demo.corpus.tastes import choose as pick
from demo.simulate import EPSILON, SAMPLES, Arena

Array = NDArray[np.float64]

WINDOW = 100
ALERT = 6.0
READ_EVERY = 10
"""Decisions for which one reading of the members' sums is used: the server's is at most a second old."""


@dataclass(slots=True)
class ChangingMember:
    """A member: whose answers of the arena it gives (another's, once it changes), and what they have added up to."""

    voice: int
    parts: list[ObservedRewards]

    def saw(self, answer: ObservedRewards) -> None:
        """Adds an answer, as the store does: a full window becomes the one before."""
        if self.parts[1].count >= WINDOW:
            self.parts[0], self.parts[1], self.parts[2] = self.parts[0] + self.parts[2], answer, self.parts[1]
        else:
            self.parts[1] = self.parts[1] + answer

    @property
    def known(self) -> Known:
        return Known(None, self.parts[0], self.parts[1] + self.parts[2])


@dataclass(slots=True)
class Deployment:
    """Users and upstreams of one simulated deployment, under one family."""

    families: Families
    family: str
    arena: Arena
    tastes: Array
    rng: np.random.Generator
    upstreams: list[ChangingMember] = field(default_factory=list)
    evidence: list[Array] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)
    _worth: Worth | None = None
    _since: int = 0

    def join(self, voice: int) -> None:
        """Adds an upstream of whom nothing is known."""
        heads = len(self.families[self.family].heads)
        self.upstreams.append(ChangingMember(voice, [nothing_observed(heads) for _ in range(3)]))
        self._worth = None

    def come(self) -> None:
        """Lets every taste be a new user."""
        self.evidence = [self.families.prior() for _ in self.tastes]
        self.compared = [0] * len(self.tastes)

    def worth(self) -> Worth:
        """Returns what the members are worth, as last read."""
        if self._worth is None or self._since >= READ_EVERY:
            self._worth, self._since = worth_of([upstream.known for upstream in self.upstreams]), 0
        self._since += 1
        return self._worth

    def decide(self, user: int, policy: Policy, count: int) -> Choice:
        """Returns whom the server would serve a user, on an average prompt."""
        worth = self.worth()
        weights = self.families.sample_weights(self.family, self.evidence[user], None, self.rng, SAMPLES)
        sampled = sampled_worth(weights, worth.mean, worth.covariance, self.rng)
        mean = sampled_values(weights, worth.mean).mean(axis=0)
        return choose(policy, sampled, count=count, epsilon=EPSILON, rng=self.rng, mean=mean)

    def compare(self, user: int) -> None:
        """One round: a pair by policy `sample`, answers that add to their authors, a choice that is learned."""
        prompt = int(self.rng.integers(len(self.arena.prompts)))
        pair = [self.upstreams[member] for member in self.decide(user, "sample", 2).members]
        answers = [int(self.rng.integers(self.arena.scores.shape[2])) for _ in pair]
        rows = [self.arena.answers[prompt][one.voice][answer] for one, answer in zip(pair, answers, strict=True)]
        layout = EvidenceLayout({self.family: len(self.families[self.family].heads)})
        for one, row in zip(pair, rows, strict=True):
            one.saw(layout.observed(self.family, 1.0, layout.evidence(row)))
        shown = np.array([self.arena.scores[prompt, one.voice, answer] for one, answer in zip(pair, answers, strict=True)])
        winner = pick(self.rng, utility(self.tastes[user], shown), DEFAULT_SHARPNESS)
        added, _ = self.families.study(self.evidence[user], rows[winner], rows[1 - winner], self.arena.prompts[prompt])
        self.evidence[user] = self.evidence[user] + added
        self.compared[user] += 1

    def truth(self) -> Array:
        """Returns `[U, M]` the mean utility of each upstream's answers to each user."""
        voices = [upstream.voice for upstream in self.upstreams]
        found: Array = utility(self.tastes, self.arena.scores.mean(axis=(0, 2)))[voices].T
        return found

    def served(self, users: Sequence[int]) -> Array:
        """Returns `[users]` whom policy `best` would serve."""
        return np.array([self.decide(user, "best", 1).members[0] for user in users], dtype=np.int64)

    def drift(self) -> list[float]:
        """Returns each upstream's drift in standard errors, 0 where too little is known."""
        known = [upstream.known for upstream in self.upstreams]
        within = within_covariance(known, len(self.families[self.family].heads))
        found = [drift_of(one, within) for one in known]
        return [0.0 if drift is None else drift.errors for drift in found]


@dataclass(frozen=True, slots=True)
class OwnMembers:
    """What one deployment showed.

    Attributes:
        best: comparisons -> `[U]` 1 where policy `best` serves the truly best upstream.
        worth: comparisons -> `[U]` utility of the served over that of the best.
        joined: share of `best` decisions that go to the newcomer, of users whom it suits, 200 decisions after it joined.
        wrong_more: rise of the share of wrong `best` decisions of everybody else, in those 200 decisions.
        false_alert: greatest drift of any member before the change, in standard errors.
        alert_after: answers of the changed upstream until its drift is above `ALERT`; None if it never was.
        recovered: mean utility served over the best possible, after 300 answers of the changed upstream.
    """

    best: dict[int, Array]
    worth: dict[int, Array]
    joined: float
    wrong_more: float
    false_alert: float
    alert_after: int | None
    recovered: float


def own_members(
    families: Families, family: str, arena: Arena, tastes: Array, *, voices: Sequence[int], newcomer: int, seed: int, counts: Sequence[int]
) -> OwnMembers:
    """Returns what a deployment of these upstreams does from nothing.

    Args:
        families: all learn.
        family: routes.
        arena: prompts and answers.
        tastes: `[U, 6]` of the users.
        voices: members of the arena that the upstreams answer like.
        newcomer: the one that joins later.
        seed: of everything drawn.
        counts: comparisons a user at which to measure, increasing.
    """
    world = Deployment(families, family, arena, tastes, np.random.default_rng(seed))
    for voice in voices:
        world.join(voice)
    world.come()
    everybody = list(range(len(tastes)))
    best, worth = {}, {}
    for count in range(max(counts) + 1):
        if count in counts:
            truth, served = world.truth(), world.served(everybody)
            best[count] = (served == truth.argmax(axis=1)).astype(np.float64)
            worth[count] = truth[everybody, served] / truth.max(axis=1)
        if count < max(counts):
            for user in world.rng.permutation(len(tastes)):
                world.compare(int(user))
    false_alert = max(world.drift())
    joined, wrong_more = _join(world, newcomer, everybody)
    alert_after, recovered = _change(world, everybody)
    return OwnMembers(best, worth, joined, wrong_more, false_alert, alert_after, recovered)


def _join(world: Deployment, newcomer: int, everybody: Sequence[int]) -> tuple[float, float]:
    before = world.served(everybody) != world.truth().argmax(axis=1)
    world.join(newcomer)
    for user in world.rng.choice(len(world.tastes), size=200):
        world.compare(int(user))
    truth, served = world.truth(), world.served(everybody)
    suited = truth.argmax(axis=1) == len(world.upstreams) - 1
    wrong = served != truth.argmax(axis=1)
    return float(np.mean(served[suited] == len(world.upstreams) - 1)), float(np.mean(wrong[~suited]) - np.mean(before[~suited]))


def _change(world: Deployment, everybody: Sequence[int], limit: int = 300) -> tuple[int | None, float]:
    """The first upstream begins to answer like the last voice that nobody has; measured over `limit` of its answers."""
    changed = world.upstreams[0]
    free = [voice for voice in range(world.arena.scores.shape[1]) if voice not in [one.voice for one in world.upstreams]]
    before = sum(part.count for part in changed.parts)
    changed.voice, alert_after, rounds = free[-1], None, 0
    answered = 0.0
    while answered < limit and rounds < 20 * limit:
        world.compare(int(world.rng.integers(len(world.tastes))))
        answered, rounds = sum(part.count for part in changed.parts) - before, rounds + 1
        if alert_after is None and world.drift()[0] > ALERT:
            alert_after = int(answered)
    truth, served = world.truth(), world.served(everybody)
    return alert_after, float(np.mean(truth[everybody, served]) / np.mean(truth.max(axis=1)))
