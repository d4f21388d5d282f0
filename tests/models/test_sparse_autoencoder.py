from __future__ import annotations

import numpy as np
import pytest
import torch

from attune.models.data.preferences import Texts
from attune.models.data.token_states import encode_candidates, token_states
from attune.models.data.trunk import load_trunk
from attune.models.training.latents import activity, cards, columns_of
from attune.models.training.sparse_autoencoder import AutoencoderSettings, StatesInvalid, _Autoencoder, train_sparse_autoencoder
from tests.models.tiny_trunk import write_tiny_trunk

SMALL = AutoencoderSettings(latents=24, k=2, steps=300, batch=256, learning_rate=1e-2, silent_steps=20, revive=4)


def quiet(done, total):
    pass


def sparse_world(states=6000, *, seed=0):
    """States that are sums of two of twelve fixed directions of length 1, with some noise and a mean."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(16, 16)))[0][:12]
    codes = np.zeros((states, 12))
    for row, on in enumerate(np.argsort(rng.random((states, 12)), axis=1)[:, :2]):
        codes[row, on] = rng.uniform(1.0, 2.0, size=2)
    return (codes @ directions + 0.02 * rng.normal(size=(states, 16)) + 3.0).astype(np.float16), directions


@pytest.fixture(scope="module")
def world():
    states, directions = sparse_world()
    return states, directions, train_sparse_autoencoder(states, SMALL, 0, layer=1, progress=quiet)


def test_the_directions_of_a_sparse_world_are_found(world):
    _, directions, trained = world
    cosines = np.abs(trained.autoencoder.directions() @ directions.T).max(axis=0)
    assert cosines.min() > 0.95
    assert trained.summary["unexplained"] < 0.05
    assert trained.summary["active"] <= 2.0


def test_decoder_rows_have_length_one_and_the_layer_is_kept(world):
    _, _, trained = world
    assert trained.autoencoder.W_dec.norm(dim=1).tolist() == pytest.approx([1.0] * 24, abs=1e-5)
    assert trained.autoencoder.layer == 1


def test_the_same_seed_gives_the_same_autoencoder(world):
    states, _, _ = world
    short = AutoencoderSettings(latents=24, k=2, steps=30, batch=128)
    first, again, other = (train_sparse_autoencoder(states, short, seed, progress=quiet).autoencoder for seed in (1, 1, 2))
    assert torch.equal(first.W_enc, again.W_enc)
    assert not torch.equal(first.W_enc, other.W_enc)


def test_a_dead_latent_learns_from_what_was_left_over_only_where_it_is_revived():
    states = torch.from_numpy(sparse_world(8)[0].astype(np.float32))
    for revive in (0, 4):
        module = _Autoencoder(AutoencoderSettings(latents=24, k=1, revive=revive), states.mean(dim=0), torch.Generator().manual_seed(0))
        _, fired = module.loss(states, torch.zeros(24, dtype=torch.bool))
        loss, _ = module.loss(states, ~fired)
        loss.backward()
        assert 0 < int((~fired).sum()) < 24
        assert bool(module.W_dec.grad[~fired].any()) == (revive > 0)
        assert bool(module.W_dec.grad[fired].any())


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((10, 4), dtype=np.float16), r"states are \(10, 4\); at least 256"),
        (np.zeros((400, 4), dtype=np.float16), "all 400 states are equal"),
        (np.where(np.arange(400)[:, None] == 3, np.nan, 1.0).repeat(4, axis=1).astype(np.float16), "1 of 400 states are not finite"),
    ],
)
def test_states_that_nothing_can_be_learned_from_are_refused(states, message):
    with pytest.raises(StatesInvalid, match=message):
        train_sparse_autoencoder(states, SMALL, 0, progress=quiet)


# --- latents of texts -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return load_trunk(str(write_tiny_trunk(tmp_path_factory.mktemp("trunk"), "encoder")), layers=(1, 2))


ANSWERS = ("boil the egg", "perhaps you should ask someone", "nine minutes, perhaps")
TEXTS = Texts((("how", None),), tuple(("how", text) for text in ANSWERS))


def test_the_mean_of_a_texts_states_is_its_part_of_the_pooled_vector(trunk):
    rows = encode_candidates(TEXTS, trunk)
    pooled = trunk.embed(rows)
    states = token_states(rows, trunk, 1, progress=quiet)
    for index in range(3):
        assert states.states[states.text == index].astype(np.float64).mean(axis=0) == pytest.approx(pooled[index, :32], abs=2e-3)
    assert np.exp(pooled[:, -1]) - 1 == pytest.approx(np.bincount(states.text), rel=1e-5)


def test_a_text_is_as_frequent_as_its_tokens_whatever_its_length(trunk):
    rows = encode_candidates(TEXTS, trunk)
    states = token_states(rows, trunk, 1, progress=quiet)
    small = AutoencoderSettings(latents=8, k=2, steps=5, batch=8)
    trained = train_sparse_autoencoder(states.states, small, 0, layer=1, progress=quiet).autoencoder
    found = activity(TEXTS, states, trained, columns_of(trunk, trained))
    assert (found.columns.start, found.columns.stop) == (0, 32)
    for index in range(3):
        codes = trained.encode(torch.from_numpy(states.states[states.text == index].astype(np.float32)))
        assert found.frequency[index] == pytest.approx((codes > 0).float().mean(dim=0).numpy(), abs=1e-6)
        assert found.strength[index] == pytest.approx(codes.mean(dim=0).numpy(), abs=1e-5)


def test_a_card_names_the_tokens_and_shows_the_texts_that_fire_a_latent(trunk):
    from dataclasses import replace

    from scipy import sparse
    from tokenizers import Tokenizer

    states = token_states(encode_candidates(TEXTS, trunk), trunk, 1, progress=quiet)
    trained = train_sparse_autoencoder(states.states, AutoencoderSettings(latents=4, k=1, steps=2, batch=8), 0, layer=1, progress=quiet)
    latents = activity(TEXTS, states, trained.autoencoder, slice(0, 32))
    tokenizer = Tokenizer.from_str(trunk.tokenizer_json.decode())
    codes = np.zeros((len(states.token), 2))
    first, last = np.flatnonzero(states.text == 1)[0], np.flatnonzero(states.text == 2)[-1]
    codes[first, 0] = 2.0
    codes[last, 0] = 1.0
    named, dead = cards(replace(latents, codes=sparse.csr_matrix(codes)), tokenizer, np.array([0, 1]), tokens=1, around=100)
    assert named.tokens == (tokenizer.decode([int(states.token[first])]).strip(),)
    assert [text.strip() for text in named.examples] == ["perhaps you should ask someone", "nine minutes, perhaps"]
    assert (dead.tokens, dead.examples) == ((), ())


def test_an_autoencoder_of_another_layer_or_width_is_refused(trunk):
    from attune.models.data.sae_files import AutoencoderInvalid

    states, settings = sparse_world(300)[0], AutoencoderSettings(latents=8, k=2, steps=1, batch=64)
    narrow, elsewhere = (train_sparse_autoencoder(states, settings, 0, layer=layer, progress=quiet).autoencoder for layer in (1, 0))
    with pytest.raises(AutoencoderInvalid, match=r"reads states 16 wide; those of .* are 32"):
        columns_of(trunk, narrow)
    with pytest.raises(AutoencoderInvalid, match=r"reads layer 0; the trunk .* pools \[1, 2\]"):
        columns_of(trunk, elsewhere)
    with pytest.raises(ValueError, match="layer is 9; the trunk"):
        token_states(encode_candidates(TEXTS, trunk), trunk, 9)
