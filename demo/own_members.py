"""Upstreams under own names and nothing known of them: users who compare or raise thumbs, a member that joins, and one that changes.

    users in random order ─> weights x members' values sampled ─> two answers ─> a choice ─> the user's sum and both members' sums

The server's own mathematics on its own vectors; only the windows of a member's sum, which the store keeps, are kept here too. Upstreams
answer as members of the demo do; beyond their texts they may have something that no head sees. Axis letters: `U` users, `P` prompts,
`M` members, `V` voices, `G` answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import weighted
from attune.models.seam.families import Families, Row
from attune.models.seam.member_effects import PERSONAL, SHARED, Everybody, MemberEffects, code_of
from attune.models.seam.member_evidence import EvidenceLayout, ObservedRewards, nothing_observed
from attune.models.seam.member_worth import Known, Worth, drift_of, within_covariance, worth_of
from attune.models.seam.routing import Choice, Policy, choose, expected_values, sampled_worth
from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users, utility
from demo.corpus.tastes import choose as pick
from demo.simulate import EPSILON, SAMPLES, Arena

Array = NDArray[np.float64]

WINDOW = 100
ALERT = 6.0
NOTICED = 4.0
"""Standard errors of drift from which a server scores every answer again, where it scored a share of them (`ATTUNE_SCORE_LATER_SHARE`)."""
PARTICLES = 6000
"""Tastes that stand for all in exact Bayes."""
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
    """Users and upstreams of one simulated deployment, under one family.

    Attributes:
        hidden: `[U, V]` utility for each user of what answers of a voice have beyond their texts; None is nothing.
        summed: everybody's sum of member effects, where the families have them.
        told: by user, `[6]` by how much more of each manner the preferred answer of each comparison had.
    """

    families: Families
    family: str
    arena: Arena
    tastes: Array
    rng: np.random.Generator
    upstreams: list[ChangingMember] = field(default_factory=list)
    hidden: Array | None = None
    evidence: list[Array] = field(default_factory=list)
    summed: Array | None = None
    told: list[list[Array]] = field(default_factory=list)
    _read: tuple[Worth, Everybody | None] | None = None
    _since: int = 0

    def join(self, voice: int) -> None:
        """Adds an upstream of whom nothing is known."""
        heads = len(self.families[self.family].heads)
        self.upstreams.append(ChangingMember(voice, [nothing_observed(heads) for _ in range(3)]))
        self._read = None

    def come(self) -> None:
        """Lets every taste be a new user."""
        self.evidence = [self.families.prior() for _ in self.tastes]
        self.told = [[] for _ in self.tastes]

    @property
    def names(self) -> list[str]:
        return [f"upstream-{number}" for number in range(len(self.upstreams))]

    def read(self) -> tuple[Worth, Everybody | None]:
        """Returns what the members are worth, and what everybody likes of them beyond their texts, as last read."""
        if self._read is None or self._since >= READ_EVERY:
            effects = self.families.effects
            everybody = None if effects is None else effects.everybody(self.names, self.summed)
            self._read, self._since = (worth_of([upstream.known for upstream in self.upstreams]), everybody), 0
        self._since += 1
        return self._read

    def decide(self, user: int, policy: Policy, count: int) -> Choice:
        """Returns whom the server would serve a user, on an average prompt."""
        worth, everybody = self.read()
        weights = self.families.sample_weights(self.family, self.evidence[user], None, self.rng, SAMPLES)
        sampled = sampled_worth(weights, worth.mean, worth.covariance, self.rng)
        mean = expected_values(weights, worth.mean)
        if everybody is not None:
            own = self.families.effects_part(self.evidence[user])
            effects = everybody.of(own).scaled(1.0 / self.families[self.family].logit_scale)
            sampled, mean = sampled + effects.sampled(self.rng, SAMPLES), mean + effects.mean
        return choose(policy, sampled, count=count, epsilon=EPSILON, rng=self.rng, mean=mean)

    def compare(self, user: int) -> None:
        """One round: a pair by policy `sample`, answers that add to their authors, a choice that is learned."""
        prompt, members = int(self.rng.integers(len(self.arena.prompts))), self.decide(user, "sample", 2).members
        shown = [self._answer(user, member, prompt) for member in members]
        winner = pick(self.rng, np.array([utility for _, utility, _ in shown]), DEFAULT_SHARPNESS)
        order = (winner, 1 - winner)
        self.told[user].append(shown[order[0]][2] - shown[order[1]][2])
        codes = self._codes([members[place] for place in order])
        self._learn(user, weighted.pair(shown[order[0]][0], shown[order[1]][0], self.arena.prompts[prompt], codes=codes))

    def rate(self, user: int) -> None:
        """One round: one answer by policy `sample`, and a thumb: up where it is preferred to what the members usually give."""
        prompt, (member,) = int(self.rng.integers(len(self.arena.prompts))), self.decide(user, "sample", 1).members
        usual_rewards = {self.family: self.read()[0].mean.mean(axis=0)}
        row, liked, _ = self._answer(user, member, prompt)
        usually = float(np.mean([self._utility(user, one.voice, prompt).mean() for one in self.upstreams]))
        up = pick(self.rng, np.array([liked, usually]), DEFAULT_SHARPNESS) == 0
        usual = weighted.usual_answer([self.families[self.family]], row, usual_rewards, {})
        everybody = self._codes(range(len(self.upstreams)))
        codes = None if everybody is None else [everybody[member], np.mean(everybody, axis=0)]
        self._learn(user, weighted.graded(row, usual, self.arena.prompts[prompt], float(up), codes=codes))

    def _answer(self, user: int, member: int, prompt: int) -> tuple[Row, float, Array]:
        """Returns an answer of a member, added to its sum, what it is worth to a user, and how much of each manner it has, `[6]`."""
        upstream, answer = self.upstreams[member], int(self.rng.integers(self.arena.scores.shape[2]))
        row = self.arena.answers[prompt][upstream.voice][answer]
        layout = EvidenceLayout({self.family: len(self.families[self.family].heads)})
        upstream.saw(layout.observed(self.family, 1.0, layout.evidence(row)))
        return row, float(self._utility(user, upstream.voice, prompt)[answer]), self.arena.scores[prompt, upstream.voice, answer]

    def _utility(self, user: int, voice: int, prompt: int) -> Array:
        """Returns `[G]` utility of a voice's answers to a prompt."""
        beyond = 0.0 if self.hidden is None else float(self.hidden[user, voice])
        found: Array = utility(self.tastes[user], self.arena.scores[prompt, voice]) + beyond
        return found

    def _codes(self, members: Sequence[int]) -> list[Array] | None:
        effects, names = self.families.effects, self.names
        return None if effects is None else [code_of(names[member], effects.size) for member in members]

    def _learn(self, user: int, told: tuple[weighted.Compared, ...]) -> None:
        known, (_, everybody) = self.evidence[user], self.read()
        added, _ = self.families.study_all(known, told)
        if everybody is not None:
            share, losses = self.families.tell_everybody(known, told, everybody)
            vector = np.concatenate([share * self.families.effects_part(added), losses])
            self.summed = vector if self.summed is None else self.summed + vector
        self.evidence[user] = known + added

    def truth(self) -> Array:
        """Returns `[U, M]` the mean utility of each upstream's answers to each user."""
        voices = [upstream.voice for upstream in self.upstreams]
        found: Array = utility(self.tastes, self.arena.scores.mean(axis=(0, 2)))[voices].T
        return found if self.hidden is None else found + self.hidden[:, voices]

    def served(self, users: Sequence[int]) -> Array:
        """Returns `[users]` whom policy `best` would serve."""
        return np.array([self.decide(user, "best", 1).members[0] for user in users], dtype=np.int64)

    def ideally_served(self) -> Array:
        """Returns `[U]` whom exact Bayes would serve, from the same comparisons: what no family can beat but by luck.

        It knows the prior of tastes, how sharply people choose, and the manners of every answer and upstream (see
        `simulate.ideal_observer`).
        """
        prior = draw_users(PARTICLES, 1_000_003)
        worth = self.arena.scores.mean(axis=(0, 2))[[upstream.voice for upstream in self.upstreams]]  # [M, 6]
        served = []
        for told in self.told:
            logs = -np.logaddexp(0.0, -DEFAULT_SHARPNESS * (prior @ np.array(told).T)).sum(axis=1)
            weights = np.exp(logs - logs.max())
            served.append(int(np.argmax(worth @ (weights @ prior))))
        return np.array(served)

    def drift(self) -> list[float]:
        """Returns each upstream's drift in standard errors, 0 where too little is known."""
        known = [upstream.known for upstream in self.upstreams]
        within = within_covariance(known, len(self.families[self.family].heads))
        found = [drift_of(one, within) for one in known]
        return [0.0 if drift is None else drift.errors for drift in found]


@dataclass(frozen=True, slots=True)
class Joining:
    """What became of a member that joined.

    Attributes:
        served: `[suited]` 1 where policy `best` serves the newcomer to a user whom it suits best of all.
        wrong_more: `[others]` 1 where `best` is wrong for somebody else and was right before it joined, -1 the other way round.
    """

    served: Array
    wrong_more: Array


@dataclass(frozen=True, slots=True)
class OwnMembers:
    """What one deployment showed.

    Attributes:
        best: comparisons -> `[U]` 1 where policy `best` serves the truly best upstream.
        worth: comparisons -> `[U]` utility of the served over that of the best.
        joining: what became of a member that joined, after 200 decisions.
        ideal: the same of exact Bayes from the same comparisons.
        false_alert: greatest drift of any member before the change, in standard errors.
        noticed_after: scored answers of the changed upstream until its drift is at `NOTICED`; None if it never was.
        alert_after: likewise, until its drift is above `ALERT`.
        recovered: mean utility served over the best possible, after 300 answers of the changed upstream.
    """

    best: dict[int, Array]
    worth: dict[int, Array]
    joining: Joining
    ideal: Joining
    false_alert: float
    noticed_after: int | None
    alert_after: int | None
    recovered: float


def deployment(
    families: Families, family: str, arena: Arena, tastes: Array, *, voices: Sequence[int], seed: int, effects: bool, hidden: float = 0.0
) -> Deployment:
    """Returns a deployment of upstreams of whom nothing is known, and users who are new.

    Args:
        families: of which one learns and routes.
        family: that one.
        arena: prompts and answers.
        tastes: `[U, 6]` of the users.
        voices: members of the arena that the upstreams answer like.
        seed: of everything drawn.
        effects: whether what is liked of members beyond their texts is learned.
        hidden: standard deviation between voices of what their answers are worth to everybody beyond their texts; users differ by half
            of it.
    """
    rng = np.random.default_rng(seed)
    one = Families([families[family]], {family: families.trust[family]}, MemberEffects(family, SHARED, PERSONAL) if effects else None)
    world = Deployment(one, family, arena, tastes, rng)
    if hidden:
        count = arena.scores.shape[1]
        world.hidden = hidden * (rng.standard_normal(count) + 0.5 * rng.standard_normal((len(tastes), count)))
    for voice in voices:
        world.join(voice)
    world.come()
    return world


def curve(world: Deployment, counts: Sequence[int], *, thumbs: bool = False) -> tuple[dict[int, Array], dict[int, Array]]:
    """Returns, at so many comparisons (or thumbs) of each user, who is served the truly best upstream, and the utility over the best's."""
    everybody, best, worth = list(range(len(world.tastes))), {}, {}
    for count in range(max(counts) + 1):
        if count in counts:
            truth, served = world.truth(), world.served(everybody)
            best[count] = (served == truth.argmax(axis=1)).astype(np.float64)
            worth[count] = truth[everybody, served] / truth.max(axis=1)
        if count < max(counts):
            for user in world.rng.permutation(len(world.tastes)):
                (world.rate if thumbs else world.compare)(int(user))
    return best, worth


def own_members(world: Deployment, newcomer: int, counts: Sequence[int]) -> OwnMembers:
    """Returns what a deployment does from nothing.

    Args:
        world: see `deployment`; it goes on from where it is.
        newcomer: the voice that joins later.
        counts: comparisons a user at which to measure, increasing.
    """
    everybody = list(range(len(world.tastes)))
    best, worth = curve(world, counts)
    false_alert = max(world.drift())
    joining, ideal = join(world, newcomer)
    return OwnMembers(best, worth, joining, ideal, false_alert, *_change(world, everybody))


def join(world: Deployment, newcomer: int, decisions: int = 200) -> tuple[Joining, Joining]:
    """Returns what became of a voice that joins, after so many decisions of users drawn at random; and the same of exact Bayes."""
    everybody = list(range(len(world.tastes)))
    truth_before = world.truth().argmax(axis=1)
    wrong_before = [served != truth_before for served in (world.served(everybody), world.ideally_served())]
    world.join(newcomer)
    for user in world.rng.choice(len(world.tastes), size=decisions):
        world.compare(int(user))
    truth, new = world.truth().argmax(axis=1), len(world.upstreams) - 1
    suited = truth == new

    def told(served: Array, before: Array) -> Joining:
        wrong = (served != truth).astype(np.float64) - before
        return Joining((served[suited] == new).astype(np.float64), wrong[~suited])

    return told(world.served(everybody), wrong_before[0]), told(world.ideally_served(), wrong_before[1])


def _change(world: Deployment, everybody: Sequence[int], limit: int = 300) -> tuple[int | None, int | None, float]:
    """The first upstream begins to answer like the last voice that nobody has; measured over `limit` of its answers."""
    changed = world.upstreams[0]
    free = [voice for voice in range(world.arena.scores.shape[1]) if voice not in [one.voice for one in world.upstreams]]
    before = sum(part.count for part in changed.parts)
    changed.voice, rounds = free[-1], 0
    noticed_after: int | None = None
    alert_after: int | None = None
    answered = 0.0
    while answered < limit and rounds < 20 * limit:
        world.compare(int(world.rng.integers(len(world.tastes))))
        answered, rounds = sum(part.count for part in changed.parts) - before, rounds + 1
        if alert_after is None:
            drift = world.drift()[0]
            noticed_after = int(answered) if noticed_after is None and drift >= NOTICED else noticed_after
            alert_after = int(answered) if drift > ALERT else None
    truth, served = world.truth(), world.served(everybody)
    return noticed_after, alert_after, float(np.mean(truth[everybody, served]) / np.mean(truth.max(axis=1)))
