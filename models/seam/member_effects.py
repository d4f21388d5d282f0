"""Member effects: what is liked or disliked of an answer for its author's sake, beyond what a family sees in its text (ours).

    logit = text + (b_a + u_a) - (b_c + u_c),   b_m ~ N(0, shared^2) everybody's,   u_m ~ N(0, personal^2) one user's

A member is known by its name alone: a code of `H` small whole numbers from the name's hash. Effects are linear in the codes, so evidence
has one size whoever serves, and adds up for users and for everybody. When it is read, the prior is chosen so that the effects of
up to `H` members are independent: what was learned of one says nothing of another, and a name never seen is at the prior. More share what
is learned at random, with correlations of about `1 / sqrt(H)`. `M` members, `E = H (H + 3) / 2` evidence.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.additive import curvature, evidence_size, triangle
from attune.models.seam.gaussian import attenuated_probability
from attune.models.seam.trust import LOSSES, share

Array = NDArray[np.float64]

LARGEST = 3
CODE_UNIT = 0.25
"""Codes are whole numbers from -LARGEST to LARGEST of these units."""

PRECISION_BITS, PULL_BITS = 6, 8
"""Significant bits of a comparison's precision and pull. Entries are these times products of two differences of codes, whose odd part is at
most 25, or times one, at most 5: they fit half precision exactly, so that a precision is a precision however many are added."""

SHARED, PERSONAL = 0.5, 0.3
"""Standard deviations of everybody's and of one user's effects where no comparisons with known authors tell them, logits."""

TRUST = 2.0
"""Prior log-odds, in nats, that effects predict better than the text alone; what a deployment sees decides."""


@dataclass(frozen=True, slots=True)
class Effects:
    """Gaussian over the members' effects, in logits of the family's choice: `mean` `[M]`, `covariance` `[M, M]`."""

    mean: Array
    covariance: Array

    @property
    def std(self) -> Array:
        """`[M]`."""
        found: Array = np.sqrt(np.maximum(np.diagonal(self.covariance), 0.0))
        return found

    def scaled(self, factor: float) -> Effects:
        """Returns the effects in another unit."""
        return Effects(factor * self.mean, factor * factor * self.covariance)

    def sampled(self, rng: np.random.Generator, samples: int) -> Array:
        """Returns `samples` draws of all effects together, `[S, M]`."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn: Array = self.mean + rng.standard_normal((samples, len(self.mean))) @ root.T
        return drawn


@dataclass(frozen=True, slots=True)
class Everybody:
    """What everybody's comparisons say of some members: the prior of each user, and how far it is trusted.

    Attributes:
        codes: `[M, H]` of the members that serve.
        basis: `[H, R]`; positions along it are independent under the prior.
        mean, covariance: `[R]`, `[R, R]` of a user's positions before anything is known of them.
        shared: of everybody's effect alone.
        trusted: share in [0, 1] by which effects count.
    """

    codes: Array
    basis: Array
    mean: Array
    covariance: Array
    shared: Effects
    trusted: float

    def of(self, own: Array) -> Effects:
        """Returns the effects for a user with this evidence `[E]`, as far as they are trusted."""
        mean, covariance = self._after(own) if own.any() else (self.mean, self.covariance)
        onto = self.trusted * self.codes @ self.basis
        return Effects(onto @ mean, onto @ covariance @ onto.T)

    def along(self, own: Array, direction: Array) -> tuple[float, float]:
        """Returns mean and variance of one difference of effects, trusted or not; `direction` is that of the codes, `[H]`."""
        mean, covariance = self._after(own)
        onto = direction @ self.basis
        return float(onto @ mean), max(0.0, float(onto @ covariance @ onto))

    def _after(self, own: Array) -> tuple[Array, Array]:
        """Returns mean and covariance of a user's positions after this evidence."""
        prior = np.asarray(np.linalg.inv(self.covariance), dtype=np.float64)
        pull, precision = _natural(own, self.basis)
        covariance = np.asarray(np.linalg.inv(prior + precision), dtype=np.float64)
        return covariance @ (prior @ self.mean + pull), covariance


@dataclass(frozen=True, slots=True)
class MemberEffects:
    """Effects beside the text of one family.

    Attributes:
        family: whose prediction from the texts is what effects add to.
        shared, personal: standard deviations of `b` and `u` between members, logits; above 0.
        size: `H`.
    """

    family: str
    shared: float
    personal: float
    size: int = 8

    def __post_init__(self) -> None:
        if not (0 < self.shared < math.inf and 0 < self.personal < math.inf):
            raise ValueError(f"spreads of member effects are {self.shared} and {self.personal}; they must be finite and above 0")
        if not 1 <= self.size <= hashlib.blake2b.MAX_DIGEST_SIZE:
            raise ValueError(f"member effects have {self.size} axes; 1 to {hashlib.blake2b.MAX_DIGEST_SIZE} are possible")

    @property
    def evidence_size(self) -> int:
        """`E`."""
        return evidence_size(self.size)

    @property
    def everybody_size(self) -> int:
        """Length of everybody's sum: evidence, and two losses."""
        return self.evidence_size + LOSSES

    def direction(self, author: str, rival: str | Sequence[str]) -> Array:
        """Returns the code of an author less that of a rival, or less the mean of several, `[H]`."""
        rivals = [rival] if isinstance(rival, str) else list(rival)
        found: Array = code_of(author, self.size) - np.mean([code_of(one, self.size) for one in rivals], axis=0)
        return found

    def evidence(self, direction: Array, text: tuple[float, float], apart: float, *, weight: float = 1.0, tie: bool = False) -> Array:
        """Returns what one comparison adds, `[E]`: the bound of `additive` on what the text leaves open.

        With `c = 2 lambda(xi)`, `xi^2 = m^2 + s^2`: precision `c / (1 + c s^2)` and pull `(1/2 - c m) / (1 + c s^2)` along the
        direction. The text's own uncertainty is noise here, so a choice that the text may yet explain is credited to the authors by their
        part of the variance. Both are gated by `d^2 / (1 + d^2)`: authors who wrote the same were not told apart.

        Args:
            direction: `[H]` see `direction`; 0 of one author.
            text: mean `m` and variance `s^2` of the logit that the family gives the choice.
            apart: `d`, the greatest difference of the texts under any head, logits.
            weight: how often it counts.
            tie: the user could not tell.
        """
        margin, variance = text
        slope = float(curvature(np.sqrt(np.array(margin * margin + variance))))
        size = weight * gate(apart) / (1.0 + slope * variance)
        precision = _significant(size * slope, PRECISION_BITS)
        pull = _significant(size * ((0.0 if tie else 0.5) - slope * margin), PULL_BITS)
        rows, columns = triangle(self.size)
        return np.concatenate([pull * direction, precision * direction[rows] * direction[columns]])

    def everybody(self, names: Sequence[str], summed: Array | None, others: Sequence[str] = ()) -> Everybody:
        """Returns what is known of members before anything is known of a user.

        Args:
            names: of the members that serve, whose effects are asked for.
            summed: `[E + 2]` everybody's sum; None of nothing.
            others: names that evidence may be of as well; as many as there is room for are kept apart from those that serve.
        """
        known = (*names, *[other for other in others if other not in names])[: max(self.size, len(names))]
        codes, basis = _codes(tuple(known), self.size)
        summed = np.zeros(self.everybody_size) if summed is None else summed
        pull, precision = _natural(summed[: self.evidence_size], basis)
        covariance = np.linalg.inv(np.eye(len(precision)) / self.shared**2 + precision)
        mean, serving = covariance @ pull, codes[: len(names)]
        onto = serving @ basis
        trusted = share(summed[self.evidence_size :], TRUST)
        personal = covariance + self.personal**2 * np.eye(len(precision))
        return Everybody(serving, basis, mean, personal, Effects(onto @ mean, onto @ covariance @ onto.T), trusted)

    def discount(self, own: Array, direction: Array) -> float:
        """Returns how much a comparison of a user with this evidence counts for everybody, in (0, 1].

        With `n` the precision that the user has given along the direction already, that user's own difference of variance
        `v = 2 personal^2` stands between it and everybody's, of which `n / (1 + v n)` is told: at most `1 / v`, however many choices
        there are. The next comparison adds the slope of that, `1 / (1 + v n)^2` of its own.
        """
        length = float(direction @ direction)
        if not length:
            return 1.0
        _, precision = _natural(own, np.eye(self.size))
        known = max(0.0, float(direction @ precision @ direction)) / length**2
        return 1.0 / (1.0 + 2.0 * self.personal**2 * known) ** 2


def gate(apart: float) -> float:
    """Returns how much a choice between texts that are `apart` logits from each other says of their authors, in [0, 1)."""
    return apart * apart / (1.0 + apart * apart)


def with_effects(text: tuple[float, float], effect: tuple[float, float]) -> float:
    """Returns the probability of a choice from mean and variance of the text's logit and of the difference of the effects."""
    return float(attenuated_probability(text[0] + effect[0], text[1] + effect[1]))


@lru_cache(maxsize=4096)
def code_of(name: str, size: int) -> Array:
    """Returns the code of a member's name, `[H]`; not to be written to."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=size, person=b"member effects").digest()
    whole = np.frombuffer(digest, dtype=np.uint8).astype(np.float64) % (2 * LARGEST + 1) - LARGEST
    found: Array = CODE_UNIT * whole
    found.flags.writeable = False
    return found


@lru_cache(maxsize=256)  # the roster changes rarely, and every request reads it
def _codes(names: tuple[str, ...], size: int) -> tuple[Array, Array]:
    """Returns codes `[M, H]`, and the basis `[H, R]` along which positions have unit variance for effects of unit variance."""
    codes = np.array([code_of(name, size) for name in names]).reshape(len(names), size)
    if len(names) <= size and np.linalg.matrix_rank(codes) == len(names):
        return codes, np.linalg.pinv(codes)
    return codes, np.eye(size) / math.sqrt(max(float(np.mean(np.sum(codes**2, axis=1))), CODE_UNIT**2))


def _natural(evidence: Array, basis: Array) -> tuple[Array, Array]:
    """Returns precision times mean `[R]` and precision `[R, R]` that evidence `[E]` gives along a basis `[H, R]`.

    That of rankings, and of everybody's discounted, is rounded, and there may be millions of it: see `additive.additive_posterior`.
    """
    size = len(basis)
    rows, columns = triangle(size)
    precision = np.zeros((size, size))
    precision[rows, columns] = precision[columns, rows] = evidence[size:]
    told, vectors = np.linalg.eigh(precision)
    precision = (vectors * np.maximum(told, 0.0)) @ vectors.T
    return evidence[:size] @ basis, basis.T @ precision @ basis


def _significant(value: float, bits: int) -> float:
    """Returns a number rounded to so many significant bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)
