"""Any causal language model answers and is judged, whatever its architecture; answers are kept and found again."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

from attune.models.alignment.adapter_fit import AdapterMisfit, check_adapter, empty_network
from attune.models.alignment.base_answers import Rewards, RewardsInvalid, sample_answers
from attune.models.alignment.causal import BASE, load, sample, token_statistics
from studies.approximations.mixing import mix_answers
from studies.approximations.soups import average_adapters
from tests.models.tiny_causal import PROMPTS, rewards, write_lora, write_model


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen"])
def tiny(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    base = write_model(root / "base", request.param)
    adapters = {name: write_lora(root / name, base, seed, scale=0.3) for seed, name in enumerate(("one", "two"))}
    return base, adapters, load(base, adapters)


def test_answers_come_from_the_seed_and_leave_the_global_generator_alone(tiny):
    _, _, model = tiny
    before = torch.get_rng_state()
    first, again = (sample(model, "one", PROMPTS, seed=3) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)
    assert sample(model, "one", PROMPTS, seed=4) != first
    assert any(answer.ended for answer in first)
    assert all(len(answer.all_ids) <= model.max_tokens for answer in first)


def test_every_token_of_a_batch_is_told_and_its_end_too(tiny):
    _, _, model = tiny
    told: list[tuple[int, int]] = []
    answers = sample(model, BASE, PROMPTS[:4], seed=3, writing=lambda *now: told.append(now))
    assert answers == sample(model, BASE, PROMPTS[:4], seed=3)
    longest = max(len(answer.all_ids) for answer in answers)
    assert told == [*((token, model.max_tokens) for token in range(1, longest + 1)), (longest, longest)]


def test_statistics_equal_those_of_one_answer_alone_computed_by_hand(tiny):
    _, _, model = tiny
    answers = sample(model, "one", PROMPTS[:5], seed=0)
    found = token_statistics(model, "one", PROMPTS[:5], answers, max_batch_tokens=200)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=False)):
        start = model.prompt_ids([prompt])[0]
        ids = torch.tensor([[*start, *answer.all_ids]])
        logs = []
        for name in (BASE, "one"):
            with model.speaking_as(name) as network, torch.no_grad():
                logs.append(network(input_ids=ids).logits[0, len(start) - 1 : -1].log_softmax(-1))
        chosen = torch.tensor(answer.all_ids)[:, None]
        assert found.tokens[row] == len(answer.all_ids)
        assert found.base_nll[row] == pytest.approx(-float(logs[0].gather(1, chosen).sum()), rel=1e-4)
        assert found.member_nll[row] == pytest.approx(-float(logs[1].gather(1, chosen).sum()), rel=1e-4)
        assert found.kl[row] == pytest.approx(float((logs[1].exp() * (logs[1] - logs[0])).sum()), rel=1e-3)
        assert found.kl[row] > 0


def test_mixing_with_all_weight_on_one_member_is_that_member_and_halves_are_the_mean_of_logs(tiny):
    _, _, model = tiny
    model.network.generation_config.temperature, model.network.generation_config.top_k = 1e-4, 0  # greedy, but for exact ties
    try:
        told = PROMPTS[:4]
        mixed = mix_answers(model, {"one": 1.0, "two": 0.0}, told, seed=0)
        assert mixed == mix_answers(model, {"one": 1.0}, told, seed=5)
        for prompt, answer in zip(told, mixed, strict=True):
            assert _likeliest(model, prompt, {"one": 1.0}, answer.all_ids) == answer.all_ids
        shares = {"one": 0.5, BASE: 0.5}
        for prompt, answer in zip(told, mix_answers(model, shares, told, seed=0), strict=True):
            assert _likeliest(model, prompt, shares, answer.all_ids) == answer.all_ids
    finally:
        model.network.generation_config.temperature = 0.9


def _likeliest(model, prompt, weights, answer):
    """Returns the likeliest token under the mixture after each beginning of an answer, without a cache and without neighbours."""
    start = model.prompt_ids([prompt])[0]
    ids, total = torch.tensor([[*start, *answer]]), 0.0
    for name, weight in weights.items():
        with model.speaking_as(name) as network, torch.no_grad():
            total = total + weight * network(input_ids=ids).logits[0, len(start) - 1 : -1].log_softmax(-1)
    return tuple(total.argmax(-1).tolist())


def test_mixture_weights_must_be_a_mixture(tiny):
    _, _, model = tiny
    with pytest.raises(ValueError, match=r"sum to 1\.3"):
        mix_answers(model, {"one": 0.8, "two": 0.5}, PROMPTS[:1], seed=0)
    with pytest.raises(KeyError, match="three"):
        mix_answers(model, {"three": 1.0}, PROMPTS[:1], seed=0)


def test_a_soup_adds_the_weighted_changes_exactly_and_a_smaller_rank_the_nearest(tiny, tmp_path):
    base, adapters, model = tiny
    soup = average_adapters(adapters, [0.25, 0.75], tmp_path / "exact")
    assert soup.rank == 8
    assert soup.lost == pytest.approx(0.0, abs=1e-3)
    cut = average_adapters(adapters, [0.25, 0.75], tmp_path / "cut", rank=4)
    assert (cut.rank, 0.0 < cut.lost < 1.0) == (4, True)
    mixed = load(base, {"soup": tmp_path / "exact", "cut": tmp_path / "cut"})
    assert check_adapter("cut", tmp_path / "cut", empty_network(base)).rank == 4
    # The parameter of a layer that all adapters change, as peft would add it.
    delta = {}
    for name, network in (("one", model), ("two", model), ("soup", mixed), ("cut", mixed)):
        layers = [module for module in network.network.modules() if hasattr(module, "get_delta_weight")]
        delta[name] = torch.cat([layer.get_delta_weight(name).detach().flatten() for layer in layers])
    wanted = 0.25 * delta["one"] + 0.75 * delta["two"]
    assert torch.allclose(delta["soup"], wanted, atol=2e-3 * float(wanted.abs().max()))
    lost = float((delta["cut"] - wanted).norm() / wanted.norm())
    assert lost == pytest.approx(cut.lost, rel=0.02)


def test_an_adapter_of_another_base_is_refused_with_names_and_shapes(tiny, tmp_path):
    base, adapters, _ = tiny
    other = write_model(tmp_path / "other", "llama", hidden=64)
    wide = write_lora(tmp_path / "wide", other, seed=0)
    with pytest.raises(AdapterMisfit, match=r"member 'wide'.*(has shape|has no layer)"):
        load(base, {"wide": wide})
    with pytest.raises(AdapterMisfit, match=r"member 'one'.*(has shape|has no layer)"):
        check_adapter("one", adapters["one"], empty_network(other))
    with pytest.raises(AdapterMisfit, match=r"'none'.*adapter_config\.json"):
        load(base, {"none": tmp_path / "nowhere"})
    (wide / "adapter_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(AdapterMisfit, match="is not an adapter"):
        load(base, {"wide": wide})


def test_kept_answers_are_found_again_and_a_line_cut_short_is_sampled_anew(tiny, tmp_path):
    _, _, model = tiny
    prompts = [f"{prompt} {number}" for number in range(3) for prompt in PROMPTS]  # more than one batch
    file = tmp_path / "answers.jsonl"
    fresh = sample_answers(model, BASE, prompts, 1, seed=1, file=file)
    content = file.read_text()
    told: list[str] = []
    assert sample_answers(model, BASE, prompts, 1, seed=1, file=file, progress=told.append) == fresh
    assert told == []
    file.write_text(content[:-40])
    assert sample_answers(model, BASE, prompts, 1, seed=1, file=file, progress=told.append) == fresh
    assert told == ["base: 128 of 144 answers, 128 at a time", "base: 144 of 144 answers"]
    assert file.read_text() == content
    assert sample_answers(model, BASE, prompts, 1, seed=2, file=file) != fresh


def test_a_full_disk_loses_no_answers_that_were_kept(tiny, tmp_path):
    _, _, model = tiny
    prompts = [f"{prompt} {number}" for number in range(3) for prompt in PROMPTS]  # more than one batch
    file = tmp_path / "answers.jsonl"
    sample_answers(model, BASE, prompts, 1, seed=1, file=file)
    content = file.read_text()
    file.write_text(content[:-40])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file may grow
    try:
        with pytest.raises(OSError, match="File too large"):
            sample_answers(model, BASE, prompts, 1, seed=1, file=file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == content[: content.rindex("\n", 0, -1) + 1]


def test_answers_at_another_temperature_are_others_and_are_kept_apart(tiny, tmp_path):
    _, _, model = tiny
    file = tmp_path / "answers.jsonl"
    usual = sample_answers(model, BASE, PROMPTS[:4], 3, seed=1, file=file)
    cold = sample_answers(model, BASE, PROMPTS[:4], 3, seed=1, file=file, temperature=1e-4)
    assert all(len({answer.text for answer in group}) == 1 for group in cold.answers)
    assert any(len({answer.text for answer in group}) > 1 for group in usual.answers)
    assert sample_answers(model, BASE, PROMPTS[:4], 3, seed=1, file=file) == usual


def test_rewards_outside_the_unit_interval_or_of_another_width_are_refused():
    with pytest.raises(RewardsInvalid, match=r"'b' lies in \[0\.2, 1\.5\]"):
        Rewards(("a", "b"), lambda _p, r: np.tile([0.2, 1.5], (len(r), 1))).of(["x"], ["y"])
    with pytest.raises(RewardsInvalid, match=r"\(1, 3\)"):
        Rewards(("a", "b"), lambda _p, r: np.zeros((len(r), 3))).of(["x"], ["y"])
    for wrong in ([1.0], [0.0, 0.0], [-0.1, 1.1], [np.nan, 1.0]):
        with pytest.raises(RewardsInvalid, match="weights"):
            rewards().weights(wrong)
