"""The verdict of `attune train families`: which family serves, whether to personalise, and what speaks against it, in sentences.

Validation people alone choose. Strangers, and simple heads that do better, are only told beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attune.models.measuring.families.line_up import BASELINE
from attune.models.seam.counts import counted
from attune.models.seam.trust import NEVER
from attune.models.training.heads import TrainedFamily
from attune.models.training.prior_trust import LEAST_PEOPLE
from attune.models.training.yardstick import below

ENOUGH = "from which on it can be learned how people differ"
LEAST_GAIN = 0.001
"""Nats of log-loss that validation people must gain by a personal view before one serves; what is less rounds to nothing in the verdict."""


def own_verdict(
    trained: Sequence[TrainedFamily], people: int, curves: Mapping[str, Any], *, personalise: bool, some_left_out: bool
) -> tuple[str, dict[str, str]]:
    """Returns the family that serves, and the verdict on it.

    Args:
        trained: the families that are kept.
        people: who chose twice or more.
        curves: of strangers, as `curves_of` returns them; empty where none were measured.
        personalise: whether somebody insists on a personal family, whatever was gained.
        some_left_out: whether there are families that a simple head has beaten for good.
    """
    globally = {one.family.name: one.summary["at_first"] for one in trained if not one.family.evidence_size and "at_first" in one.summary}
    serve = min(globally, key=lambda name: float(globally[name]["nll"]), default=BASELINE)
    personal = _worth_knowing(trained, globally[serve] if serve != BASELINE else {}, insisted=personalise)
    if personal is not None:
        serve = personal.family.name
        why = f"Serve `{serve}`: validation people gained {_gain(personal):.4f} of log-loss by it over everybody's view."
        why += _how_sure(personal.summary) + _doubt(serve, curves)
    else:
        why = _why_nobody(trained, people, personalise=personalise, some_left_out=some_left_out)
        if serve != BASELINE:
            why += f" Serve `{serve}`, which loses less on validation people than what was trained here."
    why += "".join(_refused(below(one)) for one in trained if one.family.name == serve)
    return serve, {"serve": serve, "personalise": "no" if personal is None else "yes", "why": why, "baselines": _compared(globally)}


def _worth_knowing(trained: Sequence[TrainedFamily], globally: Mapping[str, Any], *, insisted: bool) -> TrainedFamily | None:
    """Returns the family by which validation people gained most as they were known; None where that is too little to serve it.

    `globally` is how a head does that is the same for everybody and was not trained here; empty where there is none.
    """
    best = max((one for one in trained if one.family.name != BASELINE and one.trust != NEVER), key=_gain, default=None)
    if best is None or insisted:
        return best
    at_first: Mapping[str, Any] = best.summary.get("at_first", {})
    beaten = bool(globally and at_first) and float(globally["nll"]) < float(at_first["nll"]) - _gain(best)
    return best if _gain(best) >= LEAST_GAIN and not beaten else None


def _why_nobody(trained: Sequence[TrainedFamily], people: int, *, personalise: bool, some_left_out: bool) -> str:
    if people < LEAST_PEOPLE and not personalise:
        return (
            f"Do not personalise: {counted(people, 'person', 'people')} who chose twice or more are fewer than the {LEAST_PEOPLE} {ENOUGH}."
        )
    if (told := _too_few(trained)) and not personalise:
        found_gain = ""
        if told["gain_nll"] > max(LEAST_GAIN, told["gain_nll_standard_error"]):
            found_gain = f" A gain of {told['gain_nll']:.4f} of log-loss was found on {told['validation_people']}; --personalise serves it."
        left = f"of {people} people who chose twice or more {told['training_people']} are trained on"
        return f"Do not personalise: {left}, fewer than the {LEAST_PEOPLE} {ENOUGH}.{found_gain}"
    enough = " that makes up for what is lost to a simple head at first" if some_left_out else ""
    return f"Do not personalise: no gain was found on validation people{enough}."


def _too_few(trained: Sequence[TrainedFamily]) -> Mapping[str, Any]:
    """Returns what was found of trust in the family that gained most, if too few people to train on are why none serves; else nothing."""
    found: list[Mapping[str, Any]] = [one.summary["trust"] for one in trained if one.trust == NEVER and "trust" in one.summary]
    most = max(found, key=lambda told: float(told["gain_nll"]), default={})
    return most if most.get("training_people", LEAST_PEOPLE) < LEAST_PEOPLE and most["validation_people"] else {}


def _compared(globally: Mapping[str, Mapping[str, Any]]) -> str:
    found = globally.get(BASELINE)
    if not found:
        return "nothing to compare with"
    others = "".join(f", `{name}` {told['nll']:.3f}" for name, told in globally.items() if name != BASELINE)
    return f"everybody's head {found['nll']:.3f}, {found['best_simple']} alone {found['best_simple_nll']:.3f} (validation log-loss){others}"


def _how_sure(summary: Mapping[str, Any]) -> str:
    """Returns of how many validation people a family's gain is the mean, and its standard error; nothing where nobody was asked."""
    told: Mapping[str, Any] = summary.get("trust", {})
    people = counted(told.get("validation_people", 0), "person", "people")
    return f" (Standard error {told['gain_nll_standard_error']:.4f}, {people}.)" if told.get("validation_people") else ""


def _doubt(serve: str, curves: Mapping[str, Any]) -> str:
    """Returns what strangers say against the family that serves; nothing where they clearly gain.

    They choose nothing, so the family stays; but who reads that people gain must read as well that others did not, or were not asked.
    """
    if not curves or serve not in curves["learners"]:
        return " Nobody whom training never met confirms it: too few people could be kept apart."
    lost = curves["learners"][serve]["gain"][-1]
    if lost["low"] > 0:
        return ""
    points = f"{100 * lost['mean']:+z.1f} [{100 * lost['low']:+z.1f}, {100 * lost['high']:+z.1f}] points of accuracy"
    found = "lost" if lost["high"] < 0 else "did not clearly gain"
    return (
        f" But people whom training never met {found} by it: {points} after {curves['counts'][-1]} comparisons. Measure it on others "
        f"before it serves (`attune measure families`), or train everybody's head alone (`--families {BASELINE}`)."
    )


def _refused(sentence: str) -> str:
    """Returns that what serves is packed only if somebody insists, and why; nothing where nothing is said against it."""
    return f" `attune bundle build` refuses it unless `--serve-anyway` is said: {sentence}." if sentence else ""


def _gain(trained: TrainedFamily) -> float:
    """Returns the log-loss that validation people gained under this family's trust."""
    told: Mapping[str, Any] = trained.summary.get("trust", {})
    return float(told.get("gain_nll", 0.0))
