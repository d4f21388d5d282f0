"""Two to eight opposed groups: what a family reaches of what is possible, and whether it finds the groups.

Families are trained on all groups without labels and measured on users and prompts that training has not met. The measure of
what is possible is exact Bayes over the groups (`worlds`). Axis letters: `U` users, `K` heads, `G` groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from attune.models.data.preferences import Comparisons
from attune.models.measuring.families.fewshot import COUNTS, FewShot, few_shot
from attune.models.measuring.figures import accuracy
from attune.models.measuring.rows import Rows, rows_from_heads
from attune.models.seam.families import Family
from attune.models.seam.sparse_moe import SparseMoe
from attune.models.training.heads import TrainedFamily, families_of
from attune.models.training.mixture import k_means
from studies.groups.worlds import World, bayes_probabilities

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupsFound:
    """One experiment.

    Attributes:
        curves: on unseen users and prompts.
        bayes: `[U, n]` accuracy of exact Bayes, in the order of `curves.per_user`.
        recovered: family -> `[U]` whether the user's strongest head is that of their group, heads matched to groups one to one.
        clustered: the same by clusters, as many as there are groups, for families whose heads are no groups: of users' positions
            in a Gaussian family, of their weights in others.
        bayes_recovered: `[U]` of exact Bayes.
        summaries: family -> what its training said.
    """

    curves: FewShot
    bayes: Array
    recovered: Mapping[str, NDArray[np.bool_]]
    clustered: Mapping[str, NDArray[np.bool_]]
    bayes_recovered: NDArray[np.bool_]
    summaries: Mapping[str, Mapping[str, object]]


def find_groups(world: World, trained: Sequence[TrainedFamily], *, seed: int, counts: Sequence[int] = COUNTS) -> GroupsFound:
    """Returns how `trained` families do on the unseen users of `world`; `seed` starts the clustering."""
    families = families_of(trained)
    rows = rows_from_heads(trained, world.data.vectors)
    curves = few_shot(families, rows, world.context, world.targets, counts=counts)
    bayes = np.column_stack([_per_user(bayes_probabilities(world, count)[0], world.targets) for count in counts])
    groups = world.utilities.shape[1]
    recovered, clustered = {}, {}
    for name in families.names:
        family = families[name]
        weights = weights_after(family, rows, world.context)
        if isinstance(family, SparseMoe):
            weights = weights[:, 1:]  # the shared expert is everybody's and no group's
        recovered[name] = matched(weights.argmax(axis=1), world.kind)
        places = positions_after(family, rows, world.context)
        label = k_means(weights if places is None else places, groups, np.random.default_rng(seed), restarts=20)[1]
        clustered[name] = matched(label, world.kind)
    posterior = bayes_probabilities(world, max(counts))[1]
    summaries = {one.family.name: {key: value for key, value in one.summary.items() if key != "settings"} for one in trained}
    return GroupsFound(curves, bayes, recovered, clustered, posterior.argmax(axis=1) == world.kind, summaries)


def weights_after(family: Family, rows: Rows, context: Comparisons) -> Array:
    """Returns users' weights `[U, K]` for an average prompt, after everything they told."""
    return np.array([family.weights(evidence, None) for evidence in evidence_of_users(family, rows, context)])


def positions_after(family: Family, rows: Rows, context: Comparisons) -> Array | None:
    """Returns the means `[U, D]` of users' Gaussians after everything they told, or None for a family without them."""
    found = [family.posterior(evidence) for evidence in evidence_of_users(family, rows, context)]
    return np.array([one[0] for one in found if one is not None]) if found[0] is not None else None


def evidence_of_users(family: Family, rows: Rows, context: Comparisons) -> list[Array]:
    """Returns each user's sum `[E]` after everything they told, in the order of users."""
    found = []
    for _, mine in sorted(context.rows_of_users().items()):
        evidence = np.zeros(family.evidence_size)
        for row in mine:
            told = rows.candidates[context.chosen[row]], rows.candidates[context.rejected[row]], rows.prompts[context.prompt[row]]
            evidence = evidence + family.learn(*told, tie=bool(context.tie[row]))
        found.append(evidence)
    return found


def matched(label: Ints, kind: Ints) -> NDArray[np.bool_]:
    """Returns `[U]` whether a user's label is the one matched to their kind, labels matched one to one as well as can be."""
    table = np.zeros((label.max() + 1, kind.max() + 1), dtype=np.int64)
    np.add.at(table, (label, kind), 1)
    labels, kinds = linear_sum_assignment(table, maximize=True)
    kind_of = np.full(len(table), -1)
    kind_of[labels] = kinds
    right: NDArray[np.bool_] = kind_of[label] == kind
    return right


def _per_user(probabilities: Array, targets: Comparisons) -> Array:
    return np.array([accuracy(probabilities[rows]) for _, rows in sorted(targets.rows_of_users().items())])
