"""From a folder of families to a bundle that the service loads: trunk and heads as one graph, probes, and the members if there are any.

    families/   heads.json heads.safetensors trunk.json [probes.jsonl cards.json provenance.json]  ─┐
    portfolio/  portfolio.json [values.npz roster.json and what it names]                          ─┼─> bundle-<name>-<sha12>/
    roster.json                                                                                    ─┘

Either of the last two, or neither: a bundle without members scores. The basis id depends on the weights and not on the exporter or the
members, so users survive an export elsewhere and another portfolio. The demo is packed by the same function from the folder that ships.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attune.models.data.probes import read_probes
from attune.models.data.trunk import Trunk, text_config
from attune.models.data.trunk_file import load_trunk_of
from attune.models.export.faster_graphs import fused_fp16, row_scaled_int8, scorer_entry, tolerance
from attune.models.export.onnx import ScorerGraph, export_scorer, graph_files, libraries
from attune.models.export.portfolio_files import MemberFiles, MembersInvalid, read_members, without_certificate
from attune.models.seam.bundle import CARDS, PORTFOLIO, VALUES, Probes, basis_id, expect_name, write_bundle
from attune.models.seam.families import Families
from attune.models.seam.families_file import read_families, write_families
from attune.models.seam.json_lines import JsonInvalid, parse_json
from attune.models.seam.member_effects import PERSONAL, SHARED, MemberEffects
from attune.models.seam.portfolio import read_portfolio
from attune.models.seam.text import Encoded, TextEncoder
from attune.models.training.beside import PROVENANCE
from attune.models.training.heads import Heads, HeadsInvalid, TrainedFamily, families_of, load_heads
from attune.models.training.yardstick import below

Precision = Literal["fp32", "fp16", "int8"]


class NotWorthServing(ValueError):
    """The family that would serve is worse than a simple head before a person's first comparison; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The bundle's directory, and what somebody who built it should know, a sentence each."""

    path: Path
    told: tuple[str, ...]


def pack(
    families: Path,
    root: Path,
    name: str,
    *,
    portfolio: Path | None = None,
    roster: Path | None = None,
    precision: Precision = "fp32",
    trunk: Trunk | None = None,
    tell: Callable[[str], None] = lambda _line: None,
    serve_anyway: bool = False,
    member_effects: bool = False,
) -> Packed:
    """Writes a bundle below `root`.

    Args:
        families: folder with heads and `trunk.json`.
        root: folder of bundles.
        name: of the bundle: letters, digits and `_`.
        portfolio: folder with `portfolio.json`; its own roster is taken where no other is given.
        roster: file that says where members are; those that the portfolio does not know will begin at the prior.
        precision: of the trunk; heads are always fp32.
        trunk: that the heads were trained on, if it is loaded already.
        tell: told what is done now, a line for each step that may take minutes.
        serve_anyway: also where the family that serves is worse than a simple head.
        member_effects: users' evidence also says what is liked of a member beyond its texts.

    Raises:
        NotWorthServing: it is, and nobody said `serve_anyway`; nothing is written.
        TrunkUnavailable: the trunk is not where `trunk.json` says, or is another.
        FileNotFoundError: a folder lacks a file.
        FamiliesInvalid, HeadsInvalid, PortfolioInvalid, MembersInvalid, ProbesInvalid, ExportFailed, BundleInvalid: the parts do not fit;
            nothing is left behind.
    """
    expect_name(name)
    trained, default = load_heads(families)
    worse = {one.family.name: sentence for one in trained if (sentence := below(one))}
    if default in worse and not serve_anyway:
        raise NotWorthServing(
            f"{worse[default]}: nothing was packed. Train on more comparisons, let another family serve, or say --serve-anyway"
        )
    tell("loading the trunk")
    trunk = trunk or load_trunk_of(families)
    effects = MemberEffects(default, SHARED, PERSONAL) if member_effects else None
    families_files = write_families([one.family for one in trained], default, {one.family.name: one.trust for one in trained}, effects)
    # Read once as the service will, so that what no server takes is found before minutes of export.
    read_families(families_files["families.json"], families_files["families.npz"])
    members = read_members(portfolio, roster)
    members, fitted = _fitting(members, families_of(trained))
    told = (*(f"below a simple head: {sentence}" for sentence in worse.values()), *fitted)
    pairs = read_probes(families)
    rows = encode_probes(trunk.encoder, pairs)
    basis = basis_id(_basis_parts(trunk, trained, families_files))
    graph = ScorerGraph(trunk, [family.heads for family in trained])
    with tempfile.TemporaryDirectory() as scratch:
        scorer = Path(scratch) / "exported" / "scorer.onnx"
        tell(f"exporting trunk and heads as one graph, and holding it against torch on {len(rows)} texts")
        worst = export_scorer(graph, rows, scorer)
        answers = graph.answers(rows)
        if precision != "fp32":
            tell(f"writing the {precision} twin")
            scorer = write_twin(scorer, Path(scratch) / precision / "scorer.onnx", precision, trunk)
        own: dict[str, bytes | Path] = {
            **graph_files(scorer),
            "tokenizer.json": trunk.tokenizer_json,
            "probes.npz": _probes(pairs, answers, tolerance(precision)).to_bytes(),
            **families_files,
            **{file: families / file for file in (CARDS,) if (families / file).is_file()},
        }
        if both := sorted(own.keys() & members.files.keys()):
            raise MembersInvalid(f"a local member's {', '.join(both)} would take the place of the bundle's own: keep it in a folder")
        files = own | dict(members.files)
        tell("measuring what the graph answers, and hashing the files")
        metadata = {
            "scorers": {precision: scorer_entry("scorer.onnx", precision, scorer, rows, answers)},
            "trunk": {
                "name": trunk.name,
                "sha256": trunk.sha256,
                "width": trunk.width,
                "layers": list(trunk.layers),
                "pooling": trunk.pooling,
            },
            "export": {"difference_from_torch": worst, "versions": libraries()},
            "told": list(told),
            **_provenance(families),
        }
        return Packed(write_bundle(root, name, files, basis=basis, template=trunk.template, metadata=metadata), told)


def write_twin(fp32: Path, target: Path, precision: Precision, trunk: Trunk) -> Path:
    """Writes the fp32 graph's twin in another precision to `target`, and returns that."""
    target.parent.mkdir(parents=True)
    if precision == "int8":
        row_scaled_int8(fp32, target)
        return target
    config = text_config(trunk.model)
    fused_fp16(fp32, target, config.model_type, config.num_attention_heads, config.hidden_size)
    return target


def encode_probes(encoder: TextEncoder, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Returns the rows of probe texts; an empty response stands for the prompt alone."""
    return [encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt) for prompt, response in pairs]


def _fitting(members: MemberFiles, families: Families) -> tuple[MemberFiles, tuple[str, ...]]:
    """Returns the members with a portfolio that these families can read, and what had to be left out for that."""
    told: list[str] = []
    content = members.files.get(PORTFOLIO)
    if isinstance(content, bytes):
        certified = members.certified_family
        if certified is not None and certified not in families.names:
            told.append(
                f"the portfolio's certificate is of rewards named {certified!r}, and the bundle has the families "
                f"{', '.join(families.names)}: the bundle carries no certificate"
            )
            members = replace(members, files={**members.files, PORTFOLIO: without_certificate(content)})
        values = members.files.get(VALUES)
        known = read_portfolio(_bytes(members.files[PORTFOLIO]), families, None if values is None else _bytes(values)).names
        missing = [name for name in members.roster if name not in known]
        if missing:
            told.append(f"members that the portfolio has no values of begin at the prior: {', '.join(missing)}")
        unplaced = [name for name in known if members.roster and name not in members.roster]
        if unplaced:
            told.append(f"members of the portfolio that the roster does not name will not serve: {', '.join(unplaced)}")
    elif members.roster:
        told.append(f"all members begin at the prior, since nothing was measured: {', '.join(members.roster)}")
    else:
        told.append("the bundle has no members: it scores, and /generate answers 409 until a roster is given")
    return members, tuple(told)


def _bytes(source: bytes | Path) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _probes(pairs: Sequence[tuple[str, str]], answers: Mapping[str, Any], tolerance: float) -> Probes:
    finite = {name: np.asarray(value, dtype=np.float32) for name, value in answers.items()}
    return Probes(tuple(prompt for prompt, _ in pairs), tuple(response for _, response in pairs), finite, tolerance)


def _basis_parts(trunk: Trunk, trained: Sequence[TrainedFamily], families_files: Mapping[str, bytes]) -> dict[str, bytes]:
    template = json.dumps(trunk.template.to_json(), sort_keys=True).encode()
    parts = {"trunk": trunk.sha256.encode(), "tokenizer": trunk.tokenizer_json, "template": template}
    return parts | dict(families_files) | {"heads": _heads_bytes(trained)}


def _heads_bytes(trained: Sequence[TrainedFamily]) -> bytes:
    parts: list[bytes] = []
    for family in trained:
        heads: Heads = family.heads
        for name, tensor in sorted(heads.state_dict().items()):
            parts += [f"{family.family.name}/{name} {tuple(tensor.shape)}".encode(), tensor.numpy().tobytes()]
    return b"".join(parts)


def _provenance(families: Path) -> dict[str, Any]:
    path = families / PROVENANCE
    if not path.exists():
        return {}
    try:
        return {"provenance": parse_json(path.read_bytes())}
    except JsonInvalid as error:
        raise HeadsInvalid(f"{path} {error}") from error
