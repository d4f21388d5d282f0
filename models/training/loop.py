"""The training loop that all families share: seeded, single-threaded where it must be, stopped by validation loss.

A trainer is `train_<family>(data, settings, seed) -> TrainedFamily`. It sees training comparisons for gradients and
validation comparisons for stopping; test comparisons never reach this package.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons
from attune.models.data.progress import Steps
from attune.models.training.features import Calibration, Subspace
from attune.models.training.first_head import FirstHead, fit_first_head
from attune.models.training.ridge import Ridge, fit_ridge


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What every trainer gets.

    Attributes:
        train: gradients and calibration come from these.
        validation: stopping comes from these; other users or other prompts than `train`, or both.
        vectors: of the texts that both share.
        calibrations: what `calibration` found before, by subspace.
        ridges: what `ridge`, `first_head` and `last_head` found before, by the one's name.
    """

    train: Comparisons
    validation: Comparisons
    vectors: Vectors
    # Not given: what was found on some comparisons would else be taken, by `replace`, for what is found on others.
    calibrations: dict[Subspace, Calibration] = field(default_factory=dict, init=False, repr=False, compare=False)
    ridges: dict[str, Ridge] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.train.texts is not self.validation.texts and self.train.texts != self.validation.texts:
            raise ValueError("train and validation must share one table of texts, which the vectors belong to")

    def calibration(self, subspace: Subspace) -> Calibration:
        """Returns the calibration on the training comparisons, computed once for all families that share a subspace.

        Raises:
            VectorsInvalid: see `Calibration.of`.
        """
        if subspace not in self.calibrations:
            found = Calibration.of(self.train, self.vectors, subspace)
            if subspace.everybody:
                found = found.with_head(self.first_head().weights, self.train, self.vectors)
            self.calibrations[subspace] = found
        return self.calibrations[subspace]

    def ridge(self) -> Ridge:
        """Returns ridge on all dimensions of the vectors, its strength chosen on the validation comparisons; fitted once."""
        if "ridge" not in self.ridges:
            self.ridges["ridge"] = fit_ridge(self.vectors.candidates, self.train, self.validation)
        return self.ridges["ridge"]

    def first_head(self) -> FirstHead:
        """Returns the head that families start from, see `first_head`; fitted once."""
        found = self.ridges.get("first")
        if not isinstance(found, FirstHead):
            found = self.ridges["first"] = fit_first_head(self.vectors.candidates, self.train, self.validation)
        return found

    def last_head(self) -> Ridge:
        """Returns the first head fitted again on training and validation people, by the recipe that was chosen; fitted once.

        Nothing may be measured with it on validation people: its `validation_nll` is the first head's, which has not seen them.
        """
        if "last" not in self.ridges:
            self.ridges["last"] = self.first_head().fitted_on_all(self.vectors.candidates, self.train, self.validation)
        return self.ridges["last"]


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long and how fast.

    Attributes:
        steps: at most.
        learning_rate: of AdamW, with a cosine decay to a tenth over `steps`.
        weight_decay: of AdamW.
        evaluate_every: steps between two looks at the validation loss.
        patience: looks without improvement before stopping.
    """

    steps: int = 2000
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    evaluate_every: int = 100
    patience: int = 6


@dataclass(slots=True)
class History:
    """Validation losses as `(step, loss)`, and the step whose weights were kept."""

    validation: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = float("inf")


class TrainingDiverged(RuntimeError):
    """A loss is not finite; the message names the step."""


def fit(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    validate: Callable[[], float],
    settings: LoopSettings,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Trains `module` in place, leaves it with the weights of the least validation loss, and returns the history.

    Args:
        module: whose parameters are learned.
        loss: step -> loss of that step's batch.
        validate: the validation loss with the weights as they are, called without gradients.
        settings: see `LoopSettings`.
        progress: told how many steps are done of how many; people are told now and then if None.

    Raises:
        TrainingDiverged: a loss, of training or of validation, is not finite; the module is left as it was at that step.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps, eta_min=0.1 * settings.learning_rate)
    history, progress = History(), progress or Steps("trained {} steps", at_most=True)
    best = copy.deepcopy(module.state_dict())
    for step in range(settings.steps + 1):
        if step % settings.evaluate_every == 0:
            with torch.no_grad():
                found = validate()
            if not math.isfinite(found):
                raise TrainingDiverged(f"the validation loss is {found} at step {step}")
            history.validation.append((step, found))
            if found < history.best_loss:
                history.best_step, history.best_loss = step, found
                best = copy.deepcopy(module.state_dict())
            elif step - history.best_step >= settings.patience * settings.evaluate_every:
                break
        if step == settings.steps:
            break
        value = loss(step)
        if not torch.isfinite(value):
            raise TrainingDiverged(f"the loss is {float(value.detach())} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, settings.steps)
    progress(step, step)  # the last one, though there might have been more: on a terminal it ends the line
    module.load_state_dict(best)
    return history


@contextmanager
def reproducible(seed: int) -> Iterator[torch.Generator]:
    """Gives a seeded generator, with deterministic kernels on one thread inside, and restores what was set before.

    Sums over several threads end in another order each time, and an early stop turns the last bit into another model.
    """
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    try:
        yield torch.Generator().manual_seed(seed)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
