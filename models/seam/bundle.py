"""The bundle: the directory that `models` makes and `service` loads; immutable, named by its hash.

    bundle-<name>-<sha12>/
      scorer.onnx  tokenizer.json  families.json  families.npz  probes.npz
      [scorer.data  portfolio.json  values.npz  roster.json  cards.json  members/...]
      manifest.json          written last: without it the directory is not a bundle

Users' state is kept per *basis id*, a hash of what gives evidence its meaning (trunk, tokenizer, template, families) and
not of the graph's bytes, so that exporting the same heads again elsewhere keeps the users.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.artefacts import it_is
from attune.models.seam.documents import read_document
from attune.models.seam.families import Families
from attune.models.seam.families_file import read_families
from attune.models.seam.json_lines import parse_json
from attune.models.seam.member_values import POOLED
from attune.models.seam.portfolio import Portfolio, no_members, read_portfolio
from attune.models.seam.precision import Precision, ScorerFile, choose_scorer, scorer_files
from attune.models.seam.staging import put_in_place, staging_folder
from attune.models.seam.text import TextEncoder, TextTemplate

SCHEMA = 1
REQUIRED = ("scorer.onnx", "tokenizer.json", "families.json", "families.npz", "probes.npz")
PORTFOLIO, VALUES = "portfolio.json", "values.npz"
"""Of bundles that route; the first may be there without the second, and a bundle without either scores only."""
CARDS = "cards.json"
"""What each head stands for, in answers that it rewards most and least; not every bundle has it."""
MANIFEST = "manifest.json"
_FIELDS = frozenset({"id", "schema", "name", "basis", "template", "files"})
_DAMAGED = (
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,  # a whole number is made of an infinite one
    RecursionError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


class BundleInvalid(ValueError):
    """The directory is not a bundle that this version can serve; the message names the file and both values."""


@dataclass(frozen=True, slots=True)
class Probes:
    """Texts with the answers of the training framework; the service replays them before it is ready.

    Attributes:
        prompts, responses: `P` texts each; an empty response stands for the row of the prompt alone.
        answers: output name -> `[P, ...]` float32.
        tolerance: greatest difference that passes where the manifest states none for a graph (see `precision.probe_difference`); finite.

    Raises:
        ValueError: the texts or an answer are not `P` in number, or the tolerance or an answer is not finite.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    answers: Mapping[str, NDArray[np.float32]]
    tolerance: float

    def __post_init__(self) -> None:
        if len(self.responses) != len(self.prompts) or not self.prompts:
            raise ValueError(f"probes have {len(self.prompts)} prompts and {len(self.responses)} responses; as many of each are needed")
        for name, value in self.answers.items():
            if value.shape[:1] != (len(self.prompts),) or not np.all(np.isfinite(value)):
                raise ValueError(f"answer {name} is {value.shape}; finite numbers for {len(self.prompts)} probes are needed")
        if not 0 <= self.tolerance < math.inf:  # NaN would let every difference pass
            raise ValueError(f"tolerance is {self.tolerance}; it must be finite and 0 or more")

    def to_bytes(self) -> bytes:
        """Returns the contents of `probes.npz`."""
        buffer = io.BytesIO()
        texts = json.dumps({"prompts": self.prompts, "responses": self.responses, "tolerance": self.tolerance}).encode()
        np.savez(buffer, texts=np.frombuffer(texts, dtype=np.uint8), **{f"answer/{name}": value for name, value in self.answers.items()})  # type: ignore[arg-type]  # numpy's stub takes the names for its allow_pickle flag
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Probes:
        """Returns the probes that `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            texts = parse_json(arrays["texts"].tobytes())
            answers = {name.removeprefix("answer/"): arrays[name] for name in arrays.files if name.startswith("answer/")}
        return cls(tuple(texts["prompts"]), tuple(texts["responses"]), answers, float(texts["tolerance"]))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified.

    Attributes:
        path: its directory.
        id: `<name>-<sha12>`, the `bundle` of every response.
        basis: basis id that keys users' state.
        manifest: everything the manifest says (provenance, evaluation results).
        scorers: its graphs by precision, fp32 first where there is one.
        cards: family -> head -> `highest` and `lowest`, lists of `prompt`, `response` and `reward`; empty where it has none.
    """

    path: Path
    id: str
    basis: str
    manifest: Mapping[str, Any]
    template: TextTemplate
    families: Families
    default_family: str
    portfolio: Portfolio
    probes: Probes
    scorers: Mapping[Precision, ScorerFile]
    cards: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def scorer(self) -> Path:
        """The graph that is run where no precision is asked for."""
        return self.path / choose_scorer(self.scorers, None)[1].file

    def examples(self, family: str, head: str) -> list[str]:
        """Returns answers that this head rewards most, the best first; none where the bundle has no card of it."""
        card = self.cards.get(family, {}).get(head, {})
        return [str(example["response"]) for example in card.get("highest", ())]

    def text_encoder(self) -> TextEncoder:
        """Returns a new encoder with the bundle's tokenizer and template."""
        return TextEncoder.from_file(self.path / "tokenizer.json", self.template)


def basis_id(parts: Mapping[str, bytes]) -> str:
    """Returns 12 hexadecimal digits that name what evidence means: equal parts, equal meaning.

    Args:
        parts: by name, the trunk's hash, `tokenizer.json`, the template, the families' two files, the heads' weights; not the
            graph, whose bytes vary between exporters, and not the portfolio, which does not read evidence.
    """
    digest = hashlib.sha256()
    for name, content in sorted(parts.items()):
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]


def expect_name(name: str) -> None:
    """Raises BundleInvalid where a bundle cannot be called `name`."""
    if not (name.isascii() and name.replace("_", "").isalnum()):
        raise BundleInvalid(f"bundle name {name!r} may have ASCII letters, digits and '_' only")


def write_bundle(
    root: Path,
    name: str,
    files: Mapping[str, bytes | Path],
    *,
    basis: str,
    template: TextTemplate,
    metadata: Mapping[str, Any],
) -> Path:
    """Writes a bundle below `root` and returns its directory; an equal bundle that is there already is kept, a damaged one replaced.

    Args:
        root: directory of bundles, made if absent.
        name: letters, digits and `_`; `-` separates it from the hash.
        files: relative POSIX path -> contents, or a file to copy.
        basis: see `basis_id`.
        template: the text template of training.
        metadata: provenance and results, JSON data; without times, or equal inputs will not give an equal bundle.

    Raises:
        BundleInvalid: a required file is missing, or a name, path or field of the metadata is not allowed.
        OSError: a file could not be copied or written.
        TypeError, ValueError: the metadata is not JSON data.

    Whatever is raised, nothing is left behind.
    """
    expect_name(name)
    missing = [required for required in REQUIRED if required not in files]
    if missing:
        raise BundleInvalid(f"bundle {name!r} lacks {', '.join(missing)}")
    taken = sorted(metadata.keys() & _FIELDS)
    if taken:
        raise BundleInvalid(f"metadata may not set {', '.join(taken)}: the manifest says these itself")
    with staging_folder(root) as staging:
        table: dict[str, dict[str, Any]] = {}
        for path, source in sorted(files.items()):
            target = staging / _safe(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                target.write_bytes(source)
            else:
                shutil.copyfile(source, target)
            table[path] = {"sha256": sha256_of(target), "bytes": target.stat().st_size}
        body = {"schema": SCHEMA, "name": name, "basis": basis, "template": template.to_json(), "files": table, **metadata}
        body = json.loads(json.dumps(body))  # as it will be read: the id must be the same then
        bundle = _id_of(body)
        with (staging / MANIFEST).open("w", encoding="utf-8") as stream:
            json.dump({"id": bundle, **body}, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        staging.chmod(0o755)
        final = root / f"bundle-{bundle}"
        put_in_place(staging, final, _is_whole)
    return final


def read_bundle(path: Path) -> Bundle:
    """Returns the bundle at `path` after checking every file's hash.

    Raises:
        BundleInvalid: no manifest, another schema, a file that is missing, changed or does not parse.
    """
    manifest = _check_files(path)
    reading = "template of manifest.json"
    try:
        template = TextTemplate.from_json(manifest["template"])
        reading = "families.json and families.npz"
        families, default = read_families((path / "families.json").read_bytes(), (path / "families.npz").read_bytes())
        reading = "probes.npz"
        probes = Probes.from_bytes((path / "probes.npz").read_bytes())
        reading = "scorers of manifest.json"
        scorers = scorer_files(manifest, probes.tolerance)
        reading = PORTFOLIO
        portfolio = _read_members(path, families, manifest["files"])
        reading = VALUES
        _expect_width(portfolio, probes)
        reading = CARDS
        cards = parse_json((path / CARDS).read_bytes()) if CARDS in manifest["files"] else {}
        _expect_cards(cards)
    except _DAMAGED as error:
        raise BundleInvalid(f"{path.name}: {reading} cannot be used: {error}") from error
    absent = [entry.file for entry in scorers.values() if entry.file not in manifest["files"]]
    if absent:
        raise BundleInvalid(f"{path.name}: {MANIFEST} names {', '.join(absent)} among its scorers and not among its files")
    return Bundle(path, manifest["id"], manifest["basis"], manifest, template, families, default, portfolio, probes, scorers, cards)


def _read_members(path: Path, families: Families, files: Mapping[str, Any]) -> Portfolio:
    if PORTFOLIO not in files:
        return no_members(families)
    return read_portfolio((path / PORTFOLIO).read_bytes(), families, (path / VALUES).read_bytes() if VALUES in files else None)


def _expect_cards(cards: object) -> None:
    heads = [head for family in cards.values() for head in family.values()] if isinstance(cards, dict) else [None]
    if not all(isinstance(example, dict) and "response" in example for head in heads for example in (head or {"highest": [0]})["highest"]):
        raise ValueError("each head needs 'highest', a list of examples with a 'response'")


def _expect_width(portfolio: Portfolio, probes: Probes) -> None:
    given = probes.answers[POOLED].shape[1] if POOLED in probes.answers else 0
    for family, head in portfolio.heads.items():
        if head.weight.shape[2] != given:
            raise ValueError(f"value heads of {family!r} read vectors of {head.weight.shape[2]} numbers; the scorer gives {given}")


def _check_files(path: Path) -> dict[str, Any]:
    """Returns the manifest after checking every file's hash; raises BundleInvalid as `read_bundle` does."""
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        file = path / _safe(name)
        if not file.is_file():
            raise BundleInvalid(f"{path.name}: {name} is missing")
        found = sha256_of(file)
        if found != entry["sha256"]:
            raise BundleInvalid(f"{path.name}: {name} has sha256 {found[:12]}…; the manifest says {entry['sha256'][:12]}…")
    return manifest


def _is_whole(path: Path) -> bool:
    try:
        _check_files(path)
    except (BundleInvalid, OSError):
        return False
    return True


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of the bundle at `path`.

    Raises:
        BundleInvalid: there is none, it does not parse, it lacks a required file, its schema is another, or its contents
            do not give its id.
    """
    try:
        content = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a path with a NUL in it is a ValueError
        raise BundleInvalid(f"{str(path)!r} has no {MANIFEST}, so it is no complete bundle{it_is(path)}") from None
    manifest = read_document(content, file=f"{MANIFEST} of {path.name}", schema=SCHEMA, invalid=BundleInvalid)
    absent = sorted(_FIELDS - manifest.keys())
    if absent:
        raise BundleInvalid(f"{MANIFEST} of {path.name} lacks {', '.join(absent)}")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in files.values()):
        raise BundleInvalid(f"{MANIFEST} of {path.name} needs 'files', an object that gives each path its 'sha256'")
    missing = [required for required in REQUIRED if required not in files]
    if missing:
        raise BundleInvalid(f"{MANIFEST} of {path.name} lists no {', '.join(missing)}")
    expected = _id_of({name: value for name, value in manifest.items() if name != "id"})
    if manifest["id"] != expected:
        raise BundleInvalid(f"{MANIFEST} of {path.name} was changed: its id is {manifest['id']!r}, its contents give {expected!r}")
    return manifest


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's contents in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _safe(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    # The plain spelling only: "./a" and "a//b" would be second names of files that others name.
    if pure.is_absolute() or ".." in pure.parts or path == MANIFEST or not pure.parts or str(pure) != path or "\0" in path:
        raise BundleInvalid(f"{path!r} is not a path inside a bundle")
    return pure


def _id_of(body: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    return f"{body['name']}-{digest}"
