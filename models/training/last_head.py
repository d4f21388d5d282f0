"""Everybody's head as it is served: fitted again on validation people too, once everything was chosen and measured without them.

    family, its trust, its standing (validation people unseen) ─> difference of the last head to the first ─> the same in every score

People who were set aside to choose by are a fifth or so of a small table. Only what is everybody's moves: a family whose users are
differences on top of it gets the same difference in all of its heads, so that what sets them apart stays as it was trained. Mixtures
stay as they are, since their heads were trained together from there, and everybody's head is none of them.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from attune.models.training.heads import OF_FIRST_HEAD, TrainedFamily
from attune.models.training.loop import TrainingData


def with_last_head(trained: TrainedFamily, data: TrainingData) -> TrainedFamily:
    """Returns the family with the last head in place of the first; one that does not stand on the first head as it was.

    Nothing may be measured with it on validation people afterwards.

    Args:
        trained: with all that validation people decide decided.
        data: that it was trained on; its first head is the one that the family stands on.
    """
    if OF_FIRST_HEAD not in trained.summary:
        return trained
    share = float(trained.summary[OF_FIRST_HEAD])
    moved = share / trained.family.logit_scale * (data.last_head().weights - data.first_head().weights)
    usual = data.vectors.candidates[np.concatenate([data.train.chosen, data.train.rejected])].mean(axis=0, dtype=np.float64)
    heads = copy.deepcopy(trained.heads)
    [layer] = heads.outputs[f"{trained.family.name}_rewards"].children()
    assert isinstance(layer, nn.Linear), "a family on the first head is linear in the vectors"
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(layer.weight.double().numpy() + moved))
        # Rewards of the texts that were trained on are as high on average as they were.
        layer.bias.copy_(torch.from_numpy(layer.bias.double().numpy() - usual @ moved))
    return replace(trained, heads=heads, summary={**trained.summary, "fitted_again": True})
