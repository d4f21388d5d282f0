"""One example of every family: random numbers that are small enough to check by loops, and one that means something, for the tiny bundle.

A family that joins the registry joins `families`, `row`, `tiny_families` and `tiny_outputs`; then the tests of every family are its
tests too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.additive import Additive
from attune.models.seam.attributes import Attributes
from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.families import Families, Family, Row
from attune.models.seam.gaussian import Bases, PairEncoder
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import Micro
from attune.models.seam.sparse_moe import SparseMoe
from attune.models.seam.sparserm import SparseRm
from attune.models.seam.vrf import Vrf

Array = NDArray[np.float64]

HEADS, LATENT, FEATURES, PROMPT_FEATURES, HIDDEN = 4, 3, 5, 2, 6
NAMES = tuple(f"head{index}" for index in range(HEADS))
TINY_HEADS = ("concise", "detailed", "warm")


def encoder(rng: np.random.Generator, *, features: int = FEATURES, prompt: int = PROMPT_FEATURES, latent: int = LATENT) -> PairEncoder:
    """Returns a pair encoder of two layers."""
    return PairEncoder(
        (
            (rng.normal(size=(HIDDEN, features + prompt)), rng.normal(size=HIDDEN)),
            (rng.normal(size=(HIDDEN + 1, HIDDEN)), rng.normal(size=HIDDEN + 1)),
        ),
        vote=rng.normal(size=(latent, HIDDEN + 1)),
        gate=rng.normal(size=(latent, features)),
        precision=rng.normal(size=(latent, HIDDEN + 1)),
        precision_bias=rng.normal(size=latent),
        scale=2.0,
    )


def bases(rng: np.random.Generator, *, heads: int = HEADS, latent: int = LATENT, tau: float = 1.5) -> Bases:
    return Bases(rng.normal(size=(heads, latent)), rng.uniform(0.2, 1.5, size=(heads, latent)), tau)


def bradley_terry() -> BradleyTerry:
    return BradleyTerry("bradley_terry", ("global",), 1.3)


def micro(rng: np.random.Generator, *, mask: tuple[bool, ...] = (True,) * HEADS, eta: float = 1.0) -> Micro:
    return Micro("micro", NAMES, 1.1, HedgeSettings(eta, 4.0), log_softmax(rng.normal(size=HEADS)), np.array(mask))


def vrf(rng: np.random.Generator) -> Vrf:
    return Vrf("vrf", NAMES, 1.2, bases(rng), encoder(rng))


def pointing_vrf() -> Vrf:
    """Returns a family that can be read: features are rewards, and a vote is their difference, turned to the bases."""
    eye = np.eye(3)
    layer = (np.concatenate([eye, np.zeros((3, PROMPT_FEATURES))], axis=1), np.zeros(3))
    # The odd part of one SiLU layer is x / 2, so `2 * eye` votes the difference itself.
    pair_encoder = PairEncoder((layer,), vote=2.0 * eye, gate=eye, precision=np.full((3, 3), 0.1), precision_bias=np.zeros(3), scale=1.0)
    return Vrf("vrf", ("a", "b", "c"), 1.0, Bases(2.0 * eye, np.full((3, 3), 0.8), 1.5), pair_encoder)


def sparse_moe(rng: np.random.Generator, *, active: int = 2, eta: float = 1.0) -> SparseMoe:
    return SparseMoe("sparse_moe", ("quality", *NAMES), 1.4, HedgeSettings(eta, 4.0), log_softmax(rng.normal(size=HEADS + 1)), active, True)


def sparserm(rng: np.random.Generator) -> SparseRm:
    """Returns two directions that are shown and a sum of others."""
    return SparseRm(
        "sparserm", ("for 3: yes", "against 7: no", "2 other directions"), 1.6, rng.dirichlet(np.ones(3)), (("oh yes",), (), ())
    )


def additive() -> Additive:
    """Returns a linear taste along two axes."""
    return Additive("additive", ("everybody", "axis0+", "axis1+", "axis0-", "axis1-"), 1.25, 2.0)


def attributes(rng: np.random.Generator) -> Attributes:
    """Returns a linear taste over named rewards."""
    mean = rng.normal(size=HEADS)
    spread: Array = np.linalg.cholesky(np.cov(rng.normal(size=(HEADS, 50)))).astype(np.float64)
    return Attributes("attributes", NAMES, float(np.abs(mean).sum()), mean, spread)


def families(rng: np.random.Generator) -> list[Family]:
    return [bradley_terry(), micro(rng), vrf(rng), sparse_moe(rng), sparserm(rng), additive(), attributes(rng)]


def first_families(rng: np.random.Generator) -> Families:
    """Returns three families, `E = 0 + 4 + 6`, where a number is worked out by hand."""
    return Families([bradley_terry(), micro(rng), vrf(rng)])


def all_families(rng: np.random.Generator) -> Families:
    return Families(families(rng))


def row(rng: np.random.Generator) -> Row:
    """Returns a row with every output that `families` read."""
    return {
        "bradley_terry_rewards": rng.normal(size=1).astype(np.float32),
        "micro_rewards": rng.normal(size=HEADS).astype(np.float32),
        "micro_gate": log_softmax(rng.normal(size=HEADS)).astype(np.float32),
        "sparse_moe_rewards": rng.normal(size=HEADS + 1).astype(np.float32),
        "sparse_moe_gate": log_softmax(rng.normal(size=HEADS + 1)).astype(np.float32),
        "sparserm_rewards": rng.normal(size=3).astype(np.float32),
        "vrf_rewards": rng.normal(size=HEADS).astype(np.float32),
        "vrf_features": rng.normal(size=FEATURES).astype(np.float32),
        "vrf_prompt_features": rng.normal(size=PROMPT_FEATURES).astype(np.float32),
        "additive_rewards": rng.normal(size=5).astype(np.float32),
        "attributes_rewards": rng.normal(size=HEADS).astype(np.float32),
    }


def tiny_families() -> list[Family]:
    """Returns what the tiny bundle has beside its first three: experts and a shared one, one taste axis, named rewards, two directions."""
    return [
        SparseMoe("sparse_moe", ("quality", *TINY_HEADS), 1.5, HedgeSettings(eta=1.0, cap=4.0), np.log(np.full(4, 1 / 4)), active=2),
        Additive("additive", ("everybody", "warmer", "colder"), 1.0, reach=3.0),
        Attributes("attributes", TINY_HEADS, 3.0, np.ones(3), np.eye(3)),
        SparseRm("sparserm", ("for 5: friend", "1 other direction"), 1.0, np.array([0.75, 0.25]), (("my friend",), ())),
    ]


def tiny_outputs(warm: Array, length: Array, heads: Array, gate: Array) -> dict[str, Array]:
    """Returns the graph's weights for `tiny_families`, made of those of warmth, length and the tiny bundle's heads and gate."""
    return {
        "sparse_moe_rewards": np.concatenate([(0.5 * warm)[:, None], heads], axis=1),
        "sparse_moe_gate": np.concatenate([np.zeros((5, 1)), gate], axis=1),
        "additive_rewards": np.stack([0.5 * warm, 1.5 * warm, -0.5 * warm], axis=1),
        "attributes_rewards": heads,
        "sparserm_rewards": np.stack([warm, -0.2 * length], axis=1),
    }


def log_softmax(logits: Array) -> Array:
    normalised: Array = logits - np.log(np.sum(np.exp(logits)))
    return normalised
