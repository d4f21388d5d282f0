"""The study of texts and authors on a made-up table: an author whom everybody likes whatever is written."""

from __future__ import annotations

import json

import numpy as np

from studies.member_effects.run import EffectsSettings, evaluate_member_effects
from studies.sparserm.labelled_sets import ATTRIBUTES

WORDS = "sturdy bright noisy cheap heavy small warm quick plain soft old clean".split()  # noqa: SIM905  a sentence of them


def test_who_wrote_a_summary_is_worth_something_where_that_is_all_that_counts(tmp_path):
    rng = np.random.default_rng(0)
    folder, systems = tmp_path / "summeval_op", ("one", "two", "three")
    folder.mkdir()
    plain, detailed = [], []
    for product in range(16):
        summaries = {name: f"{' '.join(rng.permutation(WORDS)[:6])} of product {product}" for name in systems}
        reviews = [f"review {number} of product {product}" for number in range(2)]
        plain.append({"reviews": reviews, "summaries": {name: {"summary": text} for name, text in summaries.items()}})
        liked = {"one": 5, "two": 3, "three": 1}
        ratings = {column: [[liked[name]] * 3 for name in systems] for column in ATTRIBUTES}
        detailed.append({"reviews": reviews, "summaries": list(summaries.values()), **ratings})
    for name, rows in (("summeval-op", plain), ("summeval-op-detailed", detailed)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = EffectsSettings(seeds=(0,), parts=(4, 2, 6), counts=(0, 12), tested=8, sizes=(3,))
    report = evaluate_member_effects(tmp_path, tmp_path / "out", cache=None, settings=settings, progress=lambda _line: None)
    assert "| 12 | text and everybody's effects |" in report
    assert "| 12 | text | 0." in report
    assert "| +0.0 [0.0, 0.0] |" in report  # of the text over itself
    found = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["axes"]["3"]
    told = found["12"]
    assert told["text and everybody's effects"]["accuracy"]["mean"] > 0.95
    assert found["0"]["text"]["accuracy"] == found["0"]["text, everybody's and own effects"]["accuracy"]
    # Everybody is right of everything: how often they might not be is what so many people leave open.
    assert told["text and everybody's effects"]["accuracy"]["low"] < told["text and everybody's effects"]["accuracy"]["mean"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "results.json"}
