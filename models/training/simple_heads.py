"""The simple heads that everything trained must beat, as learners: the length alone, how a text is written, ridge on the trunk's vectors.

None of them personalises. A trained family that is no better than the best of them before a person's first comparison has
learned nothing worth serving there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.hedge import sigmoid
from attune.models.training.learner import Learner, Predicted
from attune.models.training.loop import TrainingData
from attune.models.training.ridge import fit_ridge
from attune.models.training.style import style_features

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimpleHead:
    """One head for everybody: `utilities` `[candidates]` in logits, and the loss that validation people had under it."""

    name: str
    utilities: Array
    validation_nll: float

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:  # noqa: ARG002 - everybody is alike
        """Returns the predictions; see `Learner`."""
        found = sigmoid(self.utilities[targets.chosen] - self.utilities[targets.rejected])
        return Predicted(found, np.zeros(len(targets)))


def length_of(data: TrainingData) -> NDArray[np.float32]:
    """Returns how long each text is, `[candidates, 1]`."""
    return data.vectors.candidates[:, -1:]


def style_of(data: TrainingData) -> NDArray[np.float32]:
    """Returns plain features of how each text is written, `[candidates, S]`, without a trunk."""
    return style_features([text for _, text in data.train.texts.candidates])


INPUTS: Mapping[str, Callable[[TrainingData], NDArray[np.float32]]] = {
    "length": length_of,
    "style": style_of,
    "ridge": lambda data: data.vectors.candidates,
}
"""What each simple head sees of the texts."""


def train_length(data: TrainingData) -> SimpleHead:
    """Returns the head that sees how long a text is and nothing else."""
    return _head("length", data, length_of(data))


def train_style(data: TrainingData) -> SimpleHead:
    """Returns the head on plain features of how a text is written, without a trunk."""
    return _head("style", data, style_of(data))


def train_ridge(data: TrainingData) -> SimpleHead:
    """Returns ridge on the trunk's vectors, the start of the other families."""
    ridge = data.ridge()
    return SimpleHead("ridge", data.vectors.candidates.astype(np.float64) @ ridge.weights, ridge.validation_nll)


SIMPLE: Mapping[str, Callable[[TrainingData], Learner]] = {"length": train_length, "style": train_style, "ridge": train_ridge}


def _head(name: str, data: TrainingData, inputs: NDArray[np.float32]) -> SimpleHead:
    ridge = fit_ridge(inputs, data.train, data.validation)
    return SimpleHead(name, inputs.astype(np.float64) @ ridge.weights, ridge.validation_nll)
