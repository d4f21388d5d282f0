"""From a reward model's folder or hub id to a folder of families, in numbered steps; nothing is written unless its answers agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attune.models.data.adapters import read_comparisons
from attune.models.data.classifier import ClassifierTrunk, load_classifier
from attune.models.data.embedding_workers import quick
from attune.models.data.embeddings import embed_texts
from attune.models.data.hub import located
from attune.models.data.model_folder import open_model
from attune.models.data.preferences import ComparisonInvalid, Comparisons, Texts
from attune.models.data.probes import draw_probes, write_probes
from attune.models.data.splits import split
from attune.models.data.table_shapes import Reading
from attune.models.data.templates import TextLimits
from attune.models.data.trunk import Trunk
from attune.models.data.trunk_file import write_trunk_file
from attune.models.seam.counts import all_counted
from attune.models.training.cards import write_cards
from attune.models.training.family_folder import expect_writable, family_folder
from attune.models.training.heads import save_heads
from attune.models.training.hierarchical import PopulationSettings
from attune.models.training.loop import TrainingData
from attune.models.training.met import people_of, write_met
from attune.models.training.reward_model_family import (
    NAME,
    PROMPTS,
    RESPONSES,
    check_against_transformers,
    check_rows,
    head_names,
    import_family,
)

FRACTIONS = (0.8, 0.2, 0.0)
"""Of the users, in training and validation; nothing is tested here, `attune measure families` does that."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made, as JSON data, and what somebody should know, a sentence each."""

    summary: dict[str, Any]
    told: tuple[str, ...]


def import_reward_model(
    model: str,
    out: Path,
    names: Sequence[str],
    users: str,
    *,
    reading: Reading | None = None,
    limits: TextLimits | None = None,
    cache: Path | None = None,
    seed: int = 0,
    expect: Callable[[Trunk], None] = lambda _trunk: None,
) -> Imported:
    """Writes a reward model's heads into `out`, a folder of families with its probes, cards and provenance.

    Args:
        model: folder or hub id of a sequence classifier.
        out: folder, made if absent.
        names: of its heads; empty takes the model's labels.
        users: table of comparisons that the population is fitted on; empty fits nobody.
        reading: of that table.
        limits: how long texts may be; None is the model's own limit.
        cache: folder of the embedding cache; None keeps none.
        seed: of the split of users and of the probes.
        expect: raises where nothing is to be learned on this trunk; asked before anything is.

    Raises:
        NotOnHub, TrunkUnavailable: there is no such model, or it is no sequence classifier with a trained head.
        ImportRefused: names do not fit, or answers are not transformers'; nothing was written.
        ComparisonInvalid, SplitInvalid: the table cannot be used; nothing was written.
    """
    # 0. The folder and the table, which take less time to refuse than a model to load.
    expect_writable(out)
    located(model)
    told_by = read_comparisons(users, reading) if users else None
    if told_by is not None and told_by.tie.all():
        raise ComparisonInvalid(
            f"{users}: {all_counted(len(told_by), 'comparison is a tie', 'comparisons are ties')}: nothing is said of what people want"
        )
    if told_by is not None and told_by.anonymous.all():
        raise ComparisonInvalid(f"{users}: no row says whose it is, and how people differ is learned from what each of them chose")
    # 1. The model, as a trunk and a final layer.
    trunk = load_classifier(model, limits=limits)
    expect(trunk)
    named = head_names(trunk.labels, names)
    # 2. Its answers, against transformers' own.
    worst = check_against_transformers(trunk, open_model(model)[2])
    # 3. The people, where there are any.
    data = _people(told_by, trunk, cache, seed) if told_by is not None else None
    told = [*named.told]
    if users and len(named.names) == 1:
        told.append("the model has one head, under which everybody is alike: the users' comparisons fit nothing")
        data = None
    settings = PopulationSettings()
    family = import_family(trunk, named.names, data, settings)
    # 4. The folder.
    texts = (
        data.train.texts if data else Texts(tuple((prompt, None) for prompt in PROMPTS), tuple((p, r) for p in PROMPTS for r in RESPONSES))
    )
    vectors = data.vectors.candidates if data else trunk.embed(check_rows(trunk))
    summary = {
        "heads": list(named.names),
        "difference_from_transformers": worst,
        "trunk_sha256": trunk.sha256,
        "model": trunk.name,
        **family.summary,
    }
    provenance = {"imported": summary, "seed": seed, "settings": asdict(settings)}
    with family_folder(out) as staging:
        save_heads(staging, [family], NAME)
        write_trunk_file(staging, trunk, home=out)
        write_probes(staging, draw_probes(texts, seed))
        write_met(staging, people_of(data.train) + people_of(data.validation) if data else [])
        write_cards(staging, [family], texts, vectors)
        (staging / "provenance.json").write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return Imported(summary, tuple(told))


def _people(comparisons: Comparisons, trunk: ClassifierTrunk, cache: Path | None, seed: int) -> TrainingData:
    parts = split(comparisons, "user", FRACTIONS, seed=seed)
    with quick(trunk) as embedder:
        return TrainingData(parts.train, parts.validation, embed_texts(comparisons.texts, embedder, cache))
