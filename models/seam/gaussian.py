"""A user as a Gaussian, matched to shared bases by Wasserstein distance (VRF, Lee et al. 2026, arXiv 2604.00997).

The paper's formulas are not public; everything below is the reconstruction of SCIENCE §5. Axis letters: `D` latent size,
`K` heads (= bases), `F` features of a candidate, `P` features of a prompt, `H` hidden units, `N` candidates, `S` samples.
A user's state is `[L ; e]` `[2D]`: sums of precisions `t` and of votes `v`, both of which vanish with the difference of
the two texts, as the square and as the difference itself; the prior N(0, I) is added when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.hedge import softmax

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bases:
    """Shared probabilistic bases `B_k = N(m_k, diag s_k^2)` and the temperature of matching.

    Attributes:
        means: `[K, D]`.
        stds: `[K, D]`, positive.
        tau: temperature of the softmax over squared distances, `tau_0 * D`.
        mean_pull, std_pull: `(2/tau) m^T` and `(2/tau) s^T`, `[D, K]`, made once because matching is done per request.
        offset: `-(|m_k|^2 + |s_k|^2) / tau`, `[K]`, likewise.

    Raises:
        ValueError: the shapes do not agree, or an entry is not finite, or a std or tau is not positive.
    """

    means: Array
    stds: Array
    tau: float
    mean_pull: Array = field(init=False, repr=False)
    std_pull: Array = field(init=False, repr=False)
    offset: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.means.shape != self.stds.shape or self.means.ndim != 2 or self.means.size == 0:
            raise ValueError(f"base_means {self.means.shape} and base_stds {self.stds.shape} must both be [K, D], not empty")
        expect_finite(base_means=self.means, base_stds=self.stds)
        if not (np.all(self.stds > 0) and 0 < self.tau < math.inf):
            raise ValueError(f"base_stds must be positive (least is {self.stds.min():g}) and tau finite and above 0 (is {self.tau:g})")
        object.__setattr__(self, "mean_pull", np.ascontiguousarray((2.0 / self.tau) * self.means.T))
        object.__setattr__(self, "std_pull", np.ascontiguousarray((2.0 / self.tau) * self.stds.T))
        object.__setattr__(self, "offset", -np.sum(self.means**2 + self.stds**2, axis=1) / self.tau)


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """`a = PairMLP(W(h_w - h_l), W' e(x))` with SiLU layers; its odd part votes, its even part says how much a difference tells.

    Taking the odd part for the vote and the even part for the precision makes swapping winner and loser turn the vote
    round exactly, whatever the weights are. With `g = U W (h_w - h_l)` the precision is
    `t_j = g_j^2 / sqrt(1 + |g|^2) * softplus(W_t a + b)_j / c`: two texts that hardly differ say hardly anything, and far apart
    it grows as the difference does, like that of a logistic choice (`additive.bound_evidence`).

    Attributes:
        layers: `(weight [H_out, H_in], bias [H_out])` of each layer, one or more; the first reads `[F + P]`.
        vote: `W_m` `[D, H]`; no bias, so that no difference gives no vote.
        gate: `U` `[D, F]`; no bias, so that no difference gives no precision.
        precision: `W_t` `[D, H]`.
        precision_bias: `[D]`.
        scale: `c`, divides the precision; positive.

    Raises:
        ValueError: there is no layer, or an array's shape does not fit the one before it, or an entry is not finite.
    """

    layers: tuple[tuple[Array, Array], ...]
    vote: Array
    gate: Array
    precision: Array
    precision_bias: Array
    scale: float

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a pair encoder needs one layer or more; layer0_weight is missing")
        width = self.layers[0][0].shape[-1:]
        for index, (weight, bias) in enumerate(self.layers):
            expect_shape(f"layer{index}_weight", weight, (*weight.shape[:1], *width))
            expect_shape(f"layer{index}_bias", bias, weight.shape[:1])
            width = bias.shape
        expect_shape("vote", self.vote, (*self.vote.shape[:1], *width))
        expect_shape("gate", self.gate, (len(self.vote), *self.gate.shape[1:]))
        expect_shape("precision", self.precision, self.vote.shape)
        expect_shape("precision_bias", self.precision_bias, self.vote.shape[:1])
        expect_finite(**self.to_arrays())
        if self.gate.shape[1] > self.layers[0][0].shape[1]:
            raise ValueError(f"gate reads {self.gate.shape[1]} features; the first layer reads {self.layers[0][0].shape[1]} in all")
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale:g}; it must be above 0, or precisions would be negative")

    def __call__(self, difference: Array, prompt: Array) -> tuple[Array, Array]:
        """Returns precision `t` `[D]`, non-negative, and vote `v` `[D]` of one comparison.

        Args:
            difference: `[F]` features of the winner minus those of the loser.
            prompt: `[P]` features of the prompt.

        Raises:
            ValueError: `F + P` is not what the first layer reads.
        """
        (weight, bias), *rest = self.layers
        size = difference.shape[0]
        # Both orders share these two products, and differ in one sign: half the work, and exact whatever the BLAS.
        turned, fixed = weight[:, :size] @ difference, weight[:, size:] @ prompt + bias
        hidden = _silu(np.array([fixed + turned, fixed - turned]))
        for weight, bias in rest:
            hidden = _silu(hidden @ weight.T + bias)
        even, odd = 0.5 * (hidden[0] + hidden[1]), 0.5 * (hidden[0] - hidden[1])
        apart = self.gate @ difference
        told = apart**2 / np.sqrt(1.0 + apart @ apart)
        precision = told * np.logaddexp(0.0, self.precision @ even + self.precision_bias) / self.scale
        vote: Array = self.vote @ odd
        return precision, vote

    def to_arrays(self) -> dict[str, Array]:
        """Returns the arrays that `from_arrays` reads, by name."""
        arrays = {"vote": self.vote, "gate": self.gate, "precision": self.precision, "precision_bias": self.precision_bias}
        arrays["scale"] = np.array(self.scale)
        for index, (weight, bias) in enumerate(self.layers):
            arrays[f"layer{index}_weight"], arrays[f"layer{index}_bias"] = weight, bias
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> PairEncoder:
        """Returns the encoder whose arrays `to_arrays` gave.

        Raises:
            KeyError: an array is missing.
            ValueError: an array does not fit the others.
        """
        depth = sum(name.startswith("layer") and name.endswith("_weight") for name in arrays)
        layers = tuple((arrays[f"layer{index}_weight"], arrays[f"layer{index}_bias"]) for index in range(depth))
        expect_shape("scale", arrays["scale"], ())
        return cls(layers, arrays["vote"], arrays["gate"], arrays["precision"], arrays["precision_bias"], float(arrays["scale"]))


def vote_evidence(precision: Array, vote: Array, *, tie: bool = False) -> Array:
    """Returns what one comparison adds to a user, `[t ; v]` `[2D]`; a tie adds precision and a vote of zero.

    A tie is the mean of both orders: the precision is even in the difference and stays, the vote is odd and cancels.
    """
    return np.concatenate([precision, np.zeros_like(vote) if tie else vote])


def posterior(evidence: Array, floor: float = 0.0) -> tuple[Array, Array]:
    """Returns mean and standard deviation `[D]`, `[D]` of the user's Gaussian: a product of experts with prior N(0, I).

    `L_u = 1 + sum t`, `mu_u = sum v / L_u`, `sigma_u^2 = floor + (1 - floor) / L_u`: of no user is more known than the few
    numbers of this family can say, so the total precision is at most `1 / floor`.

    Args:
        evidence: `[..., 2D]`.
        floor: least variance, 0 to below 1, in units of the prior's.
    """
    size = evidence.shape[-1] // 2
    precision = 1.0 + evidence[..., :size]
    return evidence[..., size:] / precision, np.sqrt(floor + (1.0 - floor) / precision)


def matching_weights(mean: Array, std: Array, bases: Bases) -> Array:
    """Returns `w = softmax(-D / tau)`, `D_k = |mu - m_k|^2 + |sigma - s_k|^2`, the exact squared 2-Wasserstein distance.

    Args:
        mean: `[..., D]` of the user, or of samples.
        std: `[..., D]`, broadcast against `mean`.
        bases: the shared bases.

    Returns:
        `[..., K]` on the simplex.
    """
    # Expanded, without |mu|^2 + |sigma|^2: the softmax does not see what all bases share, and [S, K, D] is never made.
    return softmax(mean @ bases.mean_pull + (std @ bases.std_pull + bases.offset))


def margin_variance(weights: Array, rewards: Array, std: Array, bases: Bases) -> Array:
    """Returns `S^2 = sum_j sigma_j^2 (dM/dmu_j)^2`, the variance of a score or margin that the user's Gaussian causes.

    `dM/dmu = (2/tau) sum_k w_k r_k (m_k - m_bar)` with `m_bar = sum_k w_k m_k`, computed as the equal
    `(2/tau) sum_k w_k (r_k - r_bar) m_k` with `r_bar = sum_k w_k r_k`.

    Args:
        weights: `[..., K]` at the posterior mean.
        rewards: `[..., K]` rewards, or differences of rewards.
        std: `[..., D]` of the user.
        bases: the shared bases.

    Returns:
        `[...]` in squared units of `rewards`.
    """
    # Products of vectors sum each row alone; a matrix product may round a row by who its neighbours are.
    centred = rewards - np.vecdot(rewards, weights)[..., None]
    gradient = std * np.vecdot((weights * centred)[..., None, :], bases.mean_pull)
    variance: Array = np.vecdot(gradient, gradient)
    return variance


def attenuated_probability(margin: Array | float, variance: Array | float) -> Array:
    """Returns `sigma(M / sqrt(1 + pi S^2 / 8))` of any shape, the approximate marginal likelihood (MacKay 1992)."""
    logit = margin / np.sqrt(1.0 + (math.pi / 8.0) * variance)
    # exp of a number that is not positive cannot overflow.
    probability: Array = np.exp(np.minimum(logit, 0.0)) / (1.0 + np.exp(-np.abs(logit)))
    return probability


def sample_weights(evidence: Array, bases: Bases, rng: np.random.Generator, samples: int, *, floor: float = 0.0) -> Array:
    """Returns the weights of `samples` draws of the user's position, `[S, K]`.

    A draw moves the mean and keeps the standard deviation: the uncertainty stays part of the match, as when serving.
    """
    mean, std = posterior(evidence, floor)
    positions = mean + std * rng.standard_normal((samples, mean.shape[-1]))
    return matching_weights(positions, std, bases)


def _silu(logits: Array) -> Array:
    # x * sigma(x), with sigma by tanh: it cannot overflow, and its absolute error is below that of the product.
    half = 0.5 * logits
    activation: Array = half + half * np.tanh(half)
    return activation
