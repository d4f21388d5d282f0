"""A population of linear tastes: what is fitted, the exact posterior, the additive family made of it, and where `vrf` starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons
from attune.models.measuring.families.curves import observe, paired_gain
from attune.models.measuring.families.fewshot import cut
from attune.models.measuring.families.learners import served_learners
from attune.models.seam.additive import additive_posterior, bound_evidence
from attune.models.seam.hedge import sigmoid
from attune.models.training.additive import AdditiveSettings, train_additive, train_in_line_up
from attune.models.training.episodes import ComparisonFeatures, Episodes
from attune.models.training.features import Calibration, Subspace
from attune.models.training.heads import load_heads, save_heads
from attune.models.training.hierarchical import (
    Choices,
    Population,
    PopulationSettings,
    bounded,
    fit_population,
    laplace,
    taste_axes,
    train_hierarchical,
    train_per_user_logistic,
)
from attune.models.training.loop import LoopSettings, TrainingData
from attune.models.training.lore import LoreSettings, train_lore
from attune.models.training.trainers import LineUp
from attune.models.training.vpl import VplSettings, train_vpl
from attune.models.training.vrf import VrfModule, VrfSettings, train_vrf
from tests.models.small_world import SHORT, small_texts, small_world

FEATURES = 3
MEAN = np.array([1.0, 0.0, -0.5])
SPREADS = np.array([0.2, 1.5, 0.7])
SPACE = Subspace(None)
PRINCIPAL = Subspace(1, kind="principal")


def gaussian_world(users=400, per_user=30, seed=0, sharpness=1.0) -> tuple[TrainingData, Comparisons]:
    """Returns comparisons of users whose weights on three features are Gaussian, on vectors of just these features."""
    rng = np.random.default_rng(seed)
    texts = small_texts()
    vectors = Vectors(
        rng.normal(size=(len(texts.prompts), FEATURES)).astype(np.float32),
        rng.normal(size=(len(texts.candidates), FEATURES)).astype(np.float32),
    )
    tastes = sharpness * (MEAN + SPREADS * rng.normal(size=(users, FEATURES)))
    user = np.repeat(np.arange(users), per_user)
    prompt = rng.integers(0, 30, size=len(user))
    first = prompt * 8 + rng.integers(0, 8, size=len(user))
    second = prompt * 8 + (first + rng.integers(1, 8, size=len(user))) % 8
    margins = ((vectors.candidates[first] - vectors.candidates[second]) * tastes[user]).sum(axis=1)
    wins = rng.random(len(user)) < sigmoid(margins)
    count = len(user)
    chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
    columns = np.zeros(count, dtype=bool), np.ones(count), np.full(count, np.nan)
    everything = Comparisons(texts, tuple(f"u{n}" for n in range(users)), user, prompt, chosen, rejected, *columns)
    train, validation, test = (everything.take((user % 10 >= low) & (user % 10 < high)) for low, high in ((0, 6), (6, 8), (8, 10)))
    return TrainingData(train, validation, vectors), test


def test_the_population_is_recovered_from_choices():
    data, _ = gaussian_world(users=1500)
    found = fit_population(data, data.vectors.candidates, PopulationSettings())
    # Laplace posteriors lean to the middle, and the two factors of validation against it: a tenth or two either way.
    np.testing.assert_allclose(found.mean, MEAN, atol=0.2)
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.covariance)), SPREADS, atol=0.25)


def test_validation_people_who_only_tie_choose_no_width():
    data, _ = gaussian_world(users=60)
    tied = replace(data.validation, tie=np.ones_like(data.validation.tie))
    found = fit_population(replace(data, validation=tied), data.vectors.candidates, PopulationSettings())
    as_fitted = fit_population(data, data.vectors.candidates, PopulationSettings(widths=(1.0,), sizes=(1.0,)))
    assert found.mean.tolist() == as_fitted.mean.tolist()
    assert found.covariance.tolist() == as_fitted.covariance.tolist()


def test_the_mode_is_the_maximum_of_the_posterior_and_the_covariance_its_curvature(rng):
    difference, weight = rng.normal(size=(1, 12, FEATURES)), rng.uniform(0.5, 2.0, size=(1, 12))
    tie = np.arange(12)[None] % 4 == 0
    population = Population(MEAN, np.diag(SPREADS**2) + 0.1)

    def loss(theta):
        margins = difference[0] @ theta
        losses = np.where(tie[0], 0.5 * (np.logaddexp(0, -margins) + np.logaddexp(0, margins)), np.logaddexp(0, -margins))
        off = theta - population.mean
        return float(weight[0] @ losses) + 0.5 * float(off @ np.linalg.solve(population.covariance, off))

    mode, covariance = laplace(Choices(difference, tie, weight), population, steps=500)
    best = scipy.optimize.minimize(loss, MEAN, method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(mode[0], best, atol=1e-5)
    step, eye = 1e-4, np.eye(FEATURES)
    curvature = [
        [(loss(best + step * (a + b)) - loss(best + step * a) - loss(best + step * b) + loss(best)) / step**2 for b in eye] for a in eye
    ]
    np.testing.assert_allclose(np.linalg.inv(covariance[0]), curvature, rtol=1e-3, atol=1e-3)


def test_padding_does_not_change_a_posterior(rng):
    difference, weight = rng.normal(size=(1, 5, FEATURES)), np.ones((1, 5))
    padded = Choices(
        np.concatenate([difference, np.zeros((1, 4, FEATURES))], axis=1),
        np.zeros((1, 9), dtype=bool),
        np.concatenate([weight, np.zeros((1, 4))], axis=1),
    )
    population = Population(MEAN, np.diag(SPREADS**2))
    for plain, longer in zip(
        laplace(Choices(difference, np.zeros((1, 5), dtype=bool), weight), population), laplace(padded, population), strict=True
    ):
        np.testing.assert_allclose(plain, longer, atol=1e-9)


def test_axes_whiten_users_and_do_not_mix_in_comparisons(rng):
    root = rng.normal(size=(FEATURES, FEATURES))
    moment = (other := rng.normal(size=(FEATURES, FEATURES))) @ other.T
    axes, variances = taste_axes(Population(MEAN, root @ root.T), moment, FEATURES)
    np.testing.assert_allclose(axes @ axes.T, root @ root.T, atol=1e-10)
    np.testing.assert_allclose(axes.T @ moment @ axes, np.diag(variances), atol=1e-10)
    assert variances.tolist() == sorted(variances, reverse=True)
    fewer, every = taste_axes(Population(MEAN, root @ root.T), moment, 1)
    np.testing.assert_allclose(fewer[:, 0], axes[:, 0])
    np.testing.assert_allclose(every, variances)


def test_the_additive_family_predicts_strangers_as_well_as_the_exact_posterior(tmp_path):
    data, unseen = gaussian_world()
    trained = train_additive(data, AdditiveSettings(subspace=SPACE), 0)
    context, targets = cut(unseen, context=10, targets=15, seed=0)
    exact = train_hierarchical(data, SPACE, PopulationSettings())
    found = observe([*served_learners([trained], data.vectors), exact], context, targets, counts=(0, 10))
    ours, theirs = (found.per_user(name, 1)[1].mean() for name in ("additive", "hierarchical"))
    before = found.per_user("additive", 0)[1].mean()
    assert ours < before - 0.02
    assert ours == pytest.approx(theirs, abs=0.01)
    assert trained.summary["validation_nll"] == pytest.approx(0.5 * (before + ours), abs=0.08)
    save_heads(tmp_path, [trained], "additive")
    again, _ = load_heads(tmp_path)
    assert again[0].family == trained.family
    assert torch.equal(again[0].heads.outputs["additive_rewards"][0].weight, trained.heads.outputs["additive_rewards"][0].weight)


@pytest.mark.parametrize(("seed", "axes"), [(9, FEATURES), (0, 1)])
def test_so_many_axes_are_taken_as_validation_people_lose_less_with(seed, axes):
    data, _ = gaussian_world(users=30, per_user=8, seed=seed)
    quick = PopulationSettings(rounds=5, widths=(1.0,), sizes=(1.0,))
    line_up = LineUp(PRINCIPAL, axes=1, most_axes=FEATURES, population=quick)
    few, many = (train_additive(data, AdditiveSettings(one, quick, replace(PRINCIPAL, components=one)), 0) for one in (1, FEATURES))
    found = train_in_line_up(data, line_up, 0)
    assert found.family.axes == axes
    assert found.summary["validation_nll"] == min(one.summary["validation_nll"] for one in (few, many))
    assert train_in_line_up(data, replace(line_up, most_axes=1), 0).family == few.family


def test_the_bound_by_which_widths_are_chosen_is_the_one_that_is_served():
    rng = np.random.default_rng(0)
    root = np.tril(rng.normal(size=(FEATURES, FEATURES))) + np.eye(FEATURES)
    population = Population(rng.normal(size=FEATURES), root @ root.T)
    difference, tie, weight = rng.normal(size=(2, 6, FEATURES)), rng.random((2, 6)) < 0.3, np.ones((2, 6))
    weight[1, 4:] = 0.0  # padding
    means, covariances = bounded(Choices(difference, tie, weight), population)
    for user, told in enumerate((6, 4)):
        told_one = zip(difference[user, :told], tie[user, :told], strict=True)
        evidence = sum(bound_evidence(float(one @ population.mean), one @ root, tie=bool(tied)) for one, tied in told_one)
        mean, covariance = additive_posterior(evidence, FEATURES)
        np.testing.assert_allclose(means[user], population.mean + root @ mean, atol=1e-10)
        np.testing.assert_allclose(covariances[user], root @ covariance @ root.T, atol=1e-10)


def test_per_user_regression_knows_nothing_before_the_first_comparison_and_something_after():
    data, unseen = gaussian_world()
    learner = train_per_user_logistic(data, SPACE)
    context, targets = cut(unseen, context=15, targets=15, seed=0)
    found = observe([learner], context, targets, counts=(0, 15))
    assert set(found.probabilities("per_user_logistic", 0)) == {0.5}
    assert found.per_user("per_user_logistic", 1)[0].mean() > 0.65


@pytest.mark.parametrize("name", ["lore", "vpl"])
def test_a_baseline_that_adapts_tells_opposed_users_apart(name):
    data, unseen = small_world(opposed=True, users=200)
    space, loop = Subspace(4), replace(SHORT, learning_rate=1e-2 if name == "lore" else 3e-3, steps=400)
    learner = (
        train_lore(data, LoreSettings(heads=4, subspace=space, loop=loop), 0)
        if name == "lore"
        else train_vpl(data, VplSettings(subspace=space, loop=loop), 0)
    )
    context, targets = cut(unseen, context=10, targets=20, seed=0)
    found = observe([learner], context, targets, counts=(0, 10))
    assert found.per_user(name, 0)[0].mean() == pytest.approx(0.5, abs=0.1)
    assert found.per_user(name, 1)[0].mean() > 0.75


def test_a_baselines_prediction_does_not_depend_on_who_was_asked_before():
    data, unseen = small_world(users=60)
    learner = train_vpl(data, VplSettings(subspace=Subspace(4), loop=replace(SHORT, steps=50)), 0)
    rows = list(unseen.rows_of_users().values())
    first = learner.predict(unseen.take(rows[0][:5]), unseen.take(rows[0][5:])).probabilities
    learner.predict(unseen.take(rows[1][:3]), unseen.take(rows[1][3:]))
    assert np.array_equal(first, learner.predict(unseen.take(rows[0][:5]), unseen.take(rows[0][5:])).probabilities)


def test_vrf_starts_as_the_population_that_it_was_started_from():
    """Before a single step of training, its curve is that of the hierarchical Gaussian, but for the softmax's bend."""
    data, unseen = gaussian_world(sharpness=0.6)
    settings = VrfSettings(
        heads=6,
        latent=4,
        features=8,
        prompt_features=2,
        hidden=(16,),
        reach=0.3,
        start="population",
        subspace=SPACE,
        loop=LoopSettings(steps=0),
    )
    trained = train_vrf(data, settings, 0)
    anywhere = train_vrf(data, replace(settings, start="anywhere"), 0)
    context, targets = cut(unseen, context=10, targets=15, seed=0)
    exact = train_hierarchical(data, SPACE, PopulationSettings())
    found = observe([*served_learners([trained], data.vectors), exact], context, targets, counts=(0, 10))
    for at, tolerance in ((0, 0.02), (1, 0.03)):
        ours, theirs = (found.per_user(name, at)[1].mean() for name in ("vrf", "hierarchical"))
        assert ours == pytest.approx(theirs, abs=tolerance)
    assert paired_gain([found], "vrf", "hierarchical", 1).mean == pytest.approx(0.0, abs=0.03)
    lost = observe(served_learners([anywhere], data.vectors), context, targets, counts=(10,))
    assert lost.per_user("vrf", 0)[1].mean() > found.per_user("vrf", 1)[1].mean() + 0.05


def test_the_better_start_is_the_one_with_the_less_validation_loss():
    data, _ = gaussian_world(users=100)
    settings = VrfSettings(heads=4, latent=3, features=4, prompt_features=2, hidden=(8,), subspace=SPACE, loop=replace(SHORT, steps=50))
    losses = {
        start: train_vrf(data, replace(settings, start=start), 0).summary["validation_nll"]
        for start in ("population", "anywhere", "better")
    }
    assert losses["better"] == min(losses["population"], losses["anywhere"])
    assert losses["population"] != losses["anywhere"]
    with pytest.raises(ValueError, match="3 heads or more, one of them everybody's; heads is 2"):
        replace(settings, start="population", heads=2)


def test_principal_components_are_uncorrelated_and_the_length_stays():
    data, _ = small_world()
    calibration = Calibration.of(data.train, data.vectors, Subspace(4, kind="principal"))
    features = calibration.candidate(data.vectors.candidates)
    assert features.shape[1] == 5
    components = np.cov(features[:, :4].T)
    np.testing.assert_allclose(components, np.diag(np.diagonal(components)), atol=1e-2)
    length = data.vectors.candidates[:, -1]
    assert abs(np.corrcoef(features[:, 4], length)[0, 1]) == pytest.approx(1.0, abs=1e-5)


def test_a_feature_that_never_varies_is_no_component():
    data, _ = small_world()
    still = data.vectors.candidates.copy()
    still[:, -1] = 0.0
    calibration = Calibration.of(data.train, replace(data.vectors, candidates=still), Subspace(4, kind="principal"))
    assert len(calibration.moment) == 4


def test_the_torch_side_of_a_started_module_is_finite():
    data, _ = gaussian_world(users=60)
    settings = VrfSettings(heads=5, latent=8, features=4, prompt_features=2, hidden=(6, 5), start="population", subspace=SPACE)
    calibration = data.calibration(SPACE)
    module = VrfModule(calibration, settings, torch.Generator().manual_seed(0))
    module.start_from(Population(np.zeros(FEATURES), np.diag([1.0, 0.5, 1e-9])), calibration, 0.5)
    columns = ComparisonFeatures.of(data.validation, data, calibration)
    batch = Episodes(data.validation, settings.episodes).validation_batches()[2]
    loss, divergence = module.episode_loss(columns, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(divergence).all()
    assert all(torch.isfinite(value.grad).all() for value in module.parameters() if value.grad is not None)
