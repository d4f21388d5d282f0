"""A real bundle of a few kilobytes, for tests that need one: word tokenizer, one ONNX graph, three families, three members.

The heads mean something, so that a story can be told with it: `concise` likes short texts, `detailed` long ones, `warm` the words of
`WARM`. A member of each name exists, worth most under its own head. The graph pools like the real trunk does
(`[mean of embeddings ; log(1 + tokens)]`), row by row, so padding and neighbours change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.bundle import CARDS, Probes, basis_id, write_bundle
from attune.models.seam.certificate import Certificate
from attune.models.seam.families import Families, Family
from attune.models.seam.families_file import write_families
from attune.models.seam.gaussian import Bases, PairEncoder
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.member_effects import MemberEffects
from attune.models.seam.member_values import POOLED, ValueHeads, write_values
from attune.models.seam.micro import Micro
from attune.models.seam.portfolio import Portfolio, PortfolioMember, write_portfolio
from attune.models.seam.text import Encoded, TextEncoder, TextTemplate
from attune.models.seam.vrf import Vrf
from tests.seam import examples

HEADS = examples.TINY_HEADS
MEMBERS = ("concise", "detailed", "warm")
WARM = ("friend", "lovely", "glad", "dear", "sunny")
SENTENCE = "how do i boil an egg what is the best way to travel tell me about tea put it in water for six minutes then eat yes no"
PLAIN = tuple(SENTENCE.split(" "))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (*SPECIAL, *WARM, *PLAIN, ".", ",", "?", ":", "user", "assistant", "system")
TEMPLATE = TextTemplate(prefix=(2,), middle=(3,), suffix=(3,), separator=(3,), max_tokens=64, max_prompt_tokens=24, max_context_tokens=8)

Floats = NDArray[np.float32]


def tiny_tokenizer() -> Tokenizer:
    """Returns a tokenizer that splits at blanks and punctuation; words it does not know are `[UNK]`."""
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def tiny_families(salt: float = 0.0) -> list[Family]:
    """Returns the global head, a mixture with a gate, and a Gaussian family whose votes point at the base of the head that liked it."""
    eye = np.eye(3)
    bases = Bases(means=2.0 * eye, stds=np.full((3, 3), 0.8), tau=1.5)
    # One SiLU layer: its odd part is x / 2, so that the vote is half the difference of features, turned to the bases.
    layer = (np.concatenate([eye, np.full((3, 2), salt)], axis=1), np.zeros(3))
    encoder = PairEncoder((layer,), vote=eye, gate=0.1 * eye, precision=np.full((3, 3), 0.1), precision_bias=np.zeros(3), scale=1.0)
    micro = Micro("micro", HEADS, 1.5, HedgeSettings(eta=1.0, cap=4.0), np.log(np.full(3, 1 / 3)), np.ones(3, dtype=np.bool_))
    return [BradleyTerry("bradley_terry", ("quality",), 1.0), micro, Vrf("vrf", HEADS, 1.5, bases, encoder)]


def write_tiny_bundle(
    root: Path,
    *,
    name: str = "tiny",
    salt: float = 0.0,
    note: str = "",
    probe_error: float = 0.0,
    only: str = "",
    every: bool = False,
    certified: bool = True,
    further: Mapping[str, float] | None = None,
    members: bool = True,
    effects: bool = False,
    cards: Mapping[str, object] | None = None,
) -> Path:
    """Returns the directory of a tiny bundle below `root`.

    Args:
        root: directory of bundles.
        name: the bundle's name.
        salt: added to the heads' weights, and how much a vote heeds the prompt: another salt is another basis.
        note: goes into the manifest alone: another note is another bundle of the same basis.
        probe_error: added to the answers of the probes: above the tolerance, the bundle must be refused.
        only: the one family that it has; all three if empty.
        every: it has a family of every further kind too.
        certified: its portfolio has a certificate.
        further: members beside the three, with what each is worth under every head.
        members: it has a portfolio; without one it scores only.
        effects: it learns what is liked of members beyond their texts.
        cards: examples of what heads reward, by family and head.
    """
    families = [family for family in tiny_families(salt) if only in {"", family.name}] + (examples.tiny_families() if every else [])
    tokenizer = tiny_tokenizer()
    graph = _graph(salt, every=every)
    files = write_families(families, only or "vrf", effects=MemberEffects(only or "vrf", 0.8, 0.5) if effects else None)
    tokenizer_json = tokenizer.to_str().encode()
    heads = repr(sorted((output, array.tolist()) for output, array in _weights(salt, every=every).items())).encode()
    basis = basis_id({"tokenizer": tokenizer_json, "template": repr(TEMPLATE.to_json()).encode(), "heads": heads, **files})
    contents: dict[str, bytes | Path] = {
        "scorer.onnx": graph,
        "tokenizer.json": tokenizer_json,
        **(_portfolio_files(families, further or {}, certified=certified) if members else {}),
        "probes.npz": _probes(graph, TextEncoder(tokenizer, TEMPLATE), probe_error).to_bytes(),
        **files,
        **({} if cards is None else {CARDS: json.dumps(cards).encode()}),
    }
    return write_bundle(root, name, contents, basis=basis, template=TEMPLATE, metadata={"trained_on": "nothing", "note": note})


def _portfolio_files(families: list[Family], further: Mapping[str, float], *, certified: bool) -> dict[str, bytes]:
    portfolio = _portfolio(families, further, certified=certified)
    heads = {family: ValueHeads(np.zeros((*means.shape, 4)), means) for family, means in portfolio.values.items()}
    return {"portfolio.json": write_portfolio(portfolio), "values.npz": write_values(portfolio.names, heads)}


def _portfolio(families: list[Family], further: Mapping[str, float], *, certified: bool) -> Portfolio:
    members = tuple(PortfolioMember(member, f"answers in a {member} manner", {member: 1.0}) for member in (*MEMBERS, *further))
    worth = np.array(list(further.values())).reshape(-1, 1)
    values = {family.name: np.vstack([_values(heads := len(family.heads)), np.tile(worth, (1, heads))]) for family in families}
    intervals = {family: np.full_like(value, 0.05) for family, value in values.items()}
    return Portfolio(members, values, intervals, _certificate() if certified and "vrf" in values else None)


def _certificate() -> Certificate:
    """Returns what would hold if no policy could do better than the members, or 0.4 under every head: weakest in the middle."""
    eye, middle = np.eye(3), np.full(3, 1 / 3)
    return Certificate(
        family="vrf",
        rewards=HEADS,
        offset=np.zeros(3),
        scale=np.ones(3),
        weight_map=eye,
        epsilon=0.25,
        delta=0.0,
        confidence=0.95,
        worst_weights=middle,
        worst_ratio=0.95 / 1.2,
        gap=0.4 - 0.95 / 3,
        oracle_calls=4,
        lower=np.maximum(eye - 0.05, 0.0),
        upper=np.minimum(eye + 0.05, 1.0),
        vertices=np.concatenate([eye, np.full((1, 3), 0.4)]),
    )


def _values(heads: int) -> NDArray[np.float64]:
    """Returns `[M, K]`: each member worth most under its own head; under one head alone, or any but the first three, `warm` most."""
    rest = np.array([[0.1], [0.0], [0.2]])
    if heads < 3:
        return np.tile(rest, (1, heads))
    return np.concatenate([np.eye(3), np.tile(rest, (1, heads - 3))], axis=1)


def _weights(salt: float, *, every: bool = False) -> dict[str, Floats]:
    """Returns per output `[pooled + 1, width]`: weights on `[warm, formal, known, log(1 + tokens)]` and, last, the bias."""
    length, warm = np.array([0, 0, 0, 1.2, -2.6]), np.array([4.0, 0, 0, 0, -0.5])
    heads = np.stack([-length, length, warm], axis=1) + salt
    gate = np.stack([0.1 * length, np.zeros(5), 0.1 * warm], axis=1)
    outputs = {
        "bradley_terry_rewards": (0.5 * warm + 0.1 * length)[:, None],
        "micro_rewards": heads,
        "micro_gate": gate,
        "vrf_rewards": heads,
        "vrf_features": heads,
        "vrf_prompt_features": np.stack([warm, length], axis=1),
    }
    if every:
        outputs |= examples.tiny_outputs(warm, length, heads, gate)
    return {name: array.astype(np.float32) for name, array in outputs.items()}


def _graph(salt: float, *, every: bool = False) -> bytes:
    vocabulary = len(dict.fromkeys(WORDS))
    table = np.zeros((vocabulary, 3), dtype=np.float32)
    table[[WORDS.index(word) for word in WARM], 0] = 1.0
    table[len(SPECIAL) :, 2] = 1.0
    constants = {"table": table, "axis_1": np.array([1]), "axis_2": np.array([2]), "one": np.array([1.0], dtype=np.float32)}
    nodes = [
        helper.make_node("Mul", ["pool_mask", "attention_mask"], ["mask_int"]),
        helper.make_node("Cast", ["mask_int"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis_2"], ["mask_3d"]),
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Mul", ["embedded", "mask_3d"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis_1"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis_1"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["at_least_one"]),
        helper.make_node("Div", ["total", "at_least_one"], ["mean"]),
        helper.make_node("Add", ["count", "one"], ["count_plus_one"]),
        helper.make_node("Log", ["count_plus_one"], ["log_length"]),
        helper.make_node("Concat", ["mean", "log_length"], ["pooled"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, ["N", 4])]
    for name, weight in _weights(salt, every=every).items():
        constants |= {f"{name}_weight": weight[:-1], f"{name}_bias": weight[-1]}
        target = f"{name}_logits" if name.endswith("_gate") else name
        nodes.append(helper.make_node("Gemm", ["pooled", f"{name}_weight", f"{name}_bias"], [target]))
        if target != name:
            nodes.append(helper.make_node("LogSoftmax", [target], [name], axis=1))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", weight.shape[1]]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in ("input_ids", "attention_mask", "pool_mask")]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, initializers), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _probes(graph: bytes, encoder: TextEncoder, error: float) -> Probes:
    prompts = ("how do i boil an egg ?", "tell me about tea", "what is the best way to travel ?", "how do i boil an egg ?")
    responses = ("put it in water for six minutes .", "", "lovely friend , eat", "yes")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        encoded = encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt)
        rows.append([array[0] for array in session.run(names, _inputs(encoded))])
    answers = {name: np.stack([row[index] for row in rows]) + np.float32(error) for index, name in enumerate(names)}
    return Probes(prompts, responses, answers, tolerance=1e-4)


def _inputs(encoded: Encoded) -> dict[str, NDArray[np.int64]]:
    pool = np.zeros((1, len(encoded)), dtype=np.int64)
    pool[0, encoded.pool_start : encoded.pool_stop] = 1
    return {"input_ids": np.array([encoded.input_ids], dtype=np.int64), "attention_mask": np.ones_like(pool), "pool_mask": pool}


def read_families_of(path: Path) -> Families:
    """Returns the families of a bundle, for tests that compute what the service must answer."""
    from attune.models.seam.bundle import read_bundle

    return read_bundle(path).families
