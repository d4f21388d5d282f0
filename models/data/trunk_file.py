"""`trunk.json`: which trunk the heads of a folder of families were trained on, and how it reads a text.

A folder of families is `heads.json`, `heads.safetensors` and this file, and where they were made `probes.jsonl`, `cards.json` and
`provenance.json`. The trunk's weights stay where they are; their hash is here, so that another trunk under the same name is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attune.models.data.classifier import ClassifierTrunk, load_classifier
from attune.models.data.model_folder import TrunkUnavailable
from attune.models.data.trunk import Trunk, load_trunk
from attune.models.seam.documents import read_document
from attune.models.seam.text import TextTemplate

FILE = "trunk.json"
SCHEMA = 1


def write_trunk_file(folder: Path, trunk: Trunk, *, home: Path | None = None) -> None:
    """Writes `trunk.json` into `folder`, made if absent; a source inside the folder is named relative to it, another one absolutely.

    `home` is where the file will be moved to, if that is elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = (home or folder).resolve()
    source = Path(trunk.source)
    if source.is_dir():
        whole = source.resolve()
        named = whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)
    else:
        named = trunk.source
    document = {
        "schema": SCHEMA,
        "source": named,
        "pooling": trunk.pooling,
        "layers": list(trunk.layers),
        "template": trunk.template.to_json(),
        "sha256": trunk.sha256,
    }
    (folder / FILE).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_trunk_of(folder: Path, source: str | None = None) -> Trunk:
    """Returns the trunk that the heads of `folder` were trained on.

    Args:
        folder: with `trunk.json`.
        source: where the trunk is now, if it has moved.

    Raises:
        TrunkUnavailable: there is no such file, it cannot be used, or what is at its source is not the trunk of these heads.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrunkUnavailable(f"{folder} has no {FILE}, which says on which trunk its heads were trained: {error.strerror}") from error
    document = read_document(content, file=str(path), schema=SCHEMA, invalid=TrunkFileInvalid)
    try:
        template = TextTemplate.from_json(document["template"])
        layers = tuple(int(layer) for layer in document["layers"])
        named, pooling, expected = str(document["source"]), document["pooling"], str(document["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrunkFileInvalid(f"{path} cannot be used: {error!r}") from error
    if pooling not in {"mean", "last", "cls", "classifier"}:
        raise TrunkFileInvalid(f"{path} has pooling {pooling!r}; mean, last, cls and classifier are known")
    at = source or (str(folder / named) if (folder / named).is_dir() else named)
    trunk = _load(at, layers, pooling, template)
    if trunk.sha256 != expected:
        raise TrunkUnavailable(f"the trunk at {at} has the hash {trunk.sha256[:12]}; the heads in {folder} were trained on {expected[:12]}")
    return trunk


class TrunkFileInvalid(TrunkUnavailable, ValueError):
    """`trunk.json` is of another make, or damaged."""


def _load(source: str, layers: tuple[int, ...], pooling: Any, template: TextTemplate) -> Trunk:
    if pooling == "classifier":
        loaded: ClassifierTrunk = load_classifier(source, template=template)
        return loaded
    return load_trunk(source, layers=layers, pooling=pooling, template=template)
