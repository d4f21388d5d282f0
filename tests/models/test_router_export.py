"""A bundle's router is found in its graph, retrained on comparisons with contexts, and put into a new bundle of the same basis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from attune.models.data.graph import answers_of
from attune.models.data.preferences import Comparison, ComparisonInvalid, Comparisons
from attune.models.data.trunk import load_trunk
from attune.models.export.onnx import ExportFailed, ScorerGraph, export_scorer
from attune.models.export.router import RouterNotBetter, retrain_router
from attune.models.export.router_graph import find_router, put_router
from attune.models.measuring.rows import rows_from_bundle
from attune.models.seam.bundle import read_bundle
from attune.models.training.features import Subspace
from attune.models.training.loop import LoopSettings
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.micro_context import RouterSettings
from tests.models.small_world import small_world
from tests.models.test_onnx import rows_of
from tests.models.tiny_trunk import write_tiny_trunk
from tests.tiny_bundle import PLAIN, WARM, write_tiny_bundle

FAST = RouterSettings(learning_rate=2e-2, epochs=30)


def contextual(users: int = 20, per_user: int = 6, *, opposite: bool = False) -> Comparisons:
    """Users whose words of context are warm like warm answers; the others like short ones."""
    rng = np.random.default_rng(0)
    records = []
    for user in range(users):
        for _ in range(per_user):
            prompt = " ".join(rng.choice(PLAIN, size=4))
            warm, short, long = " ".join(rng.choice(WARM, size=3)), "yes .", " ".join(rng.choice(PLAIN, size=14))
            wants_warm = rng.random() < 0.5
            chosen, rejected = (warm, short) if wants_warm != opposite else (short, long if rng.random() < 0.5 else warm)
            context = " ".join(rng.choice(WARM, size=2)) if wants_warm else " ".join(rng.choice(PLAIN, size=2))
            records.append(Comparison(f"u{user}", prompt, chosen, rejected, context=context))
    return Comparisons.from_records(records)


def test_a_retrained_router_sends_a_context_to_the_head_it_asks_for_and_changes_nothing_else(tmp_path):
    old_path = write_tiny_bundle(tmp_path)
    done = retrain_router(old_path, contextual(), tmp_path / "new", settings=FAST)
    old, new = read_bundle(old_path), read_bundle(done.path)
    assert new.id != old.id
    assert new.basis == old.basis
    assert done.summary["held_out"]["after"]["accuracy"] > done.summary["held_out"]["before"]["accuracy"]
    assert new.manifest["router"]["from_bundle"] == old.id
    records = [
        Comparison("u", "tell me about tea", "lovely friend", "yes .", context=context) for context in ("dear friend", "put it in water")
    ]
    told = Comparisons.from_records(records)
    rows = {bundle.id: rows_from_bundle(bundle, told.texts, threads=1) for bundle in (old, new)}
    for name in ("micro_rewards", "vrf_rewards", "vrf_features", "bradley_terry_rewards"):
        for before, after in zip(rows[old.id].candidates, rows[new.id].candidates, strict=True):
            assert before[name].tobytes() == after[name].tobytes()
    warm = new.families["micro"].heads.index("warm")
    friendly, plain = (new.families["micro"].weights(np.zeros(3), prompt)[warm] for prompt in rows[new.id].prompts)
    assert friendly > 0.7 > 0.3 > plain
    # The router that evaluates sees the prompt: the same two answers are ordered by what the context asks.
    micro = new.families["micro"]
    predictions = [micro.predict(np.zeros(3), *rows[new.id].candidates, prompt) for prompt in rows[new.id].prompts]
    assert predictions[0] > 0.6 > predictions[1]


def test_probes_of_the_new_bundle_are_answered_by_the_new_graph(tmp_path):
    done = retrain_router(write_tiny_bundle(tmp_path), contextual(), tmp_path / "new", settings=FAST)
    bundle = read_bundle(done.path)
    encoder, probes = bundle.text_encoder(), bundle.probes
    rows = [
        encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt)
        for prompt, response in zip(probes.prompts, probes.responses, strict=True)
    ]
    for name, found in answers_of(bundle.scorer, rows).items():
        np.testing.assert_allclose(found, probes.answers[name], atol=probes.tolerance)


def test_a_repeat_gives_the_same_bundle(tmp_path):
    path = write_tiny_bundle(tmp_path)
    first, again = (retrain_router(path, contextual(), tmp_path / name, settings=FAST).path for name in ("a", "b"))
    assert first.name == again.name


def test_a_router_that_is_no_better_is_not_written(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        Comparison(
            f"u{index % 10}",
            f"tell me about {index}",
            *(("yes .", "no put it") if rng.random() < 0.5 else ("no put it", "yes .")),
            context="tea",
        )
        for index in range(60)
    ]
    with pytest.raises(RouterNotBetter, match=r"held-out comparisons.*a gain above chance is needed"):
        retrain_router(write_tiny_bundle(tmp_path), Comparisons.from_records(records), tmp_path / "new", settings=FAST)
    assert not (tmp_path / "new").exists()


def test_a_gain_that_people_do_not_share_is_as_unsure_as_they_are_few(tmp_path):
    """Half of twelve people answer a context the other way round; three are held out, of ninety comparisons."""
    ways = [list(contextual(users=12, per_user=30, opposite=opposite).records()) for opposite in (False, True)]
    turned = np.random.default_rng(0).random(12) < 0.5
    told = Comparisons.from_records(one for user in range(12) for one in ways[int(turned[user])][30 * user : 30 * user + 30])
    done = retrain_router(write_tiny_bundle(tmp_path), told, tmp_path / "new", settings=FAST, audit=False)
    gain = done.summary["held_out"]["gain"]["nll"]
    assert gain["mean"] > 0.1
    assert gain["low"] < 0.0


def test_too_few_comparisons_and_a_bundle_without_a_router_are_refused(tmp_path):
    few = contextual(users=2, per_user=2)
    with pytest.raises(ComparisonInvalid, match="4 comparisons with texts; at least 20"):
        retrain_router(write_tiny_bundle(tmp_path), few, tmp_path / "new")
    with pytest.raises(ExportFailed, match="no family of kind micro; it has vrf"):
        retrain_router(write_tiny_bundle(tmp_path, only="vrf"), contextual(), tmp_path / "new")


def test_comparisons_without_contexts_are_refused_with_their_share(tmp_path):
    told = contextual(users=10, per_user=5)
    bare = Comparisons.from_records(replace(one, context=None) if index % 3 else one for index, one in enumerate(told.records()))
    with pytest.raises(ComparisonInvalid, match="17 of 50 comparisons have a context, which says what the user wanted; at least 20"):
        retrain_router(write_tiny_bundle(tmp_path), bare, tmp_path / "new")
    with pytest.raises(ExportFailed, match=r"has the mixtures micro; name one of them \(not 'other'\)"):
        retrain_router(write_tiny_bundle(tmp_path), told, tmp_path / "new", family="other")


def test_the_router_of_an_exported_graph_is_read_and_put_back_layer_by_layer(tmp_path: Path):
    trunk = load_trunk(str(write_tiny_trunk(tmp_path, "encoder")))
    data, _ = small_world(users=30)
    settings = MicroSettings(heads=3, router=8, subspace=Subspace(4), loop=LoopSettings(steps=5))
    width = trunk.width
    trained = train_micro(data, settings, 0).heads
    # The small world's vectors are narrower than the trunk's: the same stack, as wide as the trunk.
    stack = torch.nn.Sequential(torch.nn.Linear(width, 8), *list(trained.outputs["micro_gate"])[1:])  # type: ignore[call-overload]
    rewards = torch.nn.Sequential(torch.nn.Linear(width, 3))
    trained.outputs = torch.nn.ModuleDict({"micro_rewards": rewards, "micro_gate": stack})
    graph, rows = ScorerGraph(trunk, [trained]), rows_of(trunk)
    export_scorer(graph, rows, tmp_path / "scorer.onnx")
    model = onnx.load(str(tmp_path / "scorer.onnx"))
    layers = find_router(model, "micro_gate")
    module = layers.module()
    assert layers.width == width
    vectors = torch.from_numpy(trunk.embed(rows))
    torch.testing.assert_close(module(vectors), stack(vectors))
    with torch.no_grad():
        module[0].weight.mul_(-2.0)
        module[2].bias.add_(0.7)
    put_router(model, layers, module)
    onnx.save(model, str(tmp_path / "changed.onnx"))
    found = answers_of(tmp_path / "changed.onnx", rows)
    np.testing.assert_allclose(found["micro_gate"], module(vectors).numpy(), atol=1e-4)
    np.testing.assert_array_equal(found["micro_rewards"], answers_of(tmp_path / "scorer.onnx", rows)["micro_rewards"])


def test_an_output_that_is_no_router_is_refused_by_name(tmp_path):
    model = onnx.load(str(read_bundle(write_tiny_bundle(tmp_path)).scorer))
    with pytest.raises(ExportFailed, match="micro_rewards is made by Gemm"):
        find_router(model, "micro_rewards")
    with pytest.raises(ExportFailed, match="no output 'nonsense'"):
        find_router(model, "nonsense")


def test_a_relu_that_makes_the_vectors_is_no_part_of_the_router(tmp_path):
    """A trunk may end in a ReLU: the router begins above it, and reads what it gives."""
    model = onnx.load(str(read_bundle(write_tiny_bundle(tmp_path)).scorer))
    plain = find_router(model, "micro_gate")
    [gate] = [node for node in model.graph.node if node.output[0] == "micro_gate_logits"]
    at = list(model.graph.node).index(gate)
    gate.input[0] = "cut"
    model.graph.node.insert(at, onnx.helper.make_node("Relu", [plain.source], ["cut"]))
    found = find_router(model, "micro_gate")
    assert found.source == "cut"
    assert len(found.layers) == len(plain.layers) == 1
