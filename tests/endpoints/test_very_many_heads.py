"""As many heads as a user can have weights of, and no more: what would fail with the first feedback is refused before it is packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from attune.models.export.pack import pack
from attune.models.seam.attributes import Attributes
from attune.models.seam.evidence import MOST_NUMBERS
from attune.models.seam.families import Families
from attune.models.seam.families_file import FamiliesInvalid, read_families, write_families
from attune.models.training.beside import read_beside
from attune.models.training.heads import HeadsInvalid
from attune.models.training.reward_model_family import MOST_HEADS, ImportRefused
from attune.models.training.reward_model_import import import_reward_model
from attune.service.state.records import MAX_EVIDENCE_DOUBLES
from tests.endpoints.conftest import running
from tests.models.architectures import write_classifier
from tests.stores import FreshStore

FEEDBACK = {"user": "u", "prompt": "how are you today?", "chosen_text": "hello", "rejected_text": "boil the egg"}


def attributes(heads: int) -> Attributes:
    return Attributes("many", tuple(f"h{number}" for number in range(heads)), 1.0, np.ones(heads), np.eye(heads))


def test_the_store_takes_what_families_may_be() -> None:
    assert MAX_EVIDENCE_DOUBLES == MOST_NUMBERS


def test_families_of_more_numbers_than_are_kept_of_a_user_are_refused() -> None:
    assert Families([attributes(MOST_HEADS)]).evidence_size <= MOST_NUMBERS
    files = write_families([attributes(MOST_HEADS + 1)], "many")
    with pytest.raises(
        FamiliesInvalid, match=r"2,081 numbers, and 2,048 can be kept; 2,079 of them are of family 'many', which has 63 heads"
    ):
        read_families(files["families.json"], files["families.npz"])


async def test_a_model_of_as_many_heads_as_can_be_learns_and_one_of_more_is_refused(settings_of, tmp_path) -> None:
    most = write_classifier(tmp_path / "most", "Llama", MOST_HEADS)
    import_reward_model(str(most), tmp_path / "fam", [], "")
    bundle = pack(tmp_path / "fam", tmp_path / "bundles", "most").path
    async with running(settings_of(bundle=str(bundle)), FreshStore(), {}) as service:
        answer = await service.post("/feedback", FEEDBACK)
    assert answer["user"]["comparisons"] == 1
    with pytest.raises(
        HeadsInvalid, match=r"has 62 imported heads, which take 2,015 numbers of a user; 2,048 can be kept, and what is trained"
    ):
        read_beside(tmp_path / "fam")
    with pytest.raises(FamiliesInvalid, match="a user under these families would be 2,061 numbers, and 2,048 can be kept"):
        pack(tmp_path / "fam", tmp_path / "effects", "effects", member_effects=True)
    assert not (tmp_path / "effects").exists()
    more = write_classifier(tmp_path / "more", "Llama", MOST_HEADS + 1)
    with pytest.raises(ImportRefused, match="the model has 63 heads, and how a person weighs them can be kept for 62 at most"):
        import_reward_model(str(more), tmp_path / "none", [], "")
    assert not (tmp_path / "none").exists()


def test_a_head_of_no_numbers_is_told_as_that(tmp_path) -> None:
    folder = write_classifier(tmp_path / "model", "Llama", 2)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ImportRefused, match="a logit of the model is no finite number, by transformers too"):
        import_reward_model(str(folder), tmp_path / "fam", [], "")
