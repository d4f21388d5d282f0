"""All families of a bundle side by side: their slices of a user's evidence, and how far each is trusted with a user.

Axis letters: `N` candidates, `K` heads, `E` evidence, `S` samples. A single `Family` is a module of its own, named in `registry`;
where its arrays come from is `families_file`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.evidence import MAX_EVIDENCE, MOST_NUMBERS, half, quantise
from attune.models.seam.family import Family, Row, Scored, logit_of, mixed_scores, reward_difference, stacked
from attune.models.seam.member_effects import Everybody, MemberEffects, gate, with_effects
from attune.models.seam.trust import ALWAYS, LOSSES, losses, share
from attune.models.seam.weighted import Compared

__all__ = ["Families", "Family", "Row", "Scored"]

Array = NDArray[np.float64]


class Families:
    """All families of a bundle, side by side in one evidence vector: their slices in a fixed order, two losses of each, and member effects.

    What is read of a user through these methods is mixed with what the family says of anybody, by how well either predicted
    the user's comparisons so far (`trust`). A single `Family` knows nothing of that.
    """

    def __init__(self, families: Sequence[Family], trust: Mapping[str, float] | None = None, effects: MemberEffects | None = None) -> None:
        """Args: the families in their order; prior log-odds of the personal view by name, `trust.ALWAYS` where none is given; effects."""
        self._families = {family.name: family for family in families}
        if len(self._families) != len(families):
            raise ValueError(f"family names repeat: {[family.name for family in families]}")
        self.trust = {name: (trust or {}).get(name, ALWAYS) for name in self._families}
        broken = [name for name, value in self.trust.items() if math.isnan(value)]
        if broken:
            raise ValueError(f"trust of {broken} is not a number")
        self._slices: dict[str, slice] = {}
        self._losses: dict[str, slice] = {}
        start = 0
        for family in families:
            self._slices[family.name] = slice(start, start + family.evidence_size)
            start += family.evidence_size
        for family in families:
            if family.evidence_size:
                self._losses[family.name] = slice(start, start + LOSSES)
                start += LOSSES
        if effects is not None and effects.family not in self._families:
            raise ValueError(f"member effects stand beside family {effects.family!r}; there are {list(self._families)}")
        # Anybody's weights on an average prompt, which are those on every prompt where a family does not read it.
        self._anybody = {name: self._families[name].weights(np.zeros(self._families[name].evidence_size), None) for name in self._losses}
        self.effects = effects
        self._effects = slice(start, start if effects is None else start + effects.evidence_size)
        self.evidence_size = self._effects.stop
        if self.evidence_size > MOST_NUMBERS:
            most = max(families, key=lambda family: family.evidence_size)
            raise ValueError(
                f"a user under these families would be {self.evidence_size:,} numbers, and {MOST_NUMBERS:,} can be kept; "
                f"{most.evidence_size:,} of them are of family {most.name!r}, which has {len(most.heads)} heads"
            )

    def __getitem__(self, name: str) -> Family:
        return self._families[name]

    def __contains__(self, name: object) -> bool:
        return name in self._families

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._families)

    def prior(self) -> Array:
        """Returns the evidence of a user about whom nothing is known, zeros `[E]`."""
        return np.zeros(self.evidence_size)

    def part(self, name: str, evidence: Array) -> Array:
        """Returns the slice of a whole evidence vector `[E]` that belongs to one family.

        Raises:
            ValueError: the vector is not of these families' size.
        """
        return self._whole(evidence)[self._slices[name]]

    def effects_part(self, evidence: Array) -> Array:
        """Returns what a whole evidence vector `[E]` says of member effects; nothing where these families have none."""
        return evidence[self._effects]

    def share(self, name: str, evidence: Array) -> float:
        """Returns `w`, how far this user's own evidence is trusted by one family; 1 for a family that learns nothing."""
        losses = self._losses.get(name)
        return 1.0 if losses is None else share(evidence[losses], self.trust[name])

    def weights(self, name: str, evidence: Array, prompt: Row | None) -> Array:
        """Returns the user's weights `[K]` under one family, `w` of their own and the rest anybody's."""
        family, own = self._families[name], self.part(name, evidence)
        return self._mixed(name, evidence, family.weights(own, prompt), prompt)

    def score(self, name: str, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:
        """Returns candidates with rewards `[N, K]` as this user sees them: under the mixed weights, with `w` of the spread.

        The prompt may be a stack of `N`, see `Family.score`.
        """
        personal = self._families[name].score(self.part(name, evidence), rewards, prompt)
        trusted = self.share(name, evidence)
        if trusted == 1.0:
            return personal
        weights = self._mixed(name, evidence, personal.weights, prompt)
        return Scored(mixed_scores(rewards, weights), trusted * personal.stds, weights, rewards)

    def sample_weights(self, name: str, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:
        """Returns `samples` draws of the user's weights `[S, K]`, each mixed as `weights` are."""
        drawn = self._families[name].sample_weights(self.part(name, evidence), prompt, rng, samples)
        return self._mixed(name, evidence, drawn, prompt)

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool = False, known: Array | None = None) -> Array:
        """Returns what one comparison adds to the user's sum, `[E]` on the grid and in half precision; see `study`.

        Raises:
            KeyError: a row lacks an output that a family reads.
            ValueError: a row's outputs are of another size than the families', or not finite.
        """
        return self.study(self.prior() if known is None else known, chosen, rejected, prompt, tie=tie)[0]

    def study(self, known: Array, chosen: Row, rejected: Row, prompt: Row, *, tie: bool = False) -> tuple[Array, dict[str, float]]:
        """Returns what one comparison adds to the user's sum, `[E]` on the grid and in half precision, and how likely each family found it.

        The families' slices come from the comparison alone. The losses say how it was predicted from `known`, the sum as it
        stood, so they depend on what was told before; they are added and taken back like the rest.

        Raises:
            KeyError: a row lacks an output that a family reads.
            ValueError: a row's outputs are of another size than the families', or not finite.
        """
        evidence, told = self.study_all(known, (Compared(chosen, rejected, prompt, tie=tie),))
        return evidence, {name: found[0] for name, found in told.items()}

    def study_all(self, known: Array, comparisons: Sequence[Compared]) -> tuple[Array, dict[str, tuple[float, ...]]]:
        """Returns what comparisons that were told as one add to the user's sum, and how likely each family found each of them; see `study`.

        The evidence is the sum of weight times what each says alone. Where several together are over `MAX_EVIDENCE`, a family's slice
        is made smaller as a whole, so that a precision stays one.
        """
        parts = {name: self._weighted(family, comparisons) for name, family in self._families.items()}
        if any(parts[name].size != family.evidence_size for name, family in self._families.items()):
            sizes = {name: part.size for name, part in parts.items()}
            raise ValueError(f"rows give evidence of {sizes} doubles; these families read {self.evidence_size} in all, losses included")
        found = self._predict_each(known, comparisons)
        told = {name: tuple(mixed for mixed, _, _ in each) for name, each in found.items()}
        scored = [
            _summed(
                [one.weight * losses(own, anybody, tie=one.tie) for one, (_, own, anybody) in zip(comparisons, found[name], strict=True)]
            )
            for name in self._losses
        ]
        return half(quantise(np.concatenate([_NO_EVIDENCE, *parts.values(), *scored, self._evidence_of_authors(known, comparisons)]))), told

    def text_logit(self, name: str, known: Array, one: Compared) -> tuple[float, float]:
        """Returns mean and variance of the logit that a family gives a choice, mixed as its weights are."""
        family, own, trusted = self._families[name], self.part(name, known), self.share(name, known)
        mean, variance = logit_of(family, own, one.chosen, one.rejected, one.prompt)
        if trusted == 1.0:
            return mean, variance
        anybody, _ = logit_of(family, np.zeros_like(own), one.chosen, one.rejected, one.prompt)
        return trusted * mean + (1.0 - trusted) * anybody, trusted * trusted * variance

    @staticmethod
    def _weighted(family: Family, comparisons: Sequence[Compared]) -> Array:
        each = [one.weight * family.learn(one.chosen, one.rejected, one.prompt, tie=one.tie) for one in comparisons]
        total = _summed(each)
        return total if len(each) == 1 else total * min(1.0, MAX_EVIDENCE / max(float(np.abs(total).max(initial=0.0)), MAX_EVIDENCE))

    def predict(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> dict[str, float]:
        """Returns each family's probability that `chosen` is preferred, `w` of the personal view's and the rest anybody's."""
        views = self._views(evidence)
        return {name: self._predict(name, views, chosen, rejected, prompt)[0] for name in self._families}

    def predict_all(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> dict[str, Array]:
        """Returns `predict` of every choice of stacks of `T`, each family's `[T]`; a user's evidence is read once for all of them."""
        views = self._views(evidence)[:, None]
        return {name: self._chances(name, views, chosen, rejected, prompt)[0] for name in self._families}

    def stacked(self, choices: Sequence[tuple[Row, Row, Row]]) -> tuple[Row, Row, Row]:
        """Returns one choice or more, each of chosen, rejected and prompt, as three stacks with the outputs that families read."""
        chosen, rejected, prompt = zip(*choices, strict=True)
        candidate, of_prompt = self.outputs_to_keep()
        return stacked(chosen, candidate), stacked(rejected, candidate), stacked(prompt, of_prompt)

    def outputs_to_keep(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the outputs of a candidate and of a prompt that learning needs later: what a decision stores."""
        candidate = [name for family in self._families.values() for name in family.candidate_outputs]
        prompt = [name for family in self._families.values() for name in family.prompt_outputs]
        return tuple(dict.fromkeys(candidate)), tuple(dict.fromkeys(prompt))

    def _whole(self, evidence: Array) -> Array:
        if evidence.shape != (self.evidence_size,):
            raise ValueError(f"evidence is {evidence.shape}; these families read ({self.evidence_size},)")
        return evidence

    def _views(self, evidence: Array) -> Array:
        """Returns a user's evidence `[E]` and anybody's, which is none, `[2, E]`."""
        return np.array([self._whole(evidence), self.prior()])

    def _predict_each(self, known: Array, comparisons: Sequence[Compared]) -> dict[str, list[tuple[float, float, float]]]:
        """Returns what each family predicts of each comparison, see `_predict`: of several in one pass, which takes as long as one."""
        views, choices = self._views(known), [(one.chosen, one.rejected, one.prompt) for one in comparisons]
        if len(choices) == 1:
            return {name: [self._predict(name, views, *choices[0])] for name in self._families}
        rows, stacks = self.stacked(choices), views[:, None]
        found = {name: self._chances(name, stacks, *rows) for name in self._families}
        return {name: list(zip(*(chances.tolist() for chances in each), strict=True)) for name, each in found.items()}

    def _predict(self, name: str, views: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[float, float, float]:
        """Returns the mixed, the personal and anybody's probability of one choice."""
        mixed, personal, anybody = self._chances(name, views, chosen, rejected, prompt)
        return float(mixed), float(personal), float(anybody)

    def _chances(self, name: str, views: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[Array, Array, Array]:
        """Returns the same of rows under `_views`, or of stacks of rows under views that have an axis for it, `[2, 1, E]`."""
        family, part = self._families[name], views[..., self._slices[name]]
        if np.count_nonzero(part):
            personal, anybody = family.chances(part, chosen, rejected, prompt)
        else:
            personal = anybody = family.chances(part[1], chosen, rejected, prompt)
        trusted = self.share(name, views[0].ravel())
        return (personal if trusted == 1.0 else trusted * personal + (1.0 - trusted) * anybody), personal, anybody

    def _mixed(self, name: str, evidence: Array, personal: Array, prompt: Row | None) -> Array:
        """Returns personal weights `[..., K]` mixed with anybody's."""
        trusted = self.share(name, evidence)
        if trusted == 1.0:
            return personal
        family, anybody = self._families[name], self._anybody[name]
        if prompt is not None and family.scores_with_prompt:
            anybody = family.weights(np.zeros(family.evidence_size), prompt)
        mixed: Array = trusted * personal + (1.0 - trusted) * anybody
        return mixed

    # --- comparisons whose authors are known: what they say of members beside the texts -----------------------------

    def predict_with_effects(self, known: Array, one: Compared, everybody: Everybody) -> float:
        """Returns the probability of a choice, text and effects together as far as effects are trusted; the text's without authors."""
        assert self.effects is not None
        text = self.text_logit(self.effects.family, known, one)
        alone = with_effects(text, (0.0, 0.0))
        if one.direction is None or not one.direction.any():
            return alone
        together = with_effects(text, everybody.along(self.effects_part(known), one.direction))
        return everybody.trusted * together + (1.0 - everybody.trusted) * alone

    def tell_everybody(self, known: Array, comparisons: Sequence[Compared], everybody: Everybody) -> tuple[float, Array]:
        """Returns how much of what was told of authors counts for everybody, and two losses `[2]`: with effects, and by the texts alone.

        Args:
            known: `[E]`, the user's sum as it stood.
            comparisons: told as one.
            everybody: what was known of the members.
        """
        effects = self.effects
        assert effects is not None
        own, lost, counts = self.effects_part(known), np.zeros(2), 1.0
        for one in comparisons:
            if one.direction is None or not one.direction.any():
                continue
            text = self.text_logit(effects.family, known, one)
            both = with_effects(text, everybody.along(own, one.direction)), with_effects(text, (0.0, 0.0))
            lost += one.weight * gate(_apart(self._families[effects.family], one)) * losses(*both, tie=one.tie)
            counts = min(counts, effects.discount(own, one.direction))
        return counts, lost

    def _evidence_of_authors(self, known: Array, comparisons: Sequence[Compared]) -> Array:
        """Returns the slice of member effects that comparisons add to a user's sum `known` `[E]`; empty where there are none."""
        effects = self.effects
        if effects is None:
            return _NO_EVIDENCE
        total = np.zeros(effects.evidence_size)
        for one in comparisons:
            if one.direction is not None and one.direction.any():
                text = self.text_logit(effects.family, known, one)
                total += effects.evidence(one.direction, text, _apart(self._families[effects.family], one), weight=one.weight, tie=one.tie)
        return total


def _summed(each: Sequence[Array]) -> Array:
    """Returns the sum of one array or more."""
    return each[0] if len(each) == 1 else np.add.reduce(each)


def _apart(family: Family, one: Compared) -> float:
    """Returns the greatest difference of two texts under any head, logits."""
    return family.logit_scale * float(np.abs(reward_difference(f"{family.name}_rewards", one.chosen, one.rejected)).max())


_NO_EVIDENCE = np.zeros(0)
"""Joins nothing into a vector of doubles where no family learns."""
