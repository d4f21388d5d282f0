"""The attribute-style controlled set: prompts tell which attribute is at stake, users which way they want it.

Eight attributes are the ends of four axes (brief or thorough, plain or playful, and so on). A prompt of one kind asks for
answers that differ mostly along one axis; which end a user likes is theirs alone, and everybody likes quality. One head can
only learn quality. A sparse mixture should give each prompt the two experts of its axis, and each user one of the two (after
the experiment of Wang et al. 2026, arXiv 2606.04284; reconstruction of SCIENCE §1). Axis letters: `N` answers, `P` prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors
from attune.models.measuring.families.fewshot import FewShot, few_shot
from attune.models.measuring.rows import Rows, rows_from_heads
from attune.models.seam.sparse_moe import SparseMoe
from attune.models.training.heads import TrainedFamily, families_of
from studies.groups.groups import evidence_of_users
from studies.groups.worlds import World, WorldSizes, build_world, random_vectors

Array = NDArray[np.float64]

AXES = 4
COUNTS = (0, 1, 3, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class ControlledSizes:
    """The controlled world.

    Attributes:
        quality: how much everybody likes quality, against 1 for the attribute at stake.
        off_axis: how much answers vary along axes that are not at stake, against 1: pairs are made to contrast one attribute.
        world: users, comparisons and vectors.
    """

    quality: float = 0.5
    off_axis: float = 0.25
    world: WorldSizes = field(default_factory=lambda: WorldSizes(users=800, per_user=40, told=100, width=24))


def controlled_world(sizes: ControlledSizes, *, seed: int) -> World:
    """Returns a world with 16 kinds of users: one end of each of four axes."""
    rng = np.random.default_rng([seed, 1])
    world = sizes.world
    vectors = random_vectors(world, rng)
    kind = rng.integers(0, AXES, size=len(vectors.prompts))
    # Prompts of one kind lie together, as prompts of one topic do in a trunk's space.
    centres = rng.normal(size=(AXES, world.width))
    prompts = vectors.prompts.copy()
    prompts[:, :-1] += (2.0 * centres[kind]).astype(np.float32)
    directions = np.linalg.qr(rng.normal(size=(world.width, AXES + 1)))[0].T
    meaning = vectors.candidates[:, :-1].astype(np.float64)
    standard = (meaning - meaning.mean(axis=0)) / meaning.std(axis=0)
    along = standard @ directions[:AXES].T
    of_answer = np.repeat(kind, world.answers)
    at_stake = np.arange(AXES) == of_answer[:, None]
    kept = np.where(at_stake, 1.0, sizes.off_axis) * along
    standard += (kept - along) @ directions[:AXES]
    candidates = vectors.candidates.copy()
    candidates[:, :-1] = (standard * meaning.std(axis=0) + meaning.mean(axis=0)).astype(np.float32)
    ends = 1.0 - 2.0 * ((np.arange(2**AXES)[:, None] >> np.arange(AXES)) & 1)
    utilities = sizes.quality * (standard @ directions[AXES])[:, None] + (kept * at_stake) @ ends.T
    return build_world(Vectors(prompts, candidates), utilities, kind, world, seed=seed)


@dataclass(frozen=True, slots=True)
class ControlledFound:
    """One experiment.

    Attributes:
        curves: on unseen users and prompts.
        effective_experts: `exp(H(mean gate))` over test prompts, routed experts alone.
        experts_per_prompt: `exp(mean H(gate))`.
        open_experts: mean number of routed experts with a weight, when serving users after all comparisons.
        gate_of_kind: `[4, K]` mean gate of prompts of each kind.
        kind_recovered: share of test prompts whose kind is told by the strongest expert's majority kind.
        summary: what training said.
    """

    curves: FewShot
    effective_experts: float
    experts_per_prompt: float
    open_experts: float
    gate_of_kind: Array
    kind_recovered: float
    summary: Mapping[str, Any]


def measure_controlled(world: World, trained: Sequence[TrainedFamily], *, counts: Sequence[int]) -> ControlledFound:
    """Returns how the families do on unseen users, and how the sparse mixture divides the prompts.

    Raises:
        ValueError: no family is a sparse mixture.
    """
    families = families_of(trained)
    rows = rows_from_heads(trained, world.data.vectors)
    curves = few_shot(families, rows, world.context, world.targets, counts=counts)
    mixture = next((one for one in trained if isinstance(one.family, SparseMoe)), None)
    if mixture is None:
        raise ValueError(f"families are {', '.join(families.names)}; a sparse mixture is needed")
    tested = np.unique(np.concatenate([world.context.prompt, world.targets.prompt]))
    gate = _routed_gate(rows, mixture.family.name, tested)
    kind = world.prompt_kind[tested]
    mean = gate.mean(axis=0)
    per_prompt = -(gate * np.log(np.maximum(gate, 1e-12))).sum(axis=1).mean()
    strongest = gate.argmax(axis=1)
    right = sum(int(np.bincount(kind[strongest == expert]).max()) for expert in np.unique(strongest))
    return ControlledFound(
        curves,
        float(np.exp(-(mean * np.log(np.maximum(mean, 1e-12))).sum())),
        float(np.exp(per_prompt)),
        _open_experts(mixture.family, rows, world, tested),
        np.array([gate[kind == one].mean(axis=0) for one in range(AXES)]),
        right / len(tested),
        {key: value for key, value in mixture.summary.items() if key != "settings"},
    )


def _routed_gate(rows: Rows, name: str, prompts: NDArray[np.int64]) -> Array:
    gate = np.exp(np.array([rows.prompts[prompt][f"{name}_gate"][1:] for prompt in prompts], dtype=np.float64))
    routed: Array = gate / gate.sum(axis=1, keepdims=True)
    return routed


def _open_experts(family: object, rows: Rows, world: World, prompts: NDArray[np.int64], *, users: int = 20) -> float:
    assert isinstance(family, SparseMoe)
    evidence = evidence_of_users(family, rows, world.context)[:users]
    weights = np.array([family.weights(one, rows.prompts[prompt])[1:] for one in evidence for prompt in prompts])
    return float((weights > 0).sum(axis=1).mean())
