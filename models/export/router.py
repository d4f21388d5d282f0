"""A new router for a bundle that serves already: stage 2 of MiCRo on a deployment's own comparisons, heads untouched.

    scorer.onnx ─> vectors and rewards of the texts ─> router trained ─> its weights put back ─> a new bundle

The graph itself embeds the texts, so neither the trunk's package nor the training is needed where a service runs. Evidence
is losses of heads, and no head changes: the new bundle keeps the basis, and every user keeps what they taught.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.stats import t

from attune.models.data.graph import answers_of
from attune.models.data.preferences import ComparisonInvalid, Comparisons
from attune.models.data.unvaried import is_unvaried, unvaried_ends
from attune.models.export.onnx import ExportFailed, difference
from attune.models.export.router_graph import RouterLayers, find_router, put_router
from attune.models.seam.bundle import Bundle, read_bundle, write_bundle
from attune.models.seam.counts import counted
from attune.models.seam.families_file import write_families
from attune.models.seam.micro import Micro
from attune.models.seam.text import Encoded
from attune.models.training.audit import HeadAudit, audit_heads
from attune.models.training.micro_context import ContextComparisons, RouterSettings, train_router

Array = NDArray[np.float64]
Outputs = dict[str, NDArray[np.float32]]

LEAST_COMPARISONS = 20
HELD_OUT = 0.25
LEAST_CONTEXTS = 20
"""Comparisons with a context: a router learns from nothing else, and from fewer only noise."""
VECTORS = "attune_pooled_vectors"
_OWN_FIELDS = frozenset({"id", "schema", "name", "basis", "template", "files"})


_LEAST_CHANCE = 1e-12


class RouterNotBetter(RuntimeError):
    """The new router predicts held-out comparisons no better than the old one, beyond chance; nothing was written."""


@dataclass(frozen=True, slots=True)
class Retrained:
    """The new bundle's directory, and what was measured on held-out comparisons."""

    path: Path
    summary: dict[str, Any]


def retrain_router(
    bundle: Path,
    comparisons: Comparisons,
    out: Path,
    *,
    family: str = "",
    settings: RouterSettings | None = None,
    audit: bool = True,
    seed: int = 0,
) -> Retrained:
    """Writes a bundle whose mixture's gate has learned from `comparisons` below `out`.

    Args:
        bundle: the one that serves.
        comparisons: with contexts where users gave them; a quarter of the users (of the comparisons, where there are fewer
            than eight users) is held out.
        out: folder of bundles.
        family: name of the mixture; the only family of its kind if empty.
        settings: of stage 2.
        audit: mask heads that harm on held-out comparisons.
        seed: of the split and the training.

    Raises:
        BundleInvalid: `bundle` is not a bundle.
        ComparisonInvalid: there are too few comparisons, or too few of them have a context.
        ExportFailed: the bundle has no such mixture, or several and none was named; its graph is of another make, or the new graph
            does not agree with torch.
        RouterNotBetter: see there.
    """
    settings = settings or RouterSettings()
    old = read_bundle(bundle)
    mixture = _mixture_of(old, family)
    with_context = _expect_contexts(comparisons)
    model = onnx.load(str(old.scorer))
    layers = find_router(model, f"{mixture.name}_gate")
    vectors, margins = _read_texts(model, layers, old, comparisons, mixture)
    data = ContextComparisons(vectors, margins, comparisons.tie, mixture.mask)
    learn, held, unit = _held_out(comparisons, seed)
    before = layers.module()
    router = layers.module()
    losses = train_router(router, data.take(learn), settings, seed)
    decided = held[~comparisons.tie[held]]
    old_says, new_says = (
        _probabilities(_gate(one, data.vectors[decided]), data.margins[decided], mixture.mask) for one in (before, router)
    )
    measured = _measured(old_says, new_says, unit[decided])
    gained = measured["gain"]
    # At the paper's temperatures a router is surer than it is right: log-loss decides only where accuracy has nothing to lose.
    if not (gained["accuracy"]["low"] > 0 or (gained["accuracy"]["mean"] >= 0 and gained["nll"]["low"] > 0)):
        raise RouterNotBetter(f"on {len(decided)} held-out comparisons {_in_words(measured)}; a gain above chance is needed")
    audited = audit_heads(_gate(router, data.vectors[decided]), data.margins[decided], comparisons.user[decided], mask=mixture.mask)
    summary = {
        "settings": asdict(settings),
        "seed": seed,
        "family": mixture.name,
        "comparisons": {
            "learned": len(learn),
            "held_out": len(held),
            "with_context": with_context,
            "sha256": comparisons.sha256(),
        },
        "from_bundle": old.id,
        "held_out": measured,
        "losses": [round(loss, 6) for loss in losses],
        "audit": _audit_table(mixture, audited),
    }
    log_prior = _gate(router, data.vectors[learn]).mean(axis=0)
    retrained = replace(mixture, log_prior=log_prior, mask=audited.mask if audit else mixture.mask)
    return Retrained(_write(old, model, layers, router, retrained, out, summary), summary)


def _expect_contexts(comparisons: Comparisons) -> int:
    """Returns how many comparisons have a context.

    Raises:
        ComparisonInvalid: too few do, or they are too few.
    """
    if len(comparisons) < LEAST_COMPARISONS:
        raise ComparisonInvalid(
            f"{counted(len(comparisons), 'comparison')} with texts; at least {LEAST_COMPARISONS} are needed to train a router"
        )
    found = int(np.array([context is not None for _, context in comparisons.texts.prompts])[comparisons.prompt].sum())
    if found < LEAST_CONTEXTS:
        raise ComparisonInvalid(
            f"{found} of {len(comparisons)} comparisons {'has' if found == 1 else 'have'} a context, "
            f"which says what the user wanted; at least {LEAST_CONTEXTS} are needed to train a router"
        )
    return found


def _mixture_of(bundle: Bundle, name: str) -> Micro:
    mixtures = {one: found for one in bundle.families.names if isinstance(found := bundle.families[one], Micro)}
    if name in mixtures or (not name and len(mixtures) == 1):
        return mixtures[name or next(iter(mixtures))]
    if mixtures:
        raise ExportFailed(f"{bundle.id} has the mixtures {', '.join(mixtures)}; name one of them{f' (not {name!r})' if name else ''}")
    raise ExportFailed(f"{bundle.id} has no family of kind micro; it has {', '.join(bundle.families.names)}")


def _read_texts(
    model: onnx.ModelProto, layers: RouterLayers, bundle: Bundle, comparisons: Comparisons, family: Micro
) -> tuple[NDArray[np.float32], Array]:
    """Returns the vector of each comparison's context and prompt `[C, D + 1]`, and the heads' margins `[C, K]`."""
    encoder, texts = bundle.text_encoder(), comparisons.texts
    used_prompts, prompt_of = np.unique(comparisons.prompt, return_inverse=True)
    used, position = np.unique(np.stack([comparisons.chosen, comparisons.rejected]), return_inverse=True)
    rows = [encoder.prompt(*texts.prompts[index]) for index in used_prompts]
    rows += [encoder.candidates(prompt, [response])[0] for prompt, response in (texts.candidates[index] for index in used)]
    outputs = _answers(model, layers, rows)
    chosen, rejected = position.reshape(2, -1)
    rewards = outputs[f"{family.name}_rewards"][len(used_prompts) :].astype(np.float64)
    return outputs[VECTORS][prompt_of], family.logit_scale * (rewards[chosen] - rewards[rejected])


def _answers(model: onnx.ModelProto, layers: RouterLayers, rows: Sequence[Encoded]) -> Outputs:
    """Returns every output for `rows`, and the router's input as one more, named `VECTORS`."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.node.append(helper.make_node("Identity", [layers.source], [VECTORS]))
    shown.graph.output.append(helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["rows", layers.width]))
    order = np.argsort([len(row) for row in rows], kind="stable")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "shown.onnx"
        onnx.save(shown, str(path))
        found = answers_of(path, [rows[index] for index in order], batch=16)
    back = np.argsort(order, kind="stable")
    return {name: value[back] for name, value in found.items()}


def _held_out(comparisons: Comparisons, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows that are learned from and those that are held out, and for each row `[C]` what was kept whole: a user or itself."""
    rng = np.random.default_rng(seed)
    users = np.unique(comparisons.user)
    keys = comparisons.user if len(users) >= 8 else np.arange(len(comparisons))
    kept = rng.permutation(np.unique(keys))
    held = np.isin(keys, kept[: max(1, round(HELD_OUT * len(kept)))])
    return np.flatnonzero(~held), np.flatnonzero(held), keys


@torch.no_grad()
def _gate(router: torch.nn.Sequential, vectors: NDArray[np.float32]) -> Array:
    gate: Array = router(torch.from_numpy(np.ascontiguousarray(vectors))).double().numpy()
    return gate


def _probabilities(log_gate: Array, margins: Array, mask: NDArray[np.bool_]) -> Array:
    """Returns what the mixture says of decided comparisons `[C]` under the gate alone: what a stranger gets."""
    if len(margins) < 2:
        raise ComparisonInvalid(f"{len(margins)} of the held-out comparisons are decided: there is nothing to measure a router by")
    gate = log_gate[:, mask]
    gate = np.exp(gate - np.logaddexp.reduce(gate, axis=1, keepdims=True))
    mixed: Array = (gate / (1.0 + np.exp(-margins[:, mask]))).sum(axis=1)
    return mixed


def _measured(before: Array, after: Array, unit: NDArray[np.int64]) -> dict[str, Any]:
    """Returns accuracy and mean log-loss with the old and the new router, and the paired gains with their 95 % intervals over `unit`s."""
    right = [(one > 0.5) + 0.5 * (one == 0.5) for one in (before, after)]
    loss = [-np.log(np.maximum(one, _LEAST_CHANCE)) for one in (before, after)]
    gains = {"accuracy": right[1] - right[0], "nll": loss[0] - loss[1]}
    told = [{"accuracy": round(float(was.mean()), 4), "nll": round(float(lost.mean()), 4)} for was, lost in zip(right, loss, strict=True)]
    most = {"accuracy": 1.0, "nll": float(np.max(loss))}  # no comparison was seen to lose more than the worst of them
    return {"before": told[0], "after": told[1], "gain": {name: _interval(gain, unit, most[name]) for name, gain in gains.items()}}


def _in_words(measured: dict[str, Any]) -> str:
    """Returns what became of accuracy and log-loss, each with the interval of its gain."""
    names = {"accuracy": "accuracy", "nll": "log-loss"}
    told = []
    for key, name in names.items():
        gain = measured["gain"][key]
        went = f"{name} goes from {measured['before'][key]:.3f} to {measured['after'][key]:.3f}"
        told.append(f"{went} (gain {gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}])")
    return " and ".join(told)


def _interval(gain: Array, unit: NDArray[np.int64], most: float) -> dict[str, float]:
    """Returns the mean of `gain` `[C]` with its interval over what was held out as one: comparisons of one user are alike."""
    _, owner = np.unique(unit, return_inverse=True)
    counts = np.bincount(owner)
    mean = float(gain.mean())
    draws = mean + (np.bincount(owner, weights=gain) - mean * counts) / counts.mean()
    if len(draws) < 2 or is_unvaried(draws):
        low, high = unvaried_ends(mean, len(draws), (-most, most))
    else:
        error = float(t.ppf(0.975, len(draws) - 1)) * float(draws.std(ddof=1)) / float(np.sqrt(len(draws)))
        low, high = mean - error, mean + error
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def _audit_table(family: Micro, audited: HeadAudit) -> list[dict[str, Any]]:
    return [
        {
            "head": name,
            "accuracy": round(float(audited.accuracy[index]), 4),
            "share": round(float(audited.share[index]), 4),
            "gain_if_masked": round(float(audited.gain_if_masked[index]), 5),
            "interval": [round(float(value), 5) if np.isfinite(value) else None for value in audited.interval[index]],
            "masked": not bool(audited.mask[index]),
        }
        for index, name in enumerate(family.heads)
    ]


def _write(
    old: Bundle,
    model: onnx.ModelProto,
    layers: RouterLayers,
    router: torch.nn.Sequential,
    family: Micro,
    out: Path,
    summary: dict[str, Any],
) -> Path:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    put_router(changed, layers, router)
    families = [family if name == family.name else old.families[name] for name in old.families.names]
    probes = old.probes
    encoder = old.text_encoder()
    pairs = zip(probes.prompts, probes.responses, strict=True)
    rows = [encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt) for prompt, response in pairs]
    with tempfile.TemporaryDirectory() as scratch:
        scorer = Path(scratch) / "scorer.onnx"
        onnx.save(changed, str(scorer))
        found = answers_of(scorer, rows)
        # Torch's own answer for the gate, the old graph's for everything else: only the gate may have moved.
        expected = {name: np.asarray(value) for name, value in probes.answers.items()}
        expected[f"{family.name}_gate"] = _gate(router, _answers(model, layers, rows)[VECTORS]).astype(np.float32)
        worst = difference({name: found[name] for name in expected}, expected)
        if not worst <= max(1e-3, probes.tolerance):
            raise ExportFailed(f"the graph with the new router differs from torch by {worst:g} on the probes")
        kept = {name: old.path / name for name in old.manifest["files"]}
        files: dict[str, bytes | Path] = {
            **kept,
            **write_families(families, old.default_family, old.families.trust, old.families.effects),
            "scorer.onnx": scorer,
            "probes.npz": replace(probes, answers=expected).to_bytes(),
        }
        metadata = {name: value for name, value in old.manifest.items() if name not in _OWN_FIELDS} | {"router": summary}
        name = str(old.manifest["name"])
        return write_bundle(out, name, files, basis=old.basis, template=old.template, metadata=json.loads(json.dumps(metadata)))
