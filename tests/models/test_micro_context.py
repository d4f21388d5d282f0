"""Stage 2 of MiCRo. Margins of ln 3 give likelihoods 3/4 and 1/4. What the public code does wrong is held here not to happen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attune.models.training.audit import LEAST_USERS, audit_heads
from attune.models.training.micro_context import ContextComparisons, RouterSettings, soft_targets, train_router

LN3 = float(np.log(3.0))
OPEN = torch.tensor([True, True])


def router_of(width: int, heads: int, hidden: int = 16, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, heads), nn.LogSoftmax(dim=-1))


def targets(prior: list[list[float]], margins: list[list[float]], tau: float, *, tie: bool = False, opened: torch.Tensor = OPEN):
    count = len(margins)
    return soft_targets(torch.tensor(prior).log().double(), torch.tensor(margins).double(), torch.full((count,), tie), opened, tau)


def told_by_context(count: int = 400, seed: int = 0) -> tuple[ContextComparisons, np.ndarray]:
    """Two heads that always disagree; which is right is told by the first number of the vector, and by nothing else."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(5.0, 2.0, size=(count, 6)).astype(np.float32)
    wanted = (vectors[:, 0] < 5.0).astype(int)
    margins = np.where(np.arange(2) == wanted[:, None], LN3, -LN3)
    return ContextComparisons(vectors, margins, np.zeros(count, dtype=bool), np.ones(2, dtype=bool)), wanted


def law(router: nn.Sequential, vectors: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return router(torch.from_numpy(vectors)).exp().numpy()


# --- targets


def test_at_temperature_one_targets_are_bayes_over_heads():
    # 1/5 * 3/4 to 4/5 * 1/4 is 3 to 4.
    found = targets([[0.2, 0.8]], [[LN3, -LN3]], 1.0)
    assert found[0].tolist() == pytest.approx([3 / 7, 4 / 7], rel=1e-6)


@pytest.mark.parametrize("tau", [1e-3, 1e-4])
def test_at_the_papers_temperatures_the_head_with_the_least_loss_takes_all(tau):
    assert targets([[0.01, 0.99]], [[LN3, -LN3]], tau)[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-12)


def test_a_tie_speaks_for_neither_head_however_sure_they_are_of_an_order():
    assert targets([[0.2, 0.8]], [[LN3, -LN3]], 1e-3, tie=True)[0].tolist() == pytest.approx([0.2, 0.8], rel=1e-5)


def test_masked_heads_are_no_targets():
    assert targets([[0.2, 0.8]], [[9.0, -9.0]], 1.0, opened=torch.tensor([False, True]))[0].tolist() == [0.0, 1.0]


def test_every_example_is_judged_by_the_router_on_its_own_prompt():
    """The public code gives the whole batch the gate of its example 0."""
    alone = [targets([prior], [[LN3, -LN3]], 1.0)[0].tolist() for prior in ([0.2, 0.8], [0.5, 0.5])]
    together = targets([[0.2, 0.8], [0.5, 0.5]], [[LN3, -LN3], [LN3, -LN3]], 1.0)
    assert together.tolist() == alone
    assert together[0].tolist() != together[1].tolist()


# --- training


def test_the_router_learns_which_head_a_context_asks_for():
    data, _ = told_by_context()
    router = router_of(6, 2)
    losses = train_router(router, data, RouterSettings(epochs=20), 0)
    fresh, wanted = told_by_context(seed=1)
    assert np.mean(law(router, fresh.vectors).argmax(axis=1) == wanted) > 0.95
    assert losses[-1] < 0.3 * losses[0]


def test_a_batchs_order_does_not_change_whose_gate_is_whose():
    """With example 0's gate for all, every row would come out alike."""
    data, _ = told_by_context()
    router = router_of(6, 2)
    train_router(router, data, RouterSettings(epochs=20), 0)
    turned = law(router, data.vectors[::-1].copy())[::-1]
    np.testing.assert_allclose(turned, law(router, data.vectors), atol=1e-6)
    assert len(set(law(router, data.vectors).argmax(axis=1).tolist())) == 2


def test_the_prior_of_the_targets_is_asked_of_the_router_again_in_every_epoch():
    # One comparison over and over, tau = 1: with a prior of 1/2 for ever the target would stay 3/4 to 1/4.
    data = ContextComparisons(np.ones((32, 3), np.float32), np.tile([LN3, -LN3], (32, 1)), np.zeros(32, bool), np.ones(2, bool))
    router = router_of(3, 2)
    train_router(router, data, RouterSettings(tau=1.0, epochs=60, learning_rate=0.05), 0)
    assert law(router, data.vectors[:1])[0, 0] > 0.9


def test_training_in_standardised_inputs_leaves_a_router_of_the_raw_ones():
    data, _ = told_by_context()
    router = router_of(6, 2)
    before = law(router, data.vectors)
    train_router(router, data, RouterSettings(epochs=1, learning_rate=1e-12), 0)
    np.testing.assert_allclose(law(router, data.vectors), before, atol=1e-5)


def test_what_never_varied_in_training_is_not_read_into():
    data, _ = told_by_context()
    vectors = data.vectors.copy()
    vectors[:, 5] = 2.0794415
    router = router_of(6, 2)
    before = router[0].weight[:, 5].tolist()
    train_router(router, ContextComparisons(vectors, data.margins, data.tie, data.opened), RouterSettings(epochs=20), 0)
    assert router[0].weight[:, 5].tolist() == pytest.approx(before)


def test_a_training_can_be_repeated():
    data, _ = told_by_context(60)
    laws = []
    for _ in range(2):
        router = router_of(6, 2)
        train_router(router, data, RouterSettings(), 3)
        laws.append(law(router, data.vectors))
    assert laws[0].tobytes() == laws[1].tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.full((4, 3), np.nan, np.float32)}, "4 of 4 rows of vectors are not finite"),
        ({"margins": np.full((4, 2), np.inf)}, "rows of margins are not finite"),
        ({"vectors": np.zeros((3, 3), np.float32)}, r"vectors, margins, tie and opened are \(\(3, 3\)"),
        ({"opened": np.zeros(2, bool)}, "with an open head"),
    ],
)
def test_numbers_that_cannot_be_learned_from_are_refused_by_name(changes, message):
    parts = {"vectors": np.zeros((4, 3), np.float32), "margins": np.zeros((4, 2)), "tie": np.zeros(4, bool), "opened": np.ones(2, bool)}
    with pytest.raises(ValueError, match=message):
        ContextComparisons(**(parts | changes))


@pytest.mark.parametrize("changes", [{"tau": 0.0}, {"tau": float("nan")}, {"epochs": 0}, {"batch": 0}, {"learning_rate": 0.0}])
def test_settings_that_could_not_learn_are_refused(changes):
    with pytest.raises(ValueError, match="must be above 0"):
        RouterSettings(**changes)


# --- audit


def heads_on(count: int, users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three heads under an even gate: one mostly right, one that guesses, one that is mostly and surely wrong."""
    margins = np.column_stack([rng.normal(1.5, 1.0, count), rng.normal(0.0, 0.3, count), rng.normal(-3.0, 1.0, count)])
    return np.full((count, 3), -np.log(3.0)), margins, rng.integers(0, users, count)


def test_the_head_that_harms_is_closed_and_the_one_that_helps_is_not():
    audit = audit_heads(*heads_on(400, 40, np.random.default_rng(0)))
    assert audit.mask.tolist()[0] is True
    assert audit.mask.tolist()[2] is False
    assert audit.gain_if_masked[2] > 0 > audit.gain_if_masked[0]
    assert audit.interval[2, 0] > 0
    assert audit.accuracy[0] > 0.9 > 0.1 > audit.accuracy[2]
    np.testing.assert_allclose(audit.share, 1 / 3)


def test_the_gain_of_masking_is_the_log_loss_with_the_head_less_that_without():
    # Heads say 3/4 and 1/4 under an even gate: 1/2 together, 3/4 or 1/4 alone.
    audit = audit_heads(np.log(np.full((9, 2), 0.5)), np.tile([LN3, -LN3], (9, 1)), np.arange(9))
    np.testing.assert_allclose(audit.gain_if_masked, [np.log(0.25) - np.log(0.5), np.log(0.75) - np.log(0.5)])
    assert audit.mask.tolist() == [True, False]


@pytest.mark.parametrize("users", [1, LEAST_USERS - 1])
def test_a_few_users_close_no_head_for_everybody(users):
    log_gate, margins, user = heads_on(400, users, np.random.default_rng(0))
    assert audit_heads(log_gate, margins, user).mask.all()


def test_the_last_open_head_stays_and_closed_ones_stay_closed():
    log_gate, margins, user = heads_on(400, 40, np.random.default_rng(0))
    audit = audit_heads(log_gate, margins, user, mask=np.array([False, False, True]))
    assert audit.mask.tolist() == [False, False, True]
    assert audit.gain_if_masked.tolist() == [0.0, 0.0, 0.0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"gate \(4, 3\), margins \(4, 2\)"):
        audit_heads(np.zeros((4, 3)), np.zeros((4, 2)), np.zeros(4, dtype=np.int64))
    with pytest.raises(ValueError, match="1 of 8 margins are not finite"):
        audit_heads(np.zeros((4, 2)), np.array([[np.nan, 0.0]] + [[0.0, 0.0]] * 3), np.zeros(4, dtype=np.int64))
