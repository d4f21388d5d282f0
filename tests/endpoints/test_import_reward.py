"""A trained reward model through `attune import reward`, packing and `/score`: logits are those of transformers, heads have names."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.data.hub import NotOnHub
from attune.models.data.model_folder import TrunkUnavailable
from attune.models.data.preferences import ComparisonInvalid
from attune.models.data.trunk import load_trunk
from attune.models.data.trunk_file import load_trunk_of
from attune.models.export.pack import pack
from attune.models.seam.attributes import Attributes
from attune.models.training.heads import load_heads
from attune.models.training.reward_model_family import ImportRefused
from attune.models.training.reward_model_import import import_reward_model
from tests.endpoints.conftest import running
from tests.models.architectures import ENCODERS, write_architecture, write_classifier
from tests.stores import FreshStore

PROMPT, RESPONSES = "how are you today?", ["hello", "boil the egg for nine minutes", "日本語 perhaps"]
NAMES = {index: f"quality {index}" for index in range(19)}


@torch.inference_mode()
def logits_of(folder) -> list[list[float]]:
    """What a user of transformers gets: its own template, its own pooling, one text at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for response in RESPONSES:
        turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": response}]
        if tokenizer.chat_template:
            ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False, return_tensors="pt")
        else:
            ids = tokenizer(PROMPT, response, return_tensors="pt")
        found.append(model(**ids).logits[0].tolist())
    return found


@pytest.mark.parametrize(
    ("architecture", "labels"), [("Llama", 1), ("Qwen3", 19), ("Bert", 1), ("Roberta", 19), ("DebertaV2", 1), ("ModernBert", 2)]
)
async def test_logits_are_those_of_transformers_through_score(settings_of, tmp_path, architecture, labels):
    names = NAMES if labels == 19 else {0: "good", 1: "kind"} if labels == 2 else None
    folder = write_classifier(tmp_path / "model", architecture, labels, names=names)
    done = import_reward_model(str(folder), tmp_path / "fam", [], "")
    assert done.summary["difference_from_transformers"] <= 1e-4
    bundle = pack(tmp_path / "fam", tmp_path / "bundles", "mine").path
    async with running(settings_of(bundle=str(bundle)), FreshStore(), {}) as service:
        answer = await service.post("/score", {"user": "u", "prompt": PROMPT, "responses": RESPONSES, "explain": True})
        cards = (await service.get("/bundle"))["cards"]["imported"]
    heads = ["reward"] if labels == 1 else list((names or {}).values())
    for head, card in cards.items():
        assert card["highest"][0]["reward"] >= card["highest"][-1]["reward"] >= card["lowest"][0]["reward"], head
    shown = {part["head"]: part["examples"] for part in answer["scores"][0]["explanation"]}
    assert shown == {head: [example["response"] for example in card["highest"]] for head, card in cards.items()}
    for each, expected in zip(answer["scores"], logits_of(folder), strict=True):
        rewards = {part["head"]: part["reward"] for part in each["explanation"]}
        assert rewards == pytest.approx(dict(zip(heads, expected, strict=True)), abs=1e-4)
        assert each["score"] == pytest.approx(sum(part["contribution"] for part in each["explanation"]), abs=1e-9)
        assert (each["std"] > 0) == (labels > 1)


@pytest.mark.parametrize("architecture", ["Bert", "Llama"])
async def test_families_are_trained_beside_a_reward_model_of_one_head_and_are_served_together(settings_of, tmp_path, architecture):
    folder, fam = write_classifier(tmp_path / "model", architecture, 1), str(tmp_path / "fam")
    rows = [
        {"user": f"u{user}", "prompt": f"ask {item}", "chosen": short if user % 2 else long, "rejected": long if user % 2 else short}
        for user in range(40)
        for item, (short, long) in enumerate([("hello", "boil the egg for nine minutes"), ("egg", "perhaps someone is hello today")] * 2)
    ]
    (tmp_path / "prefs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = CliRunner()
    assert run.invoke(app, ["import", "reward", str(folder), "--out", fam]).exit_code == 0
    options = ["--families", "additive", "--folds", "1", "--personalise", "--cache", str(tmp_path / "cache"), "--json"]
    train = ["train", "families", str(tmp_path / "prefs.jsonl"), "--out", fam, "--beside", fam, *options]
    for again in range(2):  # what was trained beside it before is trained anew, and the imported head stays what it was
        done = run.invoke(app, train)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert [one.family.name for one in load_heads(tmp_path / "fam")[0]] == ["bradley_terry", "additive", "imported"], again
    assert {"imported", "additive", "length"} <= set(found["curves"]["learners"])
    assert "`imported` 0." in found["verdict"]["baselines"]
    assert json.loads((tmp_path / "fam" / "provenance.json").read_text())["imported"]["heads"] == ["reward"]
    packed = run.invoke(app, ["bundle", "build", fam, "--out", str(tmp_path / "b"), "--serve-anyway", "--json"])
    assert packed.exit_code == 0, packed.output
    async with running(settings_of(bundle=json.loads(packed.stdout)["bundle"]), FreshStore(), {}) as service:
        ask = {"user": "u", "prompt": PROMPT, "responses": RESPONSES, "explain": True}
        scored = (await service.post("/score", ask | {"family": "imported"}))["scores"]
        assert [each["explanation"][0]["reward"] for each in scored] == pytest.approx([one for (one,) in logits_of(folder)], abs=1e-4)
        assert (await service.post("/score", ask | {"family": "additive"}))["family"] == "additive"


async def test_a_decoder_without_a_chat_template_reads_the_pair_that_its_tokenizer_makes(settings_of, tmp_path):
    folder = write_classifier(tmp_path / "model", "GPT2", 1, chat=False)
    assert import_reward_model(str(folder), tmp_path / "fam", [], "").summary["difference_from_transformers"] <= 1e-4
    bundle = pack(tmp_path / "fam", tmp_path / "bundles", "mine").path
    async with running(settings_of(bundle=str(bundle)), FreshStore(), {}) as service:
        scored = (await service.post("/score", {"user": "u", "prompt": PROMPT, "responses": RESPONSES}))["scores"]
    assert [each["score"] for each in scored] == pytest.approx([one for (one,) in logits_of(folder)], abs=1e-4)


def test_beside_what_was_not_imported_or_on_another_trunk_nothing_is_trained(tmp_path):
    (tmp_path / "prefs.jsonl").write_text(json.dumps({"user": "u", "prompt": "p", "chosen": "a", "rejected": "b"}))
    train = ["train", "families", str(tmp_path / "prefs.jsonl"), "--out", str(tmp_path / "out"), "--beside", str(tmp_path)]
    other = CliRunner().invoke(app, [*train, "--layers", "0,1"])
    assert (other.exit_code, "the trunk is that of the imported heads" in " ".join(other.output.replace("│", " ").split())) == (2, True)
    nothing = CliRunner().invoke(app, train)
    assert (nothing.exit_code, "has no heads.json" in nothing.stderr) == (1, True)
    assert not (tmp_path / "out").exists()


async def test_users_over_imported_heads_learn_from_comparisons(settings_of, tmp_path):
    folder = write_classifier(tmp_path / "model", "Llama", 3, names={0: "helpful", 1: "short", 2: "kind"})
    import_reward_model(str(folder), tmp_path / "fam", [], "")
    bundle = pack(tmp_path / "fam", tmp_path / "bundles", "mine").path
    async with running(settings_of(bundle=str(bundle)), FreshStore(), {}) as service:
        ask = {"user": "u", "prompt": PROMPT, "responses": RESPONSES[:2]}
        before = await service.post("/score", ask)
        better = 0 if before["scores"][0]["rank"] == 2 else 1
        told = {"user": "u", "prompt": PROMPT, "chosen_text": RESPONSES[better], "rejected_text": RESPONSES[1 - better]}
        for event in range(12):
            await service.post("/feedback", told | {"event_id": f"e{event}"})
        after = await service.post("/score", ask)
    gap = [each["scores"][better]["score"] - each["scores"][1 - better]["score"] for each in (before, after)]
    assert gap[0] < gap[1]


def test_names_are_given_or_the_models_or_numbers_that_are_told(tmp_path):
    folder = str(write_classifier(tmp_path / "model", "Llama", 3))
    done = import_reward_model(folder, tmp_path / "a", [], "")
    assert done.summary["heads"] == ["reward_0", "reward_1", "reward_2"]
    assert "--names" in done.told[0]
    result = CliRunner().invoke(app, ["import", "reward", folder, "--out", str(tmp_path / "b"), "--names", "x, y,z"])
    assert result.exit_code == 0, result.output
    assert load_heads(tmp_path / "b")[0][0].family.heads == ("x", "y", "z")
    with pytest.raises(ImportRefused, match="the model has 3 heads"):
        import_reward_model(folder, tmp_path / "c", ["x", "y"], "")
    with pytest.raises(ImportRefused, match="name 2 of the 3 that were given is empty"):
        import_reward_model(folder, tmp_path / "c", ["x", "", "y"], "")
    with pytest.raises(ImportRefused, match="'y' was given to several heads"):
        import_reward_model(folder, tmp_path / "c", ["x", "y", "y"], "")
    assert not (tmp_path / "c").exists()


def test_a_population_is_fitted_where_there_are_people(tmp_path):
    folder = str(write_classifier(tmp_path / "model", "Llama", 2, names={0: "helpful", 1: "short"}))
    rows = [
        {"user": f"u{user}", "prompt": f"ask {item}", "chosen": "hello " * (1 + item % 3), "rejected": f"boil the egg {item} {user}"}
        for user in range(12)
        for item in range(4)
    ]
    (tmp_path / "prefs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = import_reward_model(folder, tmp_path / "fam", [], str(tmp_path / "prefs.jsonl"))
    assert done.summary["users"].startswith("fitted on")
    assert "10 users" in done.summary["users"]
    [family] = load_heads(tmp_path / "fam")[0]
    assert isinstance(family.family, Attributes)


def test_people_who_contradict_themselves_in_everything_are_refused_in_words(tmp_path):
    folder = str(write_classifier(tmp_path / "model", "Llama", 2, names={0: "helpful", 1: "short"}))
    pairs = [("hello", "boil the egg"), ("boil the egg", "hello")]
    rows = [
        {"user": f"u{user}", "prompt": f"ask {n}", "chosen": a, "rejected": b} for user in range(12) for n in range(3) for a, b in pairs
    ]
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ComparisonInvalid, match="contradict one another so that they say nothing of what people want"):
        import_reward_model(folder, tmp_path / "fam", [], str(tmp_path / "both.jsonl"))
    assert not (tmp_path / "fam").exists()


def test_people_who_could_not_tell_anything_apart_are_refused_before_the_model_is_loaded(tmp_path):
    rows = [{"user": f"u{user}", "prompt": "p", "chosen": "a", "rejected": "b", "tie": True} for user in range(12)]
    (tmp_path / "ties.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ComparisonInvalid, match="all 12 comparisons are ties"):
        import_reward_model(str(tmp_path), tmp_path / "fam", [], str(tmp_path / "ties.jsonl"))
    (tmp_path / "nobody.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n' * 2)
    with pytest.raises(ComparisonInvalid, match=r"nobody\.jsonl: no row says whose it is"):
        import_reward_model(str(tmp_path), tmp_path / "fam", [], str(tmp_path / "nobody.jsonl"))


def test_what_is_no_reward_model_or_no_trunk_is_refused_in_one_line(tmp_path, capfd):
    trunk, model = write_architecture(tmp_path / "trunk", "Llama"), write_classifier(tmp_path / "model", "Llama", 2)
    capfd.readouterr()
    with pytest.raises(TrunkUnavailable):
        import_reward_model(str(trunk), tmp_path / "fam", [], "")
    with pytest.raises(TrunkUnavailable):
        load_trunk(str(model))
    assert not any("LOAD REPORT" in told for told in capfd.readouterr())


def test_what_is_no_reward_model_is_refused_and_says_what_it_is(tmp_path):
    trunk = write_architecture(tmp_path / "trunk", "Llama")
    with pytest.raises(TrunkUnavailable, match="no trained head"):
        import_reward_model(str(trunk), tmp_path / "fam", [], "")
    with pytest.raises(NotOnHub, match="nowhere"):
        import_reward_model(str(tmp_path / "nowhere"), tmp_path / "fam", [], "")
    assert not (tmp_path / "fam").exists()


@pytest.mark.parametrize("architecture", ["Llama", *ENCODERS])
def test_a_reward_model_is_no_trunk_because_its_head_would_be_lost(tmp_path, architecture):
    folder = str(write_classifier(tmp_path, architecture, 1))
    with pytest.raises(TrunkUnavailable, match=rf"trained weights .*attune import reward {folder}"):
        load_trunk(folder)


def test_a_template_that_cannot_be_cut_is_refused(tmp_path):
    folder = write_classifier(tmp_path / "model", "Llama", 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # It changes the answer: what is cut out with marks is not what is rendered with texts.
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | replace('e', 'a') }}</s>{% endfor %}"
    tokenizer.save_pretrained(folder)
    with pytest.raises((ImportRefused, TrunkUnavailable), match=r"chat template|cannot be cut"):
        import_reward_model(str(folder), tmp_path / "fam", [], "")
    assert not (tmp_path / "fam").exists()


def test_the_trunk_of_an_imported_model_comes_back_from_its_folder(tmp_path):
    folder = write_classifier(tmp_path / "fam" / "model", "Bert", 1)
    import_reward_model(str(folder), tmp_path / "fam", [], "")
    again = load_trunk_of(tmp_path / "fam")
    assert (again.pooling, again.width) == ("classifier", 33)
    assert json.loads((tmp_path / "fam" / "trunk.json").read_text())["source"] == "model"
