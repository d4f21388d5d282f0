"""Each row chooses its next token by its own temperature, nucleus and number."""

from __future__ import annotations

import math
import random

import pytest

torch = pytest.importorskip("torch")

from attune.service.members.local_sampling import NO_TOKEN, Draw, choose  # noqa: E402


def logits_of(*probabilities):
    return torch.tensor([[math.log(p) if p else -math.inf for p in row] for row in probabilities])


def shares(logits, temperature, top_p, n=8000):
    """Returns how often each token is drawn where `u` runs over [0, 1) in even steps."""
    drawn = choose(logits.expand(n, -1), [Draw(temperature, top_p, (step + 0.5) / n) for step in range(n)])
    return [drawn.count(token) / n for token in range(logits.shape[1])]


def test_temperature_zero_takes_the_likeliest_whatever_the_number_is():
    logits = logits_of([0.2, 0.5, 0.3])
    assert [choose(logits, [Draw(0.0, 0.1, u)]) for u in (0.0, 0.5, 0.999)] == [[1]] * 3


def test_the_number_picks_from_the_cumulative_distribution():
    logits = logits_of([0.2, 0.5, 0.3])
    assert [choose(logits, [Draw(1.0, 1.0, u)])[0] for u in (0.0, 0.19, 0.21, 0.69, 0.71, 0.999)] == [0, 0, 1, 1, 2, 2]


def test_the_nucleus_holds_the_fewest_tokens_that_reach_its_mass():
    logits = logits_of([0.1, 0.5, 0.3, 0.1])
    # .5 < .75 <= .8: tokens 1 and 2, in shares .625 and .375
    assert shares(logits, 1.0, 0.75) == pytest.approx([0.0, 0.625, 0.375, 0.0], abs=0.01)
    assert shares(logits, 1.0, 0.5) == [0.0, 1.0, 0.0, 0.0]
    assert shares(logits, 1.0, 1e-9) == [0.0, 1.0, 0.0, 0.0]


def test_of_equally_likely_tokens_the_nucleus_holds_as_many_as_it_needs_and_those_of_lower_ids():
    # .375 < .4 <= .5: two of the four equal ones, after none
    assert shares(torch.zeros(1, 8), 1.0, 0.4, 800) == pytest.approx([0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0], abs=0.05)
    # .4 < .6 <= .7: one token before, and the first of the two equal ones
    assert shares(logits_of([0.3, 0.4, 0.3]), 1.0, 0.6) == pytest.approx([3 / 7, 4 / 7, 0.0], abs=0.015)


def test_temperature_sharpens_and_flattens():
    logits = logits_of([0.8, 0.2])
    # temperature .5 squares: .64/.68 = .941; temperature 2 takes roots: .894/1.342 = .667
    assert [choose(logits, [Draw(0.5, 1.0, u)])[0] for u in (0.94, 0.942)] == [0, 1]
    assert [choose(logits, [Draw(2.0, 1.0, u)])[0] for u in (0.666, 0.668)] == [0, 1]


def test_a_temperature_next_to_zero_is_greedy_and_finite():
    assert choose(logits_of([0.2, 0.5, 0.3]), [Draw(1e-300, 1.0, 0.999)]) == [1]


def test_tokens_without_probability_are_never_taken():
    logits = logits_of([0.0, 1.0, 0.0])
    assert {choose(logits, [Draw(1.0, p, u)])[0] for p in (1.0, 0.9) for u in (0.0, 0.5, 1.0 - 1e-16)} == {1}


def test_frequencies_follow_the_distribution():
    probabilities = [0.05, 0.4, 0.25, 0.3]
    chance, n = random.Random(1), 20_000
    logits = logits_of(*[probabilities] * n)
    drawn = choose(logits, [Draw(1.0, 1.0, chance.random()) for _ in range(n)])
    chi_square = sum((drawn.count(token) - n * p) ** 2 / (n * p) for token, p in enumerate(probabilities))
    assert chi_square < 16.3  # 99.9 % of the law with 3 degrees of freedom


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_without_finite_logits_has_no_token_and_its_neighbours_do(bad):
    logits = logits_of([0.2, 0.8], [0.2, 0.8], [0.2, 0.8])
    logits[1, 0] = bad
    draws = [Draw(0.0, 1.0, 0.5), Draw(0.7, 0.9, 0.5), Draw(1.0, 1.0, 0.5)]
    assert choose(logits, draws) == [1, NO_TOKEN, 1]
    assert choose(torch.full((1, 4), -math.inf), [Draw(0.0, 1.0, 0.5)]) == [NO_TOKEN]


@pytest.mark.parametrize("top_p", [0.02, 0.3, 0.95])
def test_draws_from_a_wide_vocabulary_follow_the_law_of_the_sorted_nucleus(top_p):
    torch.manual_seed(0)
    logits, n = torch.randn(1, 2048), 8000
    probabilities, order = (logits[0].double() / 1.5).softmax(0).sort(descending=True)
    inside = int((probabilities.cumsum(0) < top_p).sum()) + 1
    law = probabilities[:inside] / probabilities[:inside].sum()
    drawn = torch.tensor(shares(logits, 1.5, top_p, n))[order]
    assert float(drawn[inside:].sum()) == 0.0, "nothing outside the nucleus"
    tenths = [(part.sum(), found.sum()) for part, found in zip(law.chunk(10), drawn[:inside].chunk(10), strict=True)]
    for expected, found in tenths:
        assert float(found) == pytest.approx(float(expected), abs=4 * math.sqrt(float(expected) / n))


def test_a_row_chooses_the_same_alone_and_among_others():
    torch.manual_seed(1)
    logits = torch.randn(6, 50) * 3
    chance = random.Random(2)
    draws = [Draw(t, p, chance.random()) for t, p in [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9), (2.0, 0.5), (1.0, 0.99), (0.3, 1.0)]]
    assert choose(logits, draws) == [choose(logits[i : i + 1], [draws[i]])[0] for i in range(6)]
