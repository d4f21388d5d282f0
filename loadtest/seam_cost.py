"""Prints what the seam costs per event, in microseconds: learn, weights, predict, sample and choose.

    python -m loadtest.seam_cost [--heads 16] [--latent 32]

One thread, random arrays, CPU time, the least of several repeats (the noise of a shared machine only ever adds). The target
for an update and for a reading of weights is 50 us per event.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from timeit import Timer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: matrices this small are slower on several threads

import numpy as np

from attune.models.seam import routing
from attune.models.seam.additive import NAME as ADDITIVE
from attune.models.seam.additive import Additive
from attune.models.seam.bradley_terry import NAME as BRADLEY_TERRY
from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.evidence import Decay
from attune.models.seam.families import Families, Row
from attune.models.seam.gaussian import Bases, PairEncoder
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import NAME as MICRO
from attune.models.seam.micro import Micro
from attune.models.seam.portfolio import Portfolio
from attune.models.seam.sparse_moe import NAME as SPARSE_MOE
from attune.models.seam.sparse_moe import SparseMoe
from attune.models.seam.vrf import NAME as VRF
from attune.models.seam.vrf import Vrf

FEATURES, PROMPT_FEATURES, HIDDEN = 64, 32, 64
MEMBERS, SAMPLES = 5, 256
REPEATS = 15


def example_families(heads: int, latent: int, rng: np.random.Generator) -> Families:
    """Returns four families with random arrays: `heads` heads, `latent` latent dimensions."""
    names = tuple(f"head{index}" for index in range(heads))
    bases = Bases(rng.normal(size=(heads, latent)), rng.uniform(0.2, 1.0, size=(heads, latent)), 0.5 * latent)
    encoder = PairEncoder(
        ((rng.normal(size=(HIDDEN, FEATURES + PROMPT_FEATURES)) / 10, np.zeros(HIDDEN)),),
        vote=rng.normal(size=(latent, HIDDEN)) / 8,
        gate=rng.normal(size=(latent, FEATURES)) / 8,
        precision=rng.normal(size=(latent, HIDDEN)) / 8,
        precision_bias=np.zeros(latent),
        scale=8.0,
    )
    prior = np.full(heads, -np.log(heads))
    return Families(
        [
            BradleyTerry(BRADLEY_TERRY, ("global",), 1.3),
            Micro(MICRO, names, 1.1, HedgeSettings(), prior, np.ones(heads, dtype=bool)),
            Vrf(VRF, names, 1.2, bases, encoder),
            SparseMoe(SPARSE_MOE, ("quality", *names), 1.1, HedgeSettings(), np.full(heads + 1, -np.log(heads + 1)), 2),
        ]
    )


def example_row(heads: int, rng: np.random.Generator) -> Row:
    """Returns a row that holds every output of `example_families`."""
    sizes = {
        "bradley_terry_rewards": 1,
        "micro_rewards": heads,
        "micro_gate": heads,
        "sparse_moe_rewards": heads + 1,
        "sparse_moe_gate": heads + 1,
        "vrf_rewards": heads,
        "vrf_features": FEATURES,
        "vrf_prompt_features": PROMPT_FEATURES,
        "vrf_values": MEMBERS * heads,
    }
    row = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    for gate in ("micro_gate", "sparse_moe_gate"):
        row[gate] -= np.log(np.sum(np.exp(row[gate])))
    return row


def example_additive(axes: int, rng: np.random.Generator) -> tuple[Additive, list[Row]]:
    """Returns a family of `axes` axes, beside those that share a state, and rows of it."""
    names = ("everybody", *(f"axis{index}" for index in range(2 * axes)))
    family = Additive(ADDITIVE, names, 1.2, 30.0)
    ends = 30.0 * rng.normal(size=(22, axes))
    common = rng.normal(size=(22, 1))
    rewards = np.concatenate([common, common + ends, common - ends], axis=1) / 1.2
    return family, [{"additive_rewards": one.astype(np.float32)} for one in rewards]


def cost_us(call: Callable[[], object]) -> float:
    """Returns the least mean CPU time of one call over `REPEATS` timed loops, in microseconds."""
    timer = Timer(call, timer=time.process_time)
    number, _ = timer.autorange()
    number = max(1, number // 5)
    return 1e6 * min(timer.repeat(REPEATS, number)) / number


def main() -> None:
    """Prints one line per operation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--latent", type=int, default=32)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    families = example_families(arguments.heads, arguments.latent, rng)
    chosen, rejected, prompt = (example_row(arguments.heads, rng) for _ in range(3))
    candidates, wider = rng.normal(size=(8, arguments.heads)), rng.normal(size=(8, arguments.heads + 1))
    state = np.sum([families.learn(example_row(arguments.heads, rng), rejected, prompt) for _ in range(20)], axis=0)
    decay = Decay(30 * 86_400.0)
    values = rng.normal(size=(MEMBERS, arguments.heads))
    portfolio = Portfolio((), {VRF: values}, {VRF: values}, None)
    micro, vrf, sparse = families[MICRO], families[VRF], families[SPARSE_MOE]
    micro_state, vrf_state, sparse_state = (families.part(name, state) for name in (MICRO, VRF, SPARSE_MOE))

    additive, told = example_additive(arguments.heads, rng)
    additive_state = np.sum([additive.learn(row, told[0], {}, tie=False) for row in told[2:]], axis=0)

    def sample_and_choose() -> object:
        weights = vrf.sample_weights(vrf_state, prompt, rng, SAMPLES)
        sampled = routing.sampled_values(weights, portfolio.values_for(VRF, None))
        return routing.choose("sample", sampled, count=2, epsilon=0.05, rng=rng)

    rows: list[tuple[str, Callable[[], object]]] = [
        ("learn, all families", lambda: families.learn(chosen, rejected, prompt)),
        ("learn, micro", lambda: micro.learn(chosen, rejected, prompt, tie=False)),
        ("learn, vrf", lambda: vrf.learn(chosen, rejected, prompt, tie=False)),
        ("learn, additive (axes as heads)", lambda: additive.learn(told[0], told[1], {}, tie=False)),
        ("weights, additive", lambda: additive.weights(additive_state, None)),
        ("learn, sparse_moe", lambda: sparse.learn(chosen, rejected, prompt, tie=False)),
        ("stamp with decay", lambda: decay.stamp(state, 1.7e9)),
        ("weights, micro", lambda: micro.weights(micro_state, prompt)),
        ("weights, sparse_moe", lambda: sparse.weights(sparse_state, prompt)),
        ("weights, vrf", lambda: vrf.weights(vrf_state, prompt)),
        ("score 8 candidates, micro", lambda: micro.score(micro_state, candidates, prompt)),
        ("score 8 candidates, sparse_moe", lambda: sparse.score(sparse_state, wider, prompt)),
        ("score 8 candidates, vrf", lambda: vrf.score(vrf_state, candidates, prompt)),
        ("predict, all families", lambda: families.predict(state, chosen, rejected, prompt)),
        (f"sample {SAMPLES} and choose 2 of {MEMBERS}, vrf", sample_and_choose),
    ]
    print(f"K={arguments.heads} d_z={arguments.latent}")
    for name, call in rows:
        print(f"{name:<36}{cost_us(call):8.1f} us")


if __name__ == "__main__":
    main()
