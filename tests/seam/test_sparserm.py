from __future__ import annotations

import json
import math

import numpy as np
import pytest

from attune.models.seam.families_file import FamiliesInvalid, read_families, write_families
from attune.models.seam.sparserm import SparseRm, examples_of
from tests.seam import examples
from tests.seam.users import LN3


def two_directions(shares=(0.75, 0.25), texts=(("perhaps so",), ())) -> SparseRm:
    return SparseRm("sparserm", ("for 5: perhaps", "length"), 2.0, np.array(shares), texts)


def rows(*rewards):
    return [{"sparserm_rewards": np.array(one, dtype=np.float32)} for one in rewards]


def test_a_score_is_the_weighted_sum_of_its_directions_and_everybody_has_the_same():
    scored = two_directions().score(np.zeros(0), np.array([[1.0, -2.0], [0.0, 4.0]]), None)
    assert scored.scores.tolist() == [0.25, 1.0]
    assert (scored.rewards * scored.weights).tolist() == [[0.75, -0.5], [0.0, 1.0]]
    assert scored.stds.tolist() == [0.0, 0.0]


def test_the_probability_is_that_of_the_scaled_margin():
    chosen, rejected, prompt = rows([LN3, 0.0], [0.0, LN3], [0.0, 0.0])
    # 2 * (3/4 - 1/4) * ln 3 = ln 3
    assert two_directions().predict(np.zeros(0), chosen, rejected, prompt) == pytest.approx(0.75, abs=1e-6)
    assert two_directions().predict(np.zeros(0), rejected, chosen, prompt) == pytest.approx(0.25, abs=1e-6)


def test_nothing_is_learned_online():
    family = two_directions()
    assert family.evidence_size == family.learn(*rows([1, 2], [3, 4], [0, 0]), tie=False).size == 0


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: two_directions(shares=(0.5, 0.6)), "sums to 1.1"),
        (lambda: two_directions(shares=(1.5, -0.5)), "is -0.5 at least"),
        (lambda: two_directions(shares=(math.nan, 0.5)), "shares has 1 of 2 entries that are not finite"),
        (lambda: two_directions(shares=(1.0,)), "shares is \\(1,\\)"),
        (lambda: two_directions(texts=((),)), "examples of 1 heads; the family has 2"),
    ],
)
def test_a_family_that_does_not_fit_itself_is_refused(family, message):
    with pytest.raises(ValueError, match=message):
        family()


def test_examples_survive_the_file_and_other_families_have_none(rng):
    family = two_directions()
    files = write_families([family, examples.bradley_terry()], "sparserm")
    families, _ = read_families(files["families.json"], files["families.npz"])
    assert [examples_of(families["sparserm"], head) for head in range(2)] == [("perhaps so",), ()]
    assert examples_of(families["bradley_terry"], 0) == ()


def test_a_file_without_examples_is_refused_by_family():
    files = write_families([two_directions()], "sparserm")
    document = json.loads(files["families.json"])
    del document["families"][0]["examples"]
    with pytest.raises(FamiliesInvalid, match="family 'sparserm' lacks 'examples'"):
        read_families(json.dumps(document).encode(), files["families.npz"])
