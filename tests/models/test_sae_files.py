from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attune.models.data.sae_files import AutoencoderInvalid, SparseAutoencoder, keep_top, load_autoencoder, save_autoencoder


def arrays(width=3, latents=4, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (width, latents), "b_enc": (latents,), "W_dec": (latents, width), "b_dec": (width,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder, config, tensors):
    (folder / "cfg.json").write_text(json.dumps({"d_in": 3, "d_sae": 4} | config))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


STATES = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.5, 3.0]])


def test_keep_top_keeps_the_largest_and_nothing_below_zero():
    assert keep_top(torch.tensor([[3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, 5.0, -3.0]]), 2).tolist() == [[3, 0, 2, 0], [0, 0, 5, 0]]


def test_a_saelens_standard_autoencoder_takes_the_decoders_bias_from_its_input(tmp_path):
    parts = arrays()
    found = load_autoencoder(write(tmp_path, {"architecture": "standard", "apply_b_dec_to_input": True}, parts)).encode(STATES)
    expected = ((STATES - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]).relu()
    assert torch.equal(found, expected)
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": 3, "d_sae": 4, "architecture": "standard", "apply_b_dec_to_input": False}))
    assert torch.equal(load_autoencoder(tmp_path).encode(STATES), (STATES @ parts["W_enc"] + parts["b_enc"]).relu())


@pytest.mark.parametrize(
    "config",
    [{"architecture": "topk", "k": 2}, {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}],
)
def test_topk_is_read_from_new_and_old_configurations(tmp_path, config):
    parts = arrays()
    found = load_autoencoder(write(tmp_path, config, parts))
    before = (STATES - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]
    assert torch.equal(found.encode(STATES), keep_top(before, 2))


def test_topk_by_the_decoders_norm_ranks_and_scales_by_it(tmp_path):
    parts = arrays()
    config = {"architecture": "topk", "k": 1, "rescale_acts_by_decoder_norm": True}
    found = load_autoencoder(write(tmp_path, config, parts))
    norms = parts["W_dec"].norm(dim=1)
    before = ((STATES - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]) * norms
    assert torch.allclose(found.encode(STATES), keep_top(before, 1))
    assert torch.allclose(found.decode(found.encode(STATES)), keep_top(before, 1) / norms @ parts["W_dec"] + parts["b_dec"])


def test_jumprelu_lets_pass_what_is_above_its_threshold_in_both_formats(tmp_path):
    parts = arrays() | {"threshold": torch.tensor([0.0, 0.5, 1.0, 100.0])}
    (tmp_path / "lens").mkdir()
    lens = load_autoencoder(write(tmp_path / "lens", {"architecture": "jumprelu", "apply_b_dec_to_input": False}, parts))
    (tmp_path / "scope").mkdir()
    np.savez(tmp_path / "scope" / "params.npz", **{name: tensor.numpy() for name, tensor in parts.items()})
    scope = load_autoencoder(tmp_path / "scope", layer=7)
    before = STATES @ parts["W_enc"] + parts["b_enc"]
    expected = torch.where(before > parts["threshold"], before.relu(), 0.0)
    assert torch.equal(lens.encode(STATES), expected)
    assert torch.equal(scope.encode(STATES), expected)
    assert (lens.layer, scope.layer) == (None, 7)


@pytest.mark.parametrize(("how", "scale"), [("constant_norm_rescale", lambda z: z * 3**0.5 / z.norm()), ("layer_norm", None)])
def test_states_are_normalised_as_the_configuration_says(tmp_path, how, scale):
    parts = arrays()
    found = load_autoencoder(write(tmp_path, {"architecture": "standard", "normalize_activations": how}, parts)).encode(STATES[:1])
    state = STATES[:1]
    inputs = scale(state) if scale else (state - state.mean()) / (state.std() + 1e-5)
    assert torch.allclose(found, ((inputs - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]).relu(), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        ({"hook_name": "blocks.5.hook_resid_pre"}, 5),
        ({"metadata": {"hook_name": "blocks.5.hook_resid_post"}}, 6),
        ({"hook_name": "embeddings"}, None),
    ],
)
def test_the_layer_is_read_from_the_hook(tmp_path, config, layer):
    assert load_autoencoder(write(tmp_path, {"architecture": "standard"} | config, arrays())).layer == layer


def test_what_is_saved_comes_back(tmp_path):
    for activation, more in (("topk", {"k": 2, "by_decoder_norm": True}), ("jumprelu", {"threshold": torch.ones(4)}), ("relu", {})):
        one = SparseAutoencoder(**arrays(), activation=activation, centred=False, layer=3, **more)
        save_autoencoder(tmp_path / activation, one)
        again = load_autoencoder(tmp_path / activation)
        assert torch.equal(one.encode(STATES), again.encode(STATES))
        assert (again.layer, again.k, again.by_decoder_norm) == (3, one.k, one.by_decoder_norm)


def test_directions_have_length_one():
    one = SparseAutoencoder(**arrays(), activation="relu")
    rows = one.directions()
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0)
    assert np.allclose(rows * np.linalg.norm(one.W_dec.numpy(), axis=1, keepdims=True), one.W_dec.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"architecture": "gated"}, {}, "architecture 'gated' is not one of standard, topk, jumprelu"),
        ({"architecture": "standard", "normalize_activations": "expected_average_only_in"}, {}, "fold it first"),
        ({"architecture": "standard", "d_sae": 5}, {}, r"says d_in, d_sae = \(3, 5\)"),
        ({"architecture": "topk", "k": 9}, {}, "k = 9 latents; 1 to 4"),
        ({"architecture": "topk", "k": "two"}, {}, "k is 'two'"),
        ({"architecture": "jumprelu"}, {}, "lacks threshold; it holds W_dec, W_enc, b_dec, b_enc"),
        ({"architecture": "standard"}, {"W_dec": torch.zeros(3, 4)}, r"W_dec is \(3, 4\).*must be \(4, 3\)"),
        ({"architecture": "standard"}, {"b_enc": torch.full((4,), torch.nan)}, "b_enc has entries that are not finite"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path, config, change, message):
    with pytest.raises(AutoencoderInvalid, match=message):
        load_autoencoder(write(tmp_path, config, arrays() | change))


def test_damaged_and_absent_files_and_states_of_another_width_are_refused(tmp_path):
    with pytest.raises(AutoencoderInvalid, match=r"has neither cfg\.json"):
        load_autoencoder(tmp_path)
    write(tmp_path, {"architecture": "standard"}, arrays())
    with pytest.raises(AutoencoderInvalid, match="states are 5 wide; this autoencoder reads 3"):
        load_autoencoder(tmp_path).encode(torch.zeros(1, 5))
    (tmp_path / "sae_weights.safetensors").write_bytes(b"no")
    with pytest.raises(AutoencoderInvalid, match=r"sae_weights\.safetensors cannot be read"):
        load_autoencoder(tmp_path)
    (tmp_path / "cfg.json").write_text("[]")
    with pytest.raises(AutoencoderInvalid, match=r"cfg\.json is not an object"):
        load_autoencoder(tmp_path)
