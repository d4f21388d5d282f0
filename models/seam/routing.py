"""Choosing members with propensities that are exactly the distribution of the draw (SCIENCE §6, reconstruction).

`S` posterior samples of the user's weights give each member a share `p_hat` (how often it is best); the member is drawn
from `p = (1 - epsilon) p_hat + epsilon / M`, and `p` is what is logged. Pairs are drawn without replacement, and their
joint probability is logged. `M` members, `K` heads, `S` samples. This module does not know users, prompts or members' names.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import fsum
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Policy = Literal["sample", "best", "uniform"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Members in the order drawn, and the probability of what was drawn.

    Attributes:
        members: indices, one or more, without repeats.
        propensities: `[M]` distribution of the first draw.
        propensity: probability of the first member.
        joint: probability of all the members in this order.
        mean: `[M]` expected value of each member for this user.
        std: `[M]` its spread over the posterior.
    """

    members: tuple[int, ...]
    propensities: Array
    propensity: float
    joint: float
    mean: Array
    std: Array


def sampled_values(weights: Array, values: Array) -> Array:
    """Returns each member's value under each sample, `V[s, m] = sum_k w[s, k] v[m, k]`, `[S, M]`.

    Args:
        weights: `[S, K]` samples of the user's weights.
        values: `[M, K]` predicted reward of each member under each head.
    """
    product: Array = weights @ values.T
    return product


def expected_values(weights: Array, values: Array) -> Array:
    """Returns each member's mean over the samples of `sampled_values`, `[M]`."""
    expected: Array = values @ (weights.sum(axis=0) / len(weights))
    return expected


def sampled_worth(weights: Array, mean: Array, covariance: Array, rng: np.random.Generator) -> Array:
    """Returns each member's value under joint samples of the user's weights and of the members' values, `[S, M]`.

    Given `w`, the value `w . v_m` of a member with `v_m ~ N(mean_m, covariance_m)` is Gaussian with variance `w' covariance_m w`, so one
    draw for each sample and member is enough. Members are drawn apart from each other.

    Args:
        weights: `[S, K]` samples of the user's weights.
        mean: `[M, K]` expected reward of each member under each head.
        covariance: `[M, K, K]` of the members' rewards.
        rng: source of the draws; `S` times `M` of them are taken.
    """
    members, heads = mean.shape
    by_head = np.ascontiguousarray(weights.T)  # few heads and members and many samples: the long axis comes last
    # One product for all members: `[M K, K] @ [K, S]` is a third of the time of `M` small ones.
    products = (covariance.reshape(members * heads, heads) @ by_head).reshape(members, heads, -1)
    variance = np.einsum("mks,ks->ms", products, by_head)
    noise = np.sqrt(np.maximum(variance, 0.0)) * rng.standard_normal((len(weights), members)).T
    by_member: Array = mean @ by_head + noise
    return by_member.T


def member_costs(prices: Array, latencies_s: Array, *, price_share: float = 0.5) -> Array:
    """Returns each member's cost in [0, 1], `[M]`: its price and its latency, each as a share of the greatest, mixed.

    Args:
        prices: `[M]` in any one currency and unit of work, non-negative; all 0 where nothing is paid.
        latencies_s: `[M]` typical seconds for an answer, non-negative; all 0 where it does not matter.
        price_share: weight of price against latency, [0, 1].

    Raises:
        ValueError: a number is negative or not finite, the shapes differ, or `price_share` is not within 0 and 1.
    """
    prices, latencies_s = np.asarray(prices, dtype=np.float64), np.asarray(latencies_s, dtype=np.float64)
    both = np.stack([prices, latencies_s]) if prices.shape == latencies_s.shape and prices.ndim == 1 else None
    if both is None or not np.all(np.isfinite(both)) or np.any(both < 0) or not 0.0 <= price_share <= 1.0:
        raise ValueError(
            f"prices {prices} and latencies {latencies_s} must be finite and non-negative, price_share {price_share} in [0, 1]"
        )
    greatest = np.max(both, axis=1, initial=0.0, keepdims=True)
    shares = np.where(greatest > 0, both / np.where(greatest > 0, greatest, 1.0), 0.0)
    mixed: Array = price_share * shares[0] + (1.0 - price_share) * shares[1]
    return mixed


def utilities(sampled: Array, costs: Array, trade_off: float) -> Array:
    """Returns utilities under each sample, `[S, M]`: `w · v_m(x) - trade_off * cost_m`, to be given to `choose` in place of values.

    The cost is the same in every sample, so shares and propensities are exactly those of the utilities.

    Args:
        sampled: `[S, M]` values under posterior samples, or `[M]` expected ones, whose utilities are `[M]`.
        costs: `[M]`, see `member_costs`.
        trade_off: reward (in the units of `sampled`) that is worth the dearest member's cost; 0 ignores costs.

    Raises:
        ValueError: there is not one cost for each member, or `trade_off` is negative or not finite.
    """
    if costs.shape != sampled.shape[-1:] or not 0.0 <= trade_off < np.inf:
        raise ValueError(
            f"costs are {costs.shape} for {sampled.shape[-1:]} members, trade_off is {trade_off}; it must be finite and at least 0"
        )
    priced: Array = sampled - trade_off * costs
    return priced


def keeps_last(mean: Array, last: int | None, hysteresis: float) -> bool:
    """Returns whether the member that served last stays: no other's expected utility is above its own by more than `hysteresis`.

    With 0 it stays only if it is (one of) the best.

    Args:
        mean: `[M]` expected utility of each member.
        last: index of the member that served this user last; None if none did.
        hysteresis: in the units of `mean`, at least 0.
    """
    return last is not None and float(mean.max() - mean[last]) <= hysteresis


def best_shares(sampled: Array) -> Array:
    """Returns the share of samples in which each member is best, `[M]`; members that tie share the sample evenly."""
    by_member = _by_member(sampled)
    best = (by_member == by_member.max(axis=0)).astype(np.float64)
    shares: Array = best @ (1.0 / best.sum(axis=0)) / len(sampled)
    return shares


def first_law(
    policy: Policy,
    sampled: Array,
    epsilon: float,
    *,
    last: int | None = None,
    hysteresis: float | None = None,
    mean: Array | None = None,
) -> Array:
    """Returns the distribution of the first draw, `[M]`.

    With hysteresis, a last member that `keeps_last` takes the place of the best ones: `best` serves it, `sample` gives it all
    that is not exploration. Whether it stays is decided by the posterior, not by the draw, so the distribution is known before it.

    Args:
        policy: `sample` mixes best shares with exploration, `best` takes the greatest expected value, `uniform` ignores the user.
        sampled: `[S, M]` values under posterior samples.
        epsilon: exploration in [0, 1], used by `sample` alone.
        last: member that served this user last; None if none did.
        hysteresis: see `keeps_last`; None keeps nobody.
        mean: `[M]` expected values where they are known better than by the mean of the samples.
    """
    members = sampled.shape[1]
    mean = _by_member(sampled).sum(axis=1) / len(sampled) if mean is None else mean
    kept = np.zeros(members)
    stays = hysteresis is not None and last is not None and keeps_last(mean, last, hysteresis)
    if stays:
        kept[last] = 1.0
    match policy:
        case "sample":
            mixed: Array = (1.0 - epsilon) * (kept if stays else best_shares(sampled)) + epsilon / members
            return mixed
        case "uniform":
            return np.full(members, 1.0 / members)
        case "best" if stays:
            return kept
        case "best":
            law = np.zeros(members)
            law[int(np.argmax(mean))] = 1.0
            return law
        case _:
            assert_never(policy)


def next_law(law: Array, mean: Array, drawn: tuple[int, ...]) -> Array:
    """Returns the distribution of the next draw `[M]`, given the members drawn so far: what is left of `law`, renormalised.

    Where what is left has no probability (policy `best`, or one member best in every sample without exploration), the
    next is the one left with the greatest expected value, with probability 1.

    Args:
        law: `[M]` distribution of the first draw.
        mean: `[M]` expected value of each member.
        drawn: members drawn so far, fewer than `M`.
    """
    return np.array(_next_shares(law.tolist(), mean, drawn))


def _next_shares(shares: list[float], mean: Array, drawn: tuple[int, ...]) -> list[float]:
    """Returns what `next_law` does, of plain numbers: of a handful of members a call of numpy takes longer than the sum itself."""
    if not drawn:
        return shares
    left = [0.0 if member in drawn else share for member, share in enumerate(shares)]
    total = fsum(left)
    if total > _NOTHING_LEFT:
        return [share / total for share in left]
    best = next(int(member) for member in np.argsort(-mean, kind="stable") if member not in drawn)
    return [float(member == best) for member in range(len(shares))]


def drawn_from(law: Array, mean: Array, count: int, rng: np.random.Generator) -> tuple[tuple[int, ...], float]:
    """Returns `count` different members drawn one after the other, and the probability of that order; see `next_law`.

    Args:
        law: `[M]` distribution of the first draw.
        mean: `[M]` expected value of each member.
        count: how many, 1..M.
        rng: source of the draws; one uniform number for each.
    """
    shares: list[float] = law.tolist()
    order: tuple[int, ...] = ()
    joint = 1.0
    for _ in range(count):
        left = _next_shares(shares, mean, order)
        until = list(accumulate(left))
        # Divided by what the sum came to, so that the last is 1 whatever was rounded and every draw below 1 has its member.
        member = bisect_right([reached / until[-1] for reached in until], rng.random())
        joint *= left[member]
        order = (*order, member)
    return order, joint


def joint_probability(law: Array, mean: Array, members: tuple[int, ...]) -> float:
    """Returns the probability that `choose` draws `members` in this order; over all orders of one length it sums to 1."""
    shares: list[float] = law.tolist()
    probability = 1.0
    for position, member in enumerate(members):
        probability *= _next_shares(shares, mean, members[:position])[member]
    return probability


def choose(
    policy: Policy,
    sampled: Array,
    *,
    count: int,
    epsilon: float,
    rng: np.random.Generator,
    last: int | None = None,
    hysteresis: float | None = None,
    mean: Array | None = None,
) -> Choice:
    """Returns `count` different members drawn one after the other from the distribution of `first_law`, renormalised.

    Args:
        policy: see `first_law`.
        sampled: `[S, M]` values, or `utilities`, under posterior samples; `mean` and `std` of the choice are in their units.
        count: how many, 1..M.
        epsilon: exploration, [0, 1].
        rng: source of the draw; the same state gives the same members.
        last: member that served this user last; None if none did.
        hysteresis: `last` stays unless the best is better by more, see `first_law`; None keeps nobody.
        mean: `[M]`, see `first_law`.

    Raises:
        ValueError: `count` is not within 1..M, `last` is no member, `epsilon` not within [0, 1], `hysteresis` below 0, or `sampled`
            empty or not finite.
    """
    if sampled.ndim != 2 or sampled.size == 0 or not np.isfinite(sampled).all():
        broken = int(np.sum(~np.isfinite(sampled)))
        raise ValueError(f"sampled is {sampled.shape} with {broken} values that are not finite; a finite [S, M] is needed")
    members = sampled.shape[1]
    if not 1 <= count <= members:
        raise ValueError(f"count is {count}; there are {members} members")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is {epsilon}; it must be within 0 and 1")
    if (last is not None and not 0 <= last < members) or (hysteresis is not None and not hysteresis >= 0.0):
        raise ValueError(f"last is {last} of {members} members and hysteresis {hysteresis}; a member and at least 0 are needed, or None")
    by_member = _by_member(sampled)
    centre = by_member.sum(axis=1) / len(sampled)
    apart = by_member - centre[:, None]
    std = np.sqrt(np.vecdot(apart, apart) / len(sampled))
    mean = centre if mean is None else mean
    law = first_law(policy, sampled, epsilon, last=last, hysteresis=hysteresis, mean=mean)
    order, joint = drawn_from(law, mean, count, rng)
    return Choice(order, law, float(law[order[0]]), joint, mean, std)


def _by_member(sampled: Array) -> Array:
    """Returns samples `[S, M]` as `[M, S]` in that order: few members and many samples, and sums of long rows are quick."""
    return np.ascontiguousarray(sampled.T)


_NOTHING_LEFT = 1e-12
"""Probability below which what is left is a rounding error."""
